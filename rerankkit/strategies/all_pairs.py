"""Every document against every other, in both orders."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import combinations

from rerankkit.comparing import Decide, Pairs, together, training_pair, unknown_decision
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("all_pairs.v1")
@dataclass(frozen=True)
class AllPairs:
    """Compares all pairs at once, n * (n - 1) prompts, and sorts by wins; equal ones keep the given order.

    Source: Qin et al., "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting", 2023,
    arXiv:2306.17563.

    Recipe:
        [model.strategy]
        @strategies = "all_pairs.v1"

    Args:
        decide: What a document gains from the two prompts of a pair: "agree": 1 where both prefer it; "margin": 1 where
            their margins together favour it (duoT5's rule); "probability": its mean softmax. A tie is 1/2 for each.
    """

    decide: Decide = "agree"

    def __post_init__(self) -> None:
        for argument, message in self.check(self.decide):
            raise InputError(f"all_pairs.v1, {argument}: {message}")

    @staticmethod
    def check(decide: str = decide) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        return unknown_decision(decide)

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        pairs, compare = list(combinations(range(len(group.docs)), 2)), Pairs(self.decide)
        shares = yield from together([compare.share(one, other) for one, other in pairs])
        wins = [0.0] * len(group.docs)
        for (one, other), share in zip(pairs, shares, strict=True):
            wins[one] += share
            wins[other] += 1 - share
        return sorted(enumerate(wins), key=lambda ranked: -ranked[1])

    def training_asks(self, group: Group) -> list[Asked]:
        return training_pair(group, "all_pairs.v1")
