"""Every kind of reranker says what it said when `golden/kinds.json` was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_llm_recipes
import tiny_bert
from golden import make_kinds

RECORDED = json.loads(Path(make_kinds.__file__).with_name("kinds.json").read_text("utf-8"))


def assert_as_recorded(found: list[list[list[float]]], recorded: list[list[list[float]]], tolerance: float) -> None:
    """Documents may change places only where their scores are as close as machines differ."""
    for order, before in zip(found, recorded, strict=True):
        assert dict(order).keys() == dict(before).keys()
        assert [score for _, score in order] == pytest.approx([score for _, score in before], abs=tolerance)
        assert dict(order) == pytest.approx(dict(before), abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", test_llm_recipes.CAUSAL + test_llm_recipes.T5)
def test_a_recipe(name: str) -> None:
    assert_as_recorded(make_kinds.recipe_kind(name), RECORDED["recipes"][name], 1e-3)


@pytest.mark.parametrize("kind", tiny_bert.KINDS)
def test_an_encoder(kind: str, tmp_path: Path) -> None:
    assert_as_recorded(make_kinds.encoder_kind(kind, tmp_path), RECORDED["encoders"][kind], 1e-4)


@pytest.mark.parametrize("kind", make_kinds.TRAINED)
def test_a_training(kind: str, tmp_path: Path) -> None:
    assert_as_recorded(make_kinds.trained_kind(kind, tmp_path), RECORDED["trained"][kind], 1e-2)


def test_losses() -> None:
    found: dict[str, Any] = {name: make_kinds.loss_value(name) for name in make_kinds.LOSSES}
    assert found.keys() == RECORDED["losses"].keys()
    for name, values in found.items():
        assert values == pytest.approx(RECORDED["losses"][name], rel=1e-4, abs=1e-6), name
