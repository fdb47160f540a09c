"""Trainings that are killed, interrupted or run out of disk, in processes of their own, and what is left of them."""

import json
import os
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_training as run

from rerankkit.checkpoints import checkpoints, is_complete, latest, step

DROPOUT: dict[str, Any] = {
    "lora": {"r": 4, "lora_dropout": 0.2},
    "backbone": {"attention_dropout": 0.1},
    "sampling": {"group_size": 4, "random_negatives": 1},
}
LAST = {"load_best_model_at_end": False}
"""So that the weights saved are those of the last step, which all steps before it have a part in."""
STEP, SAVE = "rerankkit.training.trainer:GroupTrainer", "rerankkit.training.trainer"
MOMENTS = {
    "before the first step": (STEP, "compute_loss", 1),
    "between two accumulated batches": (STEP, "compute_loss", 16),
    "after the first step of an epoch": (STEP, "compute_loss", 10),
    "while the weights are written": ("safetensors.torch", "save_file", 2),
    "while the optimizer's state is written": ("torch", "save", 4),
    "after all files but the seal": (SAVE, "seal", 2),
    "between the seal and the rotation": (SAVE, "rotate", 2),
    "while an older checkpoint goes": ("shutil", "rmtree", 6, "after"),
    "after the last step": (STEP, "_finalize_training", 1),
    "before the model is saved": ("rerankkit.training.outputs", "save", 1),
    "before the model is in its place": ("rerankkit.saving", "sha256_of", 2),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.recipe(tmp_path_factory.mktemp("killed"), training=LAST, **DROPOUT)


@pytest.fixture(scope="module")
def expected(recipe: Path) -> str:
    """The weights of a training that nothing disturbed."""
    assert run.finish(run.start(run.train, recipe, recipe.parent / "whole")) == 0, run.log(recipe)
    assert not (recipe.parent / "whole.training").exists()
    return run.weights(recipe.parent / "whole")


def check_killed(recipe: Path, output: Path, expected: str, started: bool) -> None:
    """Nothing is at the output, whole checkpoints are, and going on with them gives the undisturbed weights."""
    work = output.with_name(output.name + ".training")
    assert not output.exists()
    whole = [path for path in checkpoints(work) if is_complete(path)]
    if started:
        assert whole
    assert run.finish(run.start(run.train, recipe, output, (), bool(whole))) == 0, run.log(recipe)
    assert run.weights(output) == expected
    assert not work.exists()


def test_killed_and_resumed_gives_the_same_weights(recipe: Path, expected: str, tmp_path: Path) -> None:
    process = run.start(run.train, recipe, tmp_path / "model", MOMENTS["between two accumulated batches"])
    assert run.finish(process) == -signal.SIGKILL
    check_killed(recipe, tmp_path / "model", expected, started=True)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(recipe: Path, expected: str, tmp_path: Path, moment: str) -> None:
    process = run.start(run.train, recipe, tmp_path / "model", MOMENTS[moment])
    assert run.finish(process) == -signal.SIGKILL, run.log(recipe)
    check_killed(recipe, tmp_path / "model", expected, started=moment != "before the first step")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_killed_from_outside_at_a_random_moment(recipe: Path, expected: str, tmp_path: Path, seed: int) -> None:
    process = run.start(run.train, recipe, tmp_path / "model")
    while process.is_alive() and not (tmp_path / "model.training" / "recipe.cfg").exists():
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 1.2))
    process.kill()
    if run.finish(process) == 0:
        assert run.weights(tmp_path / "model") == expected
    else:
        check_killed(recipe, tmp_path / "model", expected, started=False)


@pytest.mark.slow
def test_killed_again_and_again(recipe: Path, expected: str, tmp_path: Path) -> None:
    output = tmp_path / "model"
    for call in (9, 8, 5):  # each time a few batches beyond the last checkpoint
        found = latest(tmp_path / "model.training") is not None
        process = run.start(run.train, recipe, output, (STEP, "compute_loss", call), found)
        assert run.finish(process) == -signal.SIGKILL
    assert [step(path) for path in checkpoints(tmp_path / "model.training")] == [6]
    check_killed(recipe, output, expected, started=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_killed_with_the_best_checkpoint_kept(tmp_path: Path, strategy: str) -> None:
    settings = {"eval_strategy": strategy, "save_strategy": strategy, "learning_rate": 3e-2, "max_steps": 11}
    recipe = run.recipe(tmp_path, training=settings, **DROPOUT)
    assert run.finish(run.start(run.train, recipe, tmp_path / "whole")) == 0, run.log(recipe)
    expected = run.weights(tmp_path / "whole")
    for call in (14, 19):
        output = tmp_path / f"killed-{call}"
        process = run.start(run.train, recipe, output, (STEP, "compute_loss", call))
        assert run.finish(process) == -signal.SIGKILL
        check_killed(recipe, output, expected, started=True)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "deleted":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        path.write_bytes({"truncated": content[:middle], "flipped": flipped}[kind])


def stopped_training(recipe: Path, output: Path) -> Path:
    """A training that was killed with two whole checkpoints, those of steps 3 and 6."""
    process = run.start(run.train, recipe, output, (SAVE, "rotate", 2))
    assert run.finish(process) == -signal.SIGKILL
    work = output.with_name(output.name + ".training")
    assert [step(path) for path in checkpoints(work) if is_complete(path)] == [3, 6]
    return work


def test_a_damaged_checkpoint_is_passed_over(recipe: Path, expected: str, tmp_path: Path) -> None:
    work = stopped_training(recipe, tmp_path / "model")
    newest = work / "checkpoint-6"
    names = sorted(path.name for path in newest.iterdir())
    assert {"trained.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} < set(names)
    for name in names:
        content = (newest / name).read_bytes()
        for kind in ("deleted", "truncated", "flipped"):
            damage(newest / name, kind)
            assert latest(work) == work / "checkpoint-3", (name, kind)
            (newest / name).write_bytes(content)
    assert latest(work) == newest
    damage(newest / "optimizer.pt", "deleted")  # transformers itself would go on from here, to other weights
    said = len(run.log(recipe))
    check_killed(recipe, tmp_path / "model", expected, started=True)
    assert f"1 checkpoint incomplete or damaged, passed over, such as {newest}" in run.log(recipe)[said:]


def test_no_whole_checkpoint_is_an_error_that_says_so(recipe: Path, tmp_path: Path) -> None:
    work = stopped_training(recipe, tmp_path / "model")
    for checkpoint in checkpoints(work):
        damage(checkpoint / "trained.safetensors", "flipped")
    assert run.finish(run.start(run.train, recipe, tmp_path / "model", (), True)) == 1
    assert f"nothing to resume: {work} has no complete checkpoint; start anew without --resume" in run.log(recipe)
    assert len(checkpoints(work)) == 2


def interrupt(path: Path, output: Path, call: int, resume: bool = False) -> None:
    """Train, with Ctrl-C in the middle of some batch."""
    from rerankkit.training.trainer import GroupTrainer

    original, calls = GroupTrainer.compute_loss, 0

    def compute_loss(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **options)

    GroupTrainer.compute_loss = compute_loss  # type: ignore[method-assign]
    run.train(path, output, resume=resume)


def test_ctrl_c_finishes_the_step_and_leaves_a_checkpoint(recipe: Path, expected: str, tmp_path: Path) -> None:
    process = run.start(interrupt, recipe, tmp_path / "model", 9)
    assert run.finish(process) == 1
    said = run.log(recipe)
    assert "finishing this step, then saving a checkpoint; press Ctrl-C again to stop at once" in said
    work = tmp_path / "model.training"
    assert f"Interrupted: stopped at step 5; its checkpoint is in {work}. Go on with the same command" in said
    assert [step(path) for path in checkpoints(work)] == [5]
    assert not (tmp_path / "model").exists()
    check_killed(recipe, tmp_path / "model", expected, started=True)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["steps", "epoch"])
@pytest.mark.parametrize("call", [3, 13, 16, 18])
def test_ctrl_c_changes_nothing_of_the_result(tmp_path: Path, strategy: str, call: int) -> None:
    """Batches 3 and 13 lie inside an epoch, 16 ends one, 18 is the last of all."""
    settings = {"eval_strategy": strategy, "save_strategy": strategy, "learning_rate": 3e-2}
    recipe = run.recipe(tmp_path / "recipe", training=settings, **DROPOUT)
    assert run.finish(run.start(run.train, recipe, tmp_path / "whole")) == 0, run.log(recipe)
    assert run.finish(run.start(interrupt, recipe, tmp_path / "model", call)) == 1
    work = tmp_path / "model.training"
    assert latest(work) == checkpoints(work)[-1]
    assert step(checkpoints(work)[-1]) == (call + 1) // 2
    state = json.loads((checkpoints(work)[-1] / "trainer_state.json").read_text())
    measured = {entry["step"] for entry in state["log_history"] if "eval_nDCG@10" in entry}
    assert measured <= ({3, 6, 9} if strategy == "steps" else {4, 8, 9})  # not where it was interrupted
    check_killed(recipe, tmp_path / "model", run.weights(tmp_path / "whole"), started=True)


def limited(path: Path, output: Path, size: int, after: int) -> None:
    """Train with a limit on the size of a file, which stands for a full disk, from some checkpoint on."""
    from rerankkit.training.trainer import GroupTrainer

    original, calls = GroupTrainer._save_checkpoint, 0

    def save_checkpoint(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            return original(*args, **options)
        finally:  # so that the failure can be logged
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    GroupTrainer._save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    run.train(path, output)


@pytest.mark.parametrize("size", [pytest.param(1_000, id="weights", marks=pytest.mark.slow), 12_000])
def test_a_full_disk_names_the_folder_and_spares_older_checkpoints(
    recipe: Path, expected: str, tmp_path: Path, size: int
) -> None:
    assert run.finish(run.start(limited, recipe, tmp_path / "model", size, 1)) == 1
    work = tmp_path / "model.training"
    said = run.log(recipe)
    assert f"RunError: the checkpoint {work / 'checkpoint-6'} could not be written (" in said
    assert "is the disk full?" in said
    assert [step(path) for path in checkpoints(work)] == [3]
    check_killed(recipe, tmp_path / "model", expected, started=True)


@pytest.mark.slow
def test_a_full_disk_while_the_model_is_saved(recipe: Path, expected: str, tmp_path: Path) -> None:
    assert run.finish(run.start(_no_room_at_the_end, recipe, tmp_path / "model")) == 1
    said = run.log(recipe)
    assert f"RunError: the trained model could not be written to {tmp_path / 'model'}" in said
    assert "go on with the same command and --resume" in said
    check_killed(recipe, tmp_path / "model", expected, started=True)


def _no_room_at_the_end(path: Path, output: Path) -> None:
    from rerankkit.training import outputs

    original = outputs.save

    def save(*args: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            original(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    outputs.save = save  # type: ignore[assignment]
    run.train(path, output)
