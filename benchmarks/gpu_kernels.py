"""How fast are the Triton kernels on this GPU, as rerankkit calls them, and beside other ways?

    python benchmarks/gpu_kernels.py                                  # a few minutes, most of them compiling
    TRITON_INTERPRET=1 python benchmarks/gpu_kernels.py --dry-run     # small sizes without a GPU, to see that it runs

Beside ours: our PyTorch fallback, a plain einsum, `torch.compile` of it, and late-interaction-kernels and flash-maxsim
where they are installed. Scores and gradients are compared with float64 before a way is timed; one that is wrong is
timed all the same, and says so. "of_limit" is the share of what was measured first: bytes that must move at the speed
of a device copy, or products at the speed of a large matrix multiplication, whichever takes longer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from gpu_measuring import Results, about, arguments, timed, warm_up
from gpu_visit import source_hash
from rerankkit_kernels import maxsim, maxsim_packed, pair_score, quantize, sequence_logprob

COPIES = 3
"""Sets of inputs that calls take in turn."""
COLUMNS = ["gpu_us", "python_us", "of_limit", "memory_mb", "parity", "score_error", "gradient_error"]
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
Way = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A call: each query with its own documents ("pairs", as ranking does) or with all ("cross", as training in batches
    does), their masks, whether gradients are asked for, and whether torch.compile, which takes its time, is tried."""

    what: str
    layout: str
    dtype: torch.dtype
    queries: int
    documents: int
    query_tokens: int
    document_tokens: int
    dim: int = 128
    masked: bool = True
    training: bool = False
    compiled: bool = False

    @property
    def title(self) -> str:
        sizes = f"{self.queries} x {self.documents}, {self.query_tokens} x {self.document_tokens}, {self.dim}"
        marks = [str(self.dtype).removeprefix("torch."), *["masks"] * self.masked, *["and backward"] * self.training]
        return f"{self.what}: {sizes}, {', '.join(marks)}"

    @property
    def operations(self) -> float:
        pairs = self.documents if self.layout == "pairs" else self.queries * self.documents
        products = 5 if self.training else 2  # the backward pass reads a row for each query token, and multiplies once
        return products * pairs * self.query_tokens * self.document_tokens * self.dim

    @property
    def bytes(self) -> float:
        size = torch.finfo(self.dtype).bits // 8
        return (3 if self.training else 1) * self.documents * self.document_tokens * self.dim * size


# What the head of late interaction sends: float32, both masks, a query repeated for each of its documents.
RANKING = Case("ranking", "pairs", FP32, 1000, 1000, 32, 180)
IN_BATCH = Case("in-batch training", "cross", FP32, 128, 128, 32, 300, training=True)
CASES = [
    replace(RANKING, compiled=True),
    replace(RANKING, queries=100, documents=100),
    replace(RANKING, dim=96),
    *(replace(RANKING, dtype=dtype) for dtype in (BF16, FP16)),
    replace(IN_BATCH, compiled=True),
    replace(IN_BATCH, queries=32, documents=256, document_tokens=180),
    *(replace(IN_BATCH, dtype=dtype) for dtype in (BF16, FP16)),
    replace(IN_BATCH, dtype=BF16, masked=False),
    Case("1 query", "cross", BF16, 1, 1000, 32, 300, masked=False),
    Case("1 query", "cross", BF16, 1, 1000, 32, 300),
    Case("1 query", "cross", FP32, 1, 1000, 32, 300, masked=False),
    Case("1 query", "cross", BF16, 1, 10_000, 32, 300, masked=False),
    Case("1 query", "cross", BF16, 1, 1000, 32, 180, dim=1024, masked=False),
    Case("long query", "cross", BF16, 1, 1000, 1024, 1024, masked=False),
    Case("few long documents", "cross", BF16, 1, 10, 32, 8192, masked=False),
    Case("in-batch scores", "cross", BF16, 128, 128, 32, 300, masked=False),
    Case("in-batch scores", "cross", BF16, 128, 128, 32, 300),
]


def shrunk(case: Case) -> Case:
    documents = min(case.documents, 3)
    queries = documents if case.layout == "pairs" else min(case.queries, 2)
    return replace(case, queries=queries, documents=documents, query_tokens=5, document_tokens=20, dim=16)


def vectors(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, device=DEVICE), dim=-1).to(dtype)


def inputs(case: Case) -> dict[str, Any]:
    """Documents padded on the right, of half to all of the length, where there are masks."""
    found: dict[str, Any] = {
        "q": vectors(case.queries, case.query_tokens, case.dim, dtype=case.dtype),
        "d": vectors(case.documents, case.document_tokens, case.dim, dtype=case.dtype),
    }
    if case.masked:
        for name, of, length in (("q_mask", "q", case.query_tokens), ("d_mask", "d", case.document_tokens)):
            real = torch.randint((length + 1) // 2, length + 1, (len(found[of]), 1), device=DEVICE)
            found[name] = torch.arange(length, device=DEVICE) < real
    return found


def einsum(case: Case) -> Way:
    letters = "psx,ptx->pst" if case.layout == "pairs" else "qsx,ntx->qnst"

    def score(q: torch.Tensor, d: torch.Tensor, q_mask: Any = None, d_mask: Any = None) -> torch.Tensor:
        similar = torch.einsum(letters, q, d)
        if d_mask is not None:
            similar = similar.masked_fill(~d_mask.unsqueeze(-2), -torch.inf)
        best = similar.amax(-1).float()
        if q_mask is not None:
            best = best.masked_fill(~(q_mask if case.layout == "pairs" else q_mask.unsqueeze(1)), 0.0)
        return best.sum(-1)

    return score


def ways(case: Case) -> dict[str, Way]:
    """All that can do it; the plain ones only where their similarities fit."""
    found: dict[str, Way] = {"rerankkit": partial(maxsim, layout=case.layout, backend="triton")}
    if case.operations < 1e11:
        found["rerankkit in PyTorch"] = partial(maxsim, layout=case.layout, backend="torch")
    if case.operations / case.dim * 4 < 2e10:
        found["einsum"] = einsum(case)
    if case.compiled:
        found["einsum, torch.compile"] = torch.compile(einsum(case), backend="aot_eager" if DRY else "inductor")
    if case.layout == "cross" and not case.masked:
        for name, score in anchors().items():
            found[name] = score
    return found


def anchors() -> dict[str, Way]:
    """Other packages' scores of every query with every document, where installed."""
    found: dict[str, Way] = {}
    try:
        from late_interaction_kernels import maxsim as theirs

        found["late-interaction-kernels"] = theirs
    except ImportError:
        pass
    try:
        from flash_maxsim import flash_maxsim_batched

        found["flash-maxsim"] = partial(flash_maxsim_batched, shared_docs=True)
    except ImportError:
        pass
    return found


def step(way: Way, training: bool, given: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """The scores, and in training the gradients of their sum."""
    if not training:
        with torch.inference_mode():
            return (way(**given),)
    q, d = (given[name].detach().requires_grad_() for name in "qd")
    scores = way(**{**given, "q": q, "d": d})
    return (scores.detach(), *torch.autograd.grad(scores.sum(), (q, d)))


def exact(case: Case, given: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """By our fallback in float64, which is tested against the definition."""
    doubles = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
    return step(partial(maxsim, layout=case.layout, backend="torch"), case.training, doubles)


def parity(
    found: tuple[torch.Tensor, ...], wanted: tuple[torch.Tensor, ...], tokens: int, rounds: bool
) -> dict[str, Any]:
    """A maximum that is all but shared may fall to either token, so gradients are compared as a whole, by norm.

    Args:
        rounds: The way may round each similarity to its inputs' half precision, as cuBLAS does.
    """
    score = float((found[0].double() - wanted[0]).abs().max())
    apart = [
        float((one.double() - other).norm() / other.norm().clamp(min=1e-12))
        for one, other in zip(found[1:], wanted[1:], strict=True)
    ]
    most, most_apart = (4e-3, 0.5) if rounds else (2e-5, 0.02)
    fine = score < most * max(tokens, 32) and all(error < most_apart for error in apart)
    worst = {"gradient_error": max(apart)} if apart else {}
    return {"parity": "ok" if fine else "FAILED", "score_error": score, **worst}


def measured(
    name: str, way: Way, case: Case, given: list[dict[str, Any]], wanted: tuple[torch.Tensor, ...]
) -> dict[str, Any]:
    rounds = name != "rerankkit" and case.dtype != FP32
    found = parity(step(way, case.training, given[0]), wanted, case.query_tokens, rounds)
    took = timed([partial(step, way, case.training, one) for one in given])
    least = max(case.bytes / LIMIT["bytes"], case.operations / LIMIT["operations"])
    return {**times(took), "of_limit": least / took.gpu, **found}


def times(took: Any) -> dict[str, float]:
    return {"gpu_us": took.gpu * 1e6, "python_us": took.python * 1e6, "memory_mb": took.memory / 1e6}


def all_maxsim(results: Results) -> None:
    for case in (shrunk(case) for case in CASES) if DRY else CASES:
        torch.manual_seed(0)
        given = [inputs(case) for _ in range(COPIES)]
        wanted = exact(case, given[0])
        for name, way in ways(case).items():
            results.row(case.title, name, partial(measured, name, way, case, given, wanted))


def ragged_and_int8(results: Results) -> None:
    count, longest = (3, 20) if DRY else (2000, 600)
    lengths = torch.randint(1, longest, (count,))
    bounds = torch.tensor([0, *lengths.tolist()], device=DEVICE).cumsum(0)
    given = [(vectors(1, 32, 128, dtype=BF16), vectors(int(bounds[-1]), 128, dtype=BF16)) for _ in range(COPIES)]
    packed = partial(maxsim_packed, cu_seqlens_d=bounds, max_seqlen_d=longest)
    title = f"ragged: 1 x {count}, 32 x 1 to {longest}, 128, bfloat16"
    simple(results, title, "rerankkit", partial(packed, backend="triton"), partial(packed, backend="torch"), given)
    count, length = (3, 20) if DRY else (1000, 180)
    rows = [(vectors(1, 32, 128, dtype=BF16), *quantize(vectors(count, length, 128, dtype=FP32))) for _ in given]

    def scored(q: torch.Tensor, d: torch.Tensor, scale: torch.Tensor, backend: str) -> torch.Tensor:
        return maxsim(q, d, d_scale=scale, backend=backend)

    ours, fallback = partial(scored, backend="triton"), partial(scored, backend="torch")
    simple(results, f"int8 documents: 1 x {count}, 32 x {length}, 128, bfloat16", "rerankkit", ours, fallback, rows)


def heads(results: Results) -> None:
    """With the vocabulary and the width of Qwen3-0.6B: 64 rows, the answers at the last position, 16 tokens scored."""
    batch, length, width, vocabulary = (2, 8, 32, 100) if DRY else (64, 512, 1024, 151_669)
    weight = vectors(vocabulary, width, dtype=BF16)
    given = [(torch.randn(batch, length, width, device=DEVICE).to(BF16), weight) for _ in range(COPIES)]
    last = torch.full((batch,), length - 1, device=DEVICE)
    targets = torch.zeros(batch, length, dtype=torch.long, device=DEVICE)
    mask = torch.arange(length, device=DEVICE).expand(batch, -1) >= length - 16
    sizes = f"{batch} x {length}, {width}, {vocabulary:,}, bfloat16"
    pair = partial(pair_score, yes_id=3, no_id=7, positions=last)
    likelihood = partial(sequence_logprob, targets=targets, mask=mask)

    def last_logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = (hidden[:, -1] @ weight.T).float()
        return logits[:, 3] - logits[:, 7]

    wanted = partial(pair, backend="torch")
    simple(results, f"yes/no: {sizes}", "rerankkit", partial(pair, backend="triton"), wanted, given, 0.05)
    simple(results, f"yes/no: {sizes}", "last position, whole vocabulary", last_logits, wanted, given, 0.5)
    wanted = partial(likelihood, backend="torch")
    for name, way in (("rerankkit", partial(likelihood, backend="triton")), ("rerankkit in PyTorch", wanted)):
        simple(results, f"likelihood of 16 tokens: {sizes}", name, way, wanted, given, 0.5)


def simple(results: Results, title: str, name: str, way: Way, wanted: Way, given: Any, most: float = 2e-3) -> None:
    """Scores alone, compared with another way's."""

    def measure() -> dict[str, Any]:
        with torch.inference_mode():
            error = float((way(*given[0]).double() - wanted(*given[0]).double()).abs().max())
            took = timed([partial(way, *one) for one in given])
        return {**times(took), "parity": "ok" if error < most else "FAILED", "score_error": error}

    results.row(title, name, measure)


def limits(results: Results) -> dict[str, float]:
    """Bytes and operations in a second: a copy on the device, and a product of large matrices."""

    def measure() -> dict[str, float]:
        size, side = (1 << 16, 64) if DRY else (1 << 30, 8192)
        source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
        a = torch.randn(side, side, device=DEVICE, dtype=BF16)
        return {
            "bytes": 2 * size / timed([source.clone], 12).gpu,
            "operations": 2 * side**3 / timed([lambda: a @ a], 12).gpu,
        }

    row = results.row("limits", "a copy, and a product of bfloat16", measure)
    return {"bytes": row["bytes"], "operations": row["operations"]}


def main() -> int:
    global DRY, DEVICE, LIMIT
    given = arguments(__doc__)
    DRY, DEVICE = given.dry_run, "cpu" if given.dry_run else "cuda"
    given.out.mkdir(parents=True, exist_ok=True)
    results = Results(given.out / "gpu-kernels.json", about(DRY), source_hash())
    warm_up()
    LIMIT = limits(results)
    heads(results)
    ragged_and_int8(results)
    all_maxsim(results)
    print(results.table(COLUMNS))
    for row in results.failed():
        print(f"WRONG: {row['title']}, {row['way']}: {row.get('error', row.get('score_error'))}")
    # another package's mistake is a finding, and no reason to repeat the step
    return int(any(row["way"] == "rerankkit" for row in results.failed()))


DRY, DEVICE, LIMIT = False, "cuda", dict[str, float]()

if __name__ == "__main__":
    sys.exit(main())
