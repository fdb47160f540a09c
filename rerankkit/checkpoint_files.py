"""Single tensors out of a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rerankkit.errors import RunError
from rerankkit.lazy import torch

Finder = Callable[[str], Path | None]
"""Gives a file of a checkpoint by its name, or None."""
WEIGHTS = "model.safetensors"


def stored_tensors(file: Finder, names: set[str], weights: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """The tensors of these names, of those that the checkpoint has, as they are stored."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    for path in _shards(file, names, weights):
        try:
            with safe_open(path, "pt") as tensors:
                found |= {name: tensors.get_tensor(name) for name in names & set(tensors.keys())}
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
    return found


def read_json(file: Finder, name: str) -> dict[str, Any] | None:
    """A JSON object beside a checkpoint; None where there is no such file."""
    path = file(name)
    if path is None:
        return None
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is not JSON ({error}); copy or download it again") from error
    return value if isinstance(value, dict) else {"": value}


def _shards(file: Finder, names: set[str], weights: str) -> list[Path]:
    index = read_json(file, f"{weights}.index.json")
    places = {weights} if index is None else {index["weight_map"][name] for name in names & index["weight_map"].keys()}
    return [path for path in map(file, sorted(places)) if path is not None]
