"""Mean squared error: each score should be its label."""

from __future__ import annotations

from dataclasses import dataclass

from rerankkit.lazy import torch
from rerankkit.registry import registry


@registry.losses("mse.v1")
@dataclass(frozen=True)
class MSE:
    """Squared difference of every score and its label, such as a teacher's score, averaged over the scores that exist.

    Recipe:
        [loss]
        @losses = "mse.v1"
    """

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores, labels = scores.masked_fill(~mask, 0.0), labels.masked_fill(~mask, 0)
        return ((scores - labels) ** 2).sum() / mask.sum().clamp(min=1)
