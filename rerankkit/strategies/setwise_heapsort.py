"""The k best by a heap, a node and its children in one prompt."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from rerankkit.comparing import Sets, too_small, training_set
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry
from rerankkit.sorting import heapsort, whole_order


@registry.strategies("setwise_heapsort.v1")
@dataclass(frozen=True)
class SetwiseHeapsort:
    """Finds the k best with a heap of num_child children a node; the nodes of one level are asked about together.

    Source: Zhuang et al., "A Setwise Approach for Effective and Highly Efficient Zero-shot Ranking with Large Language
    Models", 2024, arXiv:2310.09497.

    Recipe:
        [model.strategy]
        @strategies = "setwise_heapsort.v1"
        k = 10
        num_child = 3

    Args:
        k: How many of the best are found; the others follow in first-stage order.
        num_child: A prompt shows up to 1 + num_child documents. Of equal ones the first keeps its place.
        votes: How many orders a set is shown in; what most of them prefer wins.
    """

    k: int = 10
    num_child: int = 3
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(**vars(self)):
            raise InputError(f"setwise_heapsort.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, num_child: int = num_child, votes: int = votes) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        return too_small({"k": k, "num_child": num_child, "votes": votes})

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        n = len(group.docs)
        top = yield from heapsort(n, self.k, self.num_child, Sets(group, self.votes).best)
        return whole_order(top, n)

    def training_asks(self, group: Group) -> list[Asked]:
        return training_set(group, 1 + self.num_child, "setwise_heapsort.v1")
