"""Reads the documentation of the installed Python's standard library: real text that is always at hand."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from rerankkit.collection import Collection, candidates_from_bm25, require_positive, sampled
from rerankkit.errors import InputError
from rerankkit.protocols import Group, Reader
from rerankkit.registry import registry

Split = Literal["train", "dev", "test"]

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3", "ensurepip"}
QUERY_WORDS = range(4, 31)
DOCUMENT_WORDS = 20
_NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@registry.readers("stdlib_docs.v1")
def stdlib_docs(
    split: Split = "train",
    candidates: int = 20,
    add_positives: bool = False,
    limit: int | None = None,
    packages: list[str] | None = None,
    seed: int = 0,
) -> Reader:
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
    return StdlibDocs(split, candidates, add_positives, limit, packages or [], seed)


class StdlibDocs:
    """The groups of one split, made at the first iteration and kept for the next ones."""

    def __init__(
        self, split: Split, candidates: int, add_positives: bool, limit: int | None, packages: list[str], seed: int
    ) -> None:
        require_positive(candidates, "candidates")
        require_positive(limit, "limit")
        if split not in SPLITS:
            raise InputError(f"stdlib_docs.v1 has the splits {', '.join(SPLITS)}, but not {split!r}")
        self.split, self.candidates, self.add_positives = split, candidates, add_positives
        self.limit, self.seed = limit, seed
        self.folders = tuple((name, _package_folder(name)) for name in packages)
        self._groups: list[Group] | None = None

    def __iter__(self) -> Iterator[Group]:
        if self._groups is None:
            self._groups = self._read()
        return iter(self._groups)

    def _read(self) -> list[Group]:
        entries = list(_stdlib())
        if self.split == "train":
            for name, folder in self.folders:
                entries += _entries(folder, name)
        readable = SPLITS[: SPLITS.index(self.split) + 1]
        entries = [entry for entry in _distinct(entries) if entry.split in readable]
        own = {entry.id: entry.query for entry in entries if entry.split == self.split}
        queries = {docid: own[docid] for docid in sampled(list(own), self.limit, self.seed)}
        data = Collection(
            {entry.id: entry.text for entry in entries}, queries, {docid: {docid: 1} for docid in queries}
        )
        run = candidates_from_bm25(data.corpus, queries, self.candidates)
        return data.groups(run, add_positives=self.add_positives)


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    query: str
    text: str
    split: Split


@cache
def _stdlib() -> tuple[_Entry, ...]:
    return tuple(_entries(Path(sysconfig.get_paths()["stdlib"])))


def _entries(folder: Path, package: str = "") -> Iterator[_Entry]:
    """The docstrings under a folder that make a query and a document, in the order of paths and lines."""
    for path in _sources(folder):
        parts = [package] * bool(package) + list(path.relative_to(folder).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for name, docstring in _docstrings(path):
            if pair := as_pair(docstring):
                split: Split = "train" if package else split_of(parts[0])
                yield _Entry(f"{module}:{name}" if name else module, *pair, split)


def _sources(folder: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in SKIPPED and name.isidentifier())
        found += [Path(place, name) for name in sorted(files) if name.endswith(".py") and name[:-3].isidentifier()]
    return found


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the escapes in a stranger's source
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # some packages carry templates and files of Python 2
        return
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, ast.Module | _NAMED) and (docstring := ast.get_docstring(node)):
            yield name, docstring
        inside = [
            (f"{name}.{child.name}".lstrip(".") if isinstance(child, _NAMED) else name, child)
            for child in ast.iter_child_nodes(node)
            if isinstance(child, ast.stmt)
        ]
        waiting += reversed(inside)


def as_pair(docstring: str) -> tuple[str, str] | None:
    """A docstring's summary and the rest of it, or None where they do not make a query and a document.

    The summary is the first paragraph; where that is no sentence of 4 to 30 words or all there is, its first sentence.
    """
    first, _, rest = docstring.partition("\n\n")
    query, text = " ".join(first.split()), " ".join(rest.split())
    if len(query.split()) not in QUERY_WORDS or not text:
        sentence = re.match(r"(.+?[.!?])\s+(?=[A-Z])", query)
        if not sentence:
            return None
        query, text = sentence[1], " ".join([query[sentence.end() :], text]).strip()
    if len(query.split()) not in QUERY_WORDS or len(text.split()) < DOCUMENT_WORDS:
        return None
    # signatures, grammars and code are no questions
    if not query[0].isalpha() or re.search(r"->|>>>|::|\w\(\w*,|==? ", query):
        return None
    if _prose(query) < 0.85 or _prose(text) < 0.75:
        return None
    return None if query.lower().rstrip(".") in text.lower() else (query, text)


def _prose(text: str) -> float:
    return sum(letter.isalpha() or letter.isspace() for letter in text) / len(text)


def split_of(module: str) -> Split:
    """The split of a top-level module, the same in every process and on every machine."""
    draw = int(hashlib.sha256(module.encode()).hexdigest(), 16) % 100
    return "train" if draw < 60 else "dev" if draw < 75 else "test"


def _distinct(entries: list[_Entry]) -> Iterator[_Entry]:
    ids, queries, texts = set(), set(), set()
    for entry in entries:
        query = entry.query.lower().rstrip(".")
        if entry.id not in ids and query not in queries and entry.text not in texts:
            ids.add(entry.id)
            queries.add(query)
            texts.add(entry.text)
            yield entry


def _package_folder(name: str) -> Path:
    # find_spec imports the parents of a dotted name, so those are refused
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"stdlib_docs.v1: no installed package named {name!r}; pip install it or leave it out")
    return Path(spec.submodule_search_locations[0])
