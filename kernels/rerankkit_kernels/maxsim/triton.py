"""MaxSim as Triton kernels: what `torch.py` does with a block of similarities happens here inside one program.

forward     A program scores one document for a tile of query tokens: several queries, or a part of a long one. It walks
            over the document in tiles, multiplies, and keeps the highest similarity of each lane, so that there is one
            reduction per document rather than one per tile. Only the last tile, or masked documents, pay for masks.
backward    A program owns the rows that it writes, so there are no atomics and every run gives the same bits. For
            queries it gathers the winners. For documents it multiplies ones where a token won with the query's rows:
            a tensor core adds up whatever many rows a token won, and the score's gradient stays in float32.

All kernels see documents as rows of one matrix, and know where document n begins; see `_document`.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from rerankkit_kernels.backend import INTERPRETED
from rerankkit_kernels.launching import launch

DOT = {"highest": "ieee"}
"""How float32 is multiplied; the default, three products in TF32, is nearly as exact. Half precision needs neither."""


def forward(
    q: torch.Tensor,
    d: torch.Tensor,
    q_mask: torch.Tensor | None,
    d_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    pair_q: torch.Tensor | None,
    pair_d: torch.Tensor | None,
    group: int,
    winners: torch.dtype | None,
    precision: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As in `torch.py`."""
    nq, lq, dim = q.shape
    documents = len(d) if cu_seqlens is None else len(cu_seqlens) - 1
    count = documents if pair_q is None else len(pair_q)
    across = 1 if group or pair_q is not None else nq
    scores = q.new_empty(across, count, dtype=torch.float32)
    places = q.new_empty((count, across, lq) if winners else (0,), dtype=winners or torch.int32)
    if not scores.numel() or not lq or not d.numel():
        return scores.zero_(), places.fill_(-1)
    rows, queries, tokens, config = forward_tile(lq, across, dim, q.dtype, winners is not None)
    tiles = triton.cdiv(across, queries)
    arguments = {
        **_inputs(q, d, cu_seqlens, pair_q, pair_d, group),
        "q_mask": None if q_mask is None else q_mask.contiguous(),
        "d_mask": None if d_mask is None else d_mask.contiguous(),
        "scores": scores,
        "places": places if winners else None,
        "across": across,
        "count": count,
        "tiles": tiles,
        "ROWS": rows,
        "PADDED_LQ": rows // queries,
        "TOKENS": tokens,
        "DOT": DOT.get(precision, "tf32x3"),
    }
    launch(_forward, (tiles * count,), arguments, *config)
    return scores, places


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
    columns = max(16, min(128, triton.next_power_of_2(dim)))
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
        launch(_backward_q, (nq * blocks, steps), {**arguments, **own}, 4, 2)
    if needs_d:
        order, bounds = _sorted(pair_d, documents)
        # as many programs for a document as an average one has tiles; a longer one gives each of them several
        blocks = max(1, d.numel() // (dim * documents * TOKENS))
        rows = max(16, min(128, triton.next_power_of_2(lq)))
        own = {"order": order, "bounds": bounds, "out": grad_d, "blocks": blocks, "TOKENS": TOKENS, "ROWS": rows}
        if cu_seqlens is not None:
            grad_d.zero_()  # there may be rows before the first document, and after the last
        launch(_backward_d, (documents * blocks, steps), {**arguments, **own}, 4, 2)
    return grad_q, grad_d


def forward_tile(
    lq: int, across: int, dim: int, dtype: torch.dtype, winners: bool
) -> tuple[int, int, int, tuple[int, int]]:
    """Query tokens of a program, queries among them, document tokens of a tile, and (warps, stages).

    With 64 rows and more Hopper's tensor cores are used whole, so short queries share a tile where there are several.
    A few rows read a document at the speed of the memory whatever else; for them more tiles are kept in flight.
    """
    padded = max(16, min(128, triton.next_power_of_2(lq)))
    most = 64 if dtype == torch.float32 or dim > 256 else 128
    padded = min(padded, most)
    queries = max(1, min(most // padded, triton.next_power_of_2(across)))
    rows = padded * queries
    tokens = 32 if dtype == torch.float32 else 64 if winners or rows == 128 or dim > 128 else 128
    return rows, queries, tokens, (8 if rows == 128 else 4, 3 if rows < 64 else 2)


def pieces(dim: int) -> tuple[int, int, int]:
    """The widths of two products that make up a similarity, or of the steps of one that is too long to hold.

    96 is 64 + 32, which costs a quarter less than 128.
    """
    if dim > 256:
        return 0, 0, 64
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
    first, second, step = pieces(d.shape[-1])
    return {
        "q": q.contiguous(),
        "d": rows,
        "cu_seqlens": cu_seqlens,
        "pair_q": pair_q,
        "pair_d": pair_d,
        "group": group,
        "length": d.shape[1],
        "lq": q.shape[1],
        "stride_d": rows.stride(0),
        "DIM": d.shape[-1],
        "FIRST": first,
        "SECOND": second,
        "STEP": step,
        "CROSS": not group and pair_q is None,
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,  # the interpreter multiplies bfloat16 wrongly
    }


def _sorted(owner: torch.Tensor | None, owners: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The pairs of each owner one after another, and where those of owner n begin."""
    if owner is None:
        return None, None
    order = owner.argsort(stable=True)
    return order, torch.searchsorted(owner[order], torch.arange(owners + 1, device=owner.device, dtype=owner.dtype))


SIZES = ["group", "length", "lq", "across", "count", "tiles", "blocks"]
"""Arguments that would otherwise be compiled for, where they are 1 or a multiple of 16."""


@triton.jit
def _document(document, cu_seqlens, length):
    """Its first row in d, and its length."""
    if cu_seqlens is not None:
        start = tl.load(cu_seqlens + document).to(tl.int64)
        size = (tl.load(cu_seqlens + document + 1) - start).to(tl.int32)
    else:
        start = document.to(tl.int64) * length
        size = length
    return start, size


@triton.jit
def _load(
    base, row, real, stride, column, DIM: tl.constexpr, ALL: tl.constexpr, WHOLE: tl.constexpr, UPCAST: tl.constexpr
):
    """[rows, columns]; ALL: every row is real, WHOLE: every column is."""
    where = base + row[:, None] * stride + column[None, :]
    if ALL and WHOLE:
        found = tl.load(where)
    elif WHOLE:
        found = tl.load(where, mask=real[:, None], other=0.0)
    else:
        found = tl.load(where, mask=real[:, None] & (column < DIM)[None, :], other=0.0)
    if UPCAST:
        found = found.to(tl.float32)
    return found


@triton.jit
def _similarities(
    q, q_row, q_real, q_first, q_second, d, d_row, d_real, stride_d,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr,
    ALL: tl.constexpr, UPCAST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """[rows, tokens], float32"""
    if STEP > 0:
        found = tl.zeros((q_row.shape[0], d_row.shape[0]), tl.float32)
        for start in range(0, DIM, STEP):
            column = start + tl.arange(0, STEP)
            left = _load(q, q_row, q_real, DIM, column, DIM, False, DIM % STEP == 0, UPCAST)
            right = _load(d, d_row, d_real, stride_d, column, DIM, ALL, DIM % STEP == 0, UPCAST)
            found = tl.dot(left, tl.trans(right), found, input_precision=DOT)
    else:
        right = _load(d, d_row, d_real, stride_d, tl.arange(0, FIRST), DIM, ALL, FIRST <= DIM, UPCAST)
        found = tl.dot(q_first, tl.trans(right), input_precision=DOT)
        if SECOND > 0:
            column = FIRST + tl.arange(0, SECOND)
            right = _load(d, d_row, d_real, stride_d, column, DIM, ALL, FIRST + SECOND <= DIM, UPCAST)
            found = tl.dot(q_second, tl.trans(right), found, input_precision=DOT)
    return found


@triton.jit(do_not_specialize=SIZES)
def _forward(
    q, d, cu_seqlens, pair_q, pair_d, group, length, lq, stride_d, q_mask, d_mask, scores, places, across, count, tiles,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, CROSS: tl.constexpr,
    UPCAST: tl.constexpr, ROWS: tl.constexpr, PADDED_LQ: tl.constexpr, TOKENS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    # tiles of one document follow one another, so that it is read from memory once
    pair = tl.program_id(0) // tiles
    slot = (tl.program_id(0) % tiles) * (ROWS // PADDED_LQ) + tl.arange(0, ROWS) // PADDED_LQ  # among `across`
    if CROSS:
        query = slot.to(tl.int64)
    elif pair_q is not None:
        query = slot.to(tl.int64) * 0 + tl.load(pair_q + pair)
    else:
        query = slot.to(tl.int64) * 0 + pair // group
    document = pair
    if pair_d is not None:
        document = tl.load(pair_d + pair)
    start, size = _document(document, cu_seqlens, length)

    lane = tl.arange(0, TOKENS)
    whole = 0  # tiles that need no mask
    if d_mask is None:
        whole = size // TOKENS
    total = tl.zeros((ROWS // PADDED_LQ,), tl.float32)
    for segment in range(0, lq, PADDED_LQ):
        token = segment + tl.arange(0, ROWS) % PADDED_LQ
        real = (slot < across) & (token < lq)
        row = query * lq + token
        q_first, q_second = 0.0, 0.0
        if STEP == 0:
            q_first = _load(q, row, real, DIM, tl.arange(0, FIRST), DIM, False, FIRST <= DIM, UPCAST)
            if SECOND > 0:
                column = FIRST + tl.arange(0, SECOND)
                q_second = _load(q, row, real, DIM, column, DIM, False, FIRST + SECOND <= DIM, UPCAST)
        best = tl.full((ROWS, TOKENS), float("-inf"), tl.float32)
        which = tl.full((ROWS, TOKENS), -1, tl.int32)  # the tile of the best in this lane
        for tile in range(0, whole):
            found = _similarities(
                q, row, real, q_first, q_second, d, start + tile * TOKENS + lane, lane >= 0, stride_d,
                DIM, FIRST, SECOND, STEP, True, UPCAST, DOT,
            )  # fmt: skip
            if places is not None:
                which = tl.where(found > best, tile, which)
            best = tl.maximum(best, found, propagate_nan=tl.PropagateNan.ALL)
        some = tl.zeros((TOKENS,), tl.int32)
        for tile in tl.range(whole, tl.cdiv(size, TOKENS), num_stages=1):
            inside = tile * TOKENS + lane < size
            if d_mask is not None:
                inside = inside & (tl.load(d_mask + start + tile * TOKENS + lane, mask=inside, other=0) != 0)
            some = some | inside.to(tl.int32)
            found = _similarities(
                q, row, real, q_first, q_second, d, start + tile * TOKENS + lane, inside, stride_d,
                DIM, FIRST, SECOND, STEP, False, UPCAST, DOT,
            )  # fmt: skip
            found = tl.where(inside[None, :], found, float("-inf"))
            if places is not None:
                which = tl.where(found > best, tile, which)
            best = tl.maximum(best, found, propagate_nan=tl.PropagateNan.ALL)

        counts = real & ((whole > 0) | (tl.max(some, 0) > 0))
        if q_mask is not None:
            counts = counts & (tl.load(q_mask + row, mask=real, other=0) != 0)
        highest = tl.max(best, 1)
        if places is not None:
            # of equal lanes the one with the first token; a lane knows its first, as only a higher one replaces it
            never = 2147483647
            place = tl.where((best == highest[:, None]) & (which >= 0), which * TOKENS + lane[None, :], never)
            place = tl.min(place, 1)
            place = tl.where(counts & (place < never), place, -1)
            where = (pair.to(tl.int64) * across + slot) * lq + token
            tl.store(places + where, place.to(places.dtype.element_ty), mask=real)
        # a maximum of one axis may pass over NaN
        highest = tl.where(tl.max((best != best).to(tl.int32), 1) > 0, float("nan"), highest)
        highest = tl.where(counts, highest, 0.0)
        total += tl.sum(tl.reshape(highest, (ROWS // PADDED_LQ, PADDED_LQ)), 1)
    slots = (tl.program_id(0) % tiles) * (ROWS // PADDED_LQ) + tl.arange(0, ROWS // PADDED_LQ)
    tl.store(scores + slots.to(tl.int64) * count + pair, total, mask=slots < across)


@triton.jit(do_not_specialize=SIZES)
def _backward_q(
    q, d, cu_seqlens, pair_q, pair_d, group, length, lq, stride_d, winners, grad, across, count, order,
    bounds, out, blocks,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, CROSS: tl.constexpr,
    UPCAST: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) // blocks
    token = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    slot = 0
    if CROSS:
        first, last, slot = 0, count, query
    elif order is not None:
        first, last = tl.load(bounds + query).to(tl.int32), tl.load(bounds + query + 1).to(tl.int32)
    else:
        first, last = query * group, (query + 1) * group
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for item in range(first, last):
        pair = item
        if order is not None:
            pair = tl.load(order + item)
        document = pair
        if pair_d is not None:
            document = tl.load(pair_d + pair)
        start, _ = _document(document, cu_seqlens, length)
        where = (pair.to(tl.int64) * across + slot) * lq + token
        place = tl.load(winners + where, mask=token < lq, other=-1).to(tl.int32)
        weight = tl.load(grad + slot.to(tl.int64) * count + pair)
        row = _load(d, start + place, place >= 0, stride_d, column, DIM, False, DIM % COLUMNS == 0, UPCAST)
        total += weight * row.to(tl.float32)
    where = out + (query.to(tl.int64) * lq + token)[:, None] * DIM + column[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=(token < lq)[:, None] & (column < DIM)[None, :])


@triton.jit(do_not_specialize=SIZES)
def _backward_d(
    q, d, cu_seqlens, pair_q, pair_d, group, length, lq, stride_d, winners, grad, across, count, order,
    bounds, out, blocks,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, CROSS: tl.constexpr,
    UPCAST: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    document = tl.program_id(0) // blocks
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, size = _document(document, cu_seqlens, length)
    first, last = 0, across
    if order is not None:
        first, last = tl.load(bounds + document).to(tl.int32), tl.load(bounds + document + 1).to(tl.int32)
    for tile in range(tl.program_id(0) % blocks, tl.cdiv(size, TOKENS), blocks):
        token = tile * TOKENS + tl.arange(0, TOKENS)
        total = tl.zeros((TOKENS, COLUMNS), tl.float32)
        for item in range(first, last):
            slot = item
            pair = document
            if order is not None:
                slot = item * 0
                pair = tl.load(order + item).to(tl.int32)
            if CROSS:
                query = slot
            elif pair_q is not None:
                query = tl.load(pair_q + pair).to(tl.int32)
            else:
                query = pair // group
            weight = tl.load(grad + slot.to(tl.int64) * count + pair)
            won = tl.zeros((TOKENS, COLUMNS), tl.float32)
            for segment in range(0, lq, ROWS):
                row = segment + tl.arange(0, ROWS)
                where = (pair.to(tl.int64) * across + slot) * lq + row
                place = tl.load(winners + where, mask=row < lq, other=-1).to(tl.int32)
                # a row that won nothing is not read: under a mask it may hold anything
                right = _load(
                    q, query.to(tl.int64) * lq + row, place >= 0, DIM, column, DIM, False, DIM % COLUMNS == 0, UPCAST
                )
                left = (token[:, None] == place[None, :]).to(right.dtype)
                won = tl.dot(left, right, won, input_precision="tf32x3")
            total += weight * won
        where = out + (start + token)[:, None] * DIM + column[None, :]
        tl.store(where, total.to(out.dtype.element_ty), mask=(token < size)[:, None] & (column < DIM)[None, :])
