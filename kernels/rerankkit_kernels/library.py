"""The library that the ops are registered in, `torch.ops.rerankkit`."""

from typing import Any

import torch

LIBRARY = torch.library.Library("rerankkit", "DEF")


def refuse_second_derivative(backward: str) -> None:
    """A gradient of this op's gradient is an error rather than silently zero."""

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(f"{backward} is not differentiable: the ops have first derivatives alone")

    torch.library.register_autograd(f"rerankkit::{backward}", refuse, setup_context=None, lib=LIBRARY)


def nobody_watches(*tensors: torch.Tensor | None) -> bool:
    """Whether neither autograd nor a compiler has to see the call, which as an operator takes 15 to 35 µs more."""
    if torch.compiler.is_compiling():
        return False
    return not torch.is_grad_enabled() or not any(tensor is not None and tensor.requires_grad for tensor in tensors)
