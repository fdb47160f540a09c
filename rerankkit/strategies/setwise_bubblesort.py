"""The best k documents, each brought up by windows of several documents."""

from __future__ import annotations

from rerankkit.comparing import Asking, SetComparisons, bubblesort
from rerankkit.protocols import Group, Order
from rerankkit.registry import registry
from rerankkit.sorts import SetwiseSort


@registry.strategies("setwise_bubblesort.v1")
class SetwiseBubblesort(SetwiseSort):
    """Brings the best document to the top in each of k passes of a window, which run side by side; sets that were
    compared are not asked again.

    Setwise prompting of Zhuang et al. 2024, arXiv 2310.09497. Every pass looks at every document below those that are
    sorted, so the result is exact for any number of documents.

    Recipe:
        [model.strategy]
        @strategies = "setwise_bubblesort.v1"
        k = 10
        num_child = 3

    Args:
        k: How many documents are sorted; more than there are sorts all.
        num_child: A prompt shows one document more than this.
        votes: In how many orders the documents of a comparison are shown; the majority decides.
    """

    part = "setwise_bubblesort.v1"

    def rank(self, group: Group) -> Asking[Order]:
        return bubblesort(len(group.docs), self.k, self.num_child, SetComparisons(group, self.votes).best)
