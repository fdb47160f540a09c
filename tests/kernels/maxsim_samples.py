"""Queries and documents for the tests of MaxSim, and its score in plain Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rerankkit_kernels.maxsim import torch as fallback

LAYOUTS = ["cross", "grouped", "pairs"]
packed_calls = given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    queries=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    listed=st.sampled_from(["cross", "own", "pairs"]),
    elements=st.sampled_from([1, 300, 1 << 20]),
    seed=st.integers(0, 100),
)
"""Arguments of a test of packed documents."""


@contextlib.contextmanager
def blocks_of(elements: int) -> Iterator[None]:
    """The fallback holds so many similarities at once, and so a test's few documents make many blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fallback, "CPU_ELEMENTS", elements)
        patch.setattr(fallback, "COLUMNS", max(1, elements // 10))
        yield


def sample(layout: str, nq: int = 3, nd: int = 4, lq: int = 5, ld: int = 7, dim: int = 8, seed: int = 0) -> Any:
    """q, d and masks of any pattern, float64; tokens of unit length, as ColBERT's are."""
    generator = torch.Generator().manual_seed(seed)
    shape = {"cross": (nd, ld), "grouped": (nq, nd, ld), "pairs": (nq, ld)}[layout]
    q = torch.randn(nq, lq, dim, generator=generator, dtype=torch.float64)
    d = torch.randn(*shape, dim, generator=generator, dtype=torch.float64)
    q_mask = torch.rand(nq, lq, generator=generator) > 0.2
    d_mask = torch.rand(shape, generator=generator) > 0.4
    return torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(d, dim=-1), q_mask, d_mask


def naive(q: Any, d: Any, q_mask: Any = None, d_mask: Any = None) -> float:
    """One pair, in plain Python."""
    kept = [t for t in range(len(d)) if d_mask is None or d_mask[t]]
    if not kept:
        return 0.0
    rows = [s for s in range(len(q)) if q_mask is None or q_mask[s]]
    return sum(max(sum(a * b for a, b in zip(q[s].tolist(), d[t].tolist(), strict=True)) for t in kept) for s in rows)


def ragged(lengths: list[int], dim: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(sum(lengths), dim, generator=generator, dtype=torch.float64)
    return d, torch.tensor([0, *lengths]).cumsum(0)


def steps_of(d: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 rows in d's place and scales of all magnitudes, so that the token of the best row is seldom the best."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-127, 128, d.shape, generator=generator).to(torch.int8)
    return rows, torch.rand(d.shape[:-1], generator=generator, dtype=d.dtype).square() / 64


def packed_call(lengths: list[int], queries: tuple[int, int], listed: str, seed: int) -> Any:
    """q, d, cu_seqlens_d and other arguments of one call: every query with every document, or listed pairs."""
    q, _, q_mask, _ = sample("cross", *queries[:1], lq=queries[1], seed=seed)
    d, cu_seqlens = ragged(lengths, seed=seed)
    choose = torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"q_mask": q_mask, "empty": "zero" if seed % 2 else "-inf"}
    if listed != "cross":
        count = len(lengths) if listed == "own" else 7 * bool(lengths)
        options["pair_q"] = torch.randint(len(q), (count,), generator=choose)
        if listed == "pairs":
            options["pair_d"] = torch.randint(max(1, len(lengths)), (count,), generator=choose)
    return q, d, cu_seqlens, options
