"""Every document by itself, all at once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("pointwise.v1")
@dataclass(frozen=True)
class Pointwise:
    """Scores each document alone and sorts by score; equal scores keep the given order.

    Recipe:
        [model.strategy]
        @strategies = "pointwise.v1"
    """

    at_once = "one"

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        scores = yield self.training_asks(group)
        order = [(position, score) for position, (score,) in enumerate(scores)]
        return sorted(order, key=lambda ranked: -ranked[1])

    def training_asks(self, group: Group) -> list[Asked]:
        return [(position,) for position in range(len(group.docs))]
