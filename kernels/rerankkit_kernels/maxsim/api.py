"""What users call: every layout becomes one call of the op."""

from collections.abc import Sequence

import torch

from rerankkit_kernels.maxsim import op as op  # registers it

LAYOUTS = ("auto", "cross", "grouped", "pairs")
PRECISIONS = ("default", "highest", "rescored")
INT16 = 32_767


def maxsim(
    q: torch.Tensor,
    d: torch.Tensor,
    q_mask: torch.Tensor | None = None,
    d_mask: torch.Tensor | None = None,
    *,
    layout: str = "auto",
    empty: str = "zero",
    precision: str = "default",
) -> torch.Tensor:
    """Scores of padded documents; `reference.py` says what they are.

    Args:
        q: [Nq, Lq, dim]
        d: cross [Nd, Ld, dim] · grouped [Nq, K, Ld, dim] · pairs [Nq, Ld, dim]
        q_mask: True on the tokens that count, in any pattern. [Nq, Lq]
        d_mask: The same for `d`, of its shape without dim.
        layout: "cross" every query with every document · "grouped" each query with its own documents · "pairs" query
            b with document b · "auto" grouped where `d` has four axes, otherwise cross.
        empty: Score of a document without tokens: "zero", or "-inf", which ranks it last.
        precision: For bfloat16. "default" lets similarities be rounded to bfloat16 where the hardware makes them so ·
            "rescored" takes the winners found that way and computes their similarities again · "highest" rounds none.

    Returns:
        cross [Nq, Nd] · grouped [Nq, K] · pairs [Nq]: float32, or float64 where an input is.
    """
    if layout == "auto":
        layout = "grouped" if d.ndim == 4 else "cross"
    _check(layout in LAYOUTS, f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    _check_options(q, d, empty, precision)
    wanted = 4 if layout == "grouped" else 3
    _check(d.ndim == wanted, f"layout {layout!r} takes d with {wanted} axes, this one is {tuple(d.shape)}")
    _check(layout == "cross" or len(d) == len(q), f"layout {layout!r} takes as many rows of d as of q")
    _check_mask("q_mask", q_mask, q)
    _check_mask("d_mask", d_mask, d)
    group = {"cross": 0, "grouped": d.shape[1], "pairs": 1}[layout]
    if layout == "grouped" and not d.shape[1]:
        return q.new_zeros(d.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    documents = d.flatten(0, 1) if layout == "grouped" else d
    real = None if d_mask is None else d_mask.bool().flatten(0, d_mask.ndim - 2)
    scores = _scores(q, documents, q_mask, real, None, None, None, group, d.shape[-2], precision)
    if empty == "-inf":
        none = q.new_full((len(documents),), not d.shape[-2], dtype=torch.bool)
        scores = scores.masked_fill(none if real is None else ~real.any(1), -torch.inf)
    return scores if layout == "cross" else scores.view(d.shape[: d.ndim - 2])


def maxsim_packed(
    q: torch.Tensor,
    d: torch.Tensor,
    cu_seqlens_d: torch.Tensor,
    *,
    q_mask: torch.Tensor | None = None,
    cu_seqlens_q: torch.Tensor | None = None,
    pair_q: torch.Tensor | None = None,
    pair_d: torch.Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_d: int | None = None,
    empty: str = "zero",
    precision: str = "default",
) -> torch.Tensor:
    """Scores of documents that lie one after another, without padding; options as in `maxsim`.

    Args:
        q: [Nq, Lq, dim], or with `cu_seqlens_q` [tokens, dim].
        d: [tokens, dim]
        cu_seqlens_d: Where documents begin, and the end of the last. [Nd + 1], int32 or int64
        cu_seqlens_q: The same for queries.
        pair_q: The query of each pair. Without it every query is scored with every document. [P]
        pair_d: The document of each pair; without it, pair p is about document p. [P]
        max_seqlen_q: Tokens of the longest query; saves asking the device.
        max_seqlen_d: A bound for the tokens of a document. Up to 32,767 the winners are kept as int16 for training.

    Returns:
        [Nq, Nd], or [P].
    """
    _check(d.ndim == 2 and cu_seqlens_d.ndim == 1, "d must be [tokens, dim] and cu_seqlens_d [Nd + 1]")
    if cu_seqlens_q is not None:
        _check(q.ndim == 2 and q_mask is None, "with cu_seqlens_q, q must be [tokens, dim] without a mask")
        q, q_mask = _unpacked(q, cu_seqlens_q, max_seqlen_q)
    _check_options(q, d, empty, precision)
    _check_mask("q_mask", q_mask, q)
    count = len(cu_seqlens_d) - 1
    if pair_q is None:
        _check(pair_d is None, "pair_d needs pair_q")
    else:
        pairs = count if pair_d is None else len(pair_d)
        _check(len(pair_q) == pairs, f"pair_q has {len(pair_q)} entries, not one for each of {pairs} pairs")
    longest = len(d) if max_seqlen_d is None else max_seqlen_d
    scores = _scores(q, d, q_mask, None, cu_seqlens_d, pair_q, pair_d, 0, longest, precision)
    if empty == "-inf":
        nothing = cu_seqlens_d.diff() == 0
        scores = scores.masked_fill(nothing if pair_d is None else nothing[pair_d], -torch.inf)
    return scores if pair_q is None else scores.view(-1)


def pack(documents: Sequence[torch.Tensor], multiple: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """[tokens, dim] and cu_seqlens [Nd + 1] of documents [Ld, dim], for `maxsim_packed`.

    Args:
        multiple: Repeats a document's last token until its length is a multiple of this. No score changes by it, and
            with 16 the CPU is spared a copy at every call.
    """
    lengths = torch.tensor([0, *(len(document) + -len(document) % multiple for document in documents)])
    repeated = [part for document in documents for part in (document, *[document[-1:]] * (-len(document) % multiple))]
    return torch.cat(repeated), lengths.cumsum(0).to(documents[0].device)


def _scores(
    q: torch.Tensor,
    d: torch.Tensor,
    q_mask: torch.Tensor | None,
    d_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    pair_q: torch.Tensor | None,
    pair_d: torch.Tensor | None,
    group: int,
    longest: int,
    precision: str,
) -> torch.Tensor:
    if q.dtype != d.dtype:
        dtype = torch.promote_types(q.dtype, d.dtype)
        q, d = q.to(dtype), d.to(dtype)
    training = torch.is_grad_enabled() and (q.requires_grad or d.requires_grad)
    winners = (torch.int16 if longest <= INT16 else torch.int32) if training else None
    if q_mask is not None:
        q_mask = q_mask.bool()
    return torch.ops.rerankkit.maxsim_forward(
        q, d, q_mask, d_mask, cu_seqlens, pair_q, pair_d, group, winners, precision
    )[0]


def _unpacked(q: torch.Tensor, cu_seqlens: torch.Tensor, longest: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """[Nq, Lq, dim] and the mask of its tokens."""
    lengths = cu_seqlens.diff()
    position = torch.arange(int(lengths.max()) if longest is None else longest, device=q.device)
    mask = position < lengths.unsqueeze(1)  # [Nq, Lq]
    return q[(cu_seqlens[:-1].unsqueeze(1) + position).clamp(max=len(q) - 1)], mask


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _check_options(q: torch.Tensor, d: torch.Tensor, empty: str, precision: str) -> None:
    _check(q.ndim == 3, f"q must be [Nq, Lq, dim], this one is {tuple(q.shape)}")
    _check(q.shape[-1] == d.shape[-1], f"q has dim {q.shape[-1]}, d has {d.shape[-1]}")
    _check(q.is_floating_point() and d.is_floating_point(), f"q and d must be floats, not {q.dtype} and {d.dtype}")
    _check(empty in ("zero", "-inf"), f"empty {empty!r} is neither 'zero' nor '-inf'")
    _check(precision in PRECISIONS, f"precision {precision!r} is none of {', '.join(PRECISIONS)}")


def _check_mask(name: str, mask: torch.Tensor | None, tokens: torch.Tensor) -> None:
    shape = tokens.shape[:-1]
    _check(mask is None or mask.shape == shape, f"{name} must be {tuple(shape)}, as its tokens are")
