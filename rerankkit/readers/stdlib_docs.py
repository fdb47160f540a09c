"""Reads the documentation of the installed Python's standard library: real text that is always at hand."""

from __future__ import annotations

import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rerankkit.collection import Collection, candidates_from_bm25, require_positive, sampled
from rerankkit.docstrings import Documented, documented
from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.registry import registry

SPLITS = ("train", "dev", "test")


@registry.readers("stdlib_docs.v1")
@dataclass(eq=False)
class StdlibDocs:
    """Makes queries of the summaries of the standard library's docstrings, and documents of what follows them.

    The source files are parsed, never imported. The split is by top-level module: about 60 % of the modules are train,
    15 % dev, 25 % test. The candidates of a split come from its own documents and those of the splits before it, so
    training never sees a document of dev or test.

    Recipe:
        [data.train]
        @readers = "stdlib_docs.v1"
        split = "train"
        candidates = 20
        add_positives = true

    Args:
        candidates: How many documents BM25 gives a query, best first.
        add_positives: Append the document of the query where BM25 missed it. For training; measures over such groups
            would flatter.
        limit: Take a sample of so many queries, the same for the same seed.
        packages: Other installed packages, such as "numpy", whose docstrings join the train split. They are never
            imported.
    """

    split: Literal["train", "dev", "test"] = "train"
    candidates: int = 20
    add_positives: bool = False
    limit: int | None = None
    packages: list[str] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_positive(self.candidates, "candidates")
        require_positive(self.limit, "limit")
        if self.split not in SPLITS:
            raise InputError(f"stdlib_docs.v1 has the splits {', '.join(SPLITS)}, but not {self.split!r}")
        self._folders = {name: _package_folder(name) for name in self.packages or []}
        self._groups: list[Group] | None = None

    def __iter__(self) -> Iterator[Group]:
        if self._groups is None:
            self._groups = self._read()
        return iter(self._groups)

    def _read(self) -> list[Group]:
        found = [(split_of(entry.top_level), entry) for entry in _stdlib()]
        if self.split == "train":
            found += [("train", entry) for name, folder in self._folders.items() for entry in documented(folder, name)]
        readable = SPLITS[: SPLITS.index(self.split) + 1]
        found = [(split, entry) for split, entry in _distinct(found) if split in readable]
        own = {entry.id: entry.query for split, entry in found if split == self.split}
        queries = {docid: own[docid] for docid in sampled(list(own), self.limit, self.seed)}
        corpus = {entry.id: entry.text for _, entry in found}
        data = Collection(corpus, queries, {docid: {docid: 1} for docid in queries})
        return data.groups(candidates_from_bm25(corpus, queries, self.candidates), add_positives=self.add_positives)


@cache
def _stdlib() -> tuple[Documented, ...]:
    return tuple(documented(Path(sysconfig.get_paths()["stdlib"])))


def split_of(module: str) -> str:
    """The split of a top-level module, the same in every process and on every machine."""
    draw = int(hashlib.sha256(module.encode()).hexdigest(), 16) % 100
    return "train" if draw < 60 else "dev" if draw < 75 else "test"


def _distinct(found: list[tuple[str, Documented]]) -> Iterator[tuple[str, Documented]]:
    """Leaves out what repeats an id, a query or a text, across all splits."""
    seen: set[tuple[str, str]] = set()
    for split, entry in found:
        marks = {("id", entry.id), ("query", entry.query.lower().rstrip(".")), ("text", entry.text)}
        if not marks & seen:
            seen |= marks
            yield split, entry


def _package_folder(name: str) -> Path:
    # find_spec imports the parents of a dotted name, so those are refused
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"stdlib_docs.v1: no installed package named {name!r}; pip install it or leave it out")
    return Path(spec.submodule_search_locations[0])
