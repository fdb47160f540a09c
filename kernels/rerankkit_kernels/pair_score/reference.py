"""The definition of `pair_score`, by the way one should not compute it: all logits at all positions."""

import torch


def pair_score_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    yes_id: int,
    no_id: int,
    *,
    positions: torch.Tensor,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    mode: str = "diff",
) -> torch.Tensor:
    """Scores [rows] from hidden [rows, length, width] and weight [vocabulary, width], in the inputs' own precision."""
    logits = hidden @ weight.T  # [rows, length, vocabulary]
    if bias is not None:
        logits = logits + bias
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    answer = logits[torch.arange(len(hidden)), positions]  # [rows, vocabulary]
    yes, no = answer[:, yes_id], answer[:, no_id]
    if mode == "diff":
        return yes - no
    if mode == "yes":
        return yes
    if mode == "pair_logprob":
        return torch.stack([yes, no]).log_softmax(0)[0]
    if mode == "prob":
        return torch.stack([yes, no]).softmax(0)[0]
    raise ValueError(f"mode {mode!r} is none of diff, yes, pair_logprob, prob")
