"""MaxSim in plain PyTorch, fast by itself: one block of similarities at a time, in a buffer that is used again.

Documents are the rows of every product and query tokens its columns, so that the maximum runs down an axis whose
neighbours lie side by side in memory. The backward pass knows the winners alone, never the similarities.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_max_pool1d, embedding_bag

from rerankkit_kernels.backend import multiplies_bf16, steps

BLOCK = 16
"""Tokens of packed documents that a maximum takes together. Documents packed to a multiple of it share no block."""
COLUMNS = 1024
"""Query tokens of a product, unless one query has more."""
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 21, 1 << 25
"""Similarities held at once: on a CPU what stays in its cache, on a GPU what keeps it busy."""
WINNERS = 1 << 14
"""Winners that the backward pass sorts at once."""
Index = slice | torch.Tensor
Block = tuple[Index, slice, torch.Tensor, torch.Tensor | None]
"""Pairs [n] and queries [m] of a block, their best similarities [n, m * Lq], and the place of each in its document."""


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
    """Scores, and where there is a `winner_type`, in it, which token of its document each query token chose (-1: none).

    Args:
        q: [Nq, Lq, dim]
        d: Padded [Nd, Ld, dim], or packed [tokens, dim] with `cu_seqlens`.
        d_scale: What each token of an int8 `d` is multiplied by. `d` without dim
        pair_q: The query of each pair, [P], where documents are packed and not every query meets every document.
        pair_d: The document of each pair; without it, pair p is about document p.
        group: Padded documents in a row that belong to one query; 0 where every query meets every document.
        precision: As in `api.py`.

    Returns:
        Scores [Nq, Nd] and winners [Nd, Nq, Lq]; for pairs and groups [1, P] and [P, 1, Lq].
    """
    (nq, lq, _), wide = q.shape, torch.promote_types(q.dtype, torch.float32)
    if cu_seqlens is not None:
        _check_listed("pair_q", pair_q, nq)
        _check_listed("pair_d", pair_d, cu_seqlens.shape[0] - 1)
    start, length = document_bounds(d, cu_seqlens, pair_d)
    documents = Documents(d, d_scale, d_mask, start, length)
    if cu_seqlens is not None:
        _check_bounds(start, length, len(d), winner_type)
    owner = query_of_pairs(len(start), pair_q, group, q.device)
    across = nq if owner is None else 1
    rescored = precision == "rescored" and q.dtype == torch.bfloat16 and multiplies_bf16(q.device)
    scores = torch.zeros(across, len(start), dtype=wide, device=q.device)
    saved = (len(start), across, lq) if winner_type else (0,)
    winners = torch.full(saved, -1, dtype=winner_type or torch.int32, device=q.device)
    if not scores.numel() or not lq or not d.numel():
        return scores, winners
    nothing = length == 0 if d_mask is None else ~d_mask.any(1)  # [P]
    with torch.autocast(q.device.type, enabled=False):
        want_places = rescored or bool(winner_type)
        product = Product(q, d.dtype, precision, small=bool(winner_type))
        if cu_seqlens is None:
            blocks = _padded(product, documents, group, want_places)
        elif pair_q is None:
            blocks = _packed(product, documents, want_places)
        else:
            blocks = _listed(product, documents, pair_q, want_places)
        for pairs, queries, best, place in blocks:
            best = best.view(len(best), -1, lq)  # [n, m, Lq]
            place = None if place is None else place.view(best.shape)
            absent = nothing[pairs, None, None]
            if q_mask is not None:
                absent = absent | ~(q_mask[queries] if owner is None else q_mask[owner[pairs]].unsqueeze(1))
            if rescored and place is not None:
                own = q[queries].unsqueeze(0) if owner is None else q[owner[pairs]].unsqueeze(1)
                own = own.expand(len(best), -1, -1, -1)  # [n, m, Lq, dim]
                rows = (start[pairs, None, None] + place).clamp_(max=d.numel() // d.shape[-1] - 1)
                _rescore(best, documents, rows, own)
            scores[queries, pairs] = best.masked_fill_(absent, 0.0).sum(-1).T
            if winner_type and place is not None:
                winners[pairs, queries] = place.masked_fill_(absent, -1).to(winner_type)
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
    """Gradients of q and d from that of the scores; one that is not needed is empty.

    A winner takes its document token's row to the query token, and the query token's row to the document token. Both
    gradients are sums of such rows, taken in a fixed order.
    """
    wide, dim = torch.promote_types(q.dtype, torch.float32), q.shape[-1]
    q_rows, d_rows = q.reshape(-1, dim).to(wide), d.reshape(-1, dim)
    grad_q = torch.zeros_like(q_rows) if needs_q else q_rows.new_zeros(0)
    grad_d = torch.zeros_like(d_rows) if needs_d else d_rows.new_zeros(0)
    start, length = document_bounds(d, cu_seqlens, pair_d)
    owner = query_of_pairs(len(start), pair_q, group, q.device)
    column = torch.arange(winners[:1].numel(), device=q.device).view(1, *winners.shape[1:])
    # a document can come back in a later pair, so listed pairs are summed at once
    step = len(winners) if pair_d is not None else WINNERS // max(1, column.numel())
    for pairs in steps(len(winners) if winners.numel() else 0, step):
        chosen = winners[pairs] >= 0  # [n, m, Lq]
        first, last = 0, len(d_rows)
        if pair_d is None:
            first, last = int(start[pairs.start]), int(start[pairs.stop - 1] + length[pairs.stop - 1])
        token = (winners[pairs] + (start[pairs, None, None] - first))[chosen]
        row = column if owner is None else column + owner[pairs, None, None] * q.shape[1]
        row = row.expand_as(chosen)[chosen]
        weight = grad[:, pairs].T.unsqueeze(2).to(wide).expand_as(chosen)[chosen]
        if needs_q:
            grad_q += _sums(d_rows[first:last].to(wide), token, row, weight, len(q_rows))
        if needs_d:
            grad_d[first:last] = _sums(q_rows, row, token, weight, last - first)
    return (grad_q.view(q.shape) if needs_q else grad_q).to(q.dtype), grad_d.view(d.shape) if needs_d else grad_d


def document_bounds(
    d: torch.Tensor, cu_seqlens: torch.Tensor | None, pair_d: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """First row and length of each pair's document, in d without its padding's axis. [P], int64"""
    if cu_seqlens is None:
        start = torch.arange(len(d), device=d.device) * d.shape[1]
        return start, torch.full_like(start, d.shape[1])
    start, length = cu_seqlens[:-1].long(), cu_seqlens.long().diff()
    return (start, length) if pair_d is None else (start[pair_d], length[pair_d])


def _check_bounds(start: torch.Tensor, length: torch.Tensor, tokens: int, winner_type: torch.dtype | None) -> None:
    if not len(start):
        return
    if int(torch.minimum(start, length).min()) < 0 or int((start + length).max()) > tokens:
        raise ValueError(f"cu_seqlens_d must rise from 0 or more to at most {tokens}, the tokens of d")
    if winner_type and int(length.max()) > torch.iinfo(winner_type).max:
        raise ValueError(f"a document has {int(length.max())} tokens, more than max_seqlen_d said")


def _check_listed(name: str, places: torch.Tensor | None, count: int) -> None:
    """A negative place would be read from the end."""
    if places is not None and len(places) and not 0 <= int(places.min()) <= int(places.max()) < count:
        raise IndexError(f"{name} must be 0 to {count - 1}, but has {int(places.min())} to {int(places.max())}")


def query_of_pairs(count: int, pair_q: torch.Tensor | None, group: int, device: torch.device) -> torch.Tensor | None:
    """[P], or None where every query meets every document."""
    return torch.arange(count, device=device) // group if group else None if pair_q is None else pair_q.long()


@dataclass
class Documents:
    """What the passes read of documents, padded or packed; start and length are those of each pair. [P]"""

    d: torch.Tensor
    scale: torch.Tensor | None
    mask: torch.Tensor | None
    start: torch.Tensor
    length: torch.Tensor

    def __getitem__(self, which: Index) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Documents of a padded batch or tokens of a packed one, and what those of int8 are multiplied by."""
        return self.d[which], None if self.scale is None else self.scale[which]


class Product:
    """Similarities of documents' rows with query tokens, in buffers that are used again.

    Args:
        given: The type of the rows; those of another than products are made in are converted a block at a time.
        small: Half as much at once, for training: there the winners' maximum takes the time, and memory is dear.
    """

    def __init__(self, q: torch.Tensor, given: torch.dtype, precision: str, small: bool) -> None:
        self.q, self.wide = q, torch.promote_types(q.dtype, torch.float32)
        fast = q.dtype == torch.bfloat16 and precision != "highest" and multiplies_bf16(q.device)
        self.dtype = q.dtype if fast else self.wide
        self.converted = 0 if given == self.dtype else q.shape[2]  # elements of a row that becomes another type
        self.columns = q.to(self.dtype).transpose(1, 2).contiguous()  # [Nq, dim, Lq]
        self.elements = (CPU_ELEMENTS if q.device.type == "cpu" else GPU_ELEMENTS) // (2 if small else 1)
        self._buffers: dict[str, torch.Tensor] = {}

    def at_once(self, length: int, columns: int) -> int:
        """How many documents of this length make a block."""
        return max(1, self.elements // (length * max(columns, self.converted)))

    def together(self, queries: slice) -> torch.Tensor:
        """The tokens of several queries side by side. [1, dim, r]"""
        return self.columns[queries].transpose(0, 1).reshape(1, self.q.shape[2], -1)

    def __call__(self, rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """[g, n, dim] with [g, dim, r] -> [g, n, r], each row times its scale; valid until the next call."""
        if rows.dtype != self.dtype:
            rows = self.buffer("rows", rows.shape, self.dtype).copy_(rows)
        found = self.buffer("product", (*rows.shape[:2], columns.shape[2]), self.dtype)
        if len(rows) > 1:
            torch.bmm(rows, columns, out=found)
        else:
            torch.mm(rows[0], columns[0], out=found[0])  # oneDNN's bfloat16 bmm of one long batch is half as fast
        if scale is None:
            return found
        scaled = found if found.dtype == self.wide else self.buffer("scaled", found.shape, self.wide)
        return torch.mul(found, scale.reshape(*found.shape[:2], 1), out=scaled)

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        size = torch.Size(shape).numel()
        if name not in self._buffers or len(self._buffers[name]) < size:
            self._buffers[name] = torch.empty(size, dtype=dtype, device=self.q.device)
        return self._buffers[name][:size].view(shape)


def _padded(product: Product, documents: Documents, group: int, want_places: bool) -> Iterator[Block]:
    """One group of all documents and all queries, or a group of documents for each query."""
    (count, length, dim), (nq, lq, _) = documents.d.shape, product.q.shape
    groups, across = (nq, 1) if group else (1, nq)
    for queries in steps(across, COLUMNS // lq):
        columns = product.columns if group else product.together(queries)
        at_once = product.at_once(length, columns.shape[2])
        for these, docs in _chunks_of_groups(groups, count // groups, at_once):
            rows, scale = documents[docs]
            rows = rows.reshape(these.stop - these.start, -1, dim)
            found = product(rows, columns[these], scale).view(-1, length, columns.shape[2])  # [docs, Ld, r]
            if documents.mask is not None:
                found.masked_fill_(~documents.mask[docs].unsqueeze(2), -torch.inf)
            best, place = _best(found, want_places)
            yield docs, queries, best, place


def _packed(product: Product, documents: Documents, want_places: bool) -> Iterator[Block]:
    """All queries against documents that lie one after another; gaps are filled with a document's last token."""
    start, length, (nq, lq, _) = documents.start, documents.length, product.q.shape
    starts, lengths = start.tolist(), length.tolist()
    for queries in steps(nq, COLUMNS // lq):
        columns = product.together(queries)
        for docs in _chunks_of_lengths(lengths, product.at_once(1, columns.shape[2]), padded=want_places):
            first, last = starts[docs.start], starts[docs.stop - 1] + lengths[docs.stop - 1]
            some, offset = length[docs], start[docs] - first
            if first == last:
                continue
            rows, scale = documents[first:last]
            found = product(rows.unsqueeze(0), columns, scale)[0]  # [tokens, r]
            if want_places:
                best, place = _best(found[_padded_tokens(offset, some, last - first)], True)
            else:
                best, place = _best_of_packed(found, offset, some), None
            yield docs, queries, best, place


def _listed(product: Product, documents: Documents, owner: torch.Tensor, want_places: bool) -> Iterator[Block]:
    """Pairs of packed documents, those of a length together."""
    start, length, lq = documents.start, documents.length, product.q.shape[1]
    order = length.argsort()
    for some in _chunks_of_lengths(length[order].tolist(), product.at_once(1, lq), padded=True):
        pairs = order[some]
        rows, scale = documents[_padded_tokens(start[pairs], length[pairs], len(documents.d))]  # [n, longest, dim]
        best, place = _best(product(rows, product.columns[owner[pairs]], scale), want_places)
        yield pairs, slice(0, 1), best, place


def _rescore(best: torch.Tensor, documents: Documents, rows: torch.Tensor, q: torch.Tensor) -> None:
    """Computes the similarities of the winners [n, m, Lq], which are these rows of d, again in best's precision."""
    d = documents.d.reshape(-1, documents.d.shape[-1])
    for some in steps(len(best), CPU_ELEMENTS // (rows[0].numel() * d.shape[1])):
        torch.sum(d[rows[some]].to(best.dtype) * q[some].to(best.dtype), -1, out=best[some])
    if documents.scale is not None:
        best *= documents.scale.reshape(-1)[rows]


def _best(found: torch.Tensor, want_places: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[n, length, r] -> the maximum and, where wanted, its first place. [n, r]"""
    if found.device.type == "cpu" and (want_places or found.dtype == torch.bfloat16):
        # twice as fast as torch.max, and four times as amax over bfloat16
        best, place = adaptive_max_pool1d(found.transpose(1, 2), 1, return_indices=True)
        return best.squeeze(2).to(torch.promote_types(found.dtype, torch.float32)), place.squeeze(2)
    return torch.max(found, 1) if want_places else (found.amax(1), None)


def _padded_tokens(start: torch.Tensor, length: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of each document, its last repeated up to the longest. Of an empty document any row: [n, longest]"""
    longest = torch.arange(max(1, int(length.max())), device=start.device)
    return (start.unsqueeze(1) + torch.minimum(longest, length.unsqueeze(1) - 1)).clamp_(0, count - 1)


def _best_of_packed(found: torch.Tensor, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """The maximum of each document's rows in found [tokens, r]: whole blocks first, then what a document has of blocks
    that it shares with its neighbours. Of an empty document anything. [n, r]"""
    end, (tokens, r) = start + length, found.shape
    blocks, _ = _best(found[: tokens // BLOCK * BLOCK].view(-1, BLOCK, r), False)
    first, last = (start + BLOCK - 1) // BLOCK, end // BLOCK  # whole blocks of each document
    count = (last - first).clamp(min=0)
    offset = torch.repeat_interleave(first - (count.cumsum(0) - count), count)
    own = blocks[offset + torch.arange(len(offset), device=start.device)].to(
        torch.promote_types(found.dtype, torch.float32)
    )
    best = torch.segment_reduce(own, "max", lengths=count, axis=0, unsafe=True)
    parted = ((start % BLOCK > 0) | (end % BLOCK > 0)).nonzero()[:, 0]
    if len(parted):
        start, end = start[parted, None], end[parted, None]
        step = torch.arange(BLOCK, device=start.device)
        rows = torch.cat([torch.minimum(start + step, end - 1), torch.maximum(end - 1 - step, start)], 1)
        edges, _ = _best(found[rows.clamp_(0, tokens - 1)], False)
        best[parted] = torch.maximum(best[parted], edges)
    return best


def _sums(
    rows: torch.Tensor, source: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, count: int
) -> torch.Tensor:
    """[count, dim]: row t is the sum of weight * rows[source] over the entries whose target is t."""
    order = target.argsort(stable=True)
    bags = torch.searchsorted(target[order], torch.arange(count, device=rows.device))
    return embedding_bag(source[order], rows, bags, mode="sum", per_sample_weights=weight[order])


def _chunks_of_groups(groups: int, per_group: int, at_once: int) -> Iterator[tuple[slice, slice]]:
    """Groups and their documents, at most so many: several whole groups, or a part of one."""
    if at_once >= per_group:
        for these in steps(groups, at_once // per_group):
            yield these, slice(these.start * per_group, these.stop * per_group)
        return
    for one in range(groups):
        for part in steps(per_group, at_once):
            yield slice(one, one + 1), slice(one * per_group + part.start, one * per_group + part.stop)


def _chunks_of_lengths(lengths: Sequence[int], at_once: int, padded: bool) -> Iterator[slice]:
    """Documents in a row with at most so many tokens, or with so many once each is padded to the longest."""
    first, tokens, longest = 0, 0, 0
    for place, length in enumerate(lengths):
        more = max(longest, length) * (place + 1 - first) if padded else tokens + length
        if more > at_once and place > first:
            yield slice(first, place)
            first, tokens, longest = place, 0, 0
        tokens, longest = tokens + length, max(longest, length)
    if lengths:
        yield slice(first, len(lengths))
