"""Binary cross-entropy: each document is a yes or a no by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.registry import registry


@registry.losses("binary_cross_entropy.v1")
@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Logistic loss of every score against its label, clipped to [0, 1], averaged over the scores that exist.

    Recipe:
        [loss]
        @losses = "binary_cross_entropy.v1"
        positive_weight = 3.0

    Args:
        positive_weight: How much more a positive counts; with n negatives to a positive, n balances the two.
    """

    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.positive_weight):
            raise InputError(f"binary_cross_entropy.v1, {argument}: {message}")

    @staticmethod
    def check(positive_weight: float) -> Iterator[tuple[str, str]]:
        """Say whether the weight makes no sense."""
        return above_zero({"positive_weight": positive_weight})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        functional = torch.nn.functional
        target = labels.clamp(0, 1)  # [groups, docs]
        scores = scores.masked_fill(~mask, 0.0)
        losses = -(
            self.positive_weight * target * functional.logsigmoid(scores)
            + (1 - target) * functional.logsigmoid(-scores)
        )
        return losses.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
