"""The library that the ops are registered in, `torch.ops.rerankkit`."""

from typing import Any

import torch

LIBRARY = torch.library.Library("rerankkit", "DEF")


def refuse_second_derivative(backward: str) -> None:
    """A gradient of this op's gradient is an error rather than silently zero."""

    def refuse(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(f"{backward} is not differentiable: the ops have first derivatives alone")

    torch.library.register_autograd(f"rerankkit::{backward}", refuse, setup_context=None, lib=LIBRARY)


def check_device(tensors: dict[str, torch.Tensor | None]) -> None:
    """Raises ValueError unless all of a call's tensors, by the names of its arguments, are on one device."""
    given = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    (first, device), *others = given.items()
    for name, other in others:
        if other != device:
            raise ValueError(f"{first} is on {device} and {name} on {other}: move them to one device")


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether a compiler, or tensors without numbers such as a FakeTensorMode's, stand in for the device."""
    return torch.compiler.is_compiling() or type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_meta


def nobody_watches(*tensors: torch.Tensor | None) -> bool:
    """Whether neither autograd nor a compiler has to see the call, which as an operator takes 15 to 35 µs more."""
    if any(tensor is not None and is_traced(tensor) for tensor in tensors):
        return False
    return not torch.is_grad_enabled() or not any(tensor is not None and tensor.requires_grad for tensor in tensors)
