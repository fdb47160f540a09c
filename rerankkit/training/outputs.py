"""The folder of a training, `OUTPUT.training`: scratch files, checkpoints, and the model on its way to its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from rerankkit.checkpoints import latest
from rerankkit.errors import InputError, RunError
from rerankkit.files import require_free
from rerankkit.recipe import Recipe, fill
from rerankkit.reranker import Reranker
from rerankkit.training.lock import LOCK
from rerankkit.warnings import warn

RECIPE = "recipe.cfg"
REPLACED = "replaced"
SCRATCH = "groups-"


@contextlib.contextmanager
def working_folder(work: Path) -> Iterator[None]:
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
def scratch_folder(args: transformers.TrainingArguments, work: Path) -> Iterator[Path]:
    """A folder of this process for the groups to train on; what a killed training left of its own goes first."""
    if args.should_save:
        for left in work.glob(f"{SCRATCH}*"):
            _remove(left)
    barrier(args)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=work, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def checkpoint_of(output: Path, work: Path, resume: bool, overwrite: bool) -> Path | None:
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


def prepare_folder(work: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    """Clear what an earlier training left, or say how the recipe differs from that of the one gone on with."""
    text = fill(recipe)
    if checkpoint is None:
        for entry in work.iterdir():
            if entry.name != LOCK and not entry.name.startswith(SCRATCH):  # what all processes are about to train on
                _remove(entry)
    elif (work / RECIPE).is_file():
        before = (work / RECIPE).read_text(encoding="utf-8").splitlines()
        if changed := [line for line in text.splitlines() if line not in before]:
            warn("recipe_lines_changed", "; ".join(changed[:5]), len(changed))
    (work / RECIPE).write_text(text, encoding="utf-8")


def save(reranker: Reranker, output: Path, work: Path, notes: str) -> None:
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
        put_back(output, work)
        raise RunError(
            f"the trained model could not be written to {output} ({error}); its last checkpoint is in {work}. "
            "When there is space again, go on with the same command and --resume"
        ) from error
    shutil.rmtree(work, ignore_errors=True)


def put_back(output: Path, work: Path) -> None:
    """What was to be replaced, where a training ended before the new model was in its place."""
    if not output.exists():
        with contextlib.suppress(OSError):  # most often there is none
            os.replace(work / REPLACED, output)


def barrier(args: transformers.TrainingArguments) -> None:
    """No process goes on before all are here."""
    if args.world_size > 1:
        torch.distributed.barrier()
