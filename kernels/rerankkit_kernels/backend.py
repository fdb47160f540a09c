"""Which backend runs an op, and what the backends share."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from functools import cache

import torch

BACKENDS = ("auto", "triton", "torch")
VARIABLE = "RERANKKIT_KERNELS"
"""Environment variable that says what "auto" means."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton decides when it is imported, too."""
logger = logging.getLogger(__name__)


def uses_triton(backend: str, tensor: torch.Tensor) -> bool:
    """Whether this tensor's op runs as Triton kernels.

    Args:
        backend: "torch" · "triton", an error where it cannot run · "auto": what RERANKKIT_KERNELS says, otherwise
            Triton where it can run on a GPU.
    """
    if backend == "auto":
        backend = os.environ.get(VARIABLE) or "auto"
    if backend == "torch":
        return False
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is none of {', '.join(BACKENDS)} (argument, or variable {VARIABLE})")
    if backend == "auto" and tensor.device.type == "cpu":
        return False
    problem = _problem(tensor.device, tensor.dtype)
    if problem and backend == "triton":
        raise RuntimeError(f"backend 'triton' cannot run: {problem}. Use 'auto' or 'torch'.")
    return not problem


@cache
def _problem(device: torch.device, dtype: torch.dtype) -> str:
    """Why Triton cannot run, said once to the log; empty where it can."""
    problem = ""
    if importlib.util.find_spec("triton") is None:
        problem = "it is not installed (pip install triton)"
    elif dtype not in (torch.float32, torch.bfloat16, torch.float16):
        problem = f"no kernel takes {dtype}"
    elif device.type == "cpu" and INTERPRETED:
        pass
    elif device.type != "cuda" or torch.version.hip:
        problem = f"the tensors are on {device}, not on an NVIDIA GPU"
    elif torch.cuda.get_device_capability(device) < (8, 0):
        problem = f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    if problem:
        logger.info("kernels run in PyTorch rather than Triton: %s", problem)
    return problem


@cache
def multiplies_bf16(device: str) -> bool:
    """Whether the hardware does; otherwise a product in float32 is both faster and better."""
    if device != "cpu":
        return True
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def steps(total: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    for first in range(0, total, step):
        yield slice(first, min(first + step, total))
