"""The best k documents off a heap whose every comparison is one prompt of several documents."""

from __future__ import annotations

from rerankkit.comparing import Asking, SetComparisons, heapsort
from rerankkit.protocols import Group, Order
from rerankkit.registry import registry
from rerankkit.sorts import SetwiseSort


@registry.strategies("setwise_heapsort.v1")
class SetwiseHeapsort(SetwiseSort):
    """Sorts the best k with a heap of `num_child` children a node; the others keep the first stage's order.

    Setwise prompting of Zhuang et al. 2024, arXiv 2310.09497, where a prompt's `num_child + 1` documents are called c.

    Recipe:
        [model.strategy]
        @strategies = "setwise_heapsort.v1"
        k = 10
        num_child = 3

    Args:
        k: How many documents are sorted; more than there are sorts all.
        num_child: A prompt shows one document more than this.
        votes: In how many orders the documents of a comparison are shown; the majority decides.
    """

    part = "setwise_heapsort.v1"

    def rank(self, group: Group) -> Asking[Order]:
        return heapsort(len(group.docs), self.k, self.num_child, SetComparisons(group, self.votes).best)
