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


def whole(name: str, given: torch.Tensor, axes: int = 1) -> torch.Tensor:
    """Places, bounds or tokens as int32 or int64; raises ValueError unless they are whole numbers on so many axes.

    PyTorch takes uint8 and bool for masks, and bounds of floats would be cut off.
    """
    if given.dtype == torch.bool or given.is_floating_point() or given.is_complex():
        raise ValueError(f"{name} must be int32 or int64, not {given.dtype}")
    if given.ndim != axes:
        raise ValueError(f"{name} must have {axes} axis{'es' * (axes > 1)}, not the shape {tuple(given.shape)}")
    return given if given.dtype in (torch.int32, torch.int64) else given.long()


def check_output_layer(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, softcap: float | None
) -> None:
    """Raises ValueError unless the output layer fits the hidden states: a kernel would read past its end."""
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"weight must be [vocabulary, {hidden.shape[-1]}], as hidden is wide, not {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be {tuple(weight.shape[:1])}, one for each row of weight, not {tuple(bias.shape)}")
    if softcap is not None and softcap == 0:
        raise ValueError("softcap 0 makes every logit 0; None is none")


def check_mask(name: str, mask: torch.Tensor | None) -> None:
    """Raises ValueError where a mask is of floats: one that is added to scores has 0 on the tokens that count."""
    if mask is not None and mask.is_floating_point():
        raise ValueError(f"{name} is True or 1 on the tokens that count; one of floats could mean the opposite")


def is_traced(tensor: torch.Tensor) -> bool:
    """Whether a compiler, or tensors without numbers such as a FakeTensorMode's, stand in for the device."""
    return torch.compiler.is_compiling() or type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_meta


def nobody_watches(*tensors: torch.Tensor | None) -> bool:
    """Whether neither autograd nor a compiler has to see the call, which as an operator takes 15 to 35 µs more."""
    if any(tensor is not None and is_traced(tensor) for tensor in tensors):
        return False
    return not torch.is_grad_enabled() or not any(tensor is not None and tensor.requires_grad for tensor in tensors)
