"""`pair_score` as two operators that torch.compile knows."""

from typing import Any

import torch

from rerankkit_kernels.backend import uses_triton
from rerankkit_kernels.library import LIBRARY, refuse_second_derivative
from rerankkit_kernels.pair_score import torch as fallback

INPUTS = "Tensor hidden, Tensor positions, Tensor weight, Tensor? bias, Tensor? norm"
OPTIONS = "int yes_id, int no_id, float norm_eps, float scale, float? softcap, str mode, str backend"
LIBRARY.define(f"pair_score_forward({INPUTS}, {OPTIONS}) -> Tensor")
LIBRARY.define(
    f"pair_score_backward(Tensor grad, {INPUTS}, {OPTIONS}, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor)"
)


def run_forward(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
    if not uses_triton(rest[-1], hidden):
        return fallback.forward(hidden, *rest[:-1])
    from rerankkit_kernels.pair_score import triton

    return triton.forward(hidden, *rest[:-1])


def _run_backward(grad: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    inputs = (*rest[:-2], rest[-1])  # the backend aside: README.md counts what a kernel would save
    return fallback.backward(grad, *inputs)


LIBRARY.impl("pair_score_forward", run_forward, "CompositeExplicitAutograd")
LIBRARY.impl("pair_score_backward", _run_backward, "CompositeExplicitAutograd")


@torch.library.register_fake("rerankkit::pair_score_forward", lib=LIBRARY)
def _forward(hidden: torch.Tensor, positions: torch.Tensor, *_: Any) -> torch.Tensor:
    return hidden.new_empty(positions.shape[0], dtype=torch.promote_types(hidden.dtype, torch.float32))


@torch.library.register_fake("rerankkit::pair_score_backward", lib=LIBRARY)
def _backward(grad: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, ...]:
    hidden, _, weight, bias, norm, *_, needs = inputs
    return tuple(
        torch.empty_like(one) if one is not None and (needed or one is norm) else grad.new_empty(0)
        for one, needed in zip((hidden, weight, bias, norm), needs, strict=True)
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.options = inputs[5:]


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    needs = [ctx.needs_input_grad[place] for place in (0, 2, 3, 4)]
    found = torch.ops.rerankkit.pair_score_backward(grad, *ctx.saved_tensors, *ctx.options, needs)
    by_hidden, *rest = [one if needed else None for one, needed in zip(found, needs, strict=True)]
    return (by_hidden, None, *rest, *[None] * len(ctx.options))


torch.library.register_autograd("rerankkit::pair_score_forward", _differentiate, setup_context=_keep, lib=LIBRARY)
refuse_second_derivative("pair_score_backward")
