"""Every document against every other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.comparing import Asking, Decide, PairComparisons, one_pair, together, unknown_decision
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry


@registry.strategies("all_pairs.v1")
@dataclass(frozen=True)
class AllPairs:
    """Compares all pairs of documents, each in both orders, and sorts by wins: N² - N prompts, all at once.

    PRP-Allpair of Qin et al. 2023, arXiv 2306.17563.

    Recipe:
        [model.strategy]
        @strategies = "all_pairs.v1"
        decide = "agree"

    Args:
        decide: "agree": a win counts 1 where both orders say so, else each document gets a half. "margin": the scores'
            differences of both orders are added up. "probability": each document gets its mean probability.
    """

    at_once = "several"
    decide: Decide = "agree"

    def __post_init__(self) -> None:
        for argument, message in self.check(self.decide):
            raise InputError(f"all_pairs.v1, {argument}: {message}")

    @staticmethod
    def check(decide: str = decide) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        return unknown_decision(decide)

    def rank(self, group: Group) -> Asking[Order]:
        count = len(group.docs)
        pairs = [(a, b) for a in range(count) for b in range(a + 1, count)]
        compare = PairComparisons(self.decide)
        leads = yield from together([compare.lead(a, b) for a, b in pairs])
        won: list[list[float]] = [[] for _ in range(count)]
        for (a, b), lead in zip(pairs, leads, strict=True):
            won[a].append((1 + lead) / 2)
            won[b].append((1 - lead) / 2)
        # exact sums: those of equal documents come in different orders, and rounding must not tell them apart
        wins = [math.fsum(own) for own in won]
        return sorted(enumerate(wins), key=lambda ranked: -ranked[1])

    def training_asks(self, group: Group) -> list[Asked]:
        return one_pair(group, "all_pairs.v1")
