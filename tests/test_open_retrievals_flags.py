"""The three training commands of open-retrievals' reranking page: each flag has its counterpart, and does what it says.

test_open_retrievals.py runs README's commands as they stand; here they train in this process, where one can look.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_training as run
import torch
from test_open_retrievals import COMMANDS, fitted
from test_training_kinds import seen  # noqa: F401

from rerankkit import Reranker, train
from rerankkit import batches as batches_module
from rerankkit.batches import training_batch
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.protocols import Batch
from rerankkit.recipe import parse_overrides
from rerankkit.training.trainer import GroupTrainer, TrainingModule

EVERY: dict[str, Any] = {
    "data.train": {"@readers": "jsonl.v1", "path": "t2_ranking.jsonl"},
    "data.dev": None,
    "data.test": None,
    "data.train.positive_key": "positive",
    "data.train.negative_key": "negative",
    "training.max_steps": -1,
    "training.num_train_epochs": 3,
    "training.dataloader_drop_last": True,
    "training.save_total_limit": 1,
}
TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
FLAGS: dict[str, dict[str, Any]] = {
    "cross_encoder": {
        "model.backbone.name": "BAAI/bge-reranker-base",
        "model.collator.max_length": 512,
        "loss.@losses": "binary_cross_entropy.v1",  # what that command lowers, of pairs out of the data's own rows
        "sampling.random_negatives": 0,
        "training.learning_rate": 2e-5,
        "training.fp16": True,
        "training.per_device_train_batch_size": 64,
        "training.logging_steps": 100,
    },
    "colbert": {
        "model.backbone.name": "hfl/chinese-roberta-wwm-ext",
        "model.collator.query_max_length": 64,  # a default of that command, as are the 1024 below
        "model.collator.document_max_length": 256,
        "model.head.dim": 1024,
        "sampling.group_size": 4,
        "sampling.random_negatives": 0,
        "sampling.unfold_each_positive": False,
        "sampling.in_batch_negatives": False,
        "training.learning_rate": 1e-4,
        "training.bf16": True,
        "training.per_device_train_batch_size": 64,
        "training.logging_steps": 100,
    },
    "llm_yes_logit": {
        "model.backbone.name": "Qwen/Qwen2-1.5B-Instruct",
        "model.backbone.lora": {"r": 16, "lora_alpha": 64, "lora_dropout": 0.05},
        "model.formatter.template": "A: {query}\nB: {document}\n" + TASK,
        "model.collator.max_length": 256,
        "model.collator.query_max_length": 192,
        "sampling.group_size": 4,
        "sampling.random_negatives": 0,
        "training.learning_rate": 2e-4,
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 16,
        "training.logging_steps": 10,
        "training.save_steps": 20000,
        "training.bf16": True,
    },
}


def words_of(command: str) -> tuple[str, list[str]]:
    """The recipe of a command of `train`, and its overrides."""
    words = shlex.split(command.replace("\\\n", " "))
    begin = words.index("train")
    assert words[begin + 2] == "--output" and words[begin + 4] == "--overwrite"
    return words[begin + 1], words[begin + 5 :]


BY_RECIPE = {words_of(command)[0]: command for _, command in COMMANDS}


@pytest.mark.parametrize("recipe", FLAGS)
def test_each_flag_has_its_counterpart_with_its_value(recipe: str) -> None:
    assert parse_overrides(words_of(BY_RECIPE[recipe])[1]) == {**EVERY, **FLAGS[recipe]}


def rows() -> list[dict[str, Any]]:
    """Five queries, each with two relevant documents and four others, of which one is far too long."""
    return [
        {
            "query": tiny.sentence(i, 4),
            "good": [f"{run.GOOD} {tiny.sentence(100 + 2 * i + j, 2)}" for j in range(2)],
            "bad": [f"{run.BAD} {tiny.sentence(7000 + 31 * i + j, 700 if j == 3 else 3)}" for j in range(4)],
        }
        for i in range(5)
    ]


class Trained:
    """What a command of the page, with keys of one's own for the documents, trains and shows the model."""

    def __init__(self, recipe: str, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[Batch] = []

        def batch(*args: Any) -> Batch:
            self.batches.append(training_batch(*args))
            return self.batches[-1]

        monkeypatch.chdir(at)
        monkeypatch.setattr(batches_module, "training_batch", batch)
        (at / "t2_ranking.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        command = fitted(BY_RECIPE[recipe]).replace("_key positive", "_key good").replace("_key negative", "_key bad")
        self.start = Reranker.from_recipe(recipe, parse_overrides(words_of(command)[1]))
        self.of: Reranker = train(recipe, at / "out", parse_overrides(words_of(command)[1]))

    def texts(self, batch: Batch, shared: bool) -> list[str]:
        """What each row says; `shared` puts before it what it has in common with others."""
        tokens = [batch.tokens] if batch.shared is None or not shared else [batch.shared, batch.tokens]
        found = []
        for row in range(len(batch.answer)):
            ids: list[int] = []
            for part in tokens:
                number = row if part is batch.tokens or batch.shared_of is None else int(batch.shared_of[row])
                ids += part.ids[number][part.mask[number].bool()].tolist()
            found.append(self.of.parts.backbone.tokenizer.decode(ids))
        return found


def moved(before: Reranker, after: Reranker) -> set[str]:
    """The weights of the backbone that training changed."""
    start = dict(before.parts.backbone.module.named_parameters())
    return {
        name
        for name, weight in after.parts.backbone.module.named_parameters()
        if name in start and not torch.equal(weight, start[name])
    }


def check_common(trained: Trained, trainer: GroupTrainer, groups_in_a_batch: int) -> None:
    """What all three commands ask for: one group of each query (and not of each positive), whole batches alone."""
    assert len(trainer.train_dataset) == 5
    assert trainer.state.global_step == trainer.state.max_steps == (2 if groups_in_a_batch == 2 else 1)
    assert [batch.mask.shape for batch in trained.batches if batch.mask is not None] == [(groups_in_a_batch, 4)] * len(
        trained.batches
    )
    assert trainer._save_total_limit == 1
    for batch in trained.batches:
        assert batch.labels is not None and batch.labels.sum(1).tolist() == [1.0] * groups_in_a_batch


def queries_and_documents_are_in(trained: Trained, shared: bool) -> None:
    queries = {row["query"] for row in rows()}
    for batch in trained.batches:
        shown = trained.texts(batch, shared)
        assert all(any(query in text for query in queries) for text in shown)
        assert all((run.GOOD in text) != (run.BAD in text) for text in shown)
        assert batch.labels is not None and sum(run.GOOD in text for text in shown) == batch.labels.sum()


def test_the_cross_encoders_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[GroupTrainer],  # noqa: F811
) -> None:
    trained = Trained("cross_encoder", tmp_path, monkeypatch)
    check_common(trained, seen[0], groups_in_a_batch=2)
    queries_and_documents_are_in(trained, shared=False)
    assert max(batch.tokens.ids.shape[1] for batch in trained.batches) == 512
    assert (seen[0].args.learning_rate, seen[0].args.logging_steps) == (2e-5, 100)
    assert len(moved(trained.start, trained.of)) > 10


def test_colberts_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[GroupTrainer],  # noqa: F811
) -> None:
    trained = Trained("colbert", tmp_path, monkeypatch)
    check_common(trained, seen[0], groups_in_a_batch=2)  # with in-batch negatives a query would meet 8 documents
    queries_and_documents_are_in(trained, shared=True)
    assert max(batch.tokens.ids.shape[1] for batch in trained.batches) == 256
    assert {batch.shared.ids.shape[1] for batch in trained.batches if batch.shared is not None} == {64}
    assert trained.of.parts.head.module.weight.shape == (1024, 32)
    assert (seen[0].args.learning_rate, seen[0].args.bf16) == (1e-4, True)
    assert len(moved(trained.start, trained.of)) > 10


@pytest.mark.parametrize("similarity", ["sum", "mean over 0.02"])
def test_colberts_training_does_not_begin_saturated(similarity: str, tmp_path: Path) -> None:
    """Its softmax of sums over 0.02 does: almost all on one document, with a loss of 12 and gradients of 600."""
    given = parse_overrides(words_of(fitted(BY_RECIPE["colbert"]))[1])
    temperature = 0.02 if similarity.startswith("mean") else 1.0
    torch.manual_seed(1)
    of = Reranker.from_recipe("colbert", {**given, "model.head.similarity": similarity.split()[0]})
    lines = [replace(group, labels=[1.0, 0, 0, 0]) for group in (tiny.group(i, 4) for i in range(8))]
    batch = training_batch(of.parts, lines)
    module = TrainingModule(of.parts, SoftmaxCrossEntropy(temperature))
    found = module(batch)
    assert found["loss"].item() < 3 * math.log(4)
    assert (found["scores"] / temperature).softmax(1).amax(1).mean() < 0.95
    found["loss"].backward()
    grads = [weight.grad for weight in module.parameters() if weight.grad is not None]
    assert len(grads) > 10 and all(grad.isfinite().all() for grad in grads)
    assert sum(float(grad.square().sum()) for grad in grads) > 1e-4
    worse = (found["scores"] * (64 if temperature < 1 else 1) / 0.02).softmax(1).amax(1).mean()
    assert worse > 0.98  # so it would have been seen


def test_the_language_models_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[GroupTrainer],  # noqa: F811
) -> None:
    trained = Trained("llm_yes_logit", tmp_path, monkeypatch)
    check_common(trained, seen[0], groups_in_a_batch=4)
    queries_and_documents_are_in(trained, shared=True)
    shown = [text for batch in trained.batches for text in trained.texts(batch, shared=True)]
    short = {
        f"A: {row['query']}\nB: {document}\n{TASK}" for row in rows() for document in [*row["good"], *row["bad"][:3]]
    }
    assert len(short & set(shown)) > 8
    assert all(text.startswith("A: ") and "\nB: " in text and text.endswith(f"\n{TASK}") for text in shown)
    lengths = [len(trained.of.parts.backbone.tokenizer(text)["input_ids"]) for text in shown]
    assert max(lengths) == 256
    args = seen[0].args
    assert (args.gradient_accumulation_steps, args.save_steps, args.logging_steps) == (16, 20000, 10)
    assert (args.learning_rate, args.bf16) == (2e-4, True)
    assert [name for name in seen[0].model.trained_weights() if "lora" not in name] == []
