"""Half precision on a CPU: scores near those of float32, and documents in the same order."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import tiny_bert
import torch

from rerankkit import Reranker

QUERY = tiny.sentence(3, 6)
DOCS = [f"{tiny.sentence(200 + i, 4 + 9 * i)}." for i in range(12)]
NEAR = {"fp16": 0.01, "bf16": 0.06}
"""Eleven and eight bits of mantissa: by what part of their spread scores may be off on models of two layers."""


def scores(kind: str, dtype: str, at: Path) -> list[float]:
    if kind == "yes_no":
        tiny.recipe(at / "recipe.cfg")
    else:
        (at / "recipe.cfg").write_text(tiny_bert.model_sections(kind))
    torch.manual_seed(2)
    of = Reranker.from_recipe(at / "recipe.cfg", {"model.backbone.dtype": dtype})
    of.untrained = False
    return of.compute_score([[QUERY, document] for document in DOCS])


def best_first(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", ["classifier", "linear", "colbert", "yes_no"])
def test_half_precision_is_near_and_ranks_alike(kind: str, dtype: str, tmp_path: Path) -> None:
    exact, rough = scores(kind, "fp32", tmp_path), scores(kind, dtype, tmp_path)
    off = max(abs(a - b) for a, b in zip(exact, rough, strict=True))
    assert 0 < off < NEAR[dtype] * (max(exact) - min(exact))
    sure = len(DOCS) if dtype == "fp16" else 1  # bfloat16 may change places of documents that are all but equal
    assert best_first(rough)[:sure] == best_first(exact)[:sure]
