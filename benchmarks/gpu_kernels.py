"""Checks the Triton kernels on a GPU against float64, then times them, then prints tables to keep.

    python benchmarks/gpu_kernels.py              # all of it; a few minutes, most of them compiling
    python benchmarks/gpu_kernels.py --check      # parity alone
    TRITON_INTERPRET=1 python benchmarks/gpu_kernels.py --dry-run     # tiny sizes without a GPU, to see that it runs

Beside ours: a plain einsum, and the packages late-interaction-kernels and flash-maxsim where they are installed. Inputs
are rotated, so that what one call left in the cache does not flatter the next. "GPU" is the time of a call between
events, averaged over many calls that are enqueued without waiting; "call" is what Python spends until it may go on.
Each time stands beside its share of the limit that was measured first: bytes that must move at the speed of a device
copy, or products at the speed of a large matrix multiplication, whichever takes longer.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from sys import path
from typing import Any

import torch

path[:0] = [str(Path(__file__).parents[1] / "kernels")]

from rerankkit_kernels import maxsim, maxsim_packed, pair_score, quantize, sequence_logprob  # noqa: E402
from rerankkit_kernels.logprob.reference import sequence_logprob_reference  # noqa: E402
from rerankkit_kernels.maxsim.reference import maxsim_packed_reference, maxsim_reference  # noqa: E402
from rerankkit_kernels.pair_score.reference import pair_score_reference  # noqa: E402

DRY = False
COPIES = 3
"""Sets of inputs that calls take in turn."""


@dataclass
class Limit:
    """Bytes and operations in a second, as measured on this device."""

    bytes: float
    operations: float

    def seconds(self, moved: float, computed: float) -> float:
        return max(moved / self.bytes, computed / self.operations)


def device() -> str:
    return "cpu" if DRY else "cuda"


def tokens(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, device=device()), dim=-1).to(dtype)


def check() -> list[list[str]]:
    """Largest errors of scores and gradients, against float64 of the same rounded inputs."""
    rows = []
    nq, nd, lq, ld, dim = (2, 3, 5, 40, 16) if DRY else (20, 30, 32, 300, 128)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layout, masked in (("cross", False), ("cross", True), ("grouped", True), ("pairs", False)):
            shape = {"cross": (nd, ld), "grouped": (nq, nd, ld), "pairs": (nq, ld)}[layout]
            masks = {
                "q_mask": torch.rand(nq, lq, device=device()) > 0.2,
                "d_mask": torch.rand(shape, device=device()) > 0.4,
            }
            options = {"layout": layout, **(masks if masked else {})}
            leaves = tokens(nq, lq, dim, dtype=dtype), tokens(*shape, dim, dtype=dtype)
            title = f"maxsim, {layout}{', masks' if masked else ''}"
            rows.append(errors(title, maxsim, maxsim_reference, options, *leaves))
            rows.append(errors_of_int8(title, options, *leaves))
        lengths = torch.randint(0, ld, (nd,))
        bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(device())
        leaves = tokens(nq, lq, dim, dtype=dtype), tokens(int(bounds[-1]), dim, dtype=dtype)
        rows.append(errors("maxsim_packed", maxsim_packed, maxsim_packed_reference, {"cu_seqlens_d": bounds}, *leaves))
        leaves = torch.randn(nq, 8, dim, device=device()).to(dtype), tokens(64, dim, dtype=dtype)
        options = {"yes_id": 3, "no_id": 7, "positions": torch.full((nq,), 7, device=device())}
        rows.append(errors("pair_score", pair_score, pair_score_reference, options, *leaves))
        targets = torch.randint(64, (nq, 8), device=device())
        options = {"targets": targets, "mask": torch.rand(targets.shape, device=device()) > 0.3}
        rows.append(errors("sequence_logprob", sequence_logprob, sequence_logprob_reference, options, *leaves))
    if not DRY:
        rows.append(beyond_32_bits())
    return rows


def errors(
    title: str, op: Callable[..., Any], reference: Callable[..., Any], options: dict[str, Any], *leaves: torch.Tensor
) -> list[str]:
    dtype = leaves[0].dtype
    leaves = tuple(leaf.requires_grad_() for leaf in leaves)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    ours = partial(op, **options, backend="triton")
    found, wanted = ours(*leaves), reference(*doubles, **options)
    grads = torch.autograd.grad(found.sum(), leaves)
    exact = torch.autograd.grad(wanted.sum(), doubles)
    again = torch.autograd.grad(ours(*leaves).sum(), leaves)
    same = all(torch.equal(one, other) for one, other in zip(grads, again, strict=True))
    score = (found.double() - wanted).abs().max().item()
    # against the gradient as the inputs' type can hold it
    apart = max(
        ((one.double() - other.to(dtype).double()).abs().max() / other.abs().max().clamp(min=1e-9)).item()
        for one, other in zip(grads, exact, strict=True)
    )
    low = dtype != torch.float32
    # products of log-probabilities are rounded to the inputs' type before a kernel sees them
    most = 0.5 if low and "logprob" in title else 2e-3
    assert score < most, f"{title}, {dtype}: a score is {score:.2g} off"
    assert apart < (0.05 if low else 5e-3), f"{title}, {dtype}: a gradient is {apart:.2g} of the largest off"
    assert same or "pair_score" in title, f"{title}, {dtype}: two runs have other gradients"
    return [title, str(dtype).removeprefix("torch."), f"{score:.1e}", f"{apart:.1e}", "yes" if same else "no"]


def errors_of_int8(title: str, options: dict[str, Any], q: torch.Tensor, d: torch.Tensor) -> list[str]:
    """Against float64 of the same int8 documents, which have no gradients."""
    documents, scale = quantize(d.detach())
    with torch.no_grad():
        found, again = (maxsim(q, documents, d_scale=scale, backend="triton", **options) for _ in range(2))
        wanted = maxsim_reference(q.double(), documents, d_scale=scale.double(), **options)
    score, same = (found.double() - wanted).abs().max().item(), torch.equal(found, again)
    assert score < 2e-3, f"{title}, int8 and {q.dtype}: a score is {score:.2g} off"
    assert same, f"{title}, int8 and {q.dtype}: two runs have other scores"
    return [title, f"int8, queries {str(q.dtype).removeprefix('torch.')}", f"{score:.1e}", "", "yes"]


def beyond_32_bits() -> list[str]:
    """More than 2^31 elements of documents; the last of them has the only token that is like the query."""
    documents, ld = 57_000, 300
    d = torch.zeros(documents, ld, 128, dtype=torch.bfloat16, device=device())
    q = tokens(1, 32, 128)
    d[-1, -32:] = q[0]
    scores = maxsim(q, d, backend="triton")
    error = (scores[0, -1] - q.float().square().sum()).abs().item()
    assert d.numel() > 2**31 and error < 1e-3 and not scores[0, :-1].any()
    return ["maxsim, 2^31 elements and more", "bfloat16", f"{error:.1e}", "", ""]


def measure_limit() -> Limit:
    size, side = (1 << 16, 64) if DRY else (1 << 30, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=device())
    copy = timed([lambda: source.clone()])[0]
    a = torch.randn(side, side, device=device(), dtype=torch.bfloat16)
    return Limit(2 * size / copy, 2 * side**3 / timed([lambda: a @ a])[0])


def timed(calls: Sequence[Callable[[], Any]]) -> tuple[float, float]:
    """Seconds on the GPU, and of Python, for a call; the calls take turns."""
    rounds = 1 if DRY else 60 // len(calls)
    for call in calls:
        call()
    if DRY:
        start = time.perf_counter()
        calls[0]()
        return time.perf_counter() - start, time.perf_counter() - start
    medians = []
    for _ in range(7):
        torch.cuda.synchronize()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start = time.perf_counter()
        torch.cuda._sleep(20_000_000)  # the queue fills while the GPU waits, so that Python is not what is measured
        begin.record()
        for _ in range(rounds):
            for call in calls:
                call()
        end.record()
        python = time.perf_counter() - start
        torch.cuda.synchronize()
        number = rounds * len(calls)
        medians.append((begin.elapsed_time(end) / 1e3 / number, python / number))
    return sorted(medians)[len(medians) // 2]


def anchors() -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Other packages' scores of every query with every document, where installed."""
    found: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {}
    try:
        from late_interaction_kernels import maxsim as theirs

        found["late-interaction-kernels"] = theirs
    except ImportError:
        pass
    try:
        from flash_maxsim import flash_maxsim_batched

        found["flash-maxsim"] = lambda q, d: flash_maxsim_batched(q, d, shared_docs=True)
    except ImportError:
        pass
    return found


def plain(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
    return torch.einsum("qsx,ntx->qnst", q, d).max(-1).values.float().sum(-1)


def time_maxsim(limit: Limit) -> list[list[str]]:
    rows = []
    for nq, nd, lq, ld, dim in SHAPES:
        if DRY:
            nq, nd, lq, ld, dim = min(nq, 2), min(nd, 2), min(lq, 8), min(ld, 20), min(dim, 32)
        inputs = [(tokens(nq, lq, dim), tokens(nd, ld, dim)) for _ in range(COPIES)]
        best = limit.seconds(2 * nd * ld * dim, 2 * nq * nd * lq * ld * dim)
        ways = {"rerankkit": lambda q, d: maxsim(q, d, backend="triton"), **anchors()}
        if nq * nd * lq * ld * 2 < 8e9:
            ways["einsum"] = plain
        for name, way in ways.items():
            with torch.inference_mode():
                rows.append(line(f"{nq} x {nd}, {lq} x {ld}, {dim}", name, "forward", way, inputs, best))
        if nq == 1:
            int8 = [(q, *quantize(d)) for q, d in inputs]
            small = limit.seconds(nd * ld * (dim + 4), 2 * nd * lq * ld * dim)
            way = lambda q, d, scale: maxsim(q, d, d_scale=scale, backend="triton")  # noqa: E731
            with torch.inference_mode():
                rows.append(line(f"1 x {nd}, {lq} x {ld}, {dim}", "rerankkit, int8", "forward", way, int8, small))
        if nq > 1:
            for name, way in ways.items():
                rows.append(line(f"{nq} x {nd}, {lq} x {ld}, {dim}", name, "both", both(way), inputs, 5 * best))
    nd, ld = (3, 20) if DRY else (2000, 600)
    lengths = torch.randint(1, ld, (nd,))
    bounds = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to(device())
    inputs = [(tokens(1, 32, 128), tokens(int(bounds[-1]), 128)) for _ in range(COPIES)]
    with torch.inference_mode():
        best = limit.seconds(2 * 128 * int(bounds[-1]), 0)
        ragged = lambda q, d: maxsim_packed(q, d, bounds, backend="triton")  # noqa: E731
        rows.append(line(f"1 x {nd}, 32 x 1 to {ld} ragged, 128", "rerankkit", "forward", ragged, inputs, best))
    return rows


def both(way: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def step(q: torch.Tensor, d: torch.Tensor) -> Any:
        q, d = q.detach().requires_grad_(), d.detach().requires_grad_()
        return torch.autograd.grad(way(q, d).sum(), (q, d))

    return step


def time_heads(limit: Limit) -> list[list[str]]:
    rows = []
    batch, length, width, vocabulary = (2, 8, 32, 100) if DRY else (64, 512, 1024, 151_669)
    weight = tokens(vocabulary, width)
    inputs = [(torch.randn(batch, length, width, device=device()).bfloat16(), weight) for _ in range(COPIES)]
    last = torch.full((batch,), length - 1, device=device())
    targets = torch.zeros(batch, length, dtype=torch.long, device=device())
    mask = torch.arange(length, device=device()).expand(batch, -1) >= length - 16
    with torch.inference_mode():
        if not DRY:
            pair_score(*inputs[0], 3, 7, positions=last, backend="triton")
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            pair_score(*inputs[0], 3, 7, positions=last, backend="triton")
            print(f"\npair_score allocated {torch.cuda.max_memory_allocated() - held} bytes for {batch} scores")
        for name, way, best in (
            ("pair_score", lambda h, w: pair_score(h, w, 3, 7, positions=last, backend="triton"), 0.0),
            ("last position, whole vocabulary", lambda h, w: h[:, -1] @ w.T, 0.0),
            ("sequence_logprob", lambda h, w: sequence_logprob(h, w, targets, mask=mask, backend="triton"),
             limit.seconds(2 * vocabulary * width, 2 * batch * 16 * vocabulary * width)),
        ):  # fmt: skip
            rows.append(line(f"{batch} x {length}, {width}, {vocabulary:,}", name, "forward", way, inputs, best))
    return rows


def line(shape: str, name: str, what: str, way: Any, inputs: Any, best: float) -> list[str]:
    gpu, call = timed([lambda pair=pair: way(*pair) for pair in inputs])
    return [shape, name, what, f"{gpu * 1e6:.1f}", f"{call * 1e6:.1f}", f"{best / gpu:.0%}" if best else ""]


# queries, documents, tokens of each, dim
SHAPES = [
    (1, 100, 32, 180, 128),
    (1, 1000, 32, 180, 128),
    (1, 1000, 32, 300, 128),
    (1, 1000, 32, 180, 96),
    (1, 1000, 32, 180, 1024),
    (1, 10_000, 32, 300, 128),
    (1, 1000, 1024, 1024, 128),
    (32, 32, 32, 300, 128),
    (64, 64, 32, 180, 128),
    (128, 128, 32, 300, 128),
    (256, 256, 32, 300, 128),
]


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n### {title}\n")
    print("\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)), flush=True)


def main() -> None:
    global DRY
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="parity alone")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, in Triton's interpreter")
    arguments = parser.parse_args()
    DRY = arguments.dry_run
    torch.manual_seed(0)
    names = ("torch", "triton", "late-interaction-kernels", "flash-maxsim")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    where = "DRY RUN, NO MEASUREMENT" if DRY else torch.cuda.get_device_name()
    print(f"{datetime.date.today()} · {where} · Python {platform.python_version()}, {', '.join(versions)}")
    table("Parity with float64", ["op", "dtype", "score's error", "gradient's, of the largest", "runs alike"], check())
    if arguments.check:
        return
    limit = measure_limit()
    print(f"\nLimits: {limit.bytes / 1e12:.2f} TB/s (a copy), {limit.operations / 1e12:.0f} TFLOP/s (bf16 8192³)")
    header = ["shape", "way", "pass", "GPU, µs", "call, µs", "of the limit"]
    table("MaxSim, bf16: queries x documents, tokens x tokens, dim", header, time_maxsim(limit))
    table("Heads of language models, bf16: rows x length, width, vocabulary", header, time_heads(limit))


if __name__ == "__main__":
    main()
