"""The Triton kernels of MaxSim; what `torch.py` does with a block of similarities happens here inside one program.

For who knows PyTorch and not Triton: a kernel is the code of one program, of which a GPU runs many at once;
`tl.program_id` says which one this is. Tensors come as pointers to their first element, so that reading is
`tl.load(pointer + offsets, mask)`, and what was read is a small tensor in registers that broadcasts as in PyTorch.
Arguments in CAPITALS, and those that are None, are known to the compiler, and an `if` about them costs nothing.

forward       A program scores one document for a tile of query tokens: several queries, or a part of a long one. It
              walks over the document in tiles, multiplies, and keeps the highest similarity of each lane, so that there
              is one reduction per document rather than one per tile. Only the last tile, or masked documents, pay for
              masks.
backward_q    A program owns rows of the gradient and adds up the document tokens that won them, in a fixed order.
backward_d    A program owns a tile of a document. Ones where a token won, times the query's rows: so a tensor core adds
              up however many rows a token won, and the score's gradient is multiplied in float32.

No program writes where another does, so there are no atomics, and every run gives the same bits. All kernels see
documents as rows of one matrix and know where document n begins.

pair          A column of the scores: a document, or a listed pair of a query and a document.
across, slot  How many queries a pair has, all of them (CROSS) or its own one, and which of these.
tile, lane    A part of a document that is multiplied at once, and the place of a token in it.
real, inside  Rows of query tokens and of document tokens that exist; a tile's others are read as zeros.
"""

import triton
import triton.language as tl

SIZES = ["queries", "documents", "rows", "group", "length", "lq", "across", "count", "tiles", "blocks"]
"""Arguments that would otherwise be compiled for, where they are 1 or a multiple of 16."""


@triton.jit
def _document(document, cu_seqlens, length, rows):
    """Its first row in d, its length, and whether all of it lies within the rows of d; if not, nothing is read."""
    if cu_seqlens is not None:
        start = tl.load(cu_seqlens + document).to(tl.int64)
        end = tl.load(cu_seqlens + document + 1).to(tl.int64)
        valid = (start >= 0) & (start <= end) & (end <= rows)
        start = tl.where(valid, start, 0)
        size = tl.where(valid, end - start, 0).to(tl.int32)
    else:
        start = document.to(tl.int64) * length
        size = length
        valid = document >= 0
    return start, size, valid


@triton.jit
def _listed(index, pair, count):
    """The query or document that a list names for this pair, and whether there is one; if not, the first."""
    found = tl.load(index + pair)
    valid = (found >= 0) & (found < count)
    return tl.where(valid, found, 0).to(tl.int32), valid


@triton.jit
def _load(
    base, row, real, stride, column, DIM: tl.constexpr, ALL: tl.constexpr, WHOLE: tl.constexpr, UPCAST: tl.constexpr
):
    """[rows, columns] of a matrix whose rows are `stride` apart; ALL: every row is real, WHOLE: every column is."""
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
    q, q_row, q_real, q_first, q_second, d, d_row, d_real, stride_d, d_scale,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr,
    ALL: tl.constexpr, UPCAST: tl.constexpr, WIDE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """[rows, tokens], float32: query rows with a tile of document rows.

    A short row is held at once, in two parts of FIRST and SECOND columns, of which the query's are given; a long one is
    read STEP columns at a time. int8 rows become what the query's are, and are multiplied by their scales at the end.
    """
    if WIDE:
        d_row = d_row.to(tl.int64)
    if STEP > 0:
        found = tl.zeros((q_row.shape[0], d_row.shape[0]), tl.float32)
        for start in range(0, DIM, STEP):
            column = start + tl.arange(0, STEP)
            left = _load(q, q_row, q_real, DIM, column, DIM, False, DIM % STEP == 0, UPCAST)
            right = _load(d, d_row, d_real, stride_d, column, DIM, ALL, DIM % STEP == 0, UPCAST)
            found = tl.dot(left, tl.trans(right.to(left.dtype)), found, input_precision=DOT)
    else:
        right = _load(d, d_row, d_real, stride_d, tl.arange(0, FIRST), DIM, ALL, FIRST <= DIM, UPCAST)
        found = tl.dot(q_first, tl.trans(right.to(q_first.dtype)), input_precision=DOT)
        if SECOND > 0:
            column = FIRST + tl.arange(0, SECOND)
            right = _load(d, d_row, d_real, stride_d, column, DIM, ALL, FIRST + SECOND <= DIM, UPCAST)
            found = tl.dot(q_second, tl.trans(right.to(q_second.dtype)), found, input_precision=DOT)
    if d_scale is not None:
        scale = tl.load(d_scale + d_row) if ALL else tl.load(d_scale + d_row, mask=d_real, other=0.0)
        found *= scale[None, :]
    return found


@triton.jit(do_not_specialize=SIZES)
def forward(
    q, d, cu_seqlens, pair_q, pair_d, queries, documents, rows, group, length, lq, stride_d, q_mask, d_mask,
    d_scale, scores, winners, across, count, tiles,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, CROSS: tl.constexpr,
    UPCAST: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, PADDED_LQ: tl.constexpr, TOKENS: tl.constexpr,
    DOT: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    # tiles of one document follow one another, so that it is read from memory once
    pair = tl.program_id(0) // tiles
    QUERIES: tl.constexpr = ROWS // PADDED_LQ
    first = (tl.program_id(0) % tiles) * QUERIES  # among `across`
    query = first
    document = pair
    known = pair >= 0
    if pair_q is not None:
        query, known = _listed(pair_q, pair, queries)
    elif not CROSS:
        query = pair // group
    if pair_d is not None:
        document, listed = _listed(pair_d, pair, documents)
        known = known & listed
    start, size, within = _document(document, cu_seqlens, length, rows)
    if cu_seqlens is not None:
        known = known & within & (size <= LONGEST)
        size = tl.where(known, size, 0)
    # where a document or a query begins takes 64 bits; within a document only WIDE ones do
    d += start * stride_d
    q += tl.cast(query, tl.int64) * lq * DIM
    if d_mask is not None:
        d_mask += start
    if d_scale is not None:
        d_scale += start
    slot = tl.arange(0, ROWS) // PADDED_LQ  # the query of each row

    lane = tl.arange(0, TOKENS)
    whole = 0  # tiles that need no mask
    if d_mask is None:
        whole = size // TOKENS
    total = tl.zeros((QUERIES,), tl.float32)
    if cu_seqlens is not None:
        # to this nothing is added; asked after the loops, it would take a register through them
        total = tl.where(known, total, float("nan"))
    for segment in range(0, lq, PADDED_LQ):
        token = segment + tl.arange(0, ROWS) % PADDED_LQ  # of its query
        real = (first + slot < across) & (token < lq)
        row = slot * lq + token
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
                q, row, real, q_first, q_second, d, tile * TOKENS + lane, lane >= 0, stride_d, d_scale,
                DIM, FIRST, SECOND, STEP, True, UPCAST, WIDE, DOT,
            )  # fmt: skip
            if winners is not None:
                which = tl.where(found > best, tile, which)
            best = tl.maximum(best, found, propagate_nan=tl.PropagateNan.ALL)
        some = tl.zeros((TOKENS,), tl.int32)
        for tile in tl.range(whole, tl.cdiv(size, TOKENS), num_stages=1):
            inside = tile * TOKENS + lane < size
            if d_mask is not None:
                inside = inside & (tl.load(d_mask + tile * TOKENS + lane, mask=inside, other=0) != 0)
            some = some | inside.to(tl.int32)
            found = _similarities(
                q, row, real, q_first, q_second, d, tile * TOKENS + lane, inside, stride_d, d_scale,
                DIM, FIRST, SECOND, STEP, False, UPCAST, WIDE, DOT,
            )  # fmt: skip
            found = tl.where(inside[None, :], found, float("-inf"))
            if winners is not None:
                which = tl.where(found > best, tile, which)
            best = tl.maximum(best, found, propagate_nan=tl.PropagateNan.ALL)

        counts = real & ((whole > 0) | (tl.max(some, 0) > 0))
        if q_mask is not None:
            counts = counts & (tl.load(q_mask + tl.cast(query, tl.int64) * lq + row, mask=real, other=0) != 0)
        highest = tl.max(best, 1)
        if winners is not None:
            # of equal lanes the one with the first token; a lane knows its first, as only a higher one replaces it
            never = 2147483647
            place = tl.where((best == highest[:, None]) & (which >= 0), which * TOKENS + lane[None, :], never)
            place = tl.min(place, 1)
            place = tl.where(counts & (place < never), place, -1)
            tl.store(
                winners + (tl.cast(pair, tl.int64) * across + first) * lq + row,
                place.to(winners.dtype.element_ty),
                mask=real,
            )
        # a maximum of one axis may pass over NaN
        highest = tl.where(tl.max((best != best).to(tl.int32), 1) > 0, float("nan"), highest)
        highest = tl.where(counts, highest, 0.0)
        total += tl.sum(tl.reshape(highest, (QUERIES, PADDED_LQ)), 1)
    slots = first + tl.arange(0, QUERIES)
    tl.store(scores + slots.to(tl.int64) * count + pair, total, mask=slots < across)


@triton.jit(do_not_specialize=SIZES)
def backward_q(
    q, d, cu_seqlens, pair_q, pair_d, queries, documents, rows, group, length, lq, stride_d, winners, grad, across,
    count, order, bounds, out, blocks,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, CROSS: tl.constexpr,
    UPCAST: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
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
    for item in tl.range(first, last, loop_unroll_factor=4):  # several documents' winners are read at once
        pair = item
        if order is not None:
            pair = tl.load(order + item)
        document = pair
        if pair_d is not None:
            document, _ = _listed(pair_d, pair, documents)
        start, _, _ = _document(document, cu_seqlens, length, rows)
        where = (tl.cast(pair, tl.int64) * across + slot) * lq + token
        place = tl.load(winners + where, mask=token < lq, other=-1).to(tl.int32)
        weight = tl.load(grad + tl.cast(slot, tl.int64) * count + pair)
        if WIDE:
            place = place.to(tl.int64)
        row = _load(d + start * stride_d, place, place >= 0, stride_d, column, DIM, False, DIM % COLUMNS == 0, UPCAST)
        total += weight * row.to(tl.float32)
    where = out + (tl.cast(query, tl.int64) * lq + token)[:, None] * DIM + column[None, :]
    tl.store(where, total.to(out.dtype.element_ty), mask=(token < lq)[:, None] & (column < DIM)[None, :])


@triton.jit(do_not_specialize=SIZES)
def backward_d(
    q, d, cu_seqlens, pair_q, pair_d, queries, documents, rows, group, length, lq, stride_d, winners, grad, across,
    count, order, bounds, out, blocks,
    DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, STEP: tl.constexpr, CROSS: tl.constexpr,
    UPCAST: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    document = tl.program_id(0) // blocks
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, size, _ = _document(document, cu_seqlens, length, rows)
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
                query, _ = _listed(pair_q, pair, queries)
            else:
                query = pair // group
            weight = tl.load(grad + tl.cast(slot, tl.int64) * count + pair)
            won = tl.zeros((TOKENS, COLUMNS), tl.float32)
            for segment in range(0, lq, ROWS):
                row = segment + tl.arange(0, ROWS)
                where = (tl.cast(pair, tl.int64) * across + slot) * lq + row
                place = tl.load(winners + where, mask=row < lq, other=-1).to(tl.int32)
                # a row that won nothing is not read: under a mask it may hold anything
                right = _load(
                    q + tl.cast(query, tl.int64) * lq * DIM, row, place >= 0, DIM, column,
                    DIM, False, DIM % COLUMNS == 0, UPCAST,
                )  # fmt: skip
                left = (token[:, None] == place[None, :]).to(right.dtype)
                won = tl.dot(left, right, won, input_precision="tf32x3")
            total += weight * won
        where = out + (start + token)[:, None] * DIM + column[None, :]
        tl.store(where, total.to(out.dtype.element_ty), mask=(token < size)[:, None] & (column < DIM)[None, :])
