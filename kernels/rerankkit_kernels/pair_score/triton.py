"""`pair_score` as a Triton kernel: a program reads one hidden state, the norm and the two rows, and writes a score."""

import torch
import triton
import triton.language as tl

from rerankkit_kernels.elementwise import log1p, tanh
from rerankkit_kernels.launching import launch, packed


def forward(
    hidden: torch.Tensor,
    positions: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: torch.Tensor | None,
    yes_id: int,
    no_id: int,
    norm_eps: float,
    scale: float,
    softcap: float | None,
    mode: str,
) -> torch.Tensor:
    """As in `torch.py`; nothing is allocated but the scores."""
    if hidden.stride(-1) != 1:
        hidden = hidden.contiguous()
    if weight.stride(-1) != 1:
        weight = weight.contiguous()
    scores = hidden.new_empty(len(positions), dtype=torch.float32)
    arguments = {
        "hidden": hidden,
        "positions": packed(positions),
        "weight": weight,
        "bias": packed(bias),
        "norm": packed(norm),
        "scores": scores,
        "yes_id": yes_id,
        "no_id": no_id,
        "stride_row": hidden.stride(0) if hidden.ndim == 3 else 0,
        "stride_token": hidden.stride(-2),
        "stride_weight": weight.stride(0),
        "length": hidden.shape[-2],
        "norm_eps": float(norm_eps),
        "scale": float(scale),
        "softcap": None if softcap is None else float(softcap),
        "WIDTH": hidden.shape[-1],
        "BLOCK": min(1024, max(16, triton.next_power_of_2(hidden.shape[-1]))),
        "MODE": mode,
    }
    if len(scores):
        launch(_forward, (len(scores),), arguments, 4, 2)
    return scores


@triton.jit(do_not_specialize=["length", "yes_id", "no_id", "norm_eps", "scale", "softcap"])
def _forward(
    hidden, positions, weight, bias, norm, scores, yes_id, no_id, stride_row, stride_token, stride_weight,
    length, norm_eps, scale, softcap, WIDTH: tl.constexpr, BLOCK: tl.constexpr, MODE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    position = tl.load(positions + row)
    inside_row = tl.minimum(tl.maximum(position, 0), length - 1)
    hidden += row.to(tl.int64) * stride_row + inside_row * stride_token
    yes_row = weight + tl.cast(yes_id, tl.int64) * stride_weight
    no_row = weight + tl.cast(no_id, tl.int64) * stride_weight
    yes, no, squares = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    for start in range(0, WIDTH, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < WIDTH
        state = tl.load(hidden + column, mask=inside, other=0.0).to(tl.float32)
        if norm is not None:
            squares += state * state
            state *= tl.load(norm + column, mask=inside, other=0.0).to(tl.float32)
        yes += state * tl.load(yes_row + column, mask=inside, other=0.0).to(tl.float32)
        no += state * tl.load(no_row + column, mask=inside, other=0.0).to(tl.float32)
    first, second = tl.sum(yes, 0), tl.sum(no, 0)
    if norm is not None:
        inverse = 1.0 / tl.sqrt(tl.sum(squares, 0) / WIDTH + norm_eps)
        first, second = first * inverse, second * inverse
    if bias is not None:
        first += tl.load(bias + yes_id).to(tl.float32)
        second += tl.load(bias + no_id).to(tl.float32)
    first, second = first * scale, second * scale
    if softcap is not None:
        first, second = softcap * tanh(first / softcap), softcap * tanh(second / softcap)
    score = first - second
    if MODE == "yes":
        score = first
    elif MODE == "prob":
        score = 1.0 / (1.0 + tl.exp(-score))
    elif MODE == "pair_logprob":
        score = tl.minimum(score, 0.0) - log1p(tl.exp(-tl.abs(score)))
    # an answer past the end would be read from somebody else's memory
    tl.store(scores + row, tl.where(position == inside_row, score, float("nan")))
