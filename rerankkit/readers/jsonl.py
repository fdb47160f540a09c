"""Reads training and evaluation groups from JSON Lines or JSON arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rerankkit.collection import require_positive
from rerankkit.errors import InputError
from rerankkit.files import is_stream, without_packing
from rerankkit.json_arrays import read_objects
from rerankkit.protocols import Group
from rerankkit.registry import registry
from rerankkit.rows import Keys, groups_of
from rerankkit.warnings import Warnings

ENDINGS = (".jsonl", ".json")


@registry.readers("jsonl.v1")
@dataclass(eq=False)
class Jsonl:
    """Reads JSON Lines, or JSON arrays, whose rows have one of three forms, which the first row decides.

    A document is text or {"title", "text"}; `qid` (or `query_id`) and `doc_ids` are optional; null counts as absent.

        {"query": "...", "positive": ["...", ...], "negative": ["...", ...]}    either may be one document, not a list;
                                                                            or `negative_1`, `negative_2` and so on
        {"query": "...", "docs": ["...", ...], "labels": [1, 0, ...], "teacher_scores": [...]}
        {"query": "...", "document": "...", "label": 1}    `text` may stand for `document`, `labels` for `label`;
                                                           `doc_id` and `title` are optional

    Rows stream, so a file may be larger than memory. Those of the last form are gathered by query, wherever they
    stand, by way of a temporary file.

    Recipe:
        [data.train]
        @readers = "jsonl.v1"
        path = "data/train.jsonl"

    Args:
        path: A file, plain or packed (.gz, .bz2, .xz), a pipe, or `-` for standard input; or a folder, of which all
            *.jsonl and *.json, each perhaps packed, are read in the order of names.
        document_key: What the third form calls its document, in place of `document` or `text`.
        label_key: What the third form calls its label, in place of `label` or `labels`.
        limit: Read only so many groups, from the start.
    """

    path: str
    query_key: str = "query"
    positive_key: str = "positive"
    negative_key: str = "negative"
    document_key: str = "document"
    label_key: str = "label"
    limit: int | None = None

    def __post_init__(self) -> None:
        require_positive(self.limit, "limit")
        self._files = _files(Path(self.path))
        self._reported = False

    def __iter__(self) -> Iterator[Group]:
        notes = Warnings()
        lines = (line for path in self._files for line in read_objects(path))
        keys = Keys(self.query_key, self.positive_key, self.negative_key, self.document_key, self.label_key)
        yield from islice(groups_of(lines, keys, notes), self.limit)
        if not self._reported:
            self._reported = True
            notes.pass_on()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not is_stream(path) and not path.exists():
            raise InputError(f"no such file or folder: {path}")
        return [path]
    files = sorted(p for p in path.iterdir() if without_packing(p.name).endswith(ENDINGS))
    if not files:
        raise InputError(f"{path}: no *.jsonl or *.json file, plain or packed, in this folder")
    return files
