"""What the losses over whole lists share: probabilities, ranks and gains of the documents that exist.

Every tensor is [groups, docs]; `mask` says which documents exist, and what stands in the other places is never read.
"""

from __future__ import annotations

import math

from rerankkit.lazy import torch


def log_softmax(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log-probabilities among the documents that exist; 0 where there is none."""
    lowest = torch.finfo(scores.dtype).min  # -inf would make an empty group NaN
    return scores.masked_fill(~mask, lowest).log_softmax(-1).masked_fill(~mask, 0.0)


def vary(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Which groups have two documents whose values differ. [groups]"""
    highest = values.masked_fill(~mask, -math.inf).amax(-1)
    return highest > values.masked_fill(~mask, math.inf).amin(-1)


def ranks(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Each document's rank, the highest value first; equal values share the average of their ranks."""
    mine, other = values.unsqueeze(2), values.unsqueeze(1)  # [groups, docs, 1] and [groups, 1, docs]
    above = ((other > mine) & mask.unsqueeze(1)).sum(-1)
    tied = ((other == mine) & mask.unsqueeze(1)).sum(-1)
    return above.to(values.dtype) + (tied.to(values.dtype) + 1) / 2


def soft_ranks(scores: torch.Tensor, mask: torch.Tensor, steepness: float) -> torch.Tensor:
    """Ranks that have a gradient: 1 + the sum, over the other documents, of sigmoid(steepness * their lead)."""
    scores = scores.masked_fill(~mask, 0.0)
    leads = scores.unsqueeze(1) - scores.unsqueeze(2)  # [groups, docs, docs]: column over row
    above = torch.sigmoid(steepness * leads).masked_fill(~mask.unsqueeze(1), 0.0)
    return 0.5 + above.sum(-1)  # the sum has the document itself in it, with sigmoid(0) = 1/2


def discount(ranks: torch.Tensor) -> torch.Tensor:
    """What DCG multiplies the gain at a rank by."""
    return 1 / torch.log2(1 + ranks)


def gains(labels: torch.Tensor, mask: torch.Tensor, k: int | None = None) -> torch.Tensor:
    """2^label - 1 of each document over the best DCG@k that an order can have, so that their DCG@k is the nDCG@k.

    A label below 0 gains nothing. A group without a label above 0 has zeros.
    """
    labels = labels.masked_fill(~mask, 0.0).clamp(min=0)
    top = labels.amax(-1, keepdim=True)
    gain = -torch.exp2(labels - top) * torch.expm1(-math.log(2) * labels)  # over 2^top, which alone may overflow
    best = gain.sort(-1, descending=True).values[:, :k]
    places = torch.arange(1, best.shape[-1] + 1, device=gain.device, dtype=gain.dtype)
    ideal = (best * discount(places)).sum(-1, keepdim=True)
    return gain / ideal.masked_fill(ideal == 0, 1.0)
