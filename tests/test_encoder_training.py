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
from rerankkit.errors import InputError
from rerankkit.reading import read_groups

KINDS = ["new classifier", "classifier", "linear", "colbert"]
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
    settings = {**run.SETTINGS, "learning_rate": 2e-3, "max_steps": 12, **training}
    rows = run.write_rows(at / "train.jsonl", 24), run.write_rows(at / "dev.jsonl", 6, start=900)
    for name, path in zip(("train", "dev"), rows, strict=True):
        text += ("[data]\n" if name == "train" else "") + f'[data.{name}]\n@readers = "jsonl.v1"\npath = "{path}"\n'
    text += f'[loss]\n@losses = "softmax_cross_entropy.v1"\n[sampling]\ngroup_size = 4\n{sampling}\n'
    (at / "recipe.cfg").write_text(text + run._section("training", settings))
    return at / "recipe.cfg"
