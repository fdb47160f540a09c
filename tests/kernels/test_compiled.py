"""The Triton kernels compiled for an A100 and an H100, with the configurations that calls choose: what ptxas made."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from ahead_of_time import SHARED, Compiled, compiled
from machine_code import hazards, instructions
from rerankkit_kernels import maxsim, maxsim_packed, pair_score, sequence_logprob

pytestmark = [pytest.mark.compiled, pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")]
HALF, SINGLE = torch.bfloat16, torch.float32


def check(kernels: list[Compiled], capability: int, pointers: int = 1) -> None:
    """Registers, stack and shared memory that fit, and no register that changes while a tensor core uses it."""
    for kernel in kernels:
        # eight bytes are a pointer that ptxas puts aside for a better occupancy, outside of the loops
        assert kernel.stack <= 8 * pointers and kernel.local == 0, f"{kernel.name} spills: {kernel}"
        assert 0 < kernel.registers <= 255
        assert kernel.shared <= SHARED[capability]
        assert not hazards(kernel.code), f"{kernel.name} touches registers of an unfinished product"


def training(call: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> Callable[[], Any]:
    return lambda: call(*(leaf.requires_grad_() for leaf in leaves)).sum().backward()


# Each a regime of its own: few rows, whole tiles, queries longer than a tile, dims that are odd, split or long.
SHAPES = [
    (90, HALF, 1, 8, 128),
    (90, HALF, 1, 32, 128),
    (90, HALF, 4, 32, 128),
    (90, HALF, 1, 1024, 128),
    (90, HALF, 4, 32, 96),
    (90, HALF, 2, 20, 100),
    (90, HALF, 1, 32, 1024),
    (90, SINGLE, 1, 32, 128),
    (90, SINGLE, 4, 32, 128),
    (90, SINGLE, 4, 32, 48),
    (90, SINGLE, 2, 20, 100),
    (80, HALF, 1, 32, 128),
    (80, HALF, 4, 32, 128),
    (80, HALF, 4, 32, 96),
    (80, HALF, 1, 32, 1024),
    (80, SINGLE, 4, 32, 128),
]


@pytest.mark.parametrize(("capability", "dtype", "nq", "lq", "dim"), SHAPES)
def test_maxsim(capability: int, dtype: torch.dtype, nq: int, lq: int, dim: int) -> None:
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(nq, lq, dim, dtype=dtype), torch.zeros(2, 300, dim, dtype=dtype)
    ranking = compiled(lambda: maxsim(q, d, backend="triton"), triton, capability)
    train = compiled(training(lambda q, d: maxsim(q, d, backend="triton"), q, d), triton, capability)
    assert [kernel.name for kernel in ranking + train] == ["forward", "forward", "backward_q", "backward_d"]
    check(ranking + train, capability)
    forward, kept, _, by_document = ranking + train
    for kernel, winners in ((forward, False), (kept, True)):
        rows, _, tokens, (warps, _) = triton.forward_tile(lq, nq, dim, dtype, winners)
        # the maximum over whole tiles and that over the last one see NaN, which the interpreter cannot show
        assert kernel.instructions["FMNMX.NAN"] >= 2 * rows * tokens // (32 * warps)
    rows, *_ = triton.forward_tile(lq, nq, dim, dtype, False)
    assert rows >= 64 or nq == 1  # short queries share a program
    wanted = "HGMMA" if capability == 90 and rows >= 64 else "HMMA"
    assert forward.has(wanted) and kept.has(wanted)
    assert by_document.has("HGMMA" if capability == 90 else "HMMA")
    # documents are copied to shared memory without passing through registers, where rows are long enough for it
    assert dim * dtype.itemsize % 16 or (forward.has("LDGSTS") and kept.has("LDGSTS"))


@pytest.mark.parametrize(("capability", "dtype"), [(80, HALF), (90, HALF), (90, SINGLE)])
def test_winners_of_several_documents_are_read_at_once(capability: int, dtype: torch.dtype) -> None:
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(4, 32, 128, dtype=dtype), torch.zeros(2, 300, 128, dtype=dtype)
    train = compiled(training(lambda q, d: maxsim(q, d, backend="triton"), q, d), triton, capability)
    names = [one.name for one in instructions(train[1].code)[0] if one.name.startswith("LDG.E.")]
    rows = [place for place, name in enumerate(names) if name == "LDG.E.128"]
    # 4 loads are the winners of one document, of which a row is read for each
    assert names[: rows[2]].count("LDG.E.U16") >= 12


@pytest.mark.parametrize(("capability", "dtype", "nq", "lq", "dim"), SHAPES[::2])
def test_int8_documents(capability: int, dtype: torch.dtype, nq: int, lq: int, dim: int) -> None:
    from rerankkit_kernels.maxsim import triton

    q, rows, scale = (
        torch.zeros(nq, lq, dim, dtype=dtype),
        torch.zeros(2, 300, dim, dtype=torch.int8),
        torch.ones(2, 300),
    )
    (kernel,) = compiled(lambda: maxsim(q, rows, d_scale=scale, backend="triton"), triton, capability)
    check([kernel], capability, pointers=3 if dim > 256 else 1)
    (whole,) = compiled(lambda: maxsim(q, rows.to(dtype), backend="triton"), triton, capability)
    # rows come to shared memory as they are, and become floats on the way to the tensor cores
    assert dim % 16 or kernel.shared < whole.shared
    assert dim % 16 or kernel.has("LDGSTS")
    tensor_cores = [name for name in ("HGMMA", "HMMA") if whole.has(name)]
    assert tensor_cores and all(kernel.has(name) for name in tensor_cores)
    assert not kernel.has("IMMA") and not kernel.has("IGMMA")


@pytest.mark.parametrize(
    ("capability", "dtype", "dim", "masked", "bytes_aside"),
    [(80, HALF, 256, False, 0), (80, HALF, 100, True, 32), (120, HALF, 96, True, 104), (120, HALF, 256, False, 88)],
)
def test_what_odd_sizes_put_aside(
    capability: int, dtype: torch.dtype, dim: int, masked: bool, bytes_aside: int
) -> None:
    """Rows that are long or no whole number of parts cost registers, most on capability 12.0, which has no HGMMA."""
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(4, 32, dim, dtype=dtype), torch.zeros(2, 300, dim, dtype=dtype)
    mask = torch.ones(2, 300, dtype=torch.bool) if masked else None
    kernels = compiled(lambda: maxsim(q, d, d_mask=mask, backend="triton"), triton, capability)
    check(kernels, capability, pointers=bytes_aside // 8)


@pytest.mark.parametrize("dtype", [HALF, SINGLE])
def test_a_wait_that_is_missing_is_found(dtype: torch.dtype) -> None:
    """Without any of the waits for HGMMA, and in half precision without one of them."""
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(4, 32, 128, dtype=dtype), torch.zeros(2, 300, 128, dtype=dtype)
    (kernel,) = compiled(lambda: maxsim(q, d, backend="triton"), triton, 90)
    lines = kernel.code.splitlines()
    waits = [place for place, line in enumerate(lines) if "WARPGROUP.DEPBAR" in line]
    assert waits and not hazards(kernel.code)
    for missing in (waits, waits[:1], waits[-1:]):
        assert hazards("\n".join(line for place, line in enumerate(lines) if place not in missing))


@pytest.mark.parametrize(
    ("layout", "dtype", "capability"),
    [("cross", HALF, 90), ("cross", SINGLE, 80), ("grouped", HALF, 80), ("pairs", HALF, 90)],
)
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


@pytest.mark.parametrize(("listed", "capability"), [("cross", 90), ("own", 80), ("pairs", 90)])
def test_maxsim_packed(listed: str, capability: int) -> None:
    from rerankkit_kernels.maxsim import triton

    pairs: dict[str, Any] = {}
    if listed != "cross":
        pairs = {"pair_q": torch.zeros(2, dtype=torch.long)}
    if listed == "pairs":
        pairs["pair_d"] = torch.zeros(2, dtype=torch.int32)
    bounds = torch.tensor([0, 100, 300], dtype=torch.int32)
    q, d = torch.zeros(4, 32, 128, dtype=HALF), torch.zeros(300, 128, dtype=HALF)
    int8 = {"d_scale": torch.ones(300), "backend": "triton", **pairs}
    ranking = compiled(lambda: maxsim_packed(q, d.to(torch.int8), bounds, **int8), triton, capability)
    call = training(lambda q, d: maxsim_packed(q, d, bounds, backend="triton", **pairs), q, d)
    check(ranking + compiled(call, triton, capability), capability)


def test_highest_precision_is_no_tensor_core() -> None:
    from rerankkit_kernels.maxsim import triton

    q, d = torch.zeros(4, 32, 128), torch.zeros(2, 300, 128)
    (kernel,) = compiled(lambda: maxsim(q, d, precision="highest", backend="triton"), triton, 90)
    assert not kernel.has("HGMMA") and not kernel.has("HMMA") and kernel.has("FFMA")
    train = compiled(training(lambda q, d: maxsim(q, d, precision="highest", backend="triton"), q, d), triton, 90)
    assert [kernel.has("HGMMA") for kernel in train] == [False, False, True]  # gradients are sums of rows


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("mode", ["diff", "pair_logprob"])
def test_pair_score(mode: str, capability: int) -> None:
    from rerankkit_kernels.pair_score import triton

    options: dict[str, Any] = (
        {"softcap": 2.0, "norm": torch.zeros(1024)} if mode == "diff" else {"bias": torch.zeros(99)}
    )
    hidden, weight = torch.zeros(2, 4, 1024, dtype=HALF), torch.zeros(99, 1024, dtype=HALF)
    call = compiled(
        lambda: pair_score(
            hidden, weight, 3, 7, positions=torch.zeros(2, dtype=torch.long), mode=mode, backend="triton", **options
        ),
        triton,
        capability,
    )
    check(call, capability)
    assert [kernel.name for kernel in call] == ["_forward"] and call[0].has("LDG.E.128")


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_logprob(softcap: float | None, capability: int) -> None:
    from rerankkit_kernels.logprob import triton

    hidden, weight = torch.zeros(1, 2, 16, dtype=HALF), torch.zeros(64, 16, dtype=HALF)
    targets = torch.zeros(1, 2, dtype=torch.long)
    call = training(lambda hidden: sequence_logprob(hidden, weight, targets, softcap=softcap, backend="triton"), hidden)
    kernels = compiled(call, triton, capability)
    check(kernels, capability)
    assert [kernel.name for kernel in kernels] == ["_add", "_differentiate"]
    assert all(kernel.has("LDG.E.128") for kernel in kernels)  # the vocabulary is a multiple of 16
    odd = compiled(
        lambda: sequence_logprob(hidden.detach(), weight[:63], targets, backend="triton"), triton, capability
    )
    check(odd, capability)
    assert not odd[0].has("LDG.E.128")
