"""Runs, measures and comparisons: how good a ranking is, and whether a difference is more than chance.

Nothing here loads a model or prints; `rerankkit/tables.py` draws what `compare` finds.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rerankkit.errors import InputError
from rerankkit.protocols import Group, Order, Ranked
from rerankkit.trec import Qrels, Run, best_first, ranked_scores, require_finite

MEASURES = ("nDCG@10", "RR@10")
RESAMPLES = 10_000


def prepare(groups: Iterable[Group]) -> list[Group]:
    """Gives every group and document an id, `q1` and `d1` onwards where they have none.

    Where there is no first stage, documents are put in an order that says nothing of their labels: files often give
    the relevant ones first, and equal scores keep the given order.
    """
    prepared = []
    for number, group in enumerate(groups, start=1):
        ids = group.doc_ids or [f"d{i}" for i in range(1, len(group.docs) + 1)]
        group = replace(group, qid=group.qid or f"q{number}", doc_ids=ids)
        prepared.append(group if group.first_scores is not None else _shuffled(group))
    seen: set[str] = set()
    for group in prepared:
        if group.qid in seen:
            raise InputError(f"two groups have the query id {group.qid!r}; ids must differ")
        seen.add(group.qid)
        if len(set(ids := group.doc_ids or [])) < len(ids):
            twice = next(docid for number, docid in enumerate(ids) if docid in ids[:number])
            raise InputError(f"query {group.qid!r} has two documents of the id {twice!r}; ids must differ")
    return prepared


def _shuffled(group: Group) -> Group:
    digests = [hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in group.docs]
    return reordered(group, sorted(range(len(group.docs)), key=digests.__getitem__))


def reordered(group: Group, order: Sequence[int]) -> Group:
    """A group with its documents, and all that is known of each, in another order."""

    def put(values: list[Any] | None) -> Any:
        return None if values is None else [values[i] for i in order]

    return replace(
        group,
        docs=put(group.docs),
        labels=put(group.labels),
        teacher_scores=put(group.teacher_scores),
        doc_ids=put(group.doc_ids),
        first_scores=put(group.first_scores),
    )


def run_of(groups: Sequence[Group], rankings: Sequence[Sequence[Ranked] | Order]) -> Run:
    """The run of some rankings, one for each prepared group. The order is the rankings' own: scores that do not fall
    strictly are lowered by the least that float32 can tell."""
    run: Run = {}
    for (group, ids), ranking in zip(_with_ids(groups), rankings, strict=True):
        scores = ((item.index, item.score) if isinstance(item, Ranked) else item for item in ranking)
        run[group.qid] = ranked_scores([(ids[index], score) for index, score in scores], group.qid)
    return run


def first_run(groups: Sequence[Group]) -> Run | None:
    """The first stage's run of prepared groups, or None where a group lacks its scores."""
    run: Run = {}
    for group, ids in _with_ids(groups):
        if group.first_scores is None:
            return None
        ordered = sorted(zip(ids, group.first_scores, strict=True), key=lambda item: -item[1])
        run[group.qid] = ranked_scores(ordered, group.qid)
    return run


def qrels_of(groups: Sequence[Group]) -> Qrels:
    """The judgements of prepared groups: all that are known, else the labels of the documents at hand."""
    qrels: Qrels = {}
    for group, ids in _with_ids(groups):
        grades = group.judged
        if grades is None:
            if group.labels is None:
                continue
            grades = dict(zip(ids, group.labels, strict=True))
        for docid, grade in grades.items():
            if grade != int(grade):
                raise InputError(
                    f"query {group.qid!r}, document {docid!r}: measures need whole grades, but the label is {grade}"
                )
        qrels[group.qid] = {docid: int(grade) for docid, grade in grades.items()}
    if not qrels:
        raise InputError("no query has a label or a judgement, so nothing can be measured")
    return qrels


def _with_ids(groups: Sequence[Group]) -> Iterator[tuple[Group, list[str]]]:
    for group in groups:
        if not group.qid or group.doc_ids is None:
            raise InputError(f"the group {group.query[:40]!r} has no ids; pass the groups through prepare() first")
        yield group, group.doc_ids


@dataclass(frozen=True, slots=True)
class Measured:
    """Measures of one run.

    Args:
        values: The value of each query, by measure; every judged query is there.
        missing: Judged queries that the run has no document for; they count 0.
        unjudged: Queries of the run without a judgement; they count nothing.
        judged_at_10: The share of the ten best documents that have a judgement, over the queries with results.
    """

    values: dict[str, dict[str, float]]
    missing: list[str]
    unjudged: list[str]
    judged_at_10: float

    def mean(self, measure: str) -> float:
        """The mean of one measure over all judged queries."""
        return self.means[measure]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each measure over all judged queries, as `trec_eval -c` takes it."""
        return {name: math.fsum(values.values()) / len(values) for name, values in self.values.items()}


def measure(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> Measured:
    """Measures a run with ir-measures (the numbers of pytrec_eval), equal scores ordered as trec_eval does it."""
    if not qrels:
        raise InputError("no judgements, so nothing can be measured")
    parsed = {name: parse_measure(name) for name in measures}
    require_finite(run)
    ordered = {qid: best_first(scores) for qid, scores in run.items() if scores and qid in qrels}
    # ranks for scores: the providers of ir-measures break ties in different ways, and so there are none
    ranks = {qid: {docid: float(-rank) for rank, docid in enumerate(docids)} for qid, docids in ordered.items()}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in parsed}
    names: dict[Any, list[str]] = {}
    for name, object_ in parsed.items():
        names.setdefault(object_, []).append(name)
    if ranks:
        for metric in _provider().iter_calc(list(names), qrels, ranks):
            for name in names[metric.measure]:
                values[name][metric.query_id] = float(metric.value)
    shares = [sum(d in qrels[qid] for d in docids[:10]) / len(docids[:10]) for qid, docids in ordered.items()]
    return Measured(
        values,
        missing=[qid for qid in qrels if qid not in ordered],
        unjudged=[qid for qid in run if qid not in qrels],
        judged_at_10=sum(shares) / len(shares) if shares else 0.0,
    )


def parse_measure(name: str) -> Any:
    """ir-measures' object for a name such as "nDCG@10"."""
    import ir_measures

    try:
        parsed = ir_measures.parse_measure(name)
        parsed.validate_params()
        if _provider().supports(parsed) and parsed.params.get("cutoff", 1) > 0:
            return parsed
    except (NameError, ValueError, TypeError, AssertionError):
        pass
    bare, at, cutoff = name.partition("@")
    near = difflib.get_close_matches(bare.lower(), _NAMES, n=1, cutoff=0.6)
    hint = f"; did you mean {_NAMES[near[0]]}{at}{cutoff}?" if near and f"{_NAMES[near[0]]}{at}{cutoff}" != name else ""
    raise InputError(f"unknown measure {name!r}{hint}; examples: nDCG@10, RR@10, AP, P@5, R@50, Success@1")


_NAMES = {"ndcg": "nDCG", "rr": "RR", "ap": "AP", "p": "P", "r": "R", "success": "Success", "rprec": "Rprec"} | {
    "mrr": "RR",
    "map": "AP",
    "precision": "P",
    "recall": "R",
    "hits": "Success",
    "judged": "Judged",
    "bpref": "Bpref",
}


def _provider() -> Any:
    # pytrec_eval has no RR with a cutoff and no Judged
    import ir_measures

    return ir_measures.providers.FallbackProvider([ir_measures.pytrec_eval, ir_measures.msmarco, ir_measures.judged])


def interpolate(run: Run, first_run: Run, weight: float) -> Run:
    """The run's documents ordered by weight * own score + (1 - weight) * first-stage score, each scaled to 0..1 over
    the query.

    Weight 1 is the run's own order, 0 the first stage's. Scores that are all equal scale to 0.5; a document without a
    first-stage score counts 0 there. Equal sums keep the run's order.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"the weight of an interpolation must lie between 0 and 1, but it is {weight}")
    require_finite(run)
    require_finite(first_run)
    mixed: Run = {}
    for qid, scores in run.items():
        own, first = _scaled(scores), _scaled(first_run.get(qid, {}))
        sums = {docid: weight * own[docid] + (1 - weight) * first.get(docid, 0.0) for docid in best_first(scores)}
        mixed[qid] = ranked_scores(sorted(sums.items(), key=lambda item: -item[1]), qid)
    return mixed


def _scaled(scores: dict[str, float]) -> dict[str, float]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {docid: (score - low) / (high - low) if high > low else 0.5 for docid, score in scores.items()}


def tune_weight(run: Run, first_run: Run, qrels: Qrels, measure_name: str = "nDCG@10") -> float:
    """The weight from 0, 0.1, ... 1 whose interpolation measures best; of equals, the highest. Use a dev set."""
    weights = [step / 10 for step in range(10, -1, -1)]
    return max(
        weights, key=lambda w: measure(interpolate(run, first_run, w), qrels, [measure_name]).means[measure_name]
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """How one system differs from the baseline in one measure, query by query.

    Args:
        mean: The mean of the differences; above 0 the system is better.
        low: Lower end of the 95 % bootstrap interval of that mean.
        high: Its upper end.
        p: Two-sided p of the randomisation test, corrected after Holm for the number of systems.
        same: Whether not one query differs.
    """

    mean: float
    low: float
    high: float
    p: float
    wins: int
    ties: int
    losses: int
    same: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Systems measured on the same queries, and their differences to one of them."""

    baseline: str
    measures: tuple[str, ...]
    queries: int
    systems: dict[str, Measured]
    differences: dict[str, dict[str, Difference]]  # by system, then by measure; the baseline has none

    def as_dict(self) -> dict[str, Any]:
        """Everything but the single queries' values, ready for JSON."""
        return {
            "baseline": self.baseline,
            "queries": self.queries,
            "systems": {
                name: {
                    "measures": measured.means,
                    "missing_queries": len(measured.missing),
                    "unjudged_queries": len(measured.unjudged),
                    "judged_at_10": measured.judged_at_10,
                    "difference": {m: asdict(d) for m, d in self.differences.get(name, {}).items()},
                }
                for name, measured in self.systems.items()
            },
        }


def compare(
    systems: dict[str, Run], qrels: Qrels, measures: Sequence[str] = MEASURES, baseline: str = ""
) -> Comparison:
    """Measures every system, and tests its difference to the baseline (the first system where none is named)."""
    if not systems:
        raise InputError("no system to measure")
    baseline = baseline or next(iter(systems))
    if baseline not in systems:
        raise InputError(f"the baseline {baseline!r} is none of the systems {', '.join(systems)}")
    measures = tuple(dict.fromkeys(measures))
    measured = {name: measure(run, qrels, measures) for name, run in systems.items()}
    differences: dict[str, dict[str, Difference]] = {name: {} for name in systems if name != baseline}
    for name in measures:
        base = measured[baseline].values[name]
        found = {
            other: difference([measured[other].values[name][qid] - base[qid] for qid in qrels]) for other in differences
        }
        for (other, value), p in zip(found.items(), holm([d.p for d in found.values()]), strict=True):
            differences[other][name] = replace(value, p=p)
    return Comparison(baseline, measures, len(qrels), measured, differences)


def difference(values: Sequence[float]) -> Difference:
    """What the paired differences of single queries say: interval, p value, and wins, ties and losses."""
    import numpy as np

    d = np.asarray(values, dtype=np.float64)
    d[np.abs(d) < 1e-12] = 0.0  # sums of the same terms in another order
    counts = int((d > 0).sum()), int((d == 0).sum()), int((d < 0).sum())
    if not d.any():
        return Difference(0.0, 0.0, 0.0, 1.0, *counts, same=True)
    low, high = _bootstrap(d)
    return Difference(float(d.mean()), low, high, randomisation_p(d), *counts, same=False)


def _bootstrap(d: Any) -> tuple[float, float]:
    import numpy as np

    random, n = np.random.default_rng(0), len(d)
    means = [d[random.integers(0, n, size=n)].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def randomisation_p(d: Any) -> float:
    """Two-sided p of the paired randomisation test: how often random signs give a sum as far from 0. Exact up to 13
    queries, else from 10,000 random draws, always the same."""
    import numpy as np

    d = np.asarray(d, dtype=np.float64)
    n = len(d)
    reached = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # equal sums may differ in their last bits
    if n <= 13:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1  # [draws, queries]
        return float((np.abs((2 * bits - 1) @ d) >= reached).mean())
    random = np.random.default_rng(0)
    hits = sum(abs((2 * random.integers(0, 2, size=n) - 1) @ d) >= reached for _ in range(RESAMPLES))
    return float((hits + 1) / (RESAMPLES + 1))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction: p values that hold for all comparisons together."""
    corrected, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = least
    return corrected
