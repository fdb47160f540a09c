"""Position-aware ListMLE: the order by the labels should be likely, its top above all."""

from __future__ import annotations

from dataclasses import dataclass

from rerankkit.lazy import torch
from rerankkit.listwise import vary
from rerankkit.registry import registry


@registry.losses("position_aware_listmle.v1")
@dataclass(frozen=True)
class PositionAwareListMLE:
    """ListMLE (p-ListMLE) whose rank i of n weighs 2^(n - i) - 1, averaged over the groups whose labels differ.

    The weights of a group are divided by their sum, so that its loss is a mean over ranks, whatever n is. The order is
    that by labels, never that of the input. Documents with equal labels share the mean weight of their ranks, and each
    is drawn from all documents whose labels are as high or lower.

    Recipe:
        [loss]
        @losses = "position_aware_listmle.v1"

    Source: Lan et al. 2014, "Position-Aware ListMLE: A Sequential Learning Process for Ranking", UAI.
    """

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores, counted = scores.masked_fill(~mask, 0.0), mask & vary(labels.to(scores.dtype), mask).unsqueeze(1)
        mine, other, exists = labels.unsqueeze(2), labels.unsqueeze(1), mask.unsqueeze(1)
        lowest = torch.finfo(scores.dtype).min  # -inf would make the row of a masked document NaN
        totals = scores.unsqueeze(1).masked_fill(~((other <= mine) & exists), lowest).logsumexp(-1)  # [groups, docs]
        above, tied = (((other > mine) & exists).sum(-1), ((other == mine) & exists).sum(-1).clamp(min=1))
        weights = _weights(above.to(scores.dtype), tied.to(scores.dtype), mask.sum(-1, keepdim=True))
        weights = weights.masked_fill(~counted, 0.0)
        weights = weights / weights.sum(-1, keepdim=True).masked_fill(~counted.any(-1, keepdim=True), 1.0)
        return (weights * (totals - scores)).sum() / counted.any(-1).sum().clamp(min=1)


def _weights(above: torch.Tensor, tied: torch.Tensor, docs: torch.Tensor) -> torch.Tensor:
    """The mean of 2^(docs - rank) - 1 over the `tied` ranks after the first `above`, divided by 2^docs, which
    overflows for many documents: a geometric series of 2^-rank less 2^-docs."""
    return torch.exp2(-above) * (1 - torch.exp2(-tied)) / tied - torch.exp2(-docs.to(above.dtype))
