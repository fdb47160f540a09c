"""`train`: what its recipe says happens, the best weights are saved, and what cannot be is said before any work."""

import json
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_training as run
import torch
import transformers

from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import measure, prepare, qrels_of, run_of
from rerankkit.heads.yes_no import YesNo
from rerankkit.protocols import Batch
from rerankkit.readers.jsonl import Jsonl
from rerankkit.recipe import load_recipe
from rerankkit.reranker import Reranker
from rerankkit.training import outputs, train
from rerankkit.training.trainer import GroupTrainer

LORA: dict[str, Any] = {"r": 4, "lora_dropout": 0.2}
SHORT: dict[str, Any] = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
RUINOUS: dict[str, Any] = {"learning_rate": 8.0, "warmup_steps": 400, "max_steps": 12, "max_grad_norm": 0}
"""A learning rate that first helps, then does harm: warm-up raises it from nothing to 0.2."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[GroupTrainer]:
    """The trainers that were made."""
    made: list[GroupTrainer] = []
    original = GroupTrainer.__init__

    def init(self: GroupTrainer, *args: Any) -> None:
        made.append(self)
        original(self, *args)

    monkeypatch.setattr(GroupTrainer, "__init__", init)
    return made


def history(trainer: GroupTrainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def measured(reranker: Reranker, path: Path) -> float:
    dev = prepare(list(Jsonl(str(path))))
    return measure(run_of(dev, reranker.rank_groups(dev)), qrels_of(dev), ["nDCG@10"]).means["nDCG@10"]


def test_a_learnable_task_is_learned(
    tmp_path: Path, seen: list[GroupTrainer], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = run.recipe(tmp_path, training={"max_steps": 24, "eval_steps": 8, "save_steps": 8}, groups=30, dev=10)
    model = run.model(tmp_path / "model", initializer_range=0.02)  # as small as an untrained model's weights are
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(model)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(model)
    capsys.readouterr()
    before = Reranker.from_recipe(recipe)
    reranker = train(recipe, tmp_path / "out")
    (trainer,) = seen
    losses = history(trainer, "loss")
    assert losses[0] == pytest.approx(math.log(4), abs=0.03)  # it knows nothing of four documents
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    dev = tmp_path / "dev.jsonl"
    assert measured(before, dev) < 0.6 < 0.95 < measured(reranker, dev)
    assert max(history(trainer, "eval_nDCG@10")) == pytest.approx(measured(reranker, dev))
    loaded = Reranker.from_pretrained(tmp_path / "out")
    group = tiny.group(3, 5)
    assert loaded.compute_score([[group.query, text] for text in group.docs]) == reranker.compute_score(
        [[group.query, text] for text in group.docs]
    )
    assert not (tmp_path / "out.training").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Trained for 24 steps" in card and "| 8 | " in card and "the best on the validation data" in card
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len([line for line in lines if line.startswith("step ") and "  loss " in line]) == 24
    assert len([line for line in lines if "  validation  nDCG@10 " in line]) == 3
    assert all(line.startswith("step ") for line in lines)  # no bar, no advice, nothing of the libraries beneath


def test_the_best_checkpoint_is_what_is_saved(tmp_path: Path, seen: list[GroupTrainer]) -> None:
    recipe = run.recipe(tmp_path, training=RUINOUS, groups=30, dev=20)
    reranker = train(recipe, tmp_path / "out")
    (trainer,) = seen
    values = history(trainer, "eval_nDCG@10")
    assert values[-1] < max(values) - 0.02, values  # else this test shows nothing
    assert trainer.state.best_global_step == 3 * (1 + values.index(max(values)))
    assert measured(reranker, tmp_path / "dev.jsonl") == max(values)
    assert measured(Reranker.from_pretrained(tmp_path / "out"), tmp_path / "dev.jsonl") == max(values)
    assert f"those of step {trainer.state.best_global_step}, the best" in (tmp_path / "out" / "README.md").read_text()


def test_the_last_weights_are_kept_where_the_best_are_not_asked_for(tmp_path: Path, seen: list[GroupTrainer]) -> None:
    settings = {**RUINOUS, "load_best_model_at_end": False, "save_strategy": "no"}
    recipe = run.recipe(tmp_path, training=settings, groups=30, dev=20)
    reranker = train(recipe, tmp_path / "out")
    values = history(seen[0], "eval_nDCG@10")
    assert measured(reranker, tmp_path / "dev.jsonl") == values[-1] < max(values)
    assert "the best on" not in (tmp_path / "out" / "README.md").read_text()


def test_every_training_argument_reaches_the_trainer(tmp_path: Path, seen: list[GroupTrainer]) -> None:
    settings = {
        "weight_decay": 0.125, "max_grad_norm": 0.03, "optim": "adamw_torch", "adam_beta2": 0.97, "max_steps": 12,
        "gradient_accumulation_steps": 3, "per_device_train_batch_size": 1, "data_seed": 77, "logging_steps": 2,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.25, "learning_rate": 0.01, "save_total_limit": 2,
    }  # fmt: skip
    train(run.recipe(tmp_path, training=settings, groups=10), tmp_path / "out")
    (trainer,) = seen
    given = {key: value for key, value in settings.items() if key != "save_total_limit"}
    assert {key: getattr(trainer.args, key) for key in given} == given
    assert trainer._save_total_limit == 2
    groups = trainer.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.125, 0.0}
    assert type(trainer.optimizer.optimizer) is torch.optim.AdamW
    assert {group["betas"][1] for group in groups} == {0.97}
    assert trainer.state.epoch == 3.0  # ten groups are four steps of at most three groups
    # warm-up over a quarter of the steps, then half a cosine down to nothing; the rate that a step was done with
    expected = [0.01 * (step / 3 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 9))) for step in range(12)]
    assert history(trainer, "learning_rate") == pytest.approx(expected[1::2], abs=1e-9)


def test_gradients_are_clipped(tmp_path: Path, seen: list[GroupTrainer]) -> None:
    sgd = {**SHORT, "max_steps": 1, "optim": "sgd", "warmup_steps": 0, "learning_rate": 1.0, "weight_decay": 0.0}
    before = run.model(tmp_path / "before")
    start = transformers.AutoModelForCausalLM.from_pretrained(before).state_dict()
    for limit in (0.01, 0.05):
        train(run.recipe(tmp_path / str(limit), training={**sgd, "max_grad_norm": limit}), tmp_path / f"out-{limit}")
        after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / f"out-{limit}" / "backbone").state_dict()
        moved = math.sqrt(sum(float((after[name] - start[name]).square().sum()) for name in start))
        assert moved == pytest.approx(limit, rel=1e-2)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    found = []
    for number, seed in enumerate((5, 5, 6)):
        recipe = run.recipe(
            tmp_path / str(number), {**SHORT, "seed": seed}, lora=lora, backbone={"attention_dropout": 0.1}, dev=0
        )
        train(recipe, tmp_path / f"out-{number}")
        found.append(run.weights(tmp_path / f"out-{number}"))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("extra", "architecture", "lora"),
    [
        ({"bf16": True}, "llama", LORA),
        ({"bf16": True}, "qwen3", None),
        ({"activation_checkpointing": True}, "qwen3", LORA),
        ({"gradient_checkpointing": True}, "llama", None),
        ({"dataloader_num_workers": 2}, "llama", LORA),
        ({"optim": "adafactor", "lr_scheduler_type": "linear"}, "llama", None),
        ({"full_determinism": False, "max_steps": None, "num_train_epochs": 0.4}, "qwen3", None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_ways_of_training(
    tmp_path: Path,
    extra: dict[str, Any],
    architecture: str,
    lora: dict[str, Any] | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    recipe = run.recipe(tmp_path, {**SHORT, **extra}, lora=lora, architecture=architecture)
    capfd.readouterr()
    reranker = train(recipe, tmp_path / "out")
    said = capfd.readouterr().err.splitlines()
    assert said and all(line.startswith("step ") for line in said)
    assert not reranker.parts.backbone.module.training
    assert reranker.parts.backbone.shares_prefix
    group = tiny.group(3, 4)
    pairs = [[group.query, text] for text in group.docs]
    scores = reranker.compute_score(pairs)
    assert scores == reranker.compute_score(pairs)  # no dropout is left on
    assert scores != Reranker.from_recipe(recipe).compute_score(pairs)
    assert scores == Reranker.from_pretrained(tmp_path / "out").compute_score(pairs)
    tied = json.loads((tmp_path / "out" / "backbone" / "config.json").read_text())["tie_word_embeddings"]
    assert tied == (architecture == "qwen3")


@pytest.mark.parametrize("loss", ["softmax_cross_entropy.v1", "ranknet.v1", "binary_cross_entropy.v1"])
def test_each_loss_trains_on_float_labels_and_teacher_scores(
    tmp_path: Path, loss: str, seen: list[GroupTrainer]
) -> None:
    recipe = run.recipe(tmp_path, {**SHORT, "max_steps": 4, "per_device_train_batch_size": 4}, loss=loss, dev=0)
    rows = [
        {"query": group.query, "docs": group.docs, name: [0.25 * (i + 1) for i in range(4)]}
        for group, name in zip([tiny.group(i, 4) for i in range(8)], ["labels", "teacher_scores"] * 4, strict=True)
    ]
    for row in rows[::2]:
        row["labels"] = [0.0, 0.5, 0.0, 2.5]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(recipe, tmp_path / "out")
    losses = history(seen[0], "loss")
    assert len(losses) == 4 and all(0 < value < 50 for value in losses)


def refused(recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    """What is said before any model is built."""

    def build(*args: Any) -> Any:
        raise AssertionError("a model was built first")

    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(Reranker, "from_recipe", build)
        train(recipe, output, **options)
    return str(caught.value)


def test_what_is_wrong_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = run.recipe(tmp_path / "recipe", SHORT)
    output, work = tmp_path / "out", tmp_path / "out.training"
    output.mkdir()
    (output / "something").write_text("mine")
    said = refused(recipe, output, monkeypatch)
    assert said == f"{output} already exists and is not empty; give another --output, or remove it first"
    assert refused(recipe, output, monkeypatch, resume=True) == said
    assert (output / "something").read_text() == "mine"
    other = tmp_path / "other"
    assert refused(recipe, other, monkeypatch, resume=True) == (
        f"nothing to resume: {tmp_path / 'other.training'} has no complete checkpoint; start anew without --resume"
    )
    assert not work.exists() and not (tmp_path / "other.training").exists()
    assert "cannot create" in refused(recipe, output / "something" / "below", monkeypatch)
    (tmp_path / "recipe" / "train.jsonl").write_text('{"query": "q", "docs": ["a", "b"], "labels": [0, 0]}\n')
    assert "no group with a positive document" in refused(recipe, other, monkeypatch)
    with pytest.raises(InputError, match="overrides go into load_recipe"):
        train(load_recipe(recipe), other, {"training.max_steps": 3})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"push_to_hub": True}, r"\[training\] push_to_hub = True cannot be: leave it out; upload the saved folder"),
        ({"prediction_loss_only": True}, r"set \[evaluation\] measures"),
        ({"eval_accumulation_steps": 2}, "eval_accumulation_steps = 2 cannot be: set batch_tokens"),
        ({"label_names": ["labels"]}, "there are no columns"),
        ({"save_only_model": True}, "save_only_model = True cannot be: .* cannot be resumed"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"per_device_eval_batch_size": 4}, "batch_tokens"),
        ({"save_strategy": "best"}, 'use "steps" or "epoch"'),
        ({"metric_for_best_model": "nDCG@20"}, "'nDCG@20' is not among the measures of .*: nDCG@10, RR@10"),
        ({"eval_strategy": "epoch"}, r"\[training\] --load_best_model_at_end requires the save and eval strategy"),
        ({"save_steps": 4}, r"\[training\] --load_best_model_at_end requires the saving steps"),
    ],
)
def test_training_arguments_that_cannot_be(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        train(run.recipe(tmp_path, settings), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == []


def stop_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Fail at some batch, as a training would that was killed there."""
    original, calls = GroupTrainer.compute_loss, 0

    def compute_loss(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RunError("stopped here")
        return original(*args, **options)

    monkeypatch.setattr(GroupTrainer, "compute_loss", compute_loss)


def test_an_unfinished_training_is_not_touched_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = run.recipe(tmp_path / "recipe")
    output, work = tmp_path / "out", tmp_path / "out.training"
    with monkeypatch.context() as patch, pytest.raises(RunError, match="stopped here"):
        stop_at(patch, 9)
        train(recipe, output)
    assert sorted(path.name for path in work.iterdir()) == ["checkpoint-3", "recipe.cfg"]
    assert refused(recipe, output, monkeypatch) == (
        f"{work} holds an unfinished training (up to checkpoint-3); add --resume to go on with it, or --overwrite"
    )
    with caplog.at_level(logging.INFO, "rerankkit"):
        train(recipe, output, overrides={"training.learning_rate": 1e-4}, resume=True)
    assert "changed since this training began, such as " in caplog.text
    assert "learning_rate = 0.0001" in caplog.text


def test_overwriting_replaces_the_model_only_when_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, output = run.recipe(tmp_path / "recipe", {"seed": 1}), tmp_path / "out"
    train(recipe, output)
    old = run.weights(output)
    again = run.recipe(tmp_path / "again", {"seed": 2})
    with monkeypatch.context() as patch, pytest.raises(RunError, match="stopped here"):
        stop_at(patch, 9)
        train(again, output, overwrite=True)
    assert run.weights(output) == old
    with monkeypatch.context() as patch, pytest.raises(RunError, match="could not be written"):
        patch.setattr(Reranker, "save_pretrained", _no_space)
        train(again, output, resume=True, overwrite=True)  # the same command, with --resume, goes on
    assert run.weights(output) == old
    with monkeypatch.context() as patch, pytest.raises(RunError, match="could not be written"):
        replace = os.replace
        patch.setattr(
            os,
            "replace",
            lambda a, b: _no_space() if Path(b) == output and "model" in str(a) else replace(a, b),
        )
        train(again, output, resume=True, overwrite=True)
    assert run.weights(output) == old
    train(again, output, resume=True, overwrite=True)
    assert run.weights(output) != old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "out", "recipe"]


def test_a_model_taken_aside_is_put_back(tmp_path: Path) -> None:
    work, output = tmp_path / "out.training", tmp_path / "out"
    (work / outputs.REPLACED).mkdir(parents=True)
    (work / outputs.REPLACED / "model").write_text("old")
    with pytest.raises(InputError, match="already exists and is not empty"):
        train(run.recipe(tmp_path / "recipe", SHORT), output)
    assert (output / "model").read_text() == "old"
    assert not work.exists()


def _no_space(*args: Any) -> None:
    raise OSError(28, "No space left on device")


def test_the_best_checkpoint_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, output = run.recipe(tmp_path / "recipe"), tmp_path / "out"
    measures = iter([0.9, 0.5, 0.4, 0.3])

    def evaluate(self: GroupTrainer, *args: Any, **options: Any) -> dict[str, float]:
        value = {"eval_nDCG@10": next(measures), "eval_RR@10": 0.0}
        self.log(dict(value))
        return value

    monkeypatch.setattr(GroupTrainer, "evaluate", evaluate)
    with monkeypatch.context() as patch, pytest.raises(RunError, match="stopped here"):
        stop_at(patch, 14)
        train(recipe, output)
    best = tmp_path / "out.training" / "checkpoint-3"
    (best / "trained.safetensors").unlink()
    with caplog.at_level(logging.WARNING, "rerankkit"):
        train(recipe, output, resume=True)
    assert f"1 best checkpoint lost, such as {best}" in caplog.text
    assert "those of step 9, the best" in (output / "README.md").read_text()


def test_resuming_is_exact_where_a_part_draws_numbers_at_its_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a check of itself, which would come before the numbers of a resumed training are put back, or after."""
    recipe = run.recipe(tmp_path / "recipe", {"load_best_model_at_end": False}, lora=LORA)
    original = YesNo.score

    def score(self: YesNo, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        if "used" not in vars(self):
            vars(self)["used"] = torch.rand(1)
        return original(self, hidden, batch)

    monkeypatch.setattr(YesNo, "score", score)
    train(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(RunError, match="stopped here"):
        stop_at(patch, 9)
        train(recipe, tmp_path / "out")
    train(recipe, tmp_path / "out", resume=True)
    assert run.weights(tmp_path / "out") == run.weights(tmp_path / "whole")


def test_training_in_a_thread_that_is_not_the_main_one(tmp_path: Path) -> None:
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, "max_steps": 1, "warmup_steps": 0})
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(train, recipe, tmp_path / "out").result(), Reranker)
