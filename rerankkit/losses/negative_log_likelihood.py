"""The loss of an answer written out: how unlikely it is."""

from __future__ import annotations

from dataclasses import dataclass

from rerankkit.lazy import torch
from rerankkit.registry import registry


@registry.losses("negative_log_likelihood.v1")
@dataclass(frozen=True)
class NegativeLogLikelihood:
    """Minus the sum of a group's scores, averaged over the groups; for heads that learn to write the right answer.

    The scores of such a head are log-likelihoods of the parts of the answer, which the labels have put in order, so
    the labels are not looked at again. With other heads this loss would learn to give high scores to everything.

    Recipe:
        [loss]
        @losses = "negative_log_likelihood.v1"

    Source: Pradeep et al. 2023, "RankZephyr", arXiv 2312.02724, which trains on orders written by a teacher.
    """

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return -scores.masked_fill(~mask, 0.0).sum() / mask.any(-1).sum().clamp(min=1)
