"""What Triton's kernels have to get right on a device before "auto" trusts them with scores.

All inputs are small whole numbers, which every type holds and every order of additions sums exactly. So MaxSim, its
winners and its gradients must be equal to those that PyTorch computes on the CPU, to the last bit, and no tolerance
hides a wrong product. 3 queries fill a tile of 64 rows in float32 and of 128 in half precision, 1 a tile of 32; dim 96
is made up of two products.
"""

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch


def problem(device: torch.device, dtype: torch.dtype) -> str:
    """What the kernels raised there, or which of them are wrong; empty where all are right.

    Nothing around the call changes the answer. Autocast, modes, transforms such as vmap and the default device belong
    to a thread, so the proof has one of its own; random numbers and types are its own, too.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_problem, device, dtype).result()


def _problem(device: torch.device, dtype: torch.dtype) -> str:
    checks = {"maxsim": _maxsim, "pair_score": _pair_score, "token_logprob": _logprob}
    try:
        with torch.no_grad():
            wrong = [name for name, right in checks.items() if not right(device, dtype)]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a driver or a full disk has to say
        lines = str(error).strip().splitlines() or [""]
        return f"a kernel for {dtype} on {device} failed with {type(error).__name__}: {lines[0][:300]}"
    return f"{' and '.join(wrong)} in {dtype} came out wrong on {device}" if wrong else ""


class Numbers:
    """Whole numbers from -2 to 2, of a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator("cpu").manual_seed(0)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randint(-2, 3, shape, generator=self.generator, device="cpu").float()


def _modules(op: str) -> tuple[Any, Any]:
    """The Triton kernels and the fallback, imported when they are needed: the fallbacks import `backend.py`."""
    return tuple(importlib.import_module(f"rerankkit_kernels.{op}.{name}") for name in ("triton", "torch"))  # type: ignore[return-value]


def _equal(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.equal(ours.cpu(), theirs.to(ours.dtype))


def _maxsim(device: torch.device, dtype: torch.dtype) -> bool:
    triton, fallback = _modules("maxsim")
    numbers = Numbers()
    for queries, tokens, dim, masked in ((1, 32, 128, False), (3, 30, 96, False), (3, 30, 96, True)):
        q, d, grad = numbers(queries, tokens, dim), numbers(3, 130, dim), numbers(queries, 3)
        mask = numbers(3, 130) > -2 if masked else None
        winner_type = torch.int16 if queries > 1 else None
        near = q.to(device, dtype), d.to(device, dtype)
        rest = (None, None, None, 0, winner_type, "default")
        here = triton.forward(*near, None, None, None if mask is None else mask.to(device), *rest)
        there = fallback.forward(q, d, None, None, mask, *rest)
        if not all(_equal(ours, theirs) for ours, theirs in zip(here, there, strict=True)):
            return False
        if masked:
            # the right winners, since wrong ones would be read as places of any memory
            ours = triton.backward(grad.to(device), *near, there[1].to(device), None, None, None, 0, True, True)
            theirs = fallback.backward(grad, q, d, there[1], None, None, None, 0, True, True)
            if not all(_equal(*pair) for pair in zip(ours, (one.to(dtype) for one in theirs), strict=True)):
                return False
    return True


def _pair_score(device: torch.device, dtype: torch.dtype) -> bool:
    triton, fallback = _modules("pair_score")
    numbers = Numbers()
    hidden, weight, bias, positions = numbers(3, 4, 40), numbers(7, 40), numbers(7), torch.tensor([3, 0, 2])
    options = (None, 1, 5, 0.0, 1.0, None, "diff")
    near = hidden.to(device, dtype), positions.to(device), weight.to(device, dtype), bias.to(device, dtype)
    return _equal(triton.forward(*near, *options), fallback.forward(hidden, positions, weight, bias, *options))


def _logprob(device: torch.device, dtype: torch.dtype) -> bool:
    """The log-sum-exp of a block of logits, and the gradient in its place: to a few digits, as exp and log are."""
    triton, fallback = _modules("logprob")
    numbers = Numbers()
    product, outer, place = numbers(3, 1100), numbers(3, 2), torch.tensor([[0, 5], [1099, 2000], [1024, -1]])
    there = torch.full((3,), -torch.inf, dtype=torch.float32, device="cpu")
    near = there.to(device, copy=True)
    triton.add(near, product.to(device, dtype), None, 1.0, None)
    fallback.add(there, product.clone(), None, 1.0, None)  # both work in place
    right = torch.allclose(near.cpu(), there, rtol=0, atol=1e-3)
    here = (product.clone().to(device, dtype), there.to(device), outer.to(device), place.to(device))
    ours = triton.differentiate(*here, None, 1.0, None)
    theirs = fallback.differentiate(product, there, outer, place, None, 1.0, None)
    return right and torch.allclose(ours.cpu().float(), theirs, rtol=0.02, atol=1e-4)
