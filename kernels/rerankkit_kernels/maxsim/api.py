"""What users call: every layout becomes one call of the op."""

from collections.abc import Sequence

import torch

from rerankkit_kernels.library import check_device, check_mask, nobody_watches, whole
from rerankkit_kernels.maxsim.op import run_forward

LAYOUTS = ("auto", "cross", "grouped", "pairs")
PRECISIONS = ("default", "highest", "rescored")
INT16 = 32_767
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def maxsim(
    q: torch.Tensor,
    d: torch.Tensor,
    q_mask: torch.Tensor | None = None,
    d_mask: torch.Tensor | None = None,
    *,
    d_scale: torch.Tensor | None = None,
    layout: str = "auto",
    empty: str = "zero",
    precision: str = "default",
    backend: str = "auto",
) -> torch.Tensor:
    """Scores of padded documents; `reference.py` says what they are.

    Args:
        q: [Nq, Lq, dim]
        d: cross [Nd, Ld, dim] · grouped [Nq, K, Ld, dim] · pairs [Nq, Ld, dim]
        q_mask: True on the tokens that count, in any pattern. [Nq, Lq]
        d_mask: The same for `d`, of its shape without dim.
        d_scale: What each token of an int8 `d` is multiplied by; `quantize` makes both. There are no gradients then.
            `d` without dim
        layout: "cross" every query with every document · "grouped" each query with its own documents · "pairs" query
            b with document b · "auto" grouped where `d` has four axes, otherwise cross.
        empty: Score of a document without tokens: "zero", or "-inf", which ranks it last.
        precision: "default" lets a CPU or cuBLAS round similarities of bfloat16 inputs to bfloat16 · "rescored" takes
            the winners found that way and computes their similarities again · "highest" rounds none.
        backend: "auto", "triton" or "torch"; see `backend.py`.

    Returns:
        cross [Nq, Nd] · grouped [Nq, K] · pairs [Nq]: float32, or float64 where an input is.
    """
    if layout == "auto":
        layout = "grouped" if d.ndim == 4 else "cross"
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    check_device({"q": q, "d": d, "q_mask": q_mask, "d_mask": d_mask, "d_scale": d_scale})
    _check(q, d, d_scale, q_mask, d_mask, empty, precision)
    if d.ndim != (4 if layout == "grouped" else 3):
        axes = "[Nq, K, Ld, dim]" if layout == "grouped" else "[documents, Ld, dim]"
        raise ValueError(f"with layout {layout!r}, d must be {axes}, not {tuple(d.shape)}")
    if layout != "cross" and d.shape[0] != q.shape[0]:
        raise ValueError(f"with layout {layout!r}, d must have as many rows as q: {q.shape[0]}, not {d.shape[0]}")
    if d_mask is not None and d_mask.shape != d.shape[:-1]:
        raise ValueError(f"d_mask must be {tuple(d.shape[:-1])}, as d is, not {tuple(d_mask.shape)}")
    group, shape, length = 0, d.shape[:-2], d.shape[-2]
    if layout == "grouped":
        group, d = d.shape[1], d.flatten(0, 1)
        d_scale = None if d_scale is None else d_scale.flatten(0, 1)
        d_mask = None if d_mask is None else d_mask.flatten(0, 1)
        if not group:
            return q.new_zeros(shape, dtype=torch.promote_types(q.dtype, torch.float32))
    elif layout == "pairs":
        group = 1
    if d_mask is not None and d_mask.dtype != torch.bool:
        d_mask = d_mask.bool()
    scores = _scores(q, d, d_scale, q_mask, d_mask, None, None, None, group, length, precision, backend)
    if empty == "-inf":
        none = q.new_full((d.shape[0],), not length, dtype=torch.bool) if d_mask is None else ~d_mask.any(1)
        scores = scores.masked_fill(none, -torch.inf)
    return scores if layout == "cross" else scores.view(shape)


def maxsim_packed(
    q: torch.Tensor,
    d: torch.Tensor,
    cu_seqlens_d: torch.Tensor,
    *,
    d_scale: torch.Tensor | None = None,
    q_mask: torch.Tensor | None = None,
    cu_seqlens_q: torch.Tensor | None = None,
    pair_q: torch.Tensor | None = None,
    pair_d: torch.Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_d: int | None = None,
    empty: str = "zero",
    precision: str = "default",
    backend: str = "auto",
) -> torch.Tensor:
    """Scores of documents that lie one after another, without padding; options as in `maxsim`.

    Args:
        q: [Nq, Lq, dim], or with `cu_seqlens_q` [tokens, dim].
        d: [tokens, dim]
        cu_seqlens_d: Where documents begin, and the end of the last. [Nd + 1], int32 or int64
        d_scale: What each token of an int8 `d` is multiplied by, as in `maxsim`. [tokens]
        cu_seqlens_q: The same for queries.
        pair_q: The query of each pair. Without it every query is scored with every document. [P]
        pair_d: The document of each pair; without it, pair p is about document p. [P]
        max_seqlen_q: Tokens of the longest query; saves asking the device.
        max_seqlen_d: A bound for the tokens of a document. Up to 32,767 the winners are kept as int16 for training.

    Returns:
        [Nq, Nd], or [P].
    """
    if d.ndim != 2 or cu_seqlens_d.ndim != 1:
        raise ValueError(f"d must be [tokens, dim] and cu_seqlens_d [Nd + 1], not {list(d.shape)}")
    documents = {"d": d, "cu_seqlens_d": cu_seqlens_d, "d_scale": d_scale, "pair_q": pair_q, "pair_d": pair_d}
    check_device({"q": q, "q_mask": q_mask, "cu_seqlens_q": cu_seqlens_q, **documents})
    cu_seqlens_d = whole("cu_seqlens_d", cu_seqlens_d)
    if cu_seqlens_q is not None:
        cu_seqlens_q = whole("cu_seqlens_q", cu_seqlens_q)
        if q.ndim != 2 or q_mask is not None:
            raise ValueError("with cu_seqlens_q, q must be [tokens, dim], and there is no q_mask")
        q, q_mask = _unpacked(q, cu_seqlens_q, max_seqlen_q)
    _check(q, d, d_scale, q_mask, None, empty, precision)
    if pair_q is None and pair_d is not None:
        raise ValueError("pair_d needs pair_q")
    pair_q = None if pair_q is None else whole("pair_q", pair_q)
    pair_d = None if pair_d is None else whole("pair_d", pair_d)
    pairs = cu_seqlens_d.shape[0] - 1 if pair_d is None else pair_d.shape[0]
    if pair_q is not None and pair_q.shape[0] != pairs:
        raise ValueError(f"pair_q has {pair_q.shape[0]} entries, not one for each of {pairs} pairs")
    if pair_q is not None and pairs and not (q.shape[0] and cu_seqlens_d.shape[0] > 1):
        count = max(0, cu_seqlens_d.shape[0] - 1)
        raise IndexError(f"there are {pairs} pairs, but {q.shape[0]} queries and {count} documents")
    longest = d.shape[0] if max_seqlen_d is None else max_seqlen_d
    scores = _scores(q, d, d_scale, q_mask, None, cu_seqlens_d, pair_q, pair_d, 0, longest, precision, backend)
    if empty == "-inf":
        none = cu_seqlens_d.diff() == 0
        none = none if pair_d is None else none[pair_d.clamp(0, none.shape[0] - 1)]
        scores = scores.masked_fill(none & ~scores.isnan(), -torch.inf)  # NaN: a document or query that does not exist
    return scores if pair_q is None else scores.view(-1)


def pack(documents: Sequence[torch.Tensor], multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, dim] and cu_seqlens [Nd + 1] of documents [Ld, dim], for `maxsim_packed`.

    Args:
        multiple: Repeats a document's last token until its length is a multiple of this. No score changes by it, and
            with 16 the CPU is spared a copy at every call.
    """
    if multiple < 1 or not documents:
        raise ValueError(f"multiple must be 1 or more and there must be documents, not {multiple} and {len(documents)}")
    lengths = torch.tensor([0, *(len(document) + -len(document) % multiple for document in documents)])
    repeated = [part for document in documents for part in (document, *[document[-1:]] * (-len(document) % multiple))]
    return torch.cat(repeated), lengths.cumsum(0).to(documents[0].device)


def quantize(d: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents in about a quarter of float32's memory: int8 rows [..., dim] and a scale for each token [...].

    They are the `d` and `d_scale` of `maxsim` and `maxsim_packed`. A token's largest component becomes 127 times its
    scale, and no component is more than half a scale off. What is not finite makes NaN of the scores it takes part in.
    """
    d = d.to(torch.promote_types(d.dtype, torch.float32))
    scale = d.abs().amax(-1) / 127
    # a row of zeros has scale 0, and the smallest floats one of few bits
    rows = (d / scale.unsqueeze(-1)).nan_to_num_().clamp_(-127, 127).round_()
    return rows.to(torch.int8), scale


def _scores(
    q: torch.Tensor,
    d: torch.Tensor,
    d_scale: torch.Tensor | None,
    q_mask: torch.Tensor | None,
    d_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    pair_q: torch.Tensor | None,
    pair_d: torch.Tensor | None,
    group: int,
    longest: int,
    precision: str,
    backend: str,
) -> torch.Tensor:
    """[queries, documents], or [1, pairs]"""
    if d_scale is not None:
        d_scale = d_scale.to(torch.promote_types(q.dtype, torch.float32))
    elif q.dtype != d.dtype:
        dtype = torch.promote_types(q.dtype, d.dtype)
        q, d = q.to(dtype), d.to(dtype)
    if q_mask is not None and q_mask.dtype != torch.bool:
        q_mask = q_mask.bool()
    training = torch.is_grad_enabled() and (q.requires_grad or d.requires_grad)
    winner_type = (torch.int16 if longest <= INT16 else torch.int32) if training else None
    forward = run_forward if nobody_watches(q, d, d_scale) else torch.ops.rerankkit.maxsim_forward
    return forward(q, d, d_scale, q_mask, d_mask, cu_seqlens, pair_q, pair_d, group, winner_type, precision, backend)[0]


def _unpacked(q: torch.Tensor, cu_seqlens: torch.Tensor, longest: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """[Nq, Lq, dim] and the mask of its tokens; NaN in a query that a GPU, which is not asked, cannot read whole."""
    starts, lengths, tokens = cu_seqlens[:-1], cu_seqlens.diff(), q.shape[0]
    longest = int(lengths.max()) if longest is None and lengths.shape[0] else longest or 0
    wrong = (torch.minimum(starts, lengths) < 0) | (starts + lengths > tokens) | (lengths > longest)
    if q.device.type == "cpu" and not torch.compiler.is_compiling() and wrong.any():
        wanted = f"rise from 0 or more to at most {tokens}, the tokens of q, by at most {longest}, max_seqlen_q"
        raise ValueError(f"cu_seqlens_q must {wanted}")
    position = torch.arange(longest, device=q.device)
    mask = position < lengths.unsqueeze(1)  # [Nq, Lq]
    places = (starts.unsqueeze(1) + position).clamp(0, max(tokens - 1, 0))
    rows = q[places] if tokens else q.new_zeros(*places.shape, q.shape[1])
    return rows.masked_fill(wrong[:, None, None], torch.nan), mask


def _check(
    q: torch.Tensor,
    d: torch.Tensor,
    d_scale: torch.Tensor | None,
    q_mask: torch.Tensor | None,
    d_mask: torch.Tensor | None,
    empty: str,
    precision: str,
) -> None:
    if q.ndim != 3:
        raise ValueError(f"q must be [Nq, Lq, dim], not {tuple(q.shape)}")
    if q.shape[-1] != d.shape[-1]:
        raise ValueError(f"q has dim {q.shape[-1]}, d has {d.shape[-1]}")
    if d_scale is not None:
        if d.dtype != torch.int8 or q.dtype not in FLOATS:
            raise ValueError(f"with d_scale, d must be int8 and q floats, not {d.dtype} and {q.dtype}")
        if d_scale.shape != d.shape[:-1] or not d_scale.is_floating_point():
            wanted, given = tuple(d.shape[:-1]), tuple(d_scale.shape)
            raise ValueError(f"d_scale must be floats {wanted}, as d is, not {d_scale.dtype} {given}")
    elif d.dtype not in FLOATS or q.dtype not in FLOATS:
        how = "; int8 documents need d_scale, as quantize makes both" if d.dtype == torch.int8 else ""
        raise ValueError(f"q and d must be floats, not {q.dtype} and {d.dtype}{how}")
    if q_mask is not None and q_mask.shape != q.shape[:-1]:
        raise ValueError(f"q_mask must be {tuple(q.shape[:-1])}, as q is, not {tuple(q_mask.shape)}")
    check_mask("q_mask", q_mask)
    check_mask("d_mask", d_mask)
    if empty not in ("zero", "-inf"):
        raise ValueError(f"empty {empty!r} is neither 'zero' nor '-inf'")
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
