"""What users call: every shape becomes rows of hidden states, and one call of the op."""

import torch

from rerankkit_kernels.backend import uses_triton
from rerankkit_kernels.library import check_device, check_mask, check_output_layer, is_traced, whole
from rerankkit_kernels.logprob import op  # noqa: F401  registers it

REDUCTIONS = ("sum", "mean", "none")


def token_logprob(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    ids: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Log-probabilities of some tokens over the whole vocabulary; `reference.py` says what they are.

    Args:
        hidden: Final hidden states, after the last norm. [..., width]
        weight: The output layer. [vocabulary, width]
        ids: Tokens that could follow each hidden state. [..., k]
        bias: Of the output layer. [vocabulary]
        backend: "auto", "triton" or "torch"; see `backend.py`.

    Returns:
        [..., k], float32 whatever the inputs are (float64 stays).
    """
    check_device({"hidden": hidden, "weight": weight, "ids": ids, "bias": bias})
    if ids.shape[:-1] != hidden.shape[:-1]:
        raise ValueError(f"ids must be {[*hidden.shape[:-1], 'k']}, not {list(ids.shape)}")
    check_output_layer(hidden, weight, bias, softcap)
    ids = whole("ids", ids, hidden.ndim)
    rows = hidden.reshape(-1, hidden.shape[-1])
    tokens = ids.reshape(rows.shape[0], ids.shape[-1])
    found = torch.ops.rerankkit.logprob_forward(rows, weight, tokens, bias, None, scale, softcap, backend, False)[0]
    return found.view(ids.shape)


def sequence_logprob(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    reduction: str = "sum",
    bias: torch.Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    backend: str = "auto",
) -> torch.Tensor:
    """Log-likelihood of each sequence's targets, where the mask is True; only there are logits computed.

    Args:
        hidden: Final hidden states, after the last norm: [rows, length, width], or packed [tokens, width].
        weight: The output layer. [vocabulary, width]
        targets: The token that follows each hidden state: the input's, moved by one. `hidden` without width
        mask: Which targets count, such as the query's after a document. `hidden` without width
        cu_seqlens: Where packed sequences begin, and the end of the last. Bounds that do not fit are an error on a CPU,
            and NaN on a GPU, which is not asked. [rows + 1]
        reduction: "sum" or "mean" over a sequence's targets that count (0 where none does) · "none" each by itself.
        bias: Of the output layer. [vocabulary]
        backend: "auto", "triton" or "torch"; see `backend.py`.

    Returns:
        [rows], or with reduction "none" the shape of `targets`: float32 whatever the inputs are (float64 stays).
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is none of {', '.join(REDUCTIONS)}")
    sequences = {"targets": targets, "mask": mask, "cu_seqlens": cu_seqlens}
    check_device({"hidden": hidden, "weight": weight, **sequences, "bias": bias})
    if hidden.ndim != (3 if cu_seqlens is None else 2):
        raise ValueError(f"hidden {tuple(hidden.shape)} must be [rows, length, width], or [tokens, width] if packed")
    for name, given in (("targets", targets), ("mask", mask)):
        if given is not None and given.shape != hidden.shape[:-1]:
            raise ValueError(f"{name} must be {tuple(hidden.shape[:-1])}, not {tuple(given.shape)}")
    check_output_layer(hidden, weight, bias, softcap)
    check_mask("mask", mask)
    targets = whole("targets", targets, hidden.ndim - 1)
    if cu_seqlens is not None:
        cu_seqlens = whole("cu_seqlens", cu_seqlens)
        _check_bounds(cu_seqlens, hidden)
    rows, real = hidden.reshape(-1, hidden.shape[-1]), None if mask is None else mask.bool()
    flat = None if real is None else real.reshape(-1)
    frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
    at_once = frozen and hidden.requires_grad and torch.is_grad_enabled() and _in_torch(hidden, backend)
    found = torch.ops.rerankkit.logprob_forward(
        rows, weight, targets.reshape(-1, 1), bias, flat, scale, softcap, backend, at_once
    )
    each = found[0].view(targets.shape)
    if reduction == "none":
        return each
    total = _sum(each, cu_seqlens)
    if reduction == "mean":
        total = total / _sum(torch.ones_like(each) if real is None else real, cu_seqlens).clamp(min=1)
    return total.to(each.dtype)


def _in_torch(hidden: torch.Tensor, backend: str) -> bool:
    """Whether PyTorch reads the logits, whose forward pass can make the gradients. Either way is right anywhere."""
    if is_traced(hidden):  # a compiler is answered without asking a device
        return hidden.device.type == "cpu" and backend != "triton"
    return not uses_triton(backend, hidden)


def _check_bounds(cu_seqlens: torch.Tensor, hidden: torch.Tensor) -> None:
    """Raises ValueError where a CPU can see that sequences would be read from elsewhere."""
    if is_traced(cu_seqlens) or is_traced(hidden) or cu_seqlens.device.type != "cpu" or not cu_seqlens.shape[0]:
        return
    first, last, tokens = int(cu_seqlens[0]), int(cu_seqlens[-1]), hidden.shape[0]
    if first < 0 or last > tokens or (cu_seqlens.diff() < 0).any():
        raise ValueError(f"cu_seqlens must rise from 0 or more to at most {tokens}, the tokens of hidden")


def _sum(each: torch.Tensor, cu_seqlens: torch.Tensor | None) -> torch.Tensor:
    """In float64: adding up a hundred tokens in float32 was seen to lose more than the model before it."""
    wide = each.float() if each.device.type == "mps" else each.double()  # Apple's GPUs have no float64
    if cu_seqlens is None:
        return wide.sum(1)
    bounds = cu_seqlens.long()
    # what a GPU was not asked about must not be read from elsewhere either
    inside = bounds.clamp(0, each.shape[0]).cummax(0).values
    lengths = torch.cat([inside[:1], inside.diff()])  # the first segment is what lies before all sequences
    total = torch.segment_reduce(wide, "sum", lengths=lengths, unsafe=True)[1:]
    wrong = inside != bounds
    return total.masked_fill(wrong[1:] | wrong[:-1], torch.nan)
