"""The best k documents, each brought up by comparing neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.comparing import Asking, Decide, PairComparisons, bubblesort, one_pair, too_small, unknown_decision
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("pairwise_bubblesort.v1")
@dataclass(frozen=True)
class PairwiseBubblesort:
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

    k: int = 10
    decide: Decide = "agree"

    def __post_init__(self) -> None:
        for argument, message in self.check(self.k, self.decide):
            raise InputError(f"pairwise_bubblesort.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, decide: str = decide) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        yield from too_small(k=k)
        yield from unknown_decision(decide)

    def rank(self, group: Group) -> Asking[Order]:
        return bubblesort(len(group.docs), self.k, 1, PairComparisons(self.decide).best)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_pair(group, "pairwise_bubblesort.v1")
