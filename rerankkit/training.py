"""`train`: from a recipe to a saved reranker."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from rerankkit import engine
from rerankkit.batches import training_batch, warn_of_truncation
from rerankkit.checkpoints import latest
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import prepare
from rerankkit.files import require_free
from rerankkit.progress import Bar, quiet_libraries
from rerankkit.protocols import Group, Loss, Taught
from rerankkit.recipe import Recipe, build, fill, load_recipe, require
from rerankkit.registry import registry
from rerankkit.reranker import Reranker
from rerankkit.sampling import TrainingGroups
from rerankkit.starting_point import with_checkpoint_settings
from rerankkit.stored_groups import StoredGroups
from rerankkit.trainer import GroupTrainer, StopOnInterrupt, TrainingModule
from rerankkit.warnings import collecting, say

logger = logging.getLogger("rerankkit")
LOOKED_AT = 500
"""Of how many training groups it is said before the first step what is cut."""
LIKELIHOOD = "negative_log_likelihood.v1"
RECIPE = "recipe.cfg"
REPLACED = "replaced"
SCRATCH = "groups-"
OURS = {
    "remove_unused_columns": "leave it out; there are no columns",
    "logging_nan_inf_filter": "leave it out; a loss that is no number ends the training",
    "disable_tqdm": "leave it out; the bar is rerankkit's own, and appears in terminals only",
    "resume_from_checkpoint": "give --resume",
    "save_only_model": "leave it out; a checkpoint without the optimizer's state cannot be resumed",
    "ignore_data_skip": "leave it out; a resumed training would see some data twice",
    "push_to_hub": "leave it out; upload the saved folder instead",
    "auto_find_batch_size": "set per_device_train_batch_size, and gradient_accumulation_steps to make up for it",
    "label_smoothing_factor": "leave it out; a [loss] decides what is learned",
    "neftune_noise_alpha": "leave it out; it is for embeddings that the Trainer can reach",
    "train_sampling_strategy": "leave it out; the order is drawn anew in every epoch",
    "use_liger_kernel": "leave it out; the loss never forms the logits that it saves",
    "include_num_input_tokens_seen": "leave it out",
    "per_device_eval_batch_size": "set batch_tokens in [engine]",
    "bf16_full_eval": "set dtype in [model.backbone]",
    "fp16_full_eval": "set dtype in [model.backbone]",
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics", "include_for_metrics"), "set [evaluation] measures"),
    **dict.fromkeys(("label_names", "length_column_name"), "leave it out; there are no columns"),
    "eval_accumulation_steps": "set batch_tokens in [engine]",
    "hub_model_id": "leave it out; upload the saved folder instead",
    "fsdp": "leave it out; torchrun trains with one whole model in each process",
    "deepspeed": "leave it out; torchrun trains with one whole model in each process",
}
"""Arguments of the Trainer that would do nothing here, or harm, and what to do instead."""


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

    Checkpoints lie in `OUTPUT.training` until the model is saved; then they go. With several processes (torchrun) the
    first one writes, and all return the trained reranker.

    Args:
        output: The folder of the saved model.
        resume: Go on from the newest complete checkpoint of an earlier training with the same output.
        overwrite: Replace what is at the output, once the new model is complete; without `resume`, also the
            checkpoints of an earlier training.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, purpose="train")
    elif overrides:
        raise InputError("overrides go into load_recipe(path, overrides), not beside a recipe that is read already")
    require(recipe, "train")
    recipe = with_checkpoint_settings(recipe)
    output = Path(output) if Path(output).name not in ("", "..") else Path(os.path.abspath(output))
    work = output.with_name(output.name + ".training")
    with quiet_libraries():
        args = _arguments(recipe, work)
        with _quiet_process(args), _folder(work):
            _put_back(output, work)
            checkpoint = _checkpoint(output, work, resume, overwrite)
            with _scratch(args, work) as scratch:
                return _train(recipe, args, output, checkpoint, scratch)


def _train(
    recipe: Recipe, args: transformers.TrainingArguments, output: Path, checkpoint: Path | None, scratch: Path
) -> Reranker:
    seed = args.data_seed if args.data_seed is not None else args.seed
    sampling = recipe.settings("sampling")
    stored = StoredGroups(_groups(recipe, "data.train"), scratch / "train.jsonl")
    groups = TrainingGroups(stored, sampling, seed)
    dev = prepare(list(_groups(recipe, "data.dev"))) if recipe.has("data.dev") else []
    if args.dataloader_num_workers:  # tokenizers' threads and a loader's processes do not go together
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.set_seed(args.seed)
    reranker = Reranker.from_recipe(recipe)
    module = TrainingModule(
        reranker.parts,
        build(recipe, "loss"),
        recipe.section("training").get("score_chunk"),
        sampling.in_batch_negatives,
    )
    _require_fitting(recipe, reranker.parts, groups[0, 0])
    if groups.lone and not (sampling.in_batch_negatives and args.train_batch_size > 1):
        _require_lone_lessons(recipe, module.loss)
    trained = sum(weight.numel() for weight in module.trained_weights().values())
    if not trained:
        raise InputError("nothing to train: every weight is frozen")
    logger.info("%s trained weights, %s groups to train on, %s to validate on", f"{trained:,}", len(groups), len(dev))
    if not dev:
        logger.info("no [data.dev]: nothing is measured, and the weights of the last step are kept")
    with collecting():
        warn_of_truncation(reranker.parts, (groups[0, number] for number in range(min(len(groups), LOOKED_AT))))
        say()  # now, for hours may pass before the outermost block ends
    # What a part does at its first use only, such as checking itself, must not fall into the first step after a resume.
    engine.run(reranker.parts, [groups[0, 0]], recipe.settings("engine"))
    known = groups.known_positives if sampling.in_batch_negatives else None
    trainer = GroupTrainer(module, args, groups, dev, recipe.settings("engine"), recipe.settings("evaluation"), known)
    _together(args)
    if args.should_save:
        _prepare_folder(Path(args.output_dir), recipe, checkpoint)
    _together(args)
    start = time.perf_counter()
    with StopOnInterrupt() as stop, Bar("training", quiet=not args.should_save) as bar:
        trainer.add_callback(stop)
        trainer.add_callback(_Report(bar))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.stopped:
        raise Interrupted(
            f"stopped at step {trainer.state.global_step}; its checkpoint is in {args.output_dir}. "
            "Go on with the same command and --resume"
        )
    module.eval()
    module.require_finite(trainer.state.global_step)
    reranker.untrained = False
    if args.should_save:
        _save(reranker, output, Path(args.output_dir), _notes(trainer, time.perf_counter() - start))
    _together(args)
    return reranker


def _require_fitting(recipe: Recipe, parts: Parts, group: Group) -> None:
    """Refuse, before the first step, groups that no prompt can show and a loss that would learn something else."""
    size = recipe.settings("sampling").group_size
    try:
        parts.strategy.training_asks(Group("", [""] * size))
    except InputError as error:
        raise InputError(f"[sampling] group_size = {size}: {error}") from error
    loss, taught = recipe.get("loss")["@losses"], isinstance(parts.head, Taught)
    if loss == LIKELIHOOD and not taught:
        raise InputError(
            f"[loss] {LIKELIHOOD} is for heads that learn to write the right answer, such as generated_order.v1; with "
            "this one it would give high scores to everything, so use softmax_cross_entropy.v1"
        )
    if taught and loss != LIKELIHOOD and registry.origin("losses", loss).package == "rerankkit":
        raise InputError(
            f"[loss] {loss} compares the scores of documents, and the head learns to write the right answer, where "
            f"scores are log-likelihoods of its parts; use {LIKELIHOOD}"
        )
    training_batch(parts, [group])


def _require_lone_lessons(recipe: Recipe, loss: Loss) -> None:
    """Refuse a loss that learns from comparisons where no group has two documents: it would train for nothing."""
    score, one = torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1)
    value = loss(score, one, one.bool())
    lesson = torch.autograd.grad(value, score, allow_unused=True)[0] if value.requires_grad else None
    if lesson is None or not lesson.any():
        raise InputError(
            f"[data.train] no group has a negative document, and {recipe.get('loss')['@losses']} learns nothing from a "
            "document by itself; give the data some, or let [sampling] random_negatives draw them from other queries"
        )


def _arguments(recipe: Recipe, work: Path) -> transformers.TrainingArguments:
    given = dict(recipe.section("training"))
    if (chunk := given.pop("score_chunk", None)) is not None and chunk < 1:
        raise InputError(f"[training] score_chunk = {chunk} must be at least 1; leave it out to score a batch at once")
    if given.get("max_steps", -1) > 0 and "num_train_epochs" in given:
        raise InputError(
            f"[training] max_steps = {given['max_steps']} wins over num_train_epochs = {given['num_train_epochs']}; to "
            "train by epochs, set max_steps = -1 (--training.max_steps -1)"
        )
    measures = recipe.settings("evaluation").measures
    for name, remedy in OURS.items():
        if given.get(name):
            raise InputError(f"[training] {name} = {given[name]!r} cannot be: {remedy}")
    if given.get("save_strategy") == "best":
        raise InputError(
            '[training] save_strategy = "best" could not be resumed from where it stopped; use "steps" or "epoch" with '
            "load_best_model_at_end = true, which keeps the best checkpoint too"
        )
    if not recipe.has("data.dev"):
        given |= {"eval_strategy": "no", "load_best_model_at_end": False}
    elif (best := given.get("metric_for_best_model", measures[0])) not in measures:
        raise InputError(
            f"[training] metric_for_best_model = {best!r} is not among the measures of [evaluation]: "
            f"{', '.join(measures)}"
        )
    defaults = {
        "metric_for_best_model": measures[0] if recipe.has("data.dev") else None,
        "greater_is_better": True,
        "use_cpu": not torch.accelerator.is_available(),  # else bf16 is taken to need a GPU
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    fixed = {
        "output_dir": str(work),
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }
    try:
        return transformers.TrainingArguments(**{**defaults, **given, **fixed})
    except (ValueError, ImportError) as error:
        raise InputError(f"[training] {error}") from error


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


@contextlib.contextmanager
def _folder(work: Path) -> Iterator[None]:
    """A place that cannot be written to is found before any work; an empty folder is not left behind."""
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create {work} ({error.strerror}); give another --output") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            work.rmdir()


@contextlib.contextmanager
def _scratch(args: transformers.TrainingArguments, work: Path) -> Iterator[Path]:
    """A folder of this process for the groups to train on; what a killed training left of its own goes first."""
    if args.should_save:
        for left in work.glob(f"{SCRATCH}*"):
            _remove(left)
    _together(args)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=work, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _checkpoint(output: Path, work: Path, resume: bool, overwrite: bool) -> Path | None:
    """Where to go on from, if at all; refuses to touch what an earlier training left unless told what to do."""
    if not overwrite:
        require_free(output)
    if overwrite and not resume:
        return None
    found = latest(work)
    if found is not None and not resume:
        raise InputError(
            f"{work} holds an unfinished training (up to {found.name}); add --resume to go on with it, or --overwrite"
        )
    if resume and found is None:
        raise InputError(f"nothing to resume: {work} has no complete checkpoint; start anew without --resume")
    return found


def _prepare_folder(work: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    """Clear what an earlier training left, or say how the recipe differs from that of the one gone on with."""
    text = fill(recipe)
    if checkpoint is None:
        for entry in work.iterdir():
            if not entry.name.startswith(SCRATCH):  # what all processes are about to train on
                _remove(entry)
    elif (work / RECIPE).is_file():
        before = (work / RECIPE).read_text(encoding="utf-8").splitlines()
        if changed := [line for line in text.splitlines() if line not in before]:
            logger.warning(
                "the recipe is not the one this training began with, so the result will be neither's: %s",
                "; ".join(changed[:5]),
            )
    (work / RECIPE).write_text(text, encoding="utf-8")


def _save(reranker: Reranker, output: Path, work: Path, notes: str) -> None:
    """Write the model beside its checkpoints, and put it in its place once it is whole."""
    new = work / "model"
    try:
        shutil.rmtree(new, ignore_errors=True)
        reranker.save_pretrained(new, notes)
        if output.exists():
            shutil.rmtree(work / REPLACED, ignore_errors=True)
            os.replace(output, work / REPLACED)
        os.replace(new, output)
    except (OSError, RunError, SafetensorError) as error:
        _put_back(output, work)
        raise RunError(
            f"the trained model could not be written to {output} ({error}); its last checkpoint is in {work}. "
            "When there is space again, go on with the same command and --resume"
        ) from error
    shutil.rmtree(work, ignore_errors=True)


def _put_back(output: Path, work: Path) -> None:
    """What was to be replaced, where a training ended before the new model was in its place."""
    if not output.exists():
        with contextlib.suppress(OSError):  # most often there is none
            os.replace(work / REPLACED, output)


def _together(args: transformers.TrainingArguments) -> None:
    """No process goes on before all are here."""
    if args.world_size > 1:
        torch.distributed.barrier()


def _groups(recipe: Recipe, section: str) -> Iterator[Group]:
    some = False
    for group in build(recipe, section):
        some = True
        yield group
    if not some:
        raise InputError(f"[{section}] gave no groups")


class _Report(transformers.TrainerCallback):
    """One line for each log and each evaluation."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

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
