"""The best k documents off a binary heap of pairwise comparisons."""

from __future__ import annotations

from rerankkit.comparing import Asking, PairComparisons, heapsort
from rerankkit.protocols import Group, Order
from rerankkit.registry import registry
from rerankkit.sorts import PairwiseSort


@registry.strategies("pairwise_heapsort.v1")
class PairwiseHeapsort(PairwiseSort):
    """Sorts the best k with a heap, two prompts a comparison; the others keep the first stage's order.

    PRP-Sorting of Qin et al. 2023, arXiv 2306.17563.

    Recipe:
        [model.strategy]
        @strategies = "pairwise_heapsort.v1"
        k = 10

    Args:
        k: How many documents are sorted; more than there are sorts all.
        decide: When a document is better: "agree" where both orders of the prompt say so, "margin" where the scores'
            differences of both orders add up to it, "probability" where the mean of both probabilities exceeds a half.
    """

    part = "pairwise_heapsort.v1"

    def rank(self, group: Group) -> Asking[Order]:
        return heapsort(len(group.docs), self.k, 2, PairComparisons(self.decide).best)
