"""The first k documents sorted, and those of the rest that are better inserted."""

from __future__ import annotations

from rerankkit.comparing import Asking, SetComparisons, heapsort, whole_order
from rerankkit.protocols import Group, Order
from rerankkit.registry import registry
from rerankkit.sorts import SetwiseSort


@registry.strategies("setwise_insertion.v1")
class SetwiseInsertion(SetwiseSort):
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

    part = "setwise_insertion.v1"

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
