"""The first k documents sorted, and those of the rest that are better inserted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.comparing import Asking, SetComparisons, heapsort, one_prompt, too_small, whole_order
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("setwise_insertion.v1")
@dataclass(frozen=True)
class SetwiseInsertion:
    """Takes the first stage at its word: sorts its first k, then asks, for a few others at a time, whether any of them
    is better than the last of these k; one that is takes its place among them.

    Setwise Insertion of Podolak et al. 2025, arXiv 2504.10509. Where the first stage is good, most of the rest costs
    one prompt for every `num_child` documents.

    Recipe:
        [model.strategy]
        @strategies = "setwise_insertion.v1"
        k = 10
        num_child = 3

    Args:
        k: How many documents are sorted; more than there are sorts all.
        num_child: A prompt shows one document more than this.
        votes: In how many orders the documents of a comparison are shown; the majority decides.
    """

    k: int = 10
    num_child: int = 3
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(self.k, self.num_child, self.votes):
            raise InputError(f"setwise_insertion.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, num_child: int = num_child, votes: int = votes) -> Iterator[tuple[str, str]]:
        """Say which numbers make no sense."""
        return too_small(k=k, num_child=num_child, votes=votes)

    def rank(self, group: Group) -> Asking[Order]:
        count, compare = len(group.docs), SetComparisons(group, self.votes)
        first = yield from heapsort(min(self.k, count), self.k, self.num_child, compare.best)
        top = [position for position, _ in first]
        waiting = list(range(len(top), count))
        while waiting:
            challengers = waiting[: self.num_child]
            winner = yield from compare.best((top[-1], *challengers))
            if winner == top[-1]:
                del waiting[: self.num_child]
                continue
            waiting.remove(winner)
            top.insert((yield from _place(winner, top, compare)), winner)
            top.pop()
        return whole_order(top, count)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_prompt(group, 1 + self.num_child, "setwise_insertion.v1")


def _place(challenger: int, top: list[int], compare: SetComparisons) -> Asking[int]:
    """Where a document that is better than the last belongs, by halving what is left."""
    low, high = 0, len(top) - 1
    while low < high:
        middle = (low + high) // 2
        if (yield from compare.best((top[middle], challenger))) == challenger:
            high = middle
        else:
            low = middle + 1
    return low
