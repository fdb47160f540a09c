"""ListMLE: the order by the labels should be likely."""

from __future__ import annotations

from dataclasses import dataclass

from rerankkit.lazy import torch
from rerankkit.listwise import vary
from rerankkit.registry import registry


@registry.losses("listmle.v1")
@dataclass(frozen=True)
class ListMLE:
    """Negative Plackett-Luce log-likelihood of the order by labels, averaged over the groups whose labels differ.

    The best document is drawn first, by a softmax over all, then the next best by a softmax over the rest, and so on.
    The likelihood is that of a group's whole order, the sum over its documents, as published; it grows with their
    number. The order of the input does not matter: documents with equal labels are each drawn from all documents whose
    labels are as high or lower (Breslow's rule for ties), which also draws their scores together.

    Recipe:
        [loss]
        @losses = "listmle.v1"

    Source: Xia et al. 2008, "Listwise Approach to Learning to Rank: Theory and Algorithm", ICML; ties as in Breslow
        1974, "Covariance Analysis of Censored Survival Data", Biometrics 30.
    """

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores, counted = scores.masked_fill(~mask, 0.0), mask & vary(labels.to(scores.dtype), mask).unsqueeze(1)
        rest = (labels.unsqueeze(1) <= labels.unsqueeze(2)) & mask.unsqueeze(1)  # [groups, docs, docs]: row not below
        lowest = torch.finfo(scores.dtype).min  # -inf would make the row of a masked document NaN
        totals = scores.unsqueeze(1).masked_fill(~rest, lowest).logsumexp(-1)  # [groups, docs]
        losses = (totals - scores).masked_fill(~counted, 0.0)
        return losses.sum() / counted.any(-1).sum().clamp(min=1)
