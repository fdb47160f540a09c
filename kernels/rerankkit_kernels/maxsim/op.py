"""MaxSim as two operators that torch.compile knows: `rerankkit::maxsim_forward` and `rerankkit::maxsim_backward`."""

from typing import Any

import torch

from rerankkit_kernels.backend import uses_triton
from rerankkit_kernels.library import LIBRARY, refuse_second_derivative
from rerankkit_kernels.maxsim import torch as fallback

DOCUMENTS = "Tensor? cu_seqlens, Tensor? pair_q, Tensor? pair_d, SymInt group"
LIBRARY.define(
    f"maxsim_forward(Tensor q, Tensor d, Tensor? d_scale, Tensor? q_mask, Tensor? d_mask, {DOCUMENTS}, "
    "ScalarType? winner_type, str precision, str backend) -> (Tensor, Tensor)"
)
LIBRARY.define(
    f"maxsim_backward(Tensor grad, Tensor q, Tensor d, Tensor winners, {DOCUMENTS}, "
    "bool needs_q, bool needs_d, str backend) -> (Tensor, Tensor)"
)


def _backend(name: str, q: torch.Tensor) -> Any:
    """The module that runs it."""
    if not uses_triton(name, q):
        return fallback
    from rerankkit_kernels.maxsim import triton

    return triton


def run_forward(q: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _backend(rest[-1], q).forward(q, *rest[:-1])


def _run_backward(grad: torch.Tensor, q: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _backend(rest[-1], q).backward(grad, q, *rest[:-1])


LIBRARY.impl("maxsim_forward", run_forward, "CompositeExplicitAutograd")
LIBRARY.impl("maxsim_backward", _run_backward, "CompositeExplicitAutograd")


@torch.library.register_fake("rerankkit::maxsim_forward", lib=LIBRARY)
def _forward(
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
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    if pair_q is not None:
        across, count = 1, pair_q.shape[0]
    else:
        across = 1 if group else q.shape[0]
        count = d.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    scores = q.new_empty(across, count, dtype=torch.promote_types(q.dtype, torch.float32))
    kept = (count, across, q.shape[1]) if winner_type else (0,)
    return scores, q.new_empty(kept, dtype=winner_type or torch.int32)


@torch.library.register_fake("rerankkit::maxsim_backward", lib=LIBRARY)
def _backward(
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
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape if needs_q else (0,)), d.new_empty(d.shape if needs_d else (0,))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, d, d_scale, _, _, cu_seqlens, pair_q, pair_d, ctx.group, _, _, ctx.backend = inputs
    if d_scale is not None:
        raise NotImplementedError(
            "int8 documents have no gradients: score them under torch.no_grad(), or train on floats"
        )
    ctx.save_for_backward(q, d, output[1], cu_seqlens, pair_q, pair_d)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: torch.Tensor | None, _: None) -> tuple[torch.Tensor | None, ...]:
    needs_q, needs_d, *rest = ctx.needs_input_grad
    if grad is None:
        return (None,) * (2 + len(rest))
    q, d, winners, cu_seqlens, pair_q, pair_d = ctx.saved_tensors
    grad_q, grad_d = torch.ops.rerankkit.maxsim_backward(
        grad, q, d, winners, cu_seqlens, pair_q, pair_d, ctx.group, needs_q, needs_d, ctx.backend
    )
    return (grad_q if needs_q else None, grad_d if needs_d else None, *[None] * len(rest))


torch.library.register_autograd("rerankkit::maxsim_forward", _differentiate, setup_context=_keep, lib=LIBRARY)
refuse_second_derivative("maxsim_backward")
