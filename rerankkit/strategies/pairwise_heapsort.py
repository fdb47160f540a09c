"""The best k documents off a binary heap of pairwise comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.comparing import Asking, Decide, PairComparisons, heapsort, one_pair, too_small, unknown_decision
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("pairwise_heapsort.v1")
@dataclass(frozen=True)
class PairwiseHeapsort:
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

    k: int = 10
    decide: Decide = "agree"

    def __post_init__(self) -> None:
        for argument, message in self.check(self.k, self.decide):
            raise InputError(f"pairwise_heapsort.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, decide: str = decide) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        yield from too_small(k=k)
        yield from unknown_decision(decide)

    def rank(self, group: Group) -> Asking[Order]:
        return heapsort(len(group.docs), self.k, 2, PairComparisons(self.decide).best)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_pair(group, "pairwise_heapsort.v1")
