"""Which queries are asked about together, round after round."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from rerankkit.errors import RunError
from rerankkit.protocols import Asked, Group, Order, Strategy

ACTIVE_GROUPS = 256
"""How many queries are worked on at once: enough to fill batches, few enough to hold their tokens in memory."""
ASKS_AT_ONCE = 4096
"""How many asks are put together before they are scored: enough that they can be sorted into full batches."""


class Ranking:
    """One query's strategy under way: what it asks now, and its order once it has ended."""

    def __init__(self, number: int, group: Group, strategy: Strategy) -> None:
        self.number = number
        self.group = group
        self.asks: list[Asked] = []
        self.rounds = 0
        self.order: Order | None = None
        self._steps: Generator[list[Asked], list[list[float]], Order] = strategy.rank(group)

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
            self.asks, self.order = [], _whole_order(end.value, docs)
            return
        if wrong := [asked for asked in self.asks if not asked or not all(position in docs for position in asked)]:
            raise RunError(
                f"the strategy asks for documents {wrong[0]!r} of a query that has {len(docs)}, counted from 0"
            )


def rounds(
    rankings: Sequence[Ranking], shared_tokens: Callable[[Group], int], prefix_tokens: int
) -> Iterator[list[Ranking]]:
    """The rankings that are asked about next, some of which may have ended at once, until all have ended.

    New queries come in waves, when half of those before them are done, so that what they share is read together. Those
    that go on after a first round do so in companies whose prefixes can be kept in memory, replenished likewise: else
    every prefix would have to make way for the next before it is asked for again.

    Args:
        shared_tokens: How many tokens a query's latest prompts shared.
        prefix_tokens: How many of them can be kept.
    """
    waiting, active, company = deque(rankings), list[Ranking](), list[Ranking]()
    wave = full = 0
    while waiting or active:
        if 2 * len(active) <= wave:
            asked = sum(len(ranking.asks) for ranking in active)
            while waiting and len(active) < ACTIVE_GROUPS and asked < ASKS_AT_ONCE:
                active.append(waiting.popleft())
                active[-1].start()
                asked += len(active[-1].asks)
            wave = len(active)
        if 2 * len(company) <= full:
            kept = sum(shared_tokens(ranking.group) for ranking in company)
            for ranking in [ranking for ranking in active if ranking.rounds and ranking not in company]:
                kept += shared_tokens(ranking.group)
                if company and kept > prefix_tokens:
                    break
                company.append(ranking)
            full = len(company)
        yield [ranking for ranking in active if not ranking.rounds] + company
        active, company = ([r for r in some if r.order is None] for some in (active, company))


def _whole_order(value: Any, docs: range) -> Order:
    """What a strategy returned, which a third party may have got wrong."""
    try:
        complete = sorted(position for position, _ in value) == list(docs)
    except (TypeError, ValueError):
        complete = False
    if not complete:
        raise RunError(
            f"the strategy returned {value!r:.200}; it must return (position, score) of each of {len(docs)} documents"
        )
    return value
