"""Log-probabilities of given tokens with a block of logits at a time; no memory grows with the vocabulary.

The forward pass walks over the vocabulary in chunks and keeps, of every hidden state, the log-sum-exp so far. The
backward pass computes the same blocks again, unless the output layer is frozen: then the forward pass makes the
gradient of each log-probability on its way, which the backward pass only scales.
"""

from collections.abc import Callable, Iterator

import torch

from rerankkit_kernels.backend import multiplies_bf16, steps

VOCABULARY, ROWS = 4096, 1024
"""Logits held at once."""
GPU_VOCABULARY = 16_384
"""The same on a GPU, whose products would take less time than their launches: 32 MB in half precision."""


def forward(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    add: Callable[..., None],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n, k] of ids [n, k] after hidden [n, width], 0 under the mask, and log-sum-exps [n].

    Args:
        add: What reads a block of logits: the function below, or a Triton kernel.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    kept = _kept(hidden, mask)
    read, some = hidden[kept], _tokens(ids[kept], weight)
    total = torch.full((len(read),), -torch.inf, dtype=wide, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for chunk, part in _chunks(weight, hidden.dtype):
            for rows in steps(len(read), ROWS):
                add(total[rows], read[rows].to(part.dtype) @ part.T, _part(bias, chunk), scale, softcap)
    target = _targets(read, weight, some, bias, scale, softcap)
    target.masked_fill_(ids[kept] != some, torch.nan)
    logprob, totals = hidden.new_zeros(ids.shape, dtype=wide), hidden.new_zeros(len(hidden), dtype=wide)
    logprob[kept], totals[kept] = target - total.unsqueeze(1), total
    return logprob, totals


def forward_with_slopes(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `forward`, of one token each, and the gradients of the log-probabilities by hidden [n, width].

    It is attention whose keys and values are the output layer, so a sum is scaled down whenever a higher logit is met
    (Milakov and Gimelshein 2018; Dao et al. 2022). The token itself is left out of the sums: where it is nearly
    certain, what remains of the gradient would be a difference of two large numbers.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    kept = _kept(hidden, mask)
    read, some = hidden[kept], _tokens(ids[kept], weight)
    highest = torch.full((len(read), 1), -torch.inf, dtype=wide, device=hidden.device)
    sums, others = torch.zeros_like(highest), torch.zeros(read.shape, dtype=wide, device=hidden.device)
    with torch.autocast(hidden.device.type, enabled=False):
        for chunk, part in _chunks(weight, hidden.dtype):
            for rows in steps(len(read), ROWS):
                product = (read[rows].to(part.dtype) @ part.T).to(wide)
                logits = _logits(product, _part(bias, chunk), scale, softcap)  # [rows, chunk]
                # finite, so that a chunk of logits that are all -inf is no NaN
                higher = torch.maximum(highest[rows], logits.amax(1, keepdim=True)).clamp_(min=torch.finfo(wide).min)
                slope = None if softcap is None else 1 - (logits / softcap).square()
                share = logits.sub_(higher).exp_()
                shrink = (highest[rows] - higher).exp_()
                highest[rows] = higher
                place = some[rows, 0] - chunk.start
                here = ((place >= 0) & (place < len(part))).nonzero()[:, 0]
                share[here, place[here]] = 0.0
                sums[rows] = sums[rows] * shrink + share.sum(1, keepdim=True)
                share = share if slope is None else share.mul_(slope)
                others[rows] = others[rows].mul_(shrink).add_(share.to(part.dtype) @ part)
    target = _targets(read, weight, some, bias, scale, softcap)
    total = torch.logaddexp(highest + sums.log(), target)  # [rows, 1]
    known = (target - total).masked_fill_(ids[kept] != some, torch.nan)
    slopes = torch.zeros_like(hidden)
    found = slopes if mask is None else torch.empty_like(read)
    for rows in steps(len(read), ROWS):
        share = (highest[rows] - total[rows]).exp_()
        rest = sums[rows] * share  # the probability of all others
        rest = rest if softcap is None else rest * (1 - (target[rows] / softcap).square())
        found[rows] = scale * (rest * weight[some[rows, 0]].to(wide) - others[rows] * share)
    if mask is not None:
        slopes[kept] = found
    logprob, totals = hidden.new_zeros(ids.shape, dtype=wide), hidden.new_zeros(len(hidden), dtype=wide)
    logprob[kept], totals[kept] = known, total[:, 0]
    return logprob, totals, slopes


def backward(
    grad: torch.Tensor,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    totals: torch.Tensor,
    scale: float,
    softcap: float | None,
    needs: list[bool],
    differentiate: Callable[..., torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of hidden, weight and bias; of those that are not needed, something empty."""
    kept = _kept(hidden, mask)
    read, some, total, outer = hidden[kept], ids[kept], totals[kept], grad[kept].to(totals.dtype)
    by_read = totals.new_zeros(read.shape if needs[0] else (0,))
    by_hidden = torch.zeros_like(hidden) if needs[0] else totals.new_zeros(0)
    by_weight = torch.zeros_like(weight) if needs[1] else totals.new_zeros(0)
    by_bias = torch.zeros_like(bias) if needs[2] and bias is not None else totals.new_zeros(0)
    with torch.autocast(hidden.device.type, enabled=False):
        for chunk, part in _chunks(weight, hidden.dtype):
            by_part = totals.new_zeros(part.shape if needs[1] else (0,))
            for rows in steps(len(read), ROWS):
                product = read[rows].to(part.dtype) @ part.T
                place = some[rows] - chunk.start
                inner = differentiate(
                    product, total[rows], outer[rows], place, _part(bias, chunk), scale, softcap
                )  # [rows, chunk]
                if needs[2] and bias is not None:
                    by_bias[chunk] += inner.sum(0).to(bias.dtype)
                inner = inner.to(part.dtype)
                if needs[0]:
                    by_read[rows] += inner @ part
                if needs[1]:
                    by_part += inner.T @ read[rows].to(part.dtype)
            if needs[1]:
                by_weight[chunk] = by_part
    if needs[0]:
        by_hidden[kept] = by_read.to(hidden.dtype)
    return by_hidden, by_weight, by_bias


def add(
    total: torch.Tensor, product: torch.Tensor, bias: torch.Tensor | None, scale: float, softcap: float | None
) -> None:
    """Adds a block of logits to the log-sum-exp of each row."""
    logits = _logits(product.to(total.dtype), bias, scale, softcap)
    total.copy_(torch.logaddexp(total, logits.logsumexp(1)))


def differentiate(
    product: torch.Tensor,
    total: torch.Tensor,
    outer: torch.Tensor,
    place: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Gradient of a block of products [n, m], from those of the log-probabilities of k tokens [n, k]."""
    logits = _logits(product.to(total.dtype), bias, scale, softcap)
    slope = scale if softcap is None else scale * (1 - (logits / softcap).square())
    # a token's log-probability changes with a logit by whether they are the same, less the softmax
    inner = logits.sub_(total.unsqueeze(1)).exp_().mul_(-outer.sum(1, keepdim=True))
    outside = (place < 0) | (place >= inner.shape[1])
    inner.scatter_add_(1, place.masked_fill(outside, 0), outer.masked_fill(outside, 0.0))
    return inner.mul_(slope)


def _tokens(ids: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Tokens that can be read. A GPU is not asked whether they exist: that would wait for it."""
    some = ids.clamp(0, max(0, len(weight) - 1))
    if ids.device.type == "cpu" and not torch.equal(ids, some):
        raise IndexError(
            f"token {int(ids[ids != some][0])} is no row of weight {tuple(weight.shape)}; is a mask missing?"
        )
    return some


def _targets(
    read: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Logits [n, k] of the tokens asked for."""
    wide = torch.promote_types(read.dtype, torch.float32)
    target = torch.empty(ids.shape, dtype=wide, device=read.device)
    for rows in steps(len(read), ROWS):
        for column in range(ids.shape[1]):
            token = ids[rows, column]
            logit = (read[rows].to(wide) * weight[token].to(wide)).sum(1)
            target[rows, column] = _logits(logit, _part(bias, token), scale, softcap)
    return target


def _kept(hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | slice:
    return slice(None) if mask is None else mask.nonzero()[:, 0]


def _chunks(weight: torch.Tensor, hidden: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of the output layer, in the type that products are made in: bfloat16 where nothing is lost by it."""
    fast = weight.dtype == hidden == torch.bfloat16 and multiplies_bf16(weight.device)
    dtype = weight.dtype if fast else torch.promote_types(torch.promote_types(weight.dtype, hidden), torch.float32)
    for chunk in steps(len(weight), GPU_VOCABULARY if weight.is_cuda else VOCABULARY):
        yield chunk, weight[chunk].to(dtype)


def _part(bias: torch.Tensor | None, tokens: slice | torch.Tensor) -> torch.Tensor | None:
    return None if bias is None else bias[tokens]


def _logits(logits: torch.Tensor, bias: torch.Tensor | None, scale: float, softcap: float | None) -> torch.Tensor:
    """From products of hidden states and the output layer, in place."""
    if bias is not None:
        logits += bias
    if scale != 1.0:
        logits *= scale
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)
