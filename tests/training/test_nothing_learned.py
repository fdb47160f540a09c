"""A training that would teach nothing is refused before the model is built; one that taught nothing is not saved."""

import json
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_training as run
import torch

from rerankkit import registry
from rerankkit.errors import InputError, RunError
from rerankkit.reranker import Reranker
from rerankkit.training import train

SHORT: dict[str, Any] = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
EPOCHS: dict[str, Any] = {**SHORT, "max_steps": None, "num_train_epochs": 1.0}


@registry.losses("deaf.v1")
class Deaf:
    """A loss that does not look at scores."""

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return labels[mask].sum()


@registry.losses("flat.v1")
class Flat:
    """A loss with a gradient for scores as such, and of 0 for those of a model."""

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return ((scores if scores.is_leaf else 0 * scores) * (1 - labels)).masked_fill(~mask, 0.0).sum()


def refused(recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said before a model is built, after which nothing is left."""

    def build(*args: Any) -> Any:
        raise AssertionError("a model was built first")

    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(Reranker, "from_recipe", build)
        train(recipe, output)
    assert not list(output.parent.glob(f"{output.name}*"))
    return str(caught.value)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.regression
@pytest.mark.parametrize("steps", [{"num_train_epochs": 3.0, "max_steps": None}, {"max_steps": 5}])
def test_no_step_because_no_batch_is_full(tmp_path: Path, steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SHORT, "per_device_train_batch_size": 64, "dataloader_drop_last": True, **steps}
    said = refused(run.recipe(tmp_path / "recipe", settings, groups=16), tmp_path / "out", monkeypatch)
    assert "16 groups" in said and "64 groups" in said and "dataloader_drop_last" in said


@pytest.mark.parametrize(("groups", "steps"), [(16, False), (15, True), (7, True)])
def test_no_step_because_no_process_has_a_full_batch(groups: int, steps: bool) -> None:
    from types import SimpleNamespace

    import transformers

    from rerankkit.training.arguments import require_steps

    given = transformers.TrainingArguments(output_dir="unused", use_cpu=True)
    args: Any = SimpleNamespace(
        **{**vars(given), "train_batch_size": 8, "world_size": 2, "dataloader_drop_last": True, "max_steps": 3},
        get_warmup_steps=given.get_warmup_steps,
    )
    if groups == 16:
        require_steps(args, groups)
        return
    with pytest.raises(InputError, match=rf"gives {groups} groups.* of 8 groups on each of 2 processes"):
        require_steps(args, groups)


@pytest.mark.regression
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_steps": 0}, "max_steps = 0 takes no step"),
        ({**EPOCHS, "num_train_epochs": 0.0}, "num_train_epochs = 0"),
        ({**EPOCHS, "num_train_epochs": -1.0}, "num_train_epochs = -1"),
        ({"max_steps": -5}, "max_steps = -5 cannot be: give how many steps to take"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 cannot be: weights would grow"),
        ({"learning_rate": 0.0}, "no weight would move"),
        ({"learning_rate": -1e-3}, "no weight would move"),
        ({"max_steps": 1, "warmup_steps": 5}, "no step with a learning rate above 0"),
        ({**EPOCHS, "per_device_train_batch_size": 15, "warmup_steps": 1}, "no step with a learning rate above 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size = 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps = 0"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers = -1"),
        ({"seed": 2**40}, "seed = 1099511627776 cannot be: give a number from 0 to 4294967295"),
        ({"seed": -1}, "seed = -1"),
        ({"adam_beta1": 1.5}, "Invalid beta parameter"),
        ({"adam_epsilon": -1.0}, "Invalid epsilon value"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"report_to": "nowhere"}, "nowhere is not supported"),
    ],
    ids=lambda value: str(list(value.items())[-1]) if isinstance(value, dict) else None,
)
def test_arguments_that_train_nothing(
    tmp_path: Path, settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, **settings}, dev=0)
    assert said in refused(recipe, tmp_path / "out", monkeypatch)


@pytest.mark.regression
@pytest.mark.parametrize("steps", [{"max_steps": 1}, {**EPOCHS, "per_device_train_batch_size": 15}])
def test_a_share_of_one_step_is_no_warm_up(tmp_path: Path, steps: dict[str, Any]) -> None:
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, **steps, "warmup_steps": 0.1}, dev=0)
    assert not train(recipe, tmp_path / "out").untrained


@pytest.mark.regression
def test_half_precision_of_a_gpu_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, "fp16": True, "use_cpu": True}, dev=0)
    assert "fp16 = true needs a GPU" in refused(recipe, tmp_path / "out", monkeypatch)


@pytest.mark.regression
def test_a_report_to_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: False)
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, "report_to": "tensorboard"}, dev=0)
    assert "tensorboard" in refused(recipe, tmp_path / "out", monkeypatch).lower()


@pytest.mark.regression
def test_a_loss_that_does_not_look_at_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = run.recipe(tmp_path / "recipe", SHORT, loss="deaf.v1", dev=0)
    assert "deaf.v1 has no gradient for the labels of any of the 15 groups" in refused(
        recipe, tmp_path / "out", monkeypatch
    )


@pytest.mark.regression
@pytest.mark.parametrize("loss", ["ranknet.v1", "hinge.v1", "lambda_loss.v1", "listmle.v1", "approx_ndcg.v1"])
def test_targets_that_are_all_equal(tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = run.recipe(tmp_path / "recipe", SHORT, loss=loss, dev=0)
    rows = [{"query": f"q {i}", "docs": ["a", "b", "c"], "teacher_scores": [0.5] * 3} for i in range(4)]
    write(tmp_path / "recipe" / "train.jsonl", rows)
    assert "learns nothing from a document by itself or documents of one label" in refused(
        recipe, tmp_path / "out", monkeypatch
    )


def kept(output: Path) -> list[str]:
    return sorted(path.name for path in output.parent.glob(f"{output.name}*") if path.name != f"{output.name}.training")


@pytest.mark.regression
def test_no_gradient_at_any_step_is_not_saved(tmp_path: Path) -> None:
    recipe = run.recipe(tmp_path / "recipe", SHORT, loss="flat.v1", dev=0)
    with pytest.raises(RunError, match="all gradients were 0 in each of 2 steps"):
        train(recipe, tmp_path / "out")
    assert kept(tmp_path / "out") == []


@pytest.mark.regression
def test_weights_that_do_not_move_are_not_saved(tmp_path: Path) -> None:
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, "learning_rate": 1e-30}, dev=0)
    with pytest.raises(RunError, match="after 2 steps all weights are what they were"):
        train(recipe, tmp_path / "out")
    assert kept(tmp_path / "out") == []


@pytest.mark.regression
def test_weights_of_half_precision_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = run.recipe(tmp_path / "recipe", {**SHORT, "learning_rate": 1e-2}, dev=0)
    with caplog.at_level(logging.WARNING, "rerankkit"):
        train(recipe, tmp_path / "full", {"model.backbone.dtype": "bf16"})
    assert "in half precision, where steps below 1/256 of its value are lost" in caplog.text
    assert 'dtype = "fp32"' in caplog.text
    caplog.clear()
    recipe = run.recipe(tmp_path / "adapter", {**SHORT, "learning_rate": 1e-2}, dev=0, lora={"r": 4})
    with caplog.at_level(logging.WARNING, "rerankkit"):
        train(recipe, tmp_path / "lora", {"model.backbone.dtype": "bf16"})
    assert "half precision" not in caplog.text  # an adapter's weights are fp32


@pytest.mark.regression
def test_documents_that_lose_all_their_tokens(tmp_path: Path) -> None:
    recipe = run.recipe(tmp_path / "recipe", SHORT, dev=0)
    rows = [{"query": tiny.sentence(i, 4), "docs": ["same words"] * 3, "labels": [1, 0, 0]} for i in range(4)]
    write(tmp_path / "recipe" / "train.jsonl", rows)
    with pytest.raises(InputError, match="all documents of a query have the same prompt"):
        train(recipe, tmp_path / "out")
    assert kept(tmp_path / "out") == []


def test_a_group_is_tokenized_once_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit.batches import training_rows
    from rerankkit.training import requirements

    recipe = run.recipe(tmp_path / "recipe", SHORT, dev=0)
    looked_at = []

    def rows(parts: Any, group: Any) -> Any:
        looked_at.append(group.query)
        return training_rows(parts, group)

    monkeypatch.setattr(requirements, "training_rows", rows)
    train(recipe, tmp_path / "out")
    assert len(looked_at) > 2 and len(set(looked_at)) == len(looked_at)


def again(recipe: Path, output: Path, overwrite: bool, said: Any) -> None:
    try:
        train(recipe, output, overwrite=overwrite)
        said.put("trained")
    except Exception as error:
        said.put(f"{type(error).__name__}: {error}")


@pytest.mark.regression
def test_an_output_is_trained_for_once_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    recipe, output, said = run.recipe(tmp_path / "recipe", SHORT, dev=0), tmp_path / "out", []
    original, context = transformers.Trainer.training_step, multiprocessing.get_context("fork")

    def step(*args: Any, **options: Any) -> Any:
        for overwrite in () if said else (False, True):
            answers = context.SimpleQueue()
            other = context.Process(target=again, args=(recipe, output, overwrite, answers))
            other.start()
            said.append(answers.get())
            other.join()
        return original(*args, **options)

    monkeypatch.setattr(transformers.Trainer, "training_step", step)
    train(recipe, output)
    assert len(said) == 2
    assert all(text.startswith("InputError: another training (process ") for text in said), said
    assert all(f"is writing to {output}; wait for it to end" in text for text in said)
    assert Reranker.from_pretrained(output).compute_score([["a", "b"]])
    assert not output.with_name("out.training").exists()


def hold(folder: str, ready: Any) -> None:
    from rerankkit.training.lock import locked

    with locked(Path(folder), Path(folder)):
        ready.set()
        multiprocessing.Event().wait()


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    from rerankkit.training.lock import locked

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(60)
    with (
        pytest.raises(InputError, match=rf"another training \(process {holder.pid} on .*\) is writing to"),
        locked(tmp_path, tmp_path),
    ):
        pass
    holder.kill()
    holder.join()
    assert (tmp_path / "lock").is_file()  # what the dead process left
    with locked(tmp_path, tmp_path):
        assert (tmp_path / "lock").read_text().startswith("process ")
    assert not (tmp_path / "lock").exists()
