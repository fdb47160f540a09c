"""What is done with a block of logits, as Triton kernels: each block is read once, and the gradient takes its place."""

import torch
import triton
import triton.language as tl

from rerankkit_kernels.elementwise import tanh
from rerankkit_kernels.launching import launch, packed

BLOCK = 1024
LOWEST = tl.constexpr(torch.finfo(torch.float32).min)


def add(
    total: torch.Tensor, product: torch.Tensor, bias: torch.Tensor | None, scale: float, softcap: float | None
) -> None:
    """As in `torch.py`; a program for each row."""
    arguments = {**_inputs(product, total, bias, scale, softcap), "BLOCK": BLOCK}
    launch(_add, (len(product),), arguments, 4, 2)


def differentiate(
    product: torch.Tensor,
    total: torch.Tensor,
    outer: torch.Tensor,
    place: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """As in `torch.py`, but in place; a program for each row and a part of the vocabulary."""
    arguments = {
        **_inputs(product, total, bias, scale, softcap),
        "outer": outer.contiguous(),
        "place": place.contiguous(),
        "k": place.shape[1],
        "BLOCK": BLOCK,
    }
    launch(_differentiate, (len(product), triton.cdiv(product.shape[1], BLOCK)), arguments, 4, 2)
    return product


def _inputs(
    product: torch.Tensor, total: torch.Tensor, bias: torch.Tensor | None, scale: float, softcap: float | None
) -> dict[str, object]:
    return {
        "product": product,
        "total": total,
        "bias": packed(bias),
        "scale": float(scale),
        "softcap": None if softcap is None else float(softcap),
        "width": product.shape[1],  # that it is a multiple of 16 is compiled for: then loads have 16 bytes
    }


@triton.jit
def capped(logit, scale, softcap):
    logit = logit * scale
    if softcap is not None:
        logit = softcap * tanh(logit / softcap)
    return logit


@triton.jit
def _block(product, bias, row, column, width, scale, softcap):
    """Logits of a row; -inf, so that they add nothing, past its end."""
    logit = tl.load(product + row.to(tl.int64) * width + column, mask=column < width, other=0.0).to(tl.float32)
    if bias is not None:
        logit += tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    return tl.where(column < width, capped(logit, scale, softcap), float("-inf"))


@triton.jit(do_not_specialize=["scale", "softcap"])
def _add(product, total, bias, scale, softcap, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    highest = tl.load(total + row)
    # of exp(logit - highest); the sum so far is that of one logit, unless it is still empty
    sums = tl.where(highest == float("-inf"), 0.0, 1.0)
    for start in range(0, width, BLOCK):
        logit = _block(product, bias, row, start + tl.arange(0, BLOCK), width, scale, softcap)
        # finite, so that a block of logits that are all -inf is no NaN
        higher = tl.maximum(tl.maximum(highest, tl.max(logit, 0)), LOWEST)
        sums = sums * tl.where(highest == higher, 1.0, tl.exp(highest - higher)) + tl.sum(tl.exp(logit - higher), 0)
        highest = higher
    tl.store(total + row, highest + tl.log(sums))


@triton.jit(do_not_specialize=["scale", "softcap", "k"])
def _differentiate(product, total, bias, scale, softcap, width, outer, place, k, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logit = _block(product, bias, row, column, width, scale, softcap)
    softmax = tl.exp(logit - tl.load(total + row))
    inner = tl.zeros((BLOCK,), tl.float32)
    for token in range(0, k):
        weight = tl.load(outer + row * k + token)
        same = column == tl.load(place + row * k + token)
        inner += weight * (same.to(tl.float32) - softmax)
    slope = scale
    if softcap is not None:
        slope = scale * (1.0 - (logit / softcap) * (logit / softcap))
    where = product + row.to(tl.int64) * width + column
    tl.store(where, (inner * slope).to(product.dtype.element_ty), mask=column < width)
