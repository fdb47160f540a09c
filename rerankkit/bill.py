"""What ranking cost, of each query and in total."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from rerankkit.protocols import Tokens


@dataclass
class Costs:
    """What some work cost.

    Args:
        prompts: Asks put to the model.
        passes: Forward passes: those over shared prefixes included, and one for each token of the longest answer that
            was written.
        tokens: Real prompt tokens computed.
        padding: Padding tokens computed.
        prefix_saved: Tokens not computed because a query's prompts share them.
        generated: Tokens of the answers that the model wrote.
        cut_documents: Asks with a document that was cut to fit, those answered by the cache included.
        cut_queries: The same of queries.
        depth: Longest chain of asks that had to wait for one another.
        faults: How often each kind of fault was found in answers, such as {"missing": 2}.
        parse_failures: Answers with any fault.
        cached: Asks answered without the model: by the cache, or by an equal prompt that is asked beside them.
        seconds: In total, all the time that passed; of one query, its part of the passes that it had prompts in.
        warnings: How often was warned of each kind, such as {"documents_cut": 3}; known in total alone.
    """

    prompts: int = 0
    passes: int = 0
    tokens: int = 0
    padding: int = 0
    prefix_saved: int = 0
    generated: int = 0
    cut_documents: int = 0
    cut_queries: int = 0
    depth: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    parse_failures: int = 0
    cached: int = 0
    seconds: float = 0.0
    warnings: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def add_faults(self, faults: Mapping[str, int]) -> None:
        self.parse_failures += any(faults.values())
        self.faults = dict(Counter(self.faults) + Counter(faults))


@dataclass
class Bill:
    """Costs in total, and of each query in the order of the groups.

    What is shared adds up: a pass counts once in the total, and once for each query with prompts in it.
    """

    total: Costs
    queries: list[Costs]

    @classmethod
    def blank(cls, queries: int) -> Bill:
        return cls(Costs(), [Costs() for _ in range(queries)])

    def of(self, query: int) -> tuple[Costs, Costs]:
        """What is counted of a query: the total and its own."""
        return self.total, self.queries[query]

    def add_passes(self, queries: Sequence[int], tokens: Tokens, seconds: float, count: int = 1) -> None:
        """A forward pass over rows of these queries, or several that go on from it."""
        real, width = tokens.mask.sum(1).tolist(), tokens.ids.shape[1]
        self.total.passes += count
        for query in set(queries):
            self.queries[query].passes += count
        for query, row in zip(queries, real, strict=True):
            self.queries[query].seconds += seconds * row / (sum(real) or 1)
            for costs in self.of(query):
                costs.tokens += row
                costs.padding += width - row

    def as_dict(self, qids: Sequence[str], warnings: Mapping[str, int]) -> dict[str, Any]:
        """Ready for JSON: of each query by its id, in total, and how often was warned of each kind in all the work."""
        queries = {qid: costs.as_dict() for qid, costs in zip(qids, self.queries, strict=True)}
        return {"total": self.total.as_dict(), "queries": queries, "warnings": dict(warnings)}

    def table(self) -> Table:
        """Each cost in total, of a query on average, and of the query that cost most."""
        table = Table()
        for name in ("cost", "total", "mean a query", "most of a query"):
            table.add_column(name, justify="left" if name == "cost" else "right")
        total, queries = _flat(self.total), [_flat(costs) for costs in self.queries]
        for name, value in total.items():
            each = [costs.get(name, 0) for costs in queries] or [0]
            table.add_row(Text(name), _figure(value), _figure(sum(each) / len(each)), _figure(max(each)))
        return table


def _flat(costs: Costs) -> dict[str, float]:
    """Numbers by name, each kind of fault and of warning by itself."""
    flat = costs.as_dict()
    kinds = {f"{what}: {kind}": n for what in ("fault", "warning") for kind, n in flat.pop(f"{what}s").items()}
    return {name.replace("_", " "): value for name, value in (flat | kinds).items()}


def _figure(value: float) -> str:
    return f"{value:,.2f}" if value != int(value) else f"{int(value):,}"
