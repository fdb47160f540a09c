"""What users call: finds the position of the answer and the two rows, and calls the op."""

import torch

from rerankkit_kernels.library import check_device, check_mask, check_output_layer, nobody_watches, whole
from rerankkit_kernels.pair_score.op import run_forward

MODES = ("diff", "yes", "pair_logprob", "prob")


def pair_score(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    yes_id: int,
    no_id: int,
    *,
    positions: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    norm: torch.Tensor | None = None,
    norm_eps: float = 1e-6,
    lora: tuple[torch.Tensor, torch.Tensor, float] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    mode: str = "diff",
    backend: str = "auto",
) -> torch.Tensor:
    """Score of the answer "yes" against "no" at one position of each sequence; `reference.py` says what it is.

    The position is given by exactly one of `positions`, `attention_mask` and `cu_seqlens`.

    Args:
        hidden: Final hidden states: [rows, length, width], or packed [tokens, width].
        weight: The output layer, or any rows of it. [vocabulary, width]
        yes_id: Row of `weight` that stands for yes.
        no_id: Row of `weight` that stands for no.
        positions: Where each sequence is answered, counted from 0; in packed `hidden`, which of all tokens. [rows],
            int64. One that does not exist, as in a sequence without tokens, is an error on a CPU, and the score NaN on
            a GPU.
        attention_mask: Answers are at the last True of each row, on whichever side the padding is. [rows, length]
        cu_seqlens: Where packed sequences begin, and the end of the last; answers are at the last token of each.
        bias: Of the output layer. [vocabulary]
        norm: Weight of the final RMS norm where `hidden` is before it; Gemma's is 1 + its parameter. [width]
        lora: Adapter of the output layer: A [rank, width], B [vocabulary, rank] and the factor of their product.
        mode: "diff" logit(yes) - logit(no) · "yes" logit(yes) · "pair_logprob" log P(yes) of the two · "prob" P(yes).
        backend: "auto", "triton" or "torch"; see `backend.py`.

    Returns:
        [rows], float32 whatever the inputs are (float64 stays).
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    if (positions is not None) + (attention_mask is not None) + (cu_seqlens is not None) != 1:
        raise ValueError("give exactly one of positions, attention_mask and cu_seqlens")
    answers = {"positions": positions, "attention_mask": attention_mask, "cu_seqlens": cu_seqlens}
    check_device({"hidden": hidden, "weight": weight, **answers, "bias": bias, "norm": norm})
    wanted = 2 if cu_seqlens is not None else 3
    if hidden.ndim != wanted and (positions is None or hidden.ndim != 2):
        raise ValueError(f"hidden {tuple(hidden.shape)} must be [rows, length, width], or packed [tokens, width]")
    check_output_layer(hidden, weight, bias, softcap)
    if norm is not None and norm.shape != hidden.shape[-1:]:
        raise ValueError(f"norm must be {tuple(hidden.shape[-1:])}, as hidden is wide, not {tuple(norm.shape)}")
    for name, answer in (("yes_id", yes_id), ("no_id", no_id)):
        if not 0 <= answer < weight.shape[0]:
            raise ValueError(f"{name} {answer} is no row of weight {tuple(weight.shape)}")
    if cu_seqlens is not None:
        bounds = whole("cu_seqlens", cu_seqlens).long()
        positions = torch.where((bounds.diff() > 0) & (bounds[:-1] >= 0), bounds[1:] - 1, -1)
    elif attention_mask is not None:
        check_mask("attention_mask", attention_mask)
        if attention_mask.shape != hidden.shape[:-1]:
            shape = tuple(attention_mask.shape)
            raise ValueError(f"attention_mask must be {tuple(hidden.shape[:-1])}, as hidden is, not {shape}")
        positions = last_true(attention_mask)
    assert positions is not None
    if positions.ndim != 1 or (hidden.ndim == 3 and positions.shape != hidden.shape[:1]):
        raise ValueError(f"positions must be [rows] for hidden {tuple(hidden.shape)}, not {tuple(positions.shape)}")
    positions = whole("positions", positions)
    if not hidden.shape[-2] and positions.shape[0]:
        raise ValueError(f"hidden {tuple(hidden.shape)} has no tokens, and so none that is answered at")
    if lora is not None:
        down, up, factor = lora
        rows = torch.stack([weight[yes_id], weight[no_id]])
        weight = rows + factor * (torch.stack([up[yes_id], up[no_id]]) @ down).to(rows.dtype)  # [2, width]
        bias = None if bias is None else torch.stack([bias[yes_id], bias[no_id]])
        yes_id, no_id = 0, 1
    forward = run_forward if nobody_watches(hidden, weight, bias, norm) else torch.ops.rerankkit.pair_score_forward
    return forward(hidden, positions, weight, bias, norm, yes_id, no_id, norm_eps, scale, softcap, mode, backend)


def last_true(mask: torch.Tensor) -> torch.Tensor:
    """Position of the last True of each row, -1 where there is none. [rows]"""
    if not mask.shape[1]:
        return torch.full(mask.shape[:1], -1, device=mask.device)
    return (mask.ne(0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1) - 1
