"""Checkpoints that are used only if they are whole: a list of their files and hashes is written last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from rerankkit import files
from rerankkit.errors import InputError
from rerankkit.folder_cache import sha256_of
from rerankkit.warnings import warn

SEAL, ORIGIN = "complete.json", "origin.json"


def seal(folder: Path) -> None:
    """Record every file of a finished checkpoint."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SEAL]
    digests = {str(path.relative_to(folder)): sha256_of(path) for path in paths}
    files.write(folder / SEAL, [json.dumps(digests, indent=1)])


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was sealed and its files are still what they were."""
    try:
        digests = json.loads((folder / SEAL).read_text())
        if not isinstance(digests, dict) or not digests:
            return False
        return all(sha256_of(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def require_same_origin(checkpoint: Path, origin: Mapping[str, str]) -> None:
    """Refuse to go on from a checkpoint of other data or of another optimizer.

    Args:
        origin: What each is now, by its name; a checkpoint of an older version, which does not say, is taken.
    """
    path = checkpoint / ORIGIN
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for name, value in origin.items():
        if (was := before.get(name, value)) == value:
            continue
        if name == "optim":
            raise InputError(
                f"{checkpoint} was trained by optim = {was!r}, whose state {value!r} cannot go on with; resume with "
                f"--training.optim {was}, or start anew with --overwrite"
            )
        raise InputError(
            f"[{name}] gives other groups than those that {checkpoint} was trained with; resume with the same data, or "
            "start anew with --overwrite"
        )


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a training, whole or not, oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=step)


def step(checkpoint: Path) -> int:
    """After how many steps a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a training; says which newer ones it passes over."""
    for checkpoint in reversed(checkpoints(folder)):
        if is_complete(checkpoint):
            return checkpoint
        warn("checkpoints_passed_over", str(checkpoint))
    return None


def rotate(newest: Path, best: Path | None, limit: int | None) -> None:
    """Delete the oldest checkpoints until `limit` are left; the newest and the best always stay.

    What is numbered higher than the newest was passed over when the training was resumed. It goes, whatever the limit.
    """
    others = [path for path in checkpoints(newest.parent) if path not in (newest, best)]
    stale = [path for path in others if step(path) > step(newest)]
    older = [path for path in others if step(path) < step(newest)]
    room = max(0, limit - (1 if best in (newest, None) else 2)) if limit else len(older)
    for checkpoint in [*stale, *older[: max(0, len(older) - room)]]:
        shutil.rmtree(checkpoint, ignore_errors=True)
