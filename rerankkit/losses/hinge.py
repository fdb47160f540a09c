"""Hinge loss: of two documents, the one with the higher label should lead by a margin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.registry import registry


@registry.losses("hinge.v1")
@dataclass(frozen=True)
class Hinge:
    """What every pair whose labels differ lacks of the margin, averaged over those pairs.

    Recipe:
        [loss]
        @losses = "hinge.v1"
        margin = 0.5

    Args:
        margin: The lead, in units of the scores, from which on a pair costs nothing. It is the same for all labels.

    Source: Joachims 2002, "Optimizing Search Engines using Clickthrough Data", KDD.
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.margin):
            raise InputError(f"hinge.v1, {argument}: {message}")

    @staticmethod
    def check(margin: float) -> Iterator[tuple[str, str]]:
        """Say whether the margin makes no sense."""
        return above_zero({"margin": margin})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        better = labels.unsqueeze(2) > labels.unsqueeze(1)  # [groups, docs, docs]: row beats column
        pairs = better & mask.unsqueeze(2) & mask.unsqueeze(1)
        scores = scores.masked_fill(~mask, 0.0)
        lead = scores.unsqueeze(2) - scores.unsqueeze(1)
        losses = (self.margin - lead).clamp(min=0).masked_fill(~pairs, 0.0)
        return losses.sum() / pairs.sum().clamp(min=1)
