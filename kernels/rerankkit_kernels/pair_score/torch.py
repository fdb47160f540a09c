"""`pair_score` without the vocabulary: gather the answers' hidden states, multiply them with two rows."""

import torch


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
    """[rows] from hidden [rows, length, width] or [tokens, width], float32 whatever the inputs are (float64 stays)."""
    answer = _answers(hidden, positions)  # [rows, width]
    if norm is not None:
        answer = answer * _inverse(answer, norm_eps) * norm.to(answer.dtype)
    yes, no = _logits(answer, weight, bias, yes_id, no_id, scale, softcap).unbind(1)
    if mode == "yes":
        return yes.contiguous()
    if mode == "pair_logprob":
        return torch.nn.functional.logsigmoid(yes - no)
    return yes - no if mode == "diff" else (yes - no).sigmoid()


def backward(
    grad: torch.Tensor,
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
    needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of hidden, weight, bias and norm; of those that are not needed, something empty."""
    answer = _answers(hidden, positions)
    read = answer
    if norm is not None:
        inverse = _inverse(answer, norm_eps)
        read = answer * inverse * norm.to(answer.dtype)
    by_yes = grad.to(answer.dtype)
    outer = torch.stack([by_yes, torch.zeros_like(by_yes) if mode == "yes" else -by_yes], 1)  # [rows, 2]
    bent = mode in ("pair_logprob", "prob")
    if bent or softcap is not None:  # otherwise the gradient is the same whatever the logits are
        logits = _logits(read, weight, bias, yes_id, no_id, scale, softcap)
        gap = logits[:, :1] - logits[:, 1:]
        if bent:
            outer = outer * (-gap).sigmoid()
        if mode == "prob":
            outer = outer * gap.sigmoid()
        if softcap is not None:
            outer = outer * (1 - (logits / softcap).square())
    outer = outer if scale == 1.0 else outer * scale

    by_hidden, by_weight, by_bias, by_norm = (outer.new_zeros(0) for _ in range(4))
    with torch.autocast(hidden.device.type, enabled=False):
        by_read = outer @ _two(weight, yes_id, no_id, outer.dtype)
        if needs[1]:
            by_weight = _rows_of(torch.zeros_like(weight), outer.T @ read, yes_id, no_id)
    if needs[2] and bias is not None:
        by_bias = _rows_of(torch.zeros_like(bias), outer.sum(0), yes_id, no_id)
    if norm is not None:
        by_norm = (by_read * answer * inverse).sum(0).to(norm.dtype)
        by_read = by_read * norm.to(answer.dtype)
        by_read = inverse * (by_read - answer * inverse.square() * (by_read * answer).mean(1, keepdim=True))
    if needs[0]:
        by_hidden = torch.zeros_like(hidden)
        place = _places(hidden, positions)
        packed = hidden.ndim == 2  # one token can answer twice, and a GPU has to sort for it
        where = (place,) if packed else (torch.arange(len(hidden), device=hidden.device), place)
        by_hidden.index_put_(where, by_read.to(hidden.dtype), accumulate=packed)
    return by_hidden, by_weight, by_bias, by_norm


def _answers(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The hidden state that each score is read from, in the precision of the computation. [rows, width]"""
    place = _places(hidden, positions)
    rows = hidden[place] if hidden.ndim == 2 else hidden[torch.arange(len(hidden), device=hidden.device), place]
    rows = rows.to(torch.promote_types(hidden.dtype, torch.float32))
    return rows if place is positions else rows.masked_fill((place != positions).unsqueeze(1), torch.nan)


def _places(hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Positions that can be read. A GPU is not asked whether they exist: that would wait for it."""
    if positions.device.type != "cpu":
        return positions.clamp(0, hidden.shape[-2] - 1)
    if len(positions) and int(positions.min()) < 0:
        raise IndexError(
            f"position {int(positions.min())}: positions count from 0, and a sequence without tokens has none"
        )
    if len(positions) and int(positions.max()) >= hidden.shape[-2]:
        raise IndexError(f"position {int(positions.max())} is past the {hidden.shape[-2]} tokens of hidden")
    return positions


def _inverse(answer: torch.Tensor, eps: float) -> torch.Tensor:
    return (answer.square().mean(1, keepdim=True) + eps).rsqrt()


def _logits(
    answer: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    yes_id: int,
    no_id: int,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """[rows, 2]"""
    with torch.autocast(answer.device.type, enabled=False):  # a difference of two bfloat16 logits would have few bits
        logits = answer @ _two(weight, yes_id, no_id, answer.dtype).T
    if bias is not None:
        logits = logits + _two(bias, yes_id, no_id, answer.dtype)
    logits = logits * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def _two(rows: torch.Tensor, yes_id: int, no_id: int, dtype: torch.dtype) -> torch.Tensor:
    # indexed one by one: an index tensor would have to be copied to the device at every call
    return torch.stack([rows[yes_id], rows[no_id]]).to(dtype)


def _rows_of(zeros: torch.Tensor, two: torch.Tensor, yes_id: int, no_id: int) -> torch.Tensor:
    zeros[yes_id] += two[0]
    zeros[no_id] += two[1]
    return zeros
