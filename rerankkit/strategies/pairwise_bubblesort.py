"""The best k documents, each brought up by comparing neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.comparing import Asking, Decide, PairComparisons, one_prompt, too_small, whole_order
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("pairwise_bubblesort.v1")
@dataclass(frozen=True)
class PairwiseBubblesort:
    """Brings the best document to the top in each of k passes; neighbours that were compared are not asked again.

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
        for argument, message in self.check(self.k):
            raise InputError(f"pairwise_bubblesort.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k) -> Iterator[tuple[str, str]]:
        """Say which numbers make no sense."""
        return too_small(k=k)

    def rank(self, group: Group) -> Asking[Order]:
        order = list(range(len(group.docs)))
        compare = PairComparisons(self.decide)
        for top in range(min(self.k, len(order) - 1)):
            for place in range(len(order) - 1, top, -1):
                if (yield from compare.lead(order[place], order[place - 1])) > 0:
                    order[place - 1], order[place] = order[place], order[place - 1]
        return whole_order(order[: self.k], len(order))

    def training_asks(self, group: Group) -> list[Asked]:
        return one_prompt(group, 2, "pairwise_bubblesort.v1")
