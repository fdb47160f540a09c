"""ADR-MSE: each document's soft rank should be its rank by the labels, the top ranks above all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import discount, ranks, soft_ranks
from rerankkit.registry import registry


@registry.losses("adr_mse.v1")
@dataclass(frozen=True)
class ADRMSE:
    """Squared difference of the approximate rank and the labels' rank r, over log2(r + 1), averaged over documents.

    The approximate rank is 1 + the sum, over the other documents, of sigmoid(alpha * their lead). Equal labels share
    the average of their ranks, so documents that a teacher holds for equal are drawn together.

    Recipe:
        [loss]
        @losses = "adr_mse.v1"
        alpha = 2.0

    Args:
        alpha: Steepness of the approximate ranks. The larger, the nearer to true ranks, and the smaller the gradient
            of documents whose scores lie apart.

    Source: Schlatt et al. 2025, "Rank-DistiLLM: Closing the Effectiveness Gap Between Cross-Encoders and LLMs for
        Passage Re-ranking", ECIR (arXiv:2405.07920).
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.alpha):
            raise InputError(f"adr_mse.v1, {argument}: {message}")

    @staticmethod
    def check(alpha: float) -> Iterator[tuple[str, str]]:
        """Say whether the steepness makes no sense."""
        return above_zero({"alpha": alpha})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        wanted = ranks(labels.to(scores.dtype), mask)  # [groups, docs]
        errors = (wanted - soft_ranks(scores, mask, self.alpha)) ** 2
        # a masked document may have any rank, also 0, whose discount is infinite
        losses = errors.masked_fill(~mask, 0.0) * discount(wanted.masked_fill(~mask, 1.0))
        return losses.sum() / mask.sum().clamp(min=1)
