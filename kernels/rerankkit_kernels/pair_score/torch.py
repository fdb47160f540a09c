"""`pair_score` without the vocabulary: gather the answer's hidden state, multiply it with two rows."""

import torch

MODES = ("diff", "yes", "pair_logprob", "prob")


def pair_score(
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
    """Score of the answer "yes" against "no" at one position of each sequence.

    logit = softcap * tanh(scale * (weight @ hidden + bias) / softcap), without the tanh where `softcap` is None.

    Args:
        hidden: Final hidden states, after the last norm. [rows, length, width]
        weight: The output layer, or any rows of it. [vocabulary, width]
        yes_id: Row of `weight` that stands for yes.
        no_id: Row of `weight` that stands for no.
        positions: Where each sequence is answered. [rows], int64
        bias: Of the output layer. [vocabulary]
        mode: "diff" logit(yes) - logit(no) · "yes" logit(yes) · "pair_logprob" log P(yes) of the two · "prob" P(yes).

    Returns:
        [rows], float32 whatever the inputs are (float64 stays).
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    if hidden.ndim != 3 or positions.shape != hidden.shape[:1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} must be [rows, length, width], positions [rows]")
    answer = hidden[torch.arange(len(hidden), device=hidden.device), positions]  # [rows, width]
    precision = torch.promote_types(hidden.dtype, torch.float32)
    # indexed one by one: an index tensor would have to be copied to the device at every call
    rows = torch.stack([weight[yes_id], weight[no_id]])
    with torch.autocast(hidden.device.type, enabled=False):  # a difference of two bfloat16 logits would have few bits
        logits = answer.to(precision) @ rows.to(precision).T  # [rows, 2]
    if bias is not None:
        logits = logits + torch.stack([bias[yes_id], bias[no_id]]).to(precision)
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    yes, no = logits.unbind(-1)
    if mode == "yes":
        return yes
    difference = yes - no
    if mode == "pair_logprob":
        return torch.nn.functional.logsigmoid(difference)
    return difference if mode == "diff" else difference.sigmoid()
