"""The best k documents, each brought up by windows of several documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.comparing import Asking, SetComparisons, bubblesort, one_prompt, too_small
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("setwise_bubblesort.v1")
@dataclass(frozen=True)
class SetwiseBubblesort:
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

    k: int = 10
    num_child: int = 3
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(self.k, self.num_child, self.votes):
            raise InputError(f"setwise_bubblesort.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, num_child: int = num_child, votes: int = votes) -> Iterator[tuple[str, str]]:
        """Say which numbers make no sense."""
        return too_small(k=k, num_child=num_child, votes=votes)

    def rank(self, group: Group) -> Asking[Order]:
        return bubblesort(len(group.docs), self.k, self.num_child, SetComparisons(group, self.votes).best)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_prompt(group, 1 + self.num_child, "setwise_bubblesort.v1")
