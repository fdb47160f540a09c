"""Reads training and evaluation groups from JSON Lines."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rerankkit.collection import require_positive
from rerankkit.errors import InputError
from rerankkit.jsonl_lines import read_lines
from rerankkit.protocols import Group
from rerankkit.registry import registry
from rerankkit.rows import Keys, groups_of

log = logging.getLogger("rerankkit")


@registry.readers("jsonl.v1")
@dataclass(eq=False)
class Jsonl:
    """Reads JSON Lines whose rows have one of three forms, which the first row decides.

    A document is text or {"title", "text"}; `qid` (or `query_id`) and `doc_ids` are optional; null counts as absent.

        {"query": "...", "positive": ["...", ...], "negative": ["...", ...]}    either may be one document, not a list
        {"query": "...", "docs": ["...", ...], "labels": [1, 0, ...], "teacher_scores": [...]}
        {"query": "...", "document": "...", "label": 1}    `text` may stand for `document`; `doc_id` is optional

    The rows of the last form are gathered by query, wherever they stand, and so are held in memory; the others stream.

    Recipe:
        [data.train]
        @readers = "jsonl.v1"
        path = "data/train.jsonl"

    Args:
        path: A file, plain or gzip, or a folder, of which all *.jsonl and *.jsonl.gz are read in the order of names.
        limit: Read only so many groups, from the start.
    """

    path: str
    query_key: str = "query"
    positive_key: str = "positive"
    negative_key: str = "negative"
    limit: int | None = None

    def __post_init__(self) -> None:
        require_positive(self.limit, "limit")
        self._files = _files(Path(self.path))
        self._reported = False

    def __iter__(self) -> Iterator[Group]:
        notes: Counter[str] = Counter()
        lines = (line for path in self._files for line in read_lines(path))
        keys = Keys(self.query_key, self.positive_key, self.negative_key)
        yield from islice(groups_of(lines, keys, notes), self.limit)
        if not self._reported:
            self._reported = True
            for note, count in notes.items():
                log.warning("%s: %d %s", self.path, count, note)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"no such file or folder: {path}")
        return [path]
    files = sorted(p for p in path.iterdir() if p.name.endswith((".jsonl", ".jsonl.gz")))
    if not files:
        raise InputError(f"{path}: no *.jsonl or *.jsonl.gz file in this folder")
    return files
