"""Reads training and evaluation groups from a Hugging Face dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rerankkit.collection import require_positive
from rerankkit.hf_rows import dataset_rows
from rerankkit.protocols import Group
from rerankkit.registry import registry
from rerankkit.rows import Keys, groups_of
from rerankkit.warnings import Warnings


@registry.readers("hf_dataset.v1")
@dataclass(eq=False)
class HfDataset:
    """Reads a split of a Hugging Face dataset, whose rows have one of the three forms of jsonl.v1.

    Typed files are memory-mapped; messages count their rows from 0, as `datasets` does. Dates or numbers where text
    belongs are refused. JSON and CSV are read as they are written, without guessing types: "007" and "2024-01-01"
    stay text. Code that a repository brings is never run.

    Recipe:
        [data.train]
        @readers = "hf_dataset.v1"
        path = "C-MTEB/T2Reranking"
        split = "dev"

    Args:
        path: A dataset of the hub; a folder that save_to_disk wrote; or a parquet, arrow, JSON or CSV file, whose split
            is train, or a folder of them.
        config: Which of several datasets in one repository or folder.
        document_key: What a row of one pair calls its document, in place of `document` or `text`.
        label_key: What it calls its label, in place of `label` or `labels`.
        limit: Read only so many groups, from the start.
    """

    path: str
    split: str = "train"
    config: str | None = None
    query_key: str = "query"
    positive_key: str = "positive"
    negative_key: str = "negative"
    document_key: str = "document"
    label_key: str = "label"
    limit: int | None = None

    def __post_init__(self) -> None:
        require_positive(self.limit, "limit")
        self._keys = Keys(self.query_key, self.positive_key, self.negative_key, self.document_key, self.label_key)
        self._rows = dataset_rows(self.path, self.config, self.split, self._keys.labels)
        self._reported = False

    def __iter__(self) -> Iterator[Group]:
        notes = Warnings()
        yield from islice(groups_of(self._rows(), self._keys, notes), self.limit)
        if not self._reported:
            self._reported = True
            notes.pass_on()
