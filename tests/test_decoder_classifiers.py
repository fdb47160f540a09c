"""Language models with a classifier: trained from a checkpoint that has none, saved, and the same once loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_encoders
import tiny_training as run
import torch
from test_encoder_training import DOCS, QUERY

from rerankkit import Reranker, train

LORA: dict[str, Any] = {"whole": None, "merged": {"r": 4}, "apart": {"r": 4, "merge": False}}
TRAINING = {**run.SETTINGS, "learning_rate": 5e-3, "max_steps": 20, "eval_steps": 10, "save_steps": 10}


def overrides(at: Path, architecture: str, lora: str) -> dict[str, Any]:
    """What makes the recipe `llm_classifier` a short training of a tiny model on data that can be learned."""
    data = {"train": run.write_rows(at / "train.jsonl", 24), "dev": run.write_rows(at / "dev.jsonl", 6, start=900)}
    return {
        "model.backbone.name": str(tiny_encoders.encoder(architecture)),
        "model.backbone.lora": LORA[lora],
        **{f"data.{split}": {"@readers": "jsonl.v1", "path": str(path)} for split, path in data.items()},
        "data.test": None,
        **{f"training.{key}": value for key, value in TRAINING.items()},
    }


@pytest.mark.parametrize("architecture", ["llama", "llama_without_pad"])
@pytest.mark.parametrize("lora", LORA)
@pytest.mark.parametrize("kind", ["own head", "classifier of the architecture"])
def test_a_new_classifier_is_trained_and_comes_back(kind: str, lora: str, architecture: str, tmp_path: Path) -> None:
    given = overrides(tmp_path, architecture, lora)
    if kind == "classifier of the architecture":
        given |= {"model.backbone.@backbones": "hf_classifier.v1", "model.head": {"@heads": "logit.v1"}}
    of = train("llm_classifier", tmp_path / "out", given)
    ranking = of.rank(QUERY, DOCS)
    assert ranking[0].index == 3 and ranking[0].score > ranking[1].score + 0.5
    torch.manual_seed(99)
    assert Reranker.from_pretrained(tmp_path / "out").rank(QUERY, DOCS) == ranking
    if lora != "apart":
        config = json.loads((tmp_path / "out" / "backbone" / "config.json").read_text())
        assert config["architectures"] == ["LlamaModel" if kind == "own head" else "LlamaForSequenceClassification"]
