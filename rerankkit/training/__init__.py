"""`train`: from a recipe to a saved reranker."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import transformers

from rerankkit import engine
from rerankkit.checkpoints import require_same_origin
from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import prepare
from rerankkit.files import is_stream
from rerankkit.progress import Bar, quiet_libraries
from rerankkit.protocols import Group
from rerankkit.recipe import Recipe, build, load_recipe, require
from rerankkit.reranker import Reranker
from rerankkit.sampling import training_groups
from rerankkit.starting_point import with_checkpoint_settings
from rerankkit.stored_groups import StoredGroups
from rerankkit.training import outputs, requirements
from rerankkit.training.arguments import require_steps, training_arguments
from rerankkit.training.callbacks import Gradients, Report, StopOnInterrupt
from rerankkit.training.lock import locked
from rerankkit.training.trainer import GroupTrainer, TrainingModule
from rerankkit.warnings import Mode, collecting, collecting_as, say

logger = logging.getLogger("rerankkit")


class Interrupted(RunError):
    """Training was stopped by Ctrl-C; its checkpoint is on disk."""


def train(
    recipe: str | Path | Recipe,
    output: str | Path,
    overrides: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    warnings: Mode = "log",
) -> Reranker:
    """Train what a recipe describes and save it.

    Checkpoints lie in `OUTPUT.training` until the model is saved; then they go. With several processes (torchrun) the
    first one writes, and all return the trained reranker.

    Args:
        output: The folder of the saved model.
        resume: Go on from the newest complete checkpoint of an earlier training with the same output.
        overwrite: Replace what is at the output, once the new model is complete; without `resume`, also the
            checkpoints of an earlier training.
        warnings: Whether what is cut, replaced or left out is logged or an error.
    """
    with collecting_as(warnings):
        return _trained(recipe, output, overrides, resume, overwrite)


def _trained(
    recipe: str | Path | Recipe, output: str | Path, overrides: dict[str, Any] | None, resume: bool, overwrite: bool
) -> Reranker:
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, purpose="train")
    elif overrides:
        raise InputError("overrides go into load_recipe(path, overrides), not beside a recipe that is read already")
    require(recipe, "train")
    recipe = with_checkpoint_settings(recipe)
    output = Path(output) if Path(output).name not in ("", "..") else Path(os.path.abspath(output))
    if is_stream(output):
        raise InputError(f"{output} is a pipe or a device, and a model is a folder; give another --output")
    if output.is_symlink():
        output = Path(os.path.realpath(output))  # so that what it leads to is replaced, not the link
    work = output.with_name(output.name + ".training")
    with quiet_libraries():
        args = training_arguments(recipe, work)
        lock = locked(work, output) if args.should_save else contextlib.nullcontext()
        with _quiet_process(args), outputs.working_folder(work), lock:
            if args.should_save:
                outputs.put_back(output, work)
            outputs.barrier(args)
            checkpoint = outputs.checkpoint_of(output, work, resume, overwrite)
            with outputs.scratch_folder(args, work) as scratch:
                return _train(recipe, args, output, checkpoint, scratch)


def _train(
    recipe: Recipe, args: transformers.TrainingArguments, output: Path, checkpoint: Path | None, scratch: Path
) -> Reranker:
    with collecting():  # what is to be known before the first step is said before it
        stored = StoredGroups(recipe.groups("train"), scratch / "train.jsonl")
        groups = training_groups(recipe, stored, args.data_seed if args.data_seed is not None else args.seed)
        require_steps(args, len(groups))
        known = groups.known_positives if groups.sampling.in_batch_negatives else None
        requirements.require_lessons(recipe, groups, args.train_batch_size, known)
        dev = prepare(list(recipe.groups("dev"))) if recipe.has("data.dev") else []
        origin = {"optim": args.optim.value, "data.train": stored.digest, "data.dev": _digest(dev)}
        if checkpoint is not None:
            require_same_origin(checkpoint, origin)
        if args.dataloader_num_workers:  # tokenizers' threads and a loader's processes do not go together
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        transformers.set_seed(args.seed)
        reranker = Reranker.from_recipe(recipe)
        chunk = recipe.section("training").get("score_chunk")
        module = TrainingModule(reranker.parts, build(recipe, "loss"), chunk, known is not None)
        requirements.require_fitting(recipe, reranker.parts, groups[0, 0])
        requirements.require_weights(module, args)
        requirements.require_documents(reranker.parts, groups, known)
        say()  # now, for hours may pass before the outermost block ends
    trained = sum(weight.numel() for weight in module.trained_weights().values())
    logger.info("%s trained weights, %s groups to train on, %s to validate on", f"{trained:,}", len(groups), len(dev))
    if not dev:
        logger.info("no [data.dev]: nothing is measured, and the weights of the last step are kept")
    # What a part does at its first use only, such as checking itself, must not fall into the first step after a resume.
    with collecting(passed_on=False):
        engine.run(reranker.parts, [groups[0, 0]], recipe.settings("engine"))
    settings = recipe.settings("engine"), recipe.settings("evaluation")
    trainer = GroupTrainer(module, args, groups, dev, *settings, known, origin)
    outputs.barrier(args)
    if args.should_save:
        outputs.prepare_folder(Path(args.output_dir), recipe, checkpoint)
    outputs.barrier(args)
    start, weights = time.perf_counter(), module.digest()
    with StopOnInterrupt() as stop, Bar("training", quiet=not args.should_save) as bar:
        gradients = Gradients()
        for callback in (gradients, stop, Report(bar)):
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step}; its checkpoint is in {args.output_dir}. "
            "Go on with the same command and --resume"
        )
    module.eval()
    module.require_finite(trainer.state.global_step)
    requirements.require_learned(trainer.state.global_step, gradients.some, module.digest() != weights)
    reranker.untrained = False
    if args.should_save:
        outputs.save(reranker, output, Path(args.output_dir), _notes(trainer, time.perf_counter() - start))
    outputs.barrier(args)
    return reranker


@contextlib.contextmanager
def _quiet_process(args: transformers.TrainingArguments) -> Iterator[None]:
    """Of several processes, the first one speaks."""
    before = logger.level
    if not args.should_save:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _digest(groups: Sequence[Group]) -> str:
    return hashlib.sha256("".join(map(repr, groups)).encode("utf-8", "surrogatepass")).hexdigest()


def _notes(trainer: GroupTrainer, seconds: float) -> str:
    """What the model card says of the training."""
    evaluated = [entry for entry in trainer.state.log_history if any(key.startswith("eval_") for key in entry)]
    lines = [f"Trained for {trainer.state.global_step} steps in {seconds:.0f} s."]
    if trainer.args.load_best_model_at_end:
        lines.append(
            f"The weights are those of step {trainer.state.best_global_step}, the best on the validation data."
        )
    if evaluated:
        names = [key for key in evaluated[0] if key.startswith("eval_")]
        lines += ["", f"| step | {' | '.join(name.removeprefix('eval_') for name in names)} |"]
        lines.append("|" + "---|" * (len(names) + 1))
        lines += [f"| {e['step']} | {' | '.join(f'{e[name]:.4f}' for name in names)} |" for e in evaluated]
    return "\n".join(lines)
