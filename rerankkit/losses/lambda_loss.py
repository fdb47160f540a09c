"""LambdaLoss: pairs weighted by what their order means for nDCG."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import discount, gains
from rerankkit.registry import registry

Weighting = Literal["none", "ndcg_loss1", "ndcg_loss2", "lambda_rank", "ndcg_loss2pp"]


@registry.losses("lambda_loss.v1")
@dataclass(frozen=True)
class LambdaLoss:
    """-log2 sigmoid(sigma * lead) of every pair whose labels differ, weighted, averaged over those pairs.

    Weights follow from the current ranks and have no gradient. Gains are (2^label - 1) / ideal DCG; a label below 0
    gains nothing. Equal scores rank worst first, as if the model had erred, and documents equal in score and label
    share their average rank, so the order of the input does not matter.

    Recipe:
        [loss]
        @losses = "lambda_loss.v1"
        weighting = "lambda_rank"
        k = 10

    Args:
        weighting: "none" weighs all pairs alike (RankNet, with log2). "lambda_rank" takes the change of nDCG if the two
            were swapped. "ndcg_loss2" takes the discounts' change at the distance of the two ranks, a tighter bound on
            nDCG, and "ndcg_loss2pp" lambda_rank + mu * ndcg_loss2. "ndcg_loss1" takes the first document's discounted
            gain, over its pairs with all others.
        sigma: Steepness; the scores' differences are multiplied by it.
        mu: Share of ndcg_loss2 in ndcg_loss2pp.
        k: Only pairs with a document in the current first k (or equal to one there) count, and the ideal DCG is that at
            k. A relevant document far down thus still learns. How many count depends on the scores here, so a step
            of accumulated batches counts those of its other batches as if their scores were equal.

    Source: Wang et al. 2018, "The LambdaLoss Framework for Ranking Metric Optimization", CIKM; lambda_rank as in Burges
        2010, "From RankNet to LambdaRank to LambdaMART: An Overview".
    """

    weighting: Weighting = "ndcg_loss2pp"
    sigma: float = 1.0
    mu: float = 10.0
    k: int | None = None

    def __post_init__(self) -> None:
        for argument, message in self.check(self.sigma, self.mu, self.k):
            raise InputError(f"lambda_loss.v1, {argument}: {message}")

    @staticmethod
    def check(sigma: float, mu: float, k: int | None) -> Iterator[tuple[str, str]]:
        """Say which values make no sense."""
        return above_zero({"sigma": sigma, "mu": mu, "k": k})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores, labels = scores.masked_fill(~mask, 0.0), labels.to(scores.dtype).masked_fill(~mask, 0.0)
        gain = gains(labels, mask, self.k)  # [groups, docs]
        first, ranks = _ranks(scores.detach(), labels, mask)
        pairs = mask.unsqueeze(2) & mask.unsqueeze(1)  # [groups, docs, docs]: row before column
        if self.weighting == "ndcg_loss1":
            pairs = pairs & (gain.unsqueeze(2) > 0) & ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
        else:
            pairs = pairs & (labels.unsqueeze(2) > labels.unsqueeze(1))
        if self.k is not None:
            pairs = pairs & (torch.minimum(first.unsqueeze(2), first.unsqueeze(1)) <= self.k)
        differences = self.sigma * (scores.unsqueeze(2) - scores.unsqueeze(1))
        losses = torch.nn.functional.softplus(-differences) / math.log(2)
        losses = (losses * self._weights(gain, ranks)).masked_fill(~pairs, 0.0)
        return losses.sum() / pairs.sum().clamp(min=1)

    def _weights(self, gain: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor | float:
        """The weight of every pair. [groups, docs, docs], or what broadcasts to it"""
        if self.weighting == "none":
            return 1.0
        if self.weighting == "ndcg_loss1":
            return (gain * discount(ranks)).unsqueeze(2)
        swap = (discount(ranks).unsqueeze(2) - discount(ranks).unsqueeze(1)).abs()
        # the ranks of two documents with different labels are at least 1 apart; the others' weights are not used
        distance = (ranks.unsqueeze(2) - ranks.unsqueeze(1)).abs().clamp(min=1)
        step = discount(distance) - discount(distance + 1)
        change = {"lambda_rank": swap, "ndcg_loss2": step, "ndcg_loss2pp": swap + self.mu * step}[self.weighting]
        return change * (gain.unsqueeze(2) - gain.unsqueeze(1)).abs()


def _ranks(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ranks by scores, of equal scores the lowest label first: the first and the mean rank of each document and those
    equal to it. [groups, docs]"""
    mine, other, exists = scores.unsqueeze(2), scores.unsqueeze(1), mask.unsqueeze(1)
    lower, alike = labels.unsqueeze(1) < labels.unsqueeze(2), labels.unsqueeze(1) == labels.unsqueeze(2)
    above = ((other > mine) | (other == mine) & lower) & exists
    equal = (other == mine) & alike & exists
    first = above.sum(-1).to(scores.dtype) + 1
    return first, first + (equal.sum(-1).clamp(min=1).to(scores.dtype) - 1) / 2
