"""The definition of MaxSim, by the way one should not compute it: every similarity of every pair at once.

For a query's tokens q_s and a document's tokens d_t (ColBERT, Khattab and Zaharia 2020, section 3.3):

    score = sum over s of max over t of <q_s, d_t>

- A masked document token is -inf before the max, so it wins against nothing and gets no gradient.
- A masked query token contributes 0 and gets no gradient.
- A document without any token left scores 0 with zero gradient, or -inf where `empty="-inf"`.
- Among equal similarities the document's first token wins, and it alone gets the gradient.
- A document token of int8 stands for its row times its scale (`quantize` in api.py makes both).
- A NaN in a token that is not masked makes the scores NaN that it takes part in; in a masked token it does nothing.
"""

import torch


def maxsim_reference(
    q: torch.Tensor,
    d: torch.Tensor,
    q_mask: torch.Tensor | None = None,
    d_mask: torch.Tensor | None = None,
    *,
    d_scale: torch.Tensor | None = None,
    layout: str = "cross",
    empty: str = "zero",
) -> torch.Tensor:
    """Scores of padded documents in the inputs' own precision: cross [Nq, Nd], grouped [Nq, K], pairs [B].

    Args:
        q: [Nq, Lq, dim]
        d: [Nd, Ld, dim] for cross and pairs, [Nq, K, Ld, dim] for grouped.
        q_mask: True on real tokens. [Nq, Lq]
        d_mask: True on real tokens. `d` without its last axis.
        d_scale: What each token of an int8 `d` is multiplied by. `d` without its last axis.
    """
    if d_scale is not None:
        d = d * d_scale.unsqueeze(-1)
    equation = {"cross": "qsx,ntx->qnst", "grouped": "qsx,qntx->qnst", "pairs": "qsx,qtx->qst"}[layout]
    similarities = torch.einsum(equation, q, d)  # [..., Lq, Ld]
    real_d = torch.ones(d.shape[:-1], dtype=torch.bool, device=d.device) if d_mask is None else d_mask.bool()
    real_q = torch.ones(q.shape[:-1], dtype=torch.bool, device=q.device) if q_mask is None else q_mask.bool()
    if layout != "pairs":
        real_q = real_q.unsqueeze(1)  # one axis for the documents
    nothing = ~real_d.any(-1)  # [Nd], [Nq, K] or [B]
    if similarities.shape[-1] == 0:
        best = similarities.sum(-1)  # zeros, and part of the graph
    else:
        best = similarities.masked_fill(~real_d.unsqueeze(-2), -torch.inf).max(-1).values  # [..., Lq]
    best = best.masked_fill(~real_q | nothing.unsqueeze(-1), 0.0)
    scores = best.sum(-1)
    return scores.masked_fill(nothing.expand(scores.shape), -torch.inf) if empty == "-inf" else scores


def maxsim_packed_reference(
    q: torch.Tensor,
    d: torch.Tensor,
    cu_seqlens_d: torch.Tensor,
    *,
    d_scale: torch.Tensor | None = None,
    q_mask: torch.Tensor | None = None,
    pair_q: torch.Tensor | None = None,
    pair_d: torch.Tensor | None = None,
    empty: str = "zero",
) -> torch.Tensor:
    """Scores of documents that lie one after another in `d` [tokens, dim]: cross [Nq, Nd], or one for each pair."""
    if d_scale is not None:
        d = d * d_scale.unsqueeze(-1)
    bounds = cu_seqlens_d.tolist()
    documents = [d[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]

    def score(query: int, document: int) -> torch.Tensor:
        mask = None if q_mask is None else q_mask[query].unsqueeze(0)
        one = maxsim_reference(q[query].unsqueeze(0), documents[document].unsqueeze(0), mask, empty=empty)
        return one[0, 0]

    if pair_q is None:
        rows = [score(i, j) for i in range(len(q)) for j in range(len(documents))]
        return torch.stack(rows).view(len(q), len(documents)) if rows else q.new_zeros(len(q), len(documents))
    chosen = range(len(documents)) if pair_d is None else pair_d.tolist()
    rows = [score(i, j) for i, j in zip(pair_q.tolist(), chosen, strict=True)]
    return torch.stack(rows) if rows else q.new_zeros(0)
