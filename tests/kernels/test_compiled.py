"""The Triton kernels compiled for an A100 and an H100, with the configurations that calls choose: what ptxas made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ahead_of_time import SHARED, Compiled, compiled
from rerankkit_kernels import maxsim, maxsim_packed

pytest.importorskip("triton")
pytestmark = pytest.mark.compiled
HALF, SINGLE = torch.bfloat16, torch.float32


def check(kernels: list[Compiled], capability: int) -> None:
    for kernel in kernels:
        assert kernel.stack == 0 and kernel.local == 0, f"{kernel.name} spills: {kernel}"
        assert 0 < kernel.registers <= 255
        assert kernel.shared <= SHARED[capability]


def training(call: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> Callable[[], Any]:
    return lambda: call(*(leaf.requires_grad_() for leaf in leaves)).sum().backward()


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=["half", "single"])
@pytest.mark.parametrize(
    ("nq", "lq", "dim"),
    [(1, 8, 128), (1, 32, 128), (4, 32, 128), (1, 1024, 128), (4, 32, 96), (2, 20, 100), (1, 32, 1024), (2, 1, 3)],
)
def test_maxsim(nq: int, lq: int, dim: int, dtype: torch.dtype, capability: int) -> None:
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(nq, lq, dim, dtype=dtype), torch.zeros(2, 300, dim, dtype=dtype)
    ranking = compiled(lambda: maxsim(q, d, backend="triton"), triton, capability)
    train = compiled(training(lambda q, d: maxsim(q, d, backend="triton"), q, d), triton, capability)
    assert [kernel.name for kernel in ranking + train] == ["_forward", "_forward", "_backward_q", "_backward_d"]
    check(ranking + train, capability)
    forward, kept, _, by_document = ranking + train
    rows, *_ = triton.forward_tile(lq, nq, dim, dtype, False)
    wanted = "HGMMA" if capability == 90 and rows >= 64 else "HMMA"
    assert forward.has(wanted) and kept.has(wanted)
    assert by_document.has("HGMMA" if capability == 90 else "HMMA")
    # documents are copied to shared memory without passing through registers, where rows are long enough for it
    assert dim * dtype.itemsize % 16 or (forward.has("LDGSTS") and kept.has("LDGSTS"))


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=["half", "single"])
@pytest.mark.parametrize("layout", ["cross", "grouped", "pairs"])
def test_maxsim_with_masks(layout: str, dtype: torch.dtype, capability: int) -> None:
    from rerankkit_kernels.maxsim import triton

    shape = (4, 2, 300) if layout == "grouped" else (4, 300)
    masks = torch.ones(4, 32, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    call = training(
        lambda q, d: maxsim(q, d, *masks, layout=layout, backend="triton"),
        torch.zeros(4, 32, 128, dtype=dtype),
        torch.zeros(*shape, 128, dtype=dtype),
    )
    check(compiled(call, triton, capability), capability)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("listed", ["cross", "own", "pairs"])
def test_maxsim_packed(listed: str, capability: int) -> None:
    from rerankkit_kernels.maxsim import triton

    pairs: dict[str, Any] = {}
    if listed != "cross":
        pairs = {"pair_q": torch.zeros(2, dtype=torch.long)}
    if listed == "pairs":
        pairs["pair_d"] = torch.zeros(2, dtype=torch.int32)
    bounds = torch.tensor([0, 100, 300], dtype=torch.int32)
    call = training(
        lambda q, d: maxsim_packed(q, d, bounds, backend="triton", **pairs),
        torch.zeros(4, 32, 128, dtype=HALF),
        torch.zeros(300, 128, dtype=HALF),
    )
    check(compiled(call, triton, capability), capability)


def test_highest_precision_is_no_tensor_core() -> None:
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(4, 32, 128), torch.zeros(2, 300, 128)
    (kernel,) = compiled(lambda: maxsim(q, d, precision="highest", backend="triton"), triton, 90)
    assert not kernel.has("HGMMA") and not kernel.has("HMMA") and kernel.has("FFMA")
