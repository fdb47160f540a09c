"""Whole trainings of tiny encoder rerankers, in the ways that transformers offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_training as run
import torch

from rerankkit import Reranker, train

KINDS = ["new classifier", "classifier", "linear", "colbert"]
QUERY, DOCS = tiny.sentence(970, 4), [f"{run.BAD} {tiny.sentence(980, 2)}"] * 3 + [f"{run.GOOD} file"]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"bf16": True, "use_cpu": True},
    "recomputed": {"gradient_checkpointing": True},
    "accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    "chunks": {"score_chunk": 3},
    "all at once": {"bf16": True, "use_cpu": True, "gradient_checkpointing": True, "score_chunk": 3},
}


def recipe(at: Path, kind: str, training: dict[str, Any], lora: str = "", sampling: str = "") -> Path:
    at.mkdir(exist_ok=True)
    text = tiny_bert.model_sections(kind.removeprefix("new "), lora)
    if kind == "new classifier":
        text = text.replace(str(tiny_bert.classifier()), str(tiny_bert.encoder()))
    rate = 1e-2 if kind == "colbert" else 2e-3
    settings = {**run.SETTINGS, "learning_rate": rate, "max_steps": 12, **training}
    rows = run.write_rows(at / "train.jsonl", 24), run.write_rows(at / "dev.jsonl", 6, start=900)
    for name, path in zip(("train", "dev"), rows, strict=True):
        text += ("[data]\n" if name == "train" else "") + f'[data.{name}]\n@readers = "jsonl.v1"\npath = "{path}"\n'
    text += f'[loss]\n@losses = "softmax_cross_entropy.v1"\n[sampling]\ngroup_size = 4\n{sampling}\n'
    (at / "recipe.cfg").write_text(text + run._section("training", settings))
    return at / "recipe.cfg"


@pytest.mark.parametrize(
    "way", [way if way in ("plain", "all at once") else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_encoder_finds_the_relevant_documents(kind: str, way: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    path = recipe(tmp_path / "recipe", kind, WAYS[way])
    of = train(path, tmp_path / "model")
    assert not of.untrained
    ranking = of.rank(QUERY, DOCS)
    assert ranking[0].index == 3
    assert Reranker.from_pretrained(tmp_path / "model").rank(QUERY, DOCS) == ranking


@pytest.mark.parametrize("lora", ["r = 4", "r = 4\nmerge = false"])
@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_its_head_too(kind: str, lora: str, tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe", kind, {"gradient_checkpointing": True, "learning_rate": 1e-2}, lora)
    of = train(path, tmp_path / "model")
    ranking = of.rank(QUERY, DOCS)
    assert ranking[0].index == 3
    assert Reranker.from_pretrained(tmp_path / "model").rank(QUERY, DOCS) == ranking


@pytest.mark.parametrize("training", [{}, {"score_chunk": 2, "gradient_checkpointing": True}])
def test_in_batch_negatives_train(training: dict[str, Any], tmp_path: Path) -> None:
    path = recipe(tmp_path / "recipe", "colbert", training, sampling="in_batch_negatives = true")
    ranking = train(path, tmp_path / "model").rank("open", [run.BAD, run.GOOD, run.BAD])
    assert ranking[0].index == 1
