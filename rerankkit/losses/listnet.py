"""ListNet: the scores' softmax over the group should be the labels' softmax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import log_softmax
from rerankkit.registry import registry


@registry.losses("listnet.v1")
@dataclass(frozen=True)
class ListNet:
    """Cross-entropy between softmax(labels) and softmax(scores), averaged over the groups of two or more documents.

    Every label counts, also 0 and less: with equal labels the scores are drawn together.

    Recipe:
        [loss]
        @losses = "listnet.v1"
        label_temperature = 0.5

    Args:
        label_temperature: Divides the labels. The smaller, the more of the target goes to the best document.

    Source: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML.
    """

    label_temperature: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.label_temperature):
            raise InputError(f"listnet.v1, {argument}: {message}")

    @staticmethod
    def check(label_temperature: float) -> Iterator[tuple[str, str]]:
        """Say whether the temperature makes no sense."""
        return above_zero({"label_temperature": label_temperature})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        target = log_softmax(labels.to(scores.dtype) / self.label_temperature, mask).exp()  # [groups, docs]
        losses = -(target * log_softmax(scores, mask)).sum(-1)  # [groups]
        return losses.sum() / (mask.sum(-1) > 1).sum().clamp(min=1)
