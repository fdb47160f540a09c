"""Which backend runs an op, and what the backends share."""

import importlib.metadata
import importlib.util
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from functools import cache

import torch

from rerankkit_kernels import proof

BACKENDS = ("auto", "triton", "torch")
VARIABLE = "RERANKKIT_KERNELS"
"""Environment variable that says what "auto" means."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton decides when it is imported, too."""
PROVEN_ON = ("cuda",)
"""Devices on which "auto" considers Triton."""
CHAINED = (3, 8)
"""Triton that is not reported to miscompile two products into one accumulator on capability 10.x, as dim 96 has them:
3.6.0 and 3.7.1 do (triton#10821). The proof holds later ones to it."""
logger = logging.getLogger(__name__)
_proofs: dict[tuple[torch.device, torch.dtype], str] = {}
_said: set[str] = set()
_lock = threading.RLock()


def uses_triton(backend: str, tensor: torch.Tensor) -> bool:
    """Whether this tensor's op runs as Triton kernels.

    Args:
        backend: "torch" · "triton", an error where it cannot run · "auto": what RERANKKIT_KERNELS says, otherwise
            Triton where it can run on a GPU and has proven itself there.
    """
    if backend == "auto":
        backend = configured()
    if backend == "torch":
        return False
    if backend == "auto":
        return not why_torch(tensor.device, tensor.dtype)
    if backend != "triton":
        raise ValueError(f"backend {backend!r} is none of {', '.join(BACKENDS)} (argument, or variable {VARIABLE})")
    problem = _problem(tensor.device, tensor.dtype)
    if problem:
        _say(problem)
        raise RuntimeError(f"backend 'triton' cannot run: {problem}. Use 'auto' or 'torch'.")
    return True


def configured() -> str:
    """What "auto" means: itself, or what the variable says."""
    return os.environ.get(VARIABLE) or "auto"


def why_torch(device: torch.device, dtype: torch.dtype) -> str:
    """Why "auto" takes PyTorch, said once to the log; empty where it takes Triton.

    The first call for a device and a type has the kernels prove themselves, which takes seconds where they have to be
    compiled. Other threads wait for it. Call it with real tensors alone: a compiler's have nothing to prove.
    """
    problem = _problem(device, dtype)
    if not problem and device.type not in PROVEN_ON:
        problem = _elsewhere(device)
    if problem:
        _say(problem)
        return problem
    key = (device, dtype)
    if key in _proofs:
        return _proofs[key]
    if _is_captured(device):  # the proof has to wait for the device, which a capture forbids
        problem = "a CUDA graph is captured before they have proven themselves; call the op once before the capture"
        _say(problem, logging.WARNING)
        return problem
    with _lock:
        if key not in _proofs:
            try:
                _proofs[key] = proof.problem(device, dtype)
            except torch.OutOfMemoryError:  # says nothing about the kernels, so the next call asks again
                return "there was no memory to prove them in"
            if _proofs[key]:
                _say(_proofs[key], logging.WARNING)
        return _proofs[key]


def forget() -> None:
    """Forget what was proven and said, as at the start of a process."""
    _proofs.clear()
    _said.clear()
    _problem.cache_clear()


@cache
def _problem(device: torch.device, dtype: torch.dtype) -> str:
    """Why Triton cannot run, as far as can be told without running it; empty where nothing speaks against it."""
    if device.type == "cuda" and not torch.version.hip:
        capability = torch.cuda.get_device_capability(device)
        if capability < (8, 0):
            return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    elif not (device.type == "cpu" and INTERPRETED):
        return _elsewhere(device)
    if importlib.util.find_spec("triton") is None:
        return "it is not installed (pip install triton)"
    if device.type == "cuda" and capability[0] == 10 and _triton_version() < CHAINED:
        name = torch.cuda.get_device_name(device)
        return f"Triton before {CHAINED[0]}.{CHAINED[1]} adds up products wrongly on {name} (capability 10.x)"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"no kernel takes {dtype}"
    return ""


def _is_captured(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _elsewhere(device: torch.device) -> str:
    which = "an AMD GPU" if device.type == "cuda" and torch.version.hip else str(device)
    return f"the tensors are on {which}, not on an NVIDIA GPU"


def _triton_version() -> tuple[int, ...]:
    """Major and minor number; nothing where a build under another name, such as pytorch-triton, does not tell."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", importlib.metadata.version("triton"))[:2])
    except importlib.metadata.PackageNotFoundError:
        return ()


def _say(problem: str, level: int = logging.INFO) -> None:
    with _lock:
        if problem not in _said:
            _said.add(problem)
            logger.log(level, "kernels run in PyTorch rather than Triton: %s", problem)


def _renew_lock() -> None:
    """In the child of a fork, where the thread that held the lock does not exist."""
    global _lock
    _lock = threading.RLock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_renew_lock)


@cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware does; otherwise a product in float32 is both faster and better."""
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda" and not torch.version.hip:
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return True


def steps(total: int, step: int) -> Iterator[slice]:
    step = max(1, step)
    for first in range(0, total, step):
        yield slice(first, min(first + step, total))
