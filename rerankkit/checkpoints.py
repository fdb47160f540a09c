"""Checkpoints that are used only if they are whole: a list of their files and hashes is written last."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

logger = logging.getLogger("rerankkit")
SEAL = "complete.json"


def seal(folder: Path) -> None:
    """Record every file of a finished checkpoint."""
    files = {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    unsealed = folder / f"{SEAL}.part"
    unsealed.write_text(json.dumps(files, indent=1))
    os.replace(unsealed, folder / SEAL)


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was sealed and its files are still what they were."""
    try:
        files: dict[str, str] = json.loads((folder / SEAL).read_text())
        return bool(files) and all(sha256(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError):
        return False


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a training; says which newer ones it passes over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True)
    for checkpoint in found:
        if is_complete(checkpoint):
            return checkpoint
        logger.warning("%s is incomplete or damaged and is passed over", checkpoint)
    return None


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
