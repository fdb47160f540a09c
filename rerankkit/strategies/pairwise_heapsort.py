"""The k best by a heap whose documents are compared two at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from rerankkit.comparing import Decide, Pairs, too_small, training_pair, unknown_decision
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry
from rerankkit.sorting import heapsort, whole_order


@registry.strategies("pairwise_heapsort.v1")
@dataclass(frozen=True)
class PairwiseHeapsort:
    """Finds the k best with a binary heap, by two prompts a comparison; comparisons of one level go out together.

    Source: Qin et al., "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting", 2023,
    arXiv:2306.17563.

    Recipe:
        [model.strategy]
        @strategies = "pairwise_heapsort.v1"
        k = 10

    Args:
        k: How many of the best are found; the others follow in first-stage order.
        decide: What beating takes, of the two prompts of a pair: "agree": both prefer the same document; "margin":
            their margins together favour it (duoT5's rule); "probability": its mean softmax is above 1/2. Anything
            else is a tie, which moves nothing.
    """

    k: int = 10
    decide: Decide = "agree"

    def __post_init__(self) -> None:
        for argument, message in self.check(**vars(self)):
            raise InputError(f"pairwise_heapsort.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, decide: str = decide) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        yield from too_small({"k": k})
        yield from unknown_decision(decide)

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        n = len(group.docs)
        top = yield from heapsort(n, self.k, 2, Pairs(self.decide).best)
        return whole_order(top, n)

    def training_asks(self, group: Group) -> list[Asked]:
        return training_pair(group, "pairwise_heapsort.v1")
