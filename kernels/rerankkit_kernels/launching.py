"""How Triton kernels are launched. The tests for compiling ahead of time stand in for `launch`."""

from typing import Any

import torch


def packed(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """One element after another, as the kernels read vectors: a column of a table is none."""
    return None if tensor is None else tensor.contiguous()


def launch(kernel: Any, grid: tuple[int, ...], arguments: dict[str, Any], warps: int, stages: int) -> None:
    """Runs a kernel on the device of its tensors, which need not be the current one."""
    first = next(value for value in arguments.values() if isinstance(value, torch.Tensor))
    with torch.cuda.device_of(first):
        kernel[grid](**arguments, num_warps=warps, num_stages=stages, enable_fp_fusion=True)
