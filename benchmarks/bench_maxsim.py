"""How fast is MaxSim on a CPU, against maxsim-cpu and a plain einsum, and how much memory does a training step take?

All ways see the same tensors, of unit-length tokens, and their scores are compared with float64 before any time is
believed. In bfloat16 and int8 the scores are those of rounded tokens; the table says how far they are from the exact
ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from measuring import SMALL, PeakMemory, in_a_process, interleaved, print_table
from rerankkit_kernels import maxsim, maxsim_packed, pack, quantize
from rerankkit_kernels.backend import multiplies_bf16
from rerankkit_kernels.maxsim.reference import maxsim_reference

LQ, DIM = 32, 128
DOCUMENTS, LD = (20, 30) if SMALL else (1000, 180)
QUERIES, BATCH = (4, 8) if SMALL else (32, 128)
ROUNDS = 15
pytestmark = pytest.mark.usefixtures("threads")
Ways = dict[str, Callable[[], Any]]


def tokens(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, DIM), dim=-1)


def test_padded_documents(benchmark: Any) -> None:
    torch.manual_seed(0)
    q, d = tokens(1, LQ), tokens(DOCUMENTS, LD)
    low_q, low_d = q.bfloat16(), d.bfloat16()
    rows, scale = quantize(d)
    ways: Ways = {
        "einsum, max, sum": partial(plain, q, d),
        "rerankkit, fp32": partial(maxsim, q, d),
        "rerankkit, bf16": partial(maxsim, low_q, low_d),
        "rerankkit, bf16, winners rescored": partial(maxsim, low_q, low_d, precision="rescored"),
        "rerankkit, bf16, the best 100 again in fp32": partial(best_again, q, d, low_q, low_d),
        "rerankkit, int8": partial(maxsim, q, rows, d_scale=scale),
        "rerankkit, int8, queries in bf16": partial(maxsim, low_q, rows, d_scale=scale),
    }
    if maxsim_cpu := anchor():
        ways = {"maxsim-cpu": partial(maxsim_cpu.maxsim_scores, q[0].numpy(), d.numpy())} | ways
    exact = maxsim_reference(q.double(), d.double())[0]
    ratios = compare(benchmark, f"1 query x {LQ} tokens, {DOCUMENTS} documents x {LD}, dim {DIM}", ways, exact)
    if maxsim_cpu and not SMALL:
        assert ratios["rerankkit, fp32"] >= 1.3  # 1.8 on a quiet machine
        assert not multiplies_bf16(torch.device("cpu")) or ratios["rerankkit, bf16"] >= 2.5  # 5


def test_ragged_documents(benchmark: Any) -> None:
    torch.manual_seed(0)
    lengths = torch.randint(2, 40, (DOCUMENTS,)) if SMALL else torch.randint(20, 341, (DOCUMENTS,))
    q, documents = tokens(1, LQ), [tokens(length) for length in lengths.tolist()]
    packed, aligned = pack(documents), pack(documents, 16)
    low = aligned[0].bfloat16(), aligned[1]
    ways: Ways = {
        "padded einsum with a mask": partial(padded, q, documents),
        "rerankkit, packed": partial(maxsim_packed, q, *packed),
        "rerankkit, packed to multiples of 16": partial(maxsim_packed, q, *aligned),
        "rerankkit, bf16, packed to multiples of 16": partial(maxsim_packed, q.bfloat16(), *low),
    }
    if maxsim_cpu := anchor():
        arrays = [document.numpy() for document in documents]
        ways = {"maxsim-cpu": partial(maxsim_cpu.maxsim_scores_variable, q[0].numpy(), arrays)} | ways
    exact = torch.stack([maxsim_reference(q.double(), document.double()[None])[0, 0] for document in documents])
    title = f"1 query x {LQ} tokens, {DOCUMENTS} documents of {lengths.min()} to {lengths.max()} tokens, dim {DIM}"
    ratios = compare(benchmark, title, ways, exact)
    if maxsim_cpu and not SMALL:
        assert ratios["rerankkit, packed to multiples of 16"] >= 1.2  # 1.5 on a quiet machine


def test_a_training_step(benchmark: Any) -> None:
    torch.manual_seed(0)
    peaks = {way: in_a_process(__file__, way) for way in STEPS}
    q, d = tokens(QUERIES, LQ).requires_grad_(), tokens(BATCH, LD).requires_grad_()

    def check(results: dict[str, list[torch.Tensor]]) -> None:
        ours, theirs = results.values()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    seconds = interleaved(benchmark, {way: partial(step, way, q, d) for way in STEPS}, ROUNDS // 3, check)
    base, lean = STEPS
    memory = {way: peaks[way]["peak"] / peaks[base]["peak"] for way in STEPS}
    rows = [
        [way, f"{s * 1e3:.0f}", f"{seconds[base] / s:.2f}x", f"{peaks[way]['peak'] / 1e6:.0f}", f"{memory[way]:.3f}"]
        for way, s in seconds.items()
    ]
    print_table(
        f"MaxSim forward and backward, {QUERIES} queries x {LQ} tokens, {BATCH} documents x {LD}, dim {DIM}, fp32",
        ["way", "ms", "speed", "peak memory, MB", "memory"],
        rows,
        "Peak of resident memory over what was resident before the step, each way in a process of its own.",
    )
    assert SMALL or memory[lean] <= 0.1
    assert SMALL or seconds[lean] < seconds[base]


STEPS = ["einsum with autograd", "rerankkit"]


def step(way: str, q: torch.Tensor, d: torch.Tensor) -> list[torch.Tensor]:
    scores = maxsim(q, d) if way == "rerankkit" else plain(q, d)
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(len(q)))
    return [loss.detach(), *torch.autograd.grad(loss, (q, d))]


def plain(q: torch.Tensor, d: torch.Tensor, d_mask: torch.Tensor | None = None) -> torch.Tensor:
    similarities = torch.einsum("qsx,ntx->qnst", q, d)
    if d_mask is not None:
        similarities = similarities.masked_fill(~d_mask[None, :, None, :], -torch.inf)
    return similarities.max(-1).values.sum(-1)


def padded(q: torch.Tensor, documents: list[torch.Tensor]) -> torch.Tensor:
    d = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    lengths = torch.tensor([len(document) for document in documents])
    return plain(q, d, torch.arange(d.shape[1]) < lengths.unsqueeze(1))


def best_again(q: torch.Tensor, d: torch.Tensor, low_q: torch.Tensor, low_d: torch.Tensor) -> torch.Tensor:
    """Exact scores of the documents that bfloat16 found best."""
    scores = maxsim(low_q, low_d)
    best = scores[0].topk(min(100, len(d))).indices
    scores[:, best] = maxsim(q, d[best])
    return scores


def anchor() -> Any:
    try:
        import maxsim_cpu
    except ImportError:
        return None
    return maxsim_cpu


def compare(benchmark: Any, title: str, ways: Ways, exact: torch.Tensor) -> dict[str, float]:
    """Prints the table; the ratios are of the first way's time."""
    apart: dict[str, float] = {}

    def check(results: dict[str, Any]) -> None:
        for way, scores in results.items():
            apart[way] = (torch.as_tensor(scores).double().view(-1) - exact).abs().max().item()
            rounded = "bf16" in way or "int8" in way
            assert apart[way] < (0.1 if rounded else 1e-4), f"{way}: a score is {apart[way]:.2g} off"

    with torch.inference_mode():
        seconds = interleaved(benchmark, ways, ROUNDS, check)
    base = next(iter(seconds.values()))
    rows = [[way, f"{s * 1e3:.1f}", f"{base / s:.2f}x", f"{apart[way]:.0e}"] for way, s in seconds.items()]
    spread = f"Scores range over {exact.max() - exact.min():.2f}."
    print_table(f"MaxSim, {title}", ["way", "ms", "speed", "largest error of a score"], rows, spread)
    return {way: base / s for way, s in seconds.items()}


def measure(way: str) -> dict[str, float]:
    """One step's memory, in this process."""
    import psutil

    torch.manual_seed(0)
    step(way, tokens(2, 4).requires_grad_(), tokens(3, 5).requires_grad_())  # what a process sets up once
    q, d = tokens(QUERIES, LQ).requires_grad_(), tokens(BATCH, LD).requires_grad_()
    resident = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        step(way, q, d)
    return {"peak": memory.peak - resident}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
