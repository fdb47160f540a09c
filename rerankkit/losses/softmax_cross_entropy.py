"""Softmax cross-entropy over the group: the positives against all candidates of their query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import log_softmax
from rerankkit.registry import registry


@registry.losses("softmax_cross_entropy.v1")
@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """ListNet's top-one loss with labels as weights: -sum(label / sum(labels) * log softmax(score)).

    Several positives share the target in proportion to their labels. A group without a positive counts zero; the others
    are averaged.

    Recipe:
        [loss]
        @losses = "softmax_cross_entropy.v1"
        temperature = 1.0

    Args:
        temperature: Divides the scores. 1.0 suits logits; similarities in [-1, 1] want about 0.05.

    Source: Bruch et al. 2019, "An Analysis of the Softmax Cross Entropy Loss for Learning-to-Rank", ICTIR.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.temperature):
            raise InputError(f"softmax_cross_entropy.v1, {argument}: {message}")

    @staticmethod
    def check(temperature: float) -> Iterator[tuple[str, str]]:
        """Say whether the temperature makes no sense."""
        return above_zero({"temperature": temperature})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = labels.clamp(min=0).masked_fill(~mask, 0).to(scores.dtype)  # [groups, docs]
        total = weights.sum(-1, keepdim=True)
        target = weights / total.masked_fill(total == 0, 1.0)
        losses = -(target * log_softmax(scores / self.temperature, mask)).sum(-1)  # [groups]
        return losses.sum() / (total > 0).sum().clamp(min=1)
