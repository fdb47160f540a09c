"""The best k documents, each brought up by comparing neighbours."""

from __future__ import annotations

from rerankkit.comparing import Asking, PairComparisons, bubblesort
from rerankkit.protocols import Group, Order
from rerankkit.registry import registry
from rerankkit.sorts import PairwiseSort


@registry.strategies("pairwise_bubblesort.v1")
class PairwiseBubblesort(PairwiseSort):
    """Brings the best document to the top in each of k passes over neighbours, which run side by side; pairs that were
    compared are not asked again.

    PRP-Sliding of Qin et al. 2023, arXiv 2306.17563.

    Recipe:
        [model.strategy]
        @strategies = "pairwise_bubblesort.v1"
        k = 10

    Args:
        k: How many documents are sorted; more than there are sorts all.
        decide: As for pairwise_heapsort.v1.
    """

    part = "pairwise_bubblesort.v1"

    def rank(self, group: Group) -> Asking[Order]:
        return bubblesort(len(group.docs), self.k, 1, PairComparisons(self.decide).best)
