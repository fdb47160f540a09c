"""`train`: from a recipe to a saved reranker."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from rerankkit import saving
from rerankkit.checkpoints import latest
from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import prepare
from rerankkit.progress import Bar
from rerankkit.protocols import Group
from rerankkit.recipe import Recipe, build, load_recipe
from rerankkit.reranker import Reranker
from rerankkit.sampling import TrainingGroups
from rerankkit.trainer import GroupTrainer, StopOnInterrupt, TrainingModule

logger = logging.getLogger("rerankkit")


class Interrupted(RunError):
    """Training was stopped by Ctrl-C; its checkpoint is on disk."""


def train(
    recipe: str | Path | Recipe,
    output: str | Path,
    overrides: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Reranker:
    """Train what a recipe describes and save it.

    Checkpoints lie in `OUTPUT.training` until the model is saved; then they go.

    Args:
        output: The folder of the saved model.
        resume: Go on from the newest complete checkpoint of an earlier training with the same output.
        overwrite: Replace the output, and the checkpoints of an earlier training.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, purpose="train")
    output = Path(output)
    work = output.with_name(output.name + ".training")
    args = _arguments(recipe, work)
    with args.main_process_first(desc="preparing the output folder"):
        checkpoint = _checkpoint(output, work, resume, overwrite) if args.should_save else latest(work)
    transformers.set_seed(args.seed)
    reranker = Reranker.from_recipe(recipe)
    module = TrainingModule(reranker.parts, build(recipe, "loss"))
    trained = sum(weight.numel() for weight in module.trained_weights().values())
    if not trained:
        raise InputError("nothing to train: every weight is frozen")
    groups = TrainingGroups(_groups(recipe, "data.train"), recipe.settings("sampling"), args.seed)
    dev = prepare(_groups(recipe, "data.dev")) if recipe.has("data.dev") else []
    logger.info("%s trained weights, %s groups to train on, %s to validate on", f"{trained:,}", len(groups), len(dev))
    trainer = GroupTrainer(module, args, groups, dev, recipe.settings("engine"), recipe.settings("evaluation"))
    start = time.perf_counter()
    with StopOnInterrupt() as stop, Bar("training", quiet=not args.should_save) as bar:
        trainer.remove_callback(transformers.trainer_callback.ProgressCallback)
        trainer.add_callback(stop)
        trainer.add_callback(_Report(bar))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.interrupted:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step}; its checkpoint is in {work}. "
            "Go on with the same command and --resume"
        )
    if args.should_save:
        if overwrite:
            shutil.rmtree(output, ignore_errors=True)
        reranker.save_pretrained(output, _notes(trainer, time.perf_counter() - start))
        shutil.rmtree(work, ignore_errors=True)
    return reranker


def _arguments(recipe: Recipe, work: Path) -> transformers.TrainingArguments:
    given = dict(recipe.section("training"))
    if not recipe.has("data.dev"):
        given |= {"eval_strategy": "no", "load_best_model_at_end": False}
    measures = recipe.settings("evaluation").measures
    with _quiet():
        return transformers.TrainingArguments(
            **{
                "metric_for_best_model": measures[0] if recipe.has("data.dev") else None,
                "greater_is_better": True,
                "dataloader_pin_memory": torch.cuda.is_available(),
                **given,
                "output_dir": str(work),
                "remove_unused_columns": False,
                "logging_nan_inf_filter": False,
                "disable_tqdm": True,
            }
        )


def _checkpoint(output: Path, work: Path, resume: bool, overwrite: bool) -> Path | None:
    """Where to go on from, if at all; refuses to touch what an earlier training left unless told what to do."""
    if overwrite:
        shutil.rmtree(work, ignore_errors=True)
        return None
    saving.require_free(output)
    found = latest(work)
    if found is not None and not resume:
        raise InputError(
            f"{work} holds an unfinished training (up to {found.name}); add --resume to go on with it, or --overwrite"
        )
    if resume and found is None:
        raise InputError(f"nothing to resume: {work} has no complete checkpoint")
    return found


def _groups(recipe: Recipe, section: str) -> Sequence[Group]:
    groups = list(build(recipe, section))
    if not groups:
        raise InputError(f"[{section}] gave no groups")
    return groups


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers' advice about its own arguments does not concern a recipe's reader."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


class _Report(transformers.TrainerCallback):
    """One line for each log and each evaluation."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._best: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._bar.start(state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._bar.move_to(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        self._bar.say(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
            f"learning rate {logs['learning_rate']:.2e}  gradient norm {logs.get('grad_norm', float('nan')):.2f}"
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **rest: Any) -> None:
        if state.is_world_process_zero:
            values = "  ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in metrics.items())
            self._bar.say(f"step {state.global_step}/{state.max_steps}  validation  {values}")


def _notes(trainer: GroupTrainer, seconds: float) -> str:
    """What the model card says of the training."""
    evaluated = [entry for entry in trainer.state.log_history if any(key.startswith("eval_") for key in entry)]
    lines = [f"Trained for {trainer.state.global_step} steps in {seconds:.0f} s."]
    if trainer.state.best_global_step:
        lines.append(
            f"The weights are those of step {trainer.state.best_global_step}, the best on the validation data."
        )
    if evaluated:
        names = [key for key in evaluated[0] if key.startswith("eval_")]
        lines += ["", f"| step | {' | '.join(name.removeprefix('eval_') for name in names)} |"]
        lines.append("|" + "---|" * (len(names) + 1))
        lines += [f"| {e['step']} | {' | '.join(f'{e[name]:.4f}' for name in names)} |" for e in evaluated]
    return "\n".join(lines)
