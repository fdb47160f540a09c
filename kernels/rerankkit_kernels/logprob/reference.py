"""The definition of log-probabilities of given tokens, by the way one should not compute them: all logits at once.

    logit = softcap * tanh(scale * (weight @ hidden + bias) / softcap), without the tanh where `softcap` is None
    logprob[token] = logit[token] - log of the sum over the vocabulary of exp(logit)

A token that is no row of the output layer, such as -1, is an error on a CPU and NaN on a GPU, unless it is masked.

Summed over a query's tokens, after a document, it is the query likelihood (Ponte and Croft 1998; with a language model
Sachan et al. 2022, UPR).
"""

import torch


def token_logprob_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """[..., k] from hidden [..., width], weight [vocabulary, width] and ids [..., k], in the inputs' own precision."""
    logits = hidden @ weight.T  # [..., vocabulary]
    if bias is not None:
        logits = logits + bias
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(-1, ids)


def sequence_logprob_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    mask: torch.Tensor,
    reduction: str = "sum",
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """[rows] from hidden [rows, length, width] and targets [rows, length]; a row without tokens scores 0."""
    each = token_logprob_reference(hidden, weight, targets.unsqueeze(-1), bias=bias, softcap=softcap, scale=scale)
    each = each.squeeze(-1).masked_fill(~mask, 0.0)  # [rows, length]
    if reduction == "none":
        return each
    return each.sum(1) if reduction == "sum" else each.sum(1) / mask.sum(1).clamp(min=1)
