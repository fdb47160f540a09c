"""NeuralNDCG: nDCG of a sorting that is soft in place of hard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import discount, gains, vary
from rerankkit.registry import registry

ROUNDS = 30  # of Sinkhorn scaling, as in the paper; no early stop, so that a group's loss is independent of its batch


@registry.losses("neural_ndcg.v1")
@dataclass(frozen=True)
class NeuralNDCG:
    """1 - nDCG@k of the gains as the deterministic NeuralSort matrix of the scores sorts them.

    The matrix is Sinkhorn-scaled, or a document could fill several places and nDCG exceed 1 by far; it still can by
    some thousandths. Gains are 2^label - 1; a label below 0 gains nothing. Averaged over the groups whose gains differ:
    in the others every order is as good.

    Recipe:
        [loss]
        @losses = "neural_ndcg.v1"
        temperature = 0.5

    Args:
        temperature: The smaller, the nearer to nDCG, and the smaller the gradient of documents whose scores lie apart.
        k: Only the first k places count; all where it is left out.

    Source: Pobrotyn and Bialobrzeski 2021, "NeuralNDCG: Direct Optimisation of a Ranking Metric via Differentiable
        Relaxation of Sorting", arXiv:2102.07831; Grover et al. 2019, "Stochastic Optimization of Sorting Networks via
        Continuous Relaxations", ICLR.
    """

    temperature: float = 1.0
    k: int | None = None

    def __post_init__(self) -> None:
        for argument, message in self.check(self.temperature, self.k):
            raise InputError(f"neural_ndcg.v1, {argument}: {message}")

    @staticmethod
    def check(temperature: float, k: int | None) -> Iterator[tuple[str, str]]:
        """Say which values make no sense."""
        return above_zero({"temperature": temperature, "k": k})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        gain = gains(labels.to(scores.dtype), mask, self.k)  # [groups, docs]
        places = torch.arange(1, mask.shape[-1] + 1, device=mask.device, dtype=scores.dtype)
        ordered = (_soft_sort(scores / self.temperature, mask, places) @ gain.unsqueeze(2)).squeeze(2)
        losses = 1 - (ordered * discount(places))[:, : self.k].sum(-1)  # [groups]
        counted = vary(gain, mask)
        return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)


def _soft_sort(scores: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """How much of each place each document takes: rows and columns that exist sum to 1. [groups, places, docs]"""
    scores = scores.masked_fill(~mask, 0.0)
    apart = (scores.unsqueeze(2) - scores.unsqueeze(1)).abs().masked_fill(~mask.unsqueeze(1), 0.0).sum(-1)
    docs = mask.sum(-1, keepdim=True)  # [groups, 1]
    slopes = (docs + 1 - 2 * places).unsqueeze(2)  # [groups, places, 1]
    logits = slopes * scores.unsqueeze(1) - apart.unsqueeze(1)  # [groups, places, docs]
    logits = logits.masked_fill(~mask.unsqueeze(1), torch.finfo(scores.dtype).min)
    matrix = logits.softmax(-1).masked_fill(~(mask.unsqueeze(1) & (places <= docs).unsqueeze(2)), 0.0)
    for _ in range(ROUNDS):
        for side in (1, 2):  # a document has the largest share of its own place, so no sum that exists is near 0
            sums = matrix.sum(side, keepdim=True)
            matrix = matrix / sums.masked_fill(sums == 0, 1.0)
    return matrix
