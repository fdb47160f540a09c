"""MarginMSE: two scores should differ by as much as the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rerankkit.lazy import torch
from rerankkit.registry import registry


@registry.losses("margin_mse.v1")
@dataclass(frozen=True)
class MarginMSE:
    """Squared difference of the scores' margin and the labels' margin of two documents, averaged over the pairs.

    The labels are a teacher's scores. Their level does not matter, their scale does.

    Recipe:
        [loss]
        @losses = "margin_mse.v1"
        pairs = "all"

    Args:
        pairs: "best" pairs the teacher's best document with each other one (each of several that tie for the best),
            as a positive with its negatives; "all" takes every two documents.

    Source: Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
        Distillation", arXiv:2010.02666.
    """

    pairs: Literal["best", "all"] = "best"

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores, labels = scores.masked_fill(~mask, 0.0), labels.to(scores.dtype)
        ahead = scores - labels.masked_fill(~mask, 0.0)  # [groups, docs]: of the teacher
        errors = (ahead.unsqueeze(2) - ahead.unsqueeze(1)) ** 2  # [groups, docs, docs]
        others = ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
        chosen = mask.unsqueeze(2) & mask.unsqueeze(1) & others
        if self.pairs == "best":
            existing = labels.masked_fill(~mask, -torch.inf)
            best = existing == existing.amax(-1, keepdim=True)
            chosen = chosen & (best.unsqueeze(2) | best.unsqueeze(1))
        return errors.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp(min=1)  # a pair is there twice in both
