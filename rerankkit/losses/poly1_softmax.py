"""Poly-1 softmax: softmax cross-entropy with a heavier first term of its polynomial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import log_softmax
from rerankkit.registry import registry


@registry.losses("poly1_softmax.v1")
@dataclass(frozen=True)
class Poly1Softmax:
    """Softmax cross-entropy + epsilon * (1 - p), averaged over the groups with a positive.

    p is the probability of all positives (labels above 0) together, so that it can reach 1 however many there are. In
    the cross-entropy they share the target in proportion to their labels. A group without a positive counts zero.

    Recipe:
        [loss]
        @losses = "poly1_softmax.v1"
        epsilon = 2.0

    Args:
        epsilon: 0 is plain cross-entropy; more keeps up the gradient of positives that are ahead already. At least -1,
            below which more probability would cost more.
        temperature: Divides the scores. 1.0 suits logits; similarities in [-1, 1] want about 0.05.

    Source: Leng et al. 2022, "PolyLoss", ICLR; for ranking Zhuang et al. 2023, "RankT5", SIGIR.
    """

    epsilon: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.epsilon, self.temperature):
            raise InputError(f"poly1_softmax.v1, {argument}: {message}")

    @staticmethod
    def check(epsilon: float, temperature: float) -> Iterator[tuple[str, str]]:
        """Say which values make no sense."""
        if not -1 <= epsilon < math.inf:
            yield "epsilon", f"must be at least -1 and finite, got {epsilon}"
        yield from above_zero({"temperature": temperature})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        weights = labels.to(scores.dtype).masked_fill(~mask, 0.0).clamp(min=0)  # [groups, docs]
        total = weights.sum(-1, keepdim=True)
        target = weights / total.masked_fill(total == 0, 1.0)
        logs = log_softmax(scores / self.temperature, mask)
        others = logs.exp().masked_fill(~mask | (weights > 0), 0.0).sum(-1)  # [groups]: 1 - p, without cancellation
        losses = self.epsilon * others - (target * logs).sum(-1)
        counted = (total > 0).squeeze(-1)
        return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
