"""The definition of `pair_score`, by the way one should not compute it: all logits at all positions.

The yes/no score of language-model rerankers (Nogueira et al. 2020, monoT5; Qwen3-Reranker's model card):

    hidden = norm(hidden), where a norm is given: hidden / sqrt(mean(hidden²) + eps) * norm  (Zhang and Sennrich 2019)
    logit = softcap * tanh(scale * (weight @ hidden + bias) / softcap), without the tanh where `softcap` is None
    weight = weight + alpha * B @ A, where the output layer has a low-rank adapter (A, B, alpha) (Hu et al. 2021)

A sequence without tokens has no position to answer at: an error on a CPU, and NaN on a GPU, which nobody waits for.
"""

import torch


def pair_score_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    yes_id: int,
    no_id: int,
    *,
    positions: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    lora: tuple[torch.Tensor, torch.Tensor, float] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    mode: str = "diff",
) -> torch.Tensor:
    """Scores [rows] from hidden [rows, length, width] and weight [vocabulary, width], in the inputs' own precision."""
    if norm is not None:
        hidden = hidden * (hidden.square().mean(-1, keepdim=True) + norm_eps).rsqrt() * norm
    if lora is not None:
        weight = weight + lora[2] * lora[1] @ lora[0]
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
