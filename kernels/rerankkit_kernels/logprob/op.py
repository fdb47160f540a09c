"""Log-probabilities as two operators that torch.compile knows."""

from typing import Any

import torch

from rerankkit_kernels.backend import uses_triton
from rerankkit_kernels.library import LIBRARY, refuse_second_derivative
from rerankkit_kernels.logprob import torch as fallback

INPUTS = "Tensor hidden, Tensor weight, Tensor ids, Tensor? bias, Tensor? mask"
OPTIONS = "float scale, float? softcap, str backend"
LIBRARY.define(f"logprob_forward({INPUTS}, {OPTIONS}, bool at_once) -> (Tensor, Tensor, Tensor)")
LIBRARY.define(
    f"logprob_backward(Tensor grad, {INPUTS}, Tensor totals, Tensor slopes, {OPTIONS}, bool[] needs) "
    "-> (Tensor, Tensor, Tensor)"
)


def _block(backend: str, hidden: torch.Tensor) -> Any:
    """The module that reads blocks of logits; the products are cuBLAS's either way."""
    if not uses_triton(backend, hidden):
        return fallback
    from rerankkit_kernels.logprob import triton

    return triton


def run_forward(hidden: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    *inputs, backend, at_once = rest
    block = _block(backend, hidden)
    if at_once:
        return fallback.forward_with_slopes(hidden, *inputs)
    inputs.append(block.add)
    return (*fallback.forward(hidden, *inputs), hidden.new_empty(0))


def _run_backward(grad: torch.Tensor, hidden: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    weight, ids, bias, mask, totals, slopes, *options, backend, needs = rest
    if slopes.numel() and needs == [True, False, False]:
        return (grad * slopes).to(hidden.dtype), grad.new_empty(0), grad.new_empty(0)
    inputs = (weight, ids, bias, mask, totals, *options, needs, _block(backend, hidden).differentiate)
    return fallback.backward(grad, hidden, *inputs)


LIBRARY.impl("logprob_forward", run_forward, "CompositeExplicitAutograd")
LIBRARY.impl("logprob_backward", _run_backward, "CompositeExplicitAutograd")


@torch.library.register_fake("rerankkit::logprob_forward", lib=LIBRARY)
def _forward(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    slopes = torch.empty_like(hidden) if rest[-1] else hidden.new_empty(0)
    return hidden.new_empty(ids.shape, dtype=wide), hidden.new_empty(hidden.shape[0], dtype=wide), slopes


@torch.library.register_fake("rerankkit::logprob_backward", lib=LIBRARY)
def _backward(grad: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, ...]:
    hidden, weight, _, bias, *_, needs = inputs
    return tuple(
        torch.empty_like(one) if needed and one is not None else grad.new_empty(0)
        for one, needed in zip((hidden, weight, bias), needs, strict=True)
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.options = inputs[5:8]


def _differentiate(ctx: Any, grad: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    needs = [ctx.needs_input_grad[place] for place in (0, 1, 3)]
    found = torch.ops.rerankkit.logprob_backward(grad, *ctx.saved_tensors, *ctx.options, needs)
    by_hidden, by_weight, by_bias = [one if needed else None for one, needed in zip(found, needs, strict=True)]
    return by_hidden, by_weight, None, by_bias, *[None] * 5


torch.library.register_autograd("rerankkit::logprob_forward", _differentiate, setup_context=_keep, lib=LIBRARY)
refuse_second_derivative("logprob_backward")
