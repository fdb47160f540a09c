"""Drives a strategy by itself: a judge answers its asks, and everything that it asked is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rerankkit.protocols import Asked, Group, Order, Strategy

Judge = Callable[[Asked], list[float]]


@dataclass
class Asking:
    """What a strategy returned, and the asks of each round."""

    order: Order
    rounds: list[list[Asked]] = field(default_factory=list)

    @property
    def asked(self) -> list[Asked]:
        return [docs for asks in self.rounds for docs in asks]

    @property
    def positions(self) -> list[int]:
        return [position for position, _ in self.order]


def drive(strategy: Strategy, count: int, judge: Judge) -> Asking:
    """The ranking of `count` documents by a judge who gives each ask its scores."""
    steps = strategy.rank(Group("query", [f"document {i}" for i in range(count)]))
    rounds: list[list[Asked]] = []
    try:
        asks = next(steps)
        while True:
            rounds.append(list(asks))
            assert asks, "a round that asks nothing"
            asks = steps.send([judge(docs) for docs in asks])
    except StopIteration as end:
        return Asking(end.value, rounds)


def perfect(grades: Sequence[float]) -> Judge:
    """A judge who knows how good each document is."""
    return lambda docs: [grades[position] for position in docs]


def best_first(grades: Sequence[float]) -> list[int]:
    return sorted(range(len(grades)), key=lambda position: -grades[position])
