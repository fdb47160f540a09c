"""The entries of a tokenizer's vocabulary, as its files name them, and what may be used of them as markers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

_RESERVED = re.compile(r"\[unused\d+\]|<\S+>")
_WITH_MARKERS = ("config_sentence_transformers.json", "artifact.metadata")
_SPARE = re.compile(r"unused|madeupword|reserved|extra_id", re.IGNORECASE)


def stored_entries(name: str) -> frozenset[str] | None:
    """The vocabulary of a checkpoint whose tokenizer files lie in a folder; None where there are none to look into, and
    where files beside them name the markers that are used in place of a recipe's.

    Args:
        name: A folder; of anything else nothing is looked at.
    """
    folder = Path(name)
    if any((folder / file).exists() for file in _WITH_MARKERS):
        return None
    try:
        if (folder / "tokenizer.json").is_file():
            return _of_tokenizer(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
        if (folder / "vocab.json").is_file():
            return frozenset(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
        if (folder / "vocab.txt").is_file():
            return frozenset((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # a damaged file is named where it is loaded
        pass
    return None


def _of_tokenizer(stored: dict[str, Any]) -> frozenset[str]:
    vocabulary = stored["model"].get("vocab", {})
    entries = vocabulary if isinstance(vocabulary, dict) else [entry for entry, _ in vocabulary]
    return frozenset([*entries, *(token["content"] for token in stored.get("added_tokens", []))])


def foreign_marker(marker: str, entries: Collection[str]) -> str:
    """Why a marker that is written like a reserved entry, such as `[unused0]`, cannot be used; empty where it can."""
    if marker in entries or not _RESERVED.fullmatch(marker):
        return ""
    spare = sorted(entry for entry in entries if _SPARE.search(entry))[:2]
    other = f"this one has {' and '.join(map(repr, spare))}" if len(spare) == 2 else 'a text such as "query: ", or none'
    return (
        f"{marker!r} is no entry of this model's vocabulary, and would be read as the text of several tokens; choose "
        f"markers that are ({other})"
    )
