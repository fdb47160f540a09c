"""MaxSim as Triton kernels: how much each program takes, and how the kernels of `kernels.py` are launched."""

from typing import Any

import torch
import triton

from rerankkit_kernels.backend import INTERPRETED
from rerankkit_kernels.launching import launch, packed
from rerankkit_kernels.maxsim import kernels

DOT = {"highest": "ieee"}
"""How float32 is multiplied; the default, three products in TF32, is nearly as exact. Half precision needs neither."""


def forward(
    q: torch.Tensor,
    d: torch.Tensor,
    d_scale: torch.Tensor | None,
    q_mask: torch.Tensor | None,
    d_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    pair_q: torch.Tensor | None,
    pair_d: torch.Tensor | None,
    group: int,
    winner_type: torch.dtype | None,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As in `torch.py`."""
    nq, lq, dim = q.shape
    documents = len(d) if cu_seqlens is None else len(cu_seqlens) - 1
    count = documents if pair_q is None else len(pair_q)
    across = 1 if group or pair_q is not None else nq
    scores = q.new_empty(across, count, dtype=torch.float32)
    winners = q.new_empty((count, across, lq) if winner_type else (0,), dtype=winner_type or torch.int32)
    # bounds of packed documents are looked at by the kernel even where there is no token
    if not scores.numel() or not lq or not (d.numel() if cu_seqlens is None else dim):
        return scores.zero_(), winners.fill_(-1)
    rows, queries, tokens, config = forward_tile(lq, across, dim, q.dtype, winner_type is not None)
    tiles = triton.cdiv(across, queries)
    arguments = {
        **_inputs(q, d, cu_seqlens, pair_q, pair_d, group),
        "q_mask": packed(q_mask),
        "d_mask": packed(d_mask),
        "d_scale": packed(d_scale),
        "scores": scores,
        "winners": winners if winner_type else None,
        "across": across,
        "count": count,
        "tiles": tiles,
        "ROWS": rows,
        "PADDED_LQ": rows // queries,
        "TOKENS": tokens,
        "DOT": DOT.get(precision, "tf32x3"),
        "LONGEST": torch.iinfo(winner_type or torch.int32).max,
    }
    launch(kernels.forward, (tiles * count,), arguments, *config)
    return scores, winners


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    d: torch.Tensor,
    winners: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    pair_q: torch.Tensor | None,
    pair_d: torch.Tensor | None,
    group: int,
    needs_q: bool,
    needs_d: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As in `torch.py`."""
    (nq, lq, dim), documents = q.shape, len(d) if cu_seqlens is None else len(cu_seqlens) - 1
    grad_q = torch.empty_like(q, memory_format=torch.contiguous_format) if needs_q else q.new_empty(0)
    grad_d = torch.empty_like(d, memory_format=torch.contiguous_format) if needs_d else d.new_empty(0)
    if not winners.numel() or not d.numel():
        return grad_q.zero_(), grad_d.zero_()
    columns = max(16, min(64 if q.dtype == torch.float32 else 128, triton.next_power_of_2(dim)))
    arguments = {
        **_inputs(q, d, cu_seqlens, pair_q, pair_d, group),
        "winners": winners,
        "grad": grad.float().contiguous(),
        "across": winners.shape[1],
        "count": len(winners),
        "COLUMNS": columns,
    }
    steps = triton.cdiv(dim, columns)
    if needs_q:
        order, bounds = _sorted(pair_q, nq)
        blocks = triton.cdiv(lq, 16)
        own = {"order": order, "bounds": bounds, "out": grad_q, "blocks": blocks, "ROWS": 16}
        launch(kernels.backward_q, (nq * blocks, steps), {**arguments, **own}, 2, 2)
    if needs_d:
        order, bounds = _sorted(pair_d, documents)
        # as many programs for a document as an average one has tiles; a longer one gives each of them several
        blocks = triton.cdiv(d.numel(), dim * documents * TOKENS)
        rows = max(16, min(32 if q.dtype == torch.float32 else 64, triton.next_power_of_2(lq)))
        own = {"order": order, "bounds": bounds, "out": grad_d, "blocks": blocks, "TOKENS": TOKENS, "ROWS": rows}
        if cu_seqlens is not None:
            grad_d.zero_()  # there may be rows before the first document, and after the last
        launch(kernels.backward_d, (documents * blocks, steps), {**arguments, **own}, 8, 2)
    return grad_q, grad_d


def forward_tile(
    lq: int, across: int, dim: int, dtype: torch.dtype, winners: bool
) -> tuple[int, int, int, tuple[int, int]]:
    """Query tokens of a program, queries among them, document tokens of a tile, and (warps, stages).

    Hopper's tensor cores take 64 rows and more, so short queries share a program where there are several. A few rows
    read a document as fast as the memory gives it whatever else; for them more tiles are kept in flight. With winners,
    smaller tiles leave registers for a second program on the same processor, whose products hide the comparisons.
    """
    most = 64 if dtype == torch.float32 or dim > 256 else 128
    padded = max(16, min(most, triton.next_power_of_2(lq)))
    queries = max(1, min(most // padded, triton.next_power_of_2(across)))
    rows = padded * queries
    tokens = 32 if dtype == torch.float32 or (winners and (rows >= 64 or dim > 256)) else 64
    return rows, queries, tokens, (8 if rows == 128 else 4, 3 if rows < 64 else 2)


def pieces(dim: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """The widths of two products that make up a similarity, or the steps of one that is too long to hold.

    96 is 64 + 32, which costs a quarter less than 128.
    """
    if dim > 256 or (dtype == torch.float32 and dim > 64):
        return 0, 0, 32 if dtype == torch.float32 else 64
    first = max(16, 1 << (dim.bit_length() - 1))  # the highest power of two in dim
    rest = 0 if dim <= first else max(16, triton.next_power_of_2(dim - first))
    return (2 * first, 0, 0) if rest == first else (first, rest, 0)


TOKENS = 64
"""Document tokens that a program of the backward pass owns at a time."""


def _inputs(
    q: torch.Tensor,
    d: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    pair_q: torch.Tensor | None,
    pair_d: torch.Tensor | None,
    group: int,
) -> dict[str, Any]:
    rows = d.reshape(-1, d.shape[-1])
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    first, second, step = pieces(d.shape[-1], q.dtype)
    return {
        "q": q.contiguous(),
        "d": rows,
        "cu_seqlens": packed(cu_seqlens),
        "pair_q": packed(pair_q),
        "pair_d": packed(pair_d),
        "queries": q.shape[0],
        "documents": d.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1,
        "rows": rows.shape[0],
        "group": group,
        "length": d.shape[1],
        "lq": q.shape[1],
        "stride_d": rows.stride(0),
        "DIM": d.shape[-1],
        "FIRST": first,
        "SECOND": second,
        "STEP": step,
        "CROSS": not group and pair_q is None,
        # an offset in the longest document that there could be takes more than 32 bits
        "WIDE": (d.shape[1] if cu_seqlens is None else len(rows)) * rows.stride(0) >= 2**31,
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,  # the interpreter multiplies bfloat16 wrongly
    }


def _sorted(owner: torch.Tensor | None, owners: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The pairs of each owner one after another, and where those of owner n begin."""
    if owner is None:
        return None, None
    order = owner.argsort(stable=True)
    return order, torch.searchsorted(owner[order], torch.arange(owners + 1, device=owner.device, dtype=owner.dtype))
