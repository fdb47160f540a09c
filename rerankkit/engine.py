"""Many asks of many queries -> token-budget batches -> scores.

The engine advances the strategies of many queries together and fills its batches across them, so that every strategy
is batched without knowing it. What the work cost is counted here and nowhere else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from rerankkit.errors import InputError, RunError
from rerankkit.protocols import (
    Ask,
    Asked,
    Backbone,
    Batch,
    Collator,
    Formatter,
    Group,
    Head,
    LateInteraction,
    Order,
    Row,
    Strategy,
    Tokens,
)
from rerankkit.settings import Engine

ACTIVE_GROUPS = 256
"""How many queries are worked on at once: enough to fill batches, few enough to hold their tokens in memory."""
ASKS_AT_ONCE = 4096
"""How many asks are put together before they are scored: enough that they can be sorted into full batches."""
ENCODED_AT_ONCE = 1024
"""How many asks are tokenized at once, while those before them are computed."""
SHORTEST_PREFIX = 8


@dataclass
class Costs:
    """What some work cost.

    Args:
        prompts: Asks put to the model.
        passes: Forward passes, those over shared prefixes included.
        tokens: Real tokens computed.
        padding: Padding tokens computed.
        prefix_saved: Tokens not computed because a group's prompts share them.
        depth: Longest chain of asks that had to wait for one another.
    """

    prompts: int = 0
    passes: int = 0
    tokens: int = 0
    padding: int = 0
    prefix_saved: int = 0
    cut_documents: int = 0
    cut_queries: int = 0
    depth: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Parts:
    """The five parts that make a reranker."""

    formatter: Formatter
    collator: Collator
    backbone: Backbone
    head: Head
    strategy: Strategy


def encode(parts: Parts, asks: Sequence[Ask]) -> list[Row]:
    """The tokens of each ask, with the beginning that a group's prompts have in common set apart.

    Training and ranking both come through here, so a prompt cannot differ between them.
    """
    tokenizer = parts.backbone.tokenizer
    rows = parts.collator.encode([parts.formatter.format(ask, tokenizer) for ask in asks], tokenizer)
    if parts.backbone.shares_prefix:
        by_group: dict[int, list[Row]] = {}
        for ask, row in zip(asks, rows, strict=True):
            by_group.setdefault(id(ask.group), []).append(row)
        for group_rows in by_group.values():
            _share_prefix(group_rows)
    return rows


def collate(parts: Parts, rows: Sequence[Row]) -> Batch:
    """One batch of rows with what they share."""
    shared = list(dict.fromkeys(row.shared for row in rows if row.shared))
    if shared and not all(row.shared for row in rows):
        rows, shared = [_whole(row) for row in rows], []
    return parts.collator.collate(rows, parts.backbone.tokenizer, shared)


def forward(parts: Parts, batch: Batch, state: object = None) -> torch.Tensor:
    """Scores [rows, docs asked], float32."""
    if batch.tokens.compared is not None and not isinstance(parts.head, LateInteraction):
        raise InputError(
            "the collator tokenizes query and document apart, and this head would read the document alone; give it "
            "maxsim.v1, or the collator pair.v1 or sequence.v1"
        )
    return parts.head.score(parts.backbone.hidden(batch, state), batch).float()


def forward_all(parts: Parts, batch: Batch) -> torch.Tensor:
    """Scores of every query of the batch with every row, [queries, rows], float32; for heads of late interaction."""
    assert isinstance(parts.head, LateInteraction)
    return parts.head.score_all(parts.backbone.hidden(batch), batch).float()


def run(
    parts: Parts, groups: Sequence[Group], settings: Engine, finished: Callable[[], None] = lambda: None
) -> tuple[list[Order], Costs]:
    """Rank every group, in the order given; `finished` is called as each one is done."""
    costs, start = Costs(), time.perf_counter()
    rankings = [_Ranking(group, parts.strategy.rank(group)) for group in groups]
    waiting, active = rankings[::-1], list[_Ranking]()
    while waiting or active:
        asked = sum(len(ranking.asks) for ranking in active)
        while waiting and len(active) < ACTIVE_GROUPS and asked < ASKS_AT_ONCE:
            active.append(waiting.pop())
            active[-1].start()
            asked += len(active[-1].asks)
        asking = [ranking for ranking in active if ranking.order is None]
        scores = iter(score(parts, [Ask(r.group, docs) for r in asking for docs in r.asks], settings, costs))
        for ranking in asking:
            ranking.answer([next(scores) for _ in ranking.asks])
        for ranking in active:
            if ranking.order is not None:
                costs.depth = max(costs.depth, ranking.rounds)
                finished()
        active = [ranking for ranking in active if ranking.order is None]
    costs.seconds = time.perf_counter() - start
    return [ranking.order or [] for ranking in rankings], costs


def score(parts: Parts, asks: Sequence[Ask], settings: Engine, costs: Costs) -> list[list[float]]:
    """Scores of each ask, in the order given: one for each of its documents."""
    first = {id(ask.group): number for number, ask in reversed(list(enumerate(asks)))}
    order = sorted(range(len(asks)), key=lambda number: first[id(asks[number].group)])
    read = _SharedState()
    pieces = _encoded_ahead(parts, [asks[number] for number in order])
    found = [values for rows in pieces for values in _score_rows(parts, rows, settings, costs, read)]
    scores: list[list[float]] = [[] for _ in asks]
    for number, values in zip(order, found, strict=True):
        scores[number] = values
    for ask, values in zip(asks, scores, strict=True):
        if len(values) != len(ask.docs):
            raise RunError(f"the head gave {len(values)} scores to a prompt of {len(ask.docs)} documents")
        if not all(map(math.isfinite, values)):
            names = [(ask.group.doc_ids or ask.group.docs)[position][:60] for position in ask.docs]
            raise RunError(
                f"the model gave the score {values} to query {ask.group.qid or ask.group.query[:60]!r}, document "
                f"{names}; a score that is not finite cannot be ranked (fp16 overflows easily: try bf16 or fp32)"
            )
    return scores


def _encoded_ahead(parts: Parts, asks: Sequence[Ask]) -> Iterator[list[Row]]:
    """The rows of the asks, some at a time; the next ones are made while the caller works on these."""
    pieces = [asks[start : start + ENCODED_AT_ONCE] for start in range(0, len(asks), ENCODED_AT_ONCE)]
    if len(pieces) < 2:
        yield from (encode(parts, piece) for piece in pieces)
        return
    with ThreadPoolExecutor(max_workers=1) as tokenizing:
        ahead = tokenizing.submit(encode, parts, pieces[0])
        for piece in pieces[1:]:
            rows, ahead = ahead.result(), tokenizing.submit(encode, parts, piece)
            yield rows
        yield ahead.result()


@dataclass
class _SharedState:
    """What was read last of what rows share, kept because the rows that are tokenized next may share it too."""

    shared: list[tuple[int, ...]] = field(default_factory=list)
    state: object = None

    def become(self, parts: Parts, row: Row, shared: list[tuple[int, ...]], costs: Costs) -> None:
        """Read `shared`, unless it is at hand."""
        if shared is not self.shared:
            self.state = None  # two at once may not fit
            self.shared, self.state = shared, _read_shared(parts, row, shared, costs)
            costs.prefix_saved -= sum(map(len, shared))


def _score_rows(parts: Parts, rows: list[Row], settings: Engine, costs: Costs, read: _SharedState) -> list[list[float]]:
    """Scores of some rows, in their order, in batches of like length."""
    costs.prompts += len(rows)
    costs.cut_documents += sum(row.cut_document > 0 for row in rows)
    costs.cut_queries += sum(row.cut_query > 0 for row in rows)
    scores: list[list[float]] = [[] for _ in rows]
    with torch.inference_mode():
        for shared, numbers in _chunks(rows, settings.prefix_tokens, read.shared):
            chunk = [rows[number] for number in numbers]
            read.become(parts, chunk[0], shared, costs)
            costs.prefix_saved += sum(len(row.shared) for row in chunk)
            for batch in _batches(chunk, settings.batch_tokens):
                found = _score_batch(parts, [chunk[i] for i in batch], shared, read.state, costs)
                for i, values in zip(batch, found, strict=True):
                    scores[numbers[i]] = values
    return scores


def embed(parts: Parts, texts: Sequence[str], kind: str, settings: Engine) -> list[torch.Tensor]:
    """Token vectors [tokens, dim] of each text, in the order given; for late interaction."""
    head = parts.head
    if not isinstance(head, LateInteraction):
        raise InputError(
            "token vectors are what late interaction compares, and this reranker's head reads one score off a prompt"
        )
    rows = encode(parts, [Ask(Group(text, [text]), (0,)) for text in texts])
    sized = [replace(row, ids=list(row.shared)) for row in rows] if kind == "query" else rows
    found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for numbers in _batches(sized, settings.batch_tokens):
        batch = collate(parts, [rows[number] for number in numbers]).to(_device(parts))
        tokens, of = batch.tokens, list(range(len(numbers)))
        if kind == "query" and batch.shared is not None and batch.shared_of is not None:
            tokens, of = batch.shared, batch.shared_of.tolist()
        if tokens.compared is None:
            raise InputError("token vectors need query and document read apart; use late_interaction.v1")
        vectors = head.embed(parts.backbone.read_shared(tokens)).float().cpu()
        compared = tokens.compared.cpu()
        for number, row in zip(numbers, of, strict=True):
            found[number] = vectors[row][compared[row]]
    return found


class _Ranking:
    """One query's strategy under way: what it asks now, and its order once it has ended."""

    def __init__(self, group: Group, steps: Generator[list[Asked], list[list[float]], Order]) -> None:
        self.group = group
        self.asks: list[Asked] = []
        self.rounds = 0
        self.order: Order | None = None
        self._steps = steps

    def start(self) -> None:
        self._go_on(lambda: next(self._steps))

    def answer(self, scores: list[list[float]]) -> None:
        self.rounds += bool(scores)
        self._go_on(lambda: self._steps.send(scores))

    def _go_on(self, step: Callable[[], list[Asked]]) -> None:
        docs = range(len(self.group.docs))
        try:
            self.asks = step()
        except StopIteration as end:
            self.order = _whole_order(end.value, docs)
            return
        if wrong := [asked for asked in self.asks if not asked or not all(position in docs for position in asked)]:
            raise RunError(
                f"the strategy asks for documents {wrong[0]!r} of a query that has {len(docs)}, counted from 0"
            )


def _whole_order(value: Any, docs: range) -> Order:
    """What a strategy returned, which a third party may have got wrong."""
    try:
        whole = sorted(position for position, _ in value) == list(docs)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        raise RunError(
            f"the strategy returned {value!r:.200}; it must return (position, score) of each of {len(docs)} documents"
        )
    return value


def _share_prefix(rows: list[Row]) -> None:
    """Move the beginning that all rows have in common into `shared`; each row keeps at least one token of its own."""
    if len(rows) < 2:
        return
    first, last = min(row.ids for row in rows), max(row.ids for row in rows)  # all others lie between these two
    shortest = min(len(row.ids) for row in rows) - 1
    common = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    if common < SHORTEST_PREFIX:
        return
    prefix = tuple(first[:common])
    for row in rows:
        row.shared, row.ids = prefix, row.ids[common:]


def _whole(row: Row) -> Row:
    return replace(row, ids=[*row.shared, *row.ids], shared=())


def _chunks(
    rows: list[Row], prefix_tokens: int, held: list[tuple[int, ...]]
) -> Iterator[tuple[list[tuple[int, ...]], list[int]]]:
    """Rows that share what is held already, rows that share nothing, then rows whose shared parts may be held in memory
    together."""
    sharing: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        sharing.setdefault(row.shared, []).append(number)
    if again := [number for shared in held for number in sharing.pop(shared, [])]:
        yield held, again
    if plain := sharing.pop((), None):
        yield [], plain
    together: list[tuple[int, ...]] = []
    longest = 0
    for shared in sharing:
        if together and max(longest, len(shared)) * (len(together) + 1) > prefix_tokens:
            yield together, [number for s in together for number in sharing[s]]
            together, longest = [], 0
        together.append(shared)
        longest = max(longest, len(shared))
    if together:
        yield together, [number for s in together for number in sharing[s]]


def _batches(rows: list[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of like length together, longest first, each batch within the budget with its padding."""
    batch: list[int] = []
    width = 0
    for number in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):
        if batch and width * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        if not batch:
            width = len(rows[number].ids)
        batch.append(number)
    if batch:
        yield batch


def _read_shared(parts: Parts, row: Row, shared: list[tuple[int, ...]], costs: Costs) -> object:
    """The state of what rows share; `row` is any of them."""
    tokens = parts.collator.collate([row], parts.backbone.tokenizer, shared).shared
    if tokens is None:
        return None
    _count(costs, tokens)
    return parts.backbone.read_shared(tokens.to(_device(parts)))


def _score_batch(
    parts: Parts, rows: list[Row], shared: list[tuple[int, ...]], state: object, costs: Costs
) -> list[list[float]]:
    """Scores of one batch; a batch that does not fit into memory is halved."""
    try:
        batch = parts.collator.collate(rows, parts.backbone.tokenizer, shared)
        scores = forward(parts, batch.to(_device(parts)), state).tolist()
        _count(costs, batch.tokens)
        return scores
    except torch.OutOfMemoryError as error:
        if len(rows) == 1:
            raise RunError(f"out of memory with a single prompt of {len(rows[0].ids)} tokens: {error}") from error
    # only here is the error gone, and with it what its traceback kept in memory
    torch.cuda.empty_cache()
    half = len(rows) // 2
    return [s for part in (rows[:half], rows[half:]) for s in _score_batch(parts, part, shared, state, costs)]


def _count(costs: Costs, tokens: Tokens) -> None:
    real = int(tokens.mask.sum())
    costs.passes += 1
    costs.tokens += real
    costs.padding += tokens.ids.numel() - real


def _device(parts: Parts) -> torch.device:
    return next(parts.backbone.module.parameters()).device
