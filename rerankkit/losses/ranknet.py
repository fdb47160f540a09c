"""RankNet: of two documents, the one with the higher label should score higher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.registry import registry


@registry.losses("ranknet.v1")
@dataclass(frozen=True)
class RankNet:
    """Logistic loss of the score difference of every pair whose labels differ, averaged over those pairs.

    Recipe:
        [loss]
        @losses = "ranknet.v1"

    Args:
        sigma: Steepness; the scores' differences are multiplied by it.

    Source: Burges et al. 2005, "Learning to Rank using Gradient Descent", ICML.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.sigma):
            raise InputError(f"ranknet.v1, {argument}: {message}")

    @staticmethod
    def check(sigma: float) -> Iterator[tuple[str, str]]:
        """Say whether the steepness makes no sense."""
        return above_zero({"sigma": sigma})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        better = labels.unsqueeze(2) > labels.unsqueeze(1)  # [groups, docs, docs]: row beats column
        pairs = better & mask.unsqueeze(2) & mask.unsqueeze(1)
        scores = scores.masked_fill(~mask, 0.0)
        differences = self.sigma * (scores.unsqueeze(2) - scores.unsqueeze(1))
        losses = torch.nn.functional.softplus(-differences).masked_fill(~pairs, 0.0)
        return losses.sum() / pairs.sum().clamp(min=1)
