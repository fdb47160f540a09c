"""Single tensors out of a checkpoint's files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankkit.errors import RunError
from rerankkit.lazy import torch

Finder = Callable[[str], Path | None]
"""Gives a file of a checkpoint by its name, or None."""
WEIGHTS = "model.safetensors"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What a file says of a tensor: its dtype in safetensors' words, such as F32 or I8, and its shape."""

    dtype: str
    shape: tuple[int, ...]


def stored_shapes(file: Finder, weights: str = WEIGHTS) -> dict[str, StoredTensor]:
    """Dtype and shape of every tensor of a checkpoint, from the heads of its files alone."""
    places = _places(file, weights)
    shards = {weights} if places is None else set(places.values())
    found: dict[str, StoredTensor] = {}
    for path in (path for path in map(file, sorted(shards)) if path is not None):
        try:
            with path.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                entries = json.loads(opened.read(length))
        except (OSError, ValueError, struct.error) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        entries.pop("__metadata__", None)
        found |= {name: StoredTensor(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    return found


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
    places = _places(file, weights)
    shards = {weights} if places is None else {places[name] for name in names & places.keys()}
    return [path for path in map(file, sorted(shards)) if path is not None]


def _places(file: Finder, weights: str) -> dict[str, str] | None:
    """Which file each tensor is in; None where they are in one, which transformers takes before it looks for others."""
    index = None if file(weights) is not None else read_json(file, f"{weights}.index.json")
    if index is None:
        return None
    places = index.get("weight_map")
    if not isinstance(places, dict):
        raise RunError(
            f"{weights}.index.json does not say where each tensor is (weight_map); copy or download it again"
        )
    return places
