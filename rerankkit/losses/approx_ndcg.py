"""ApproxNDCG: nDCG with soft ranks in place of ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import discount, gains, soft_ranks, vary
from rerankkit.registry import registry


@registry.losses("approx_ndcg.v1")
@dataclass(frozen=True)
class ApproxNDCG:
    """1 - nDCG at soft ranks: 1 + the sum, over the other documents, of sigmoid(their lead / temperature).

    Gains are 2^label - 1; a label below 0 gains nothing. Averaged over the groups whose gains differ: in the others
    every order has the same nDCG.

    Recipe:
        [loss]
        @losses = "approx_ndcg.v1"
        temperature = 0.1

    Args:
        temperature: The smaller, the nearer to nDCG, and the smaller the gradient of documents whose scores lie apart.
            1.0 suits logits; similarities in [-1, 1] want about 0.05. The inverse of the papers' alpha.

    Source: Qin et al. 2010, "A General Approximation Framework for Direct Optimization of Information Retrieval
        Measures", Information Retrieval 13; Bruch et al. 2019, "Revisiting Approximate Metric Optimization in the Age
        of Deep Neural Networks", SIGIR.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        for argument, message in self.check(self.temperature):
            raise InputError(f"approx_ndcg.v1, {argument}: {message}")

    @staticmethod
    def check(temperature: float) -> Iterator[tuple[str, str]]:
        """Say whether the temperature makes no sense."""
        return above_zero({"temperature": temperature})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        gain = gains(labels.to(scores.dtype), mask)  # [groups, docs], 0 where there is no document
        ranks = soft_ranks(scores, mask, 1 / self.temperature).masked_fill(~mask, 1.0)
        losses = 1 - (gain * discount(ranks)).sum(-1)  # [groups]
        counted = vary(gain, mask)
        return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp(min=1)
