"""Takes the docstrings of a folder of Python sources apart: a summary, which asks, and the rest, which answers.

The sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3", "ensurepip"}
QUERY_WORDS = range(4, 31)
DOCUMENT_WORDS = 20
_NAMED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Documented:
    """Something with a docstring. Its id is like `email.message:Message.get_payload`."""

    id: str
    query: str
    text: str

    @property
    def top_level(self) -> str:
        """The top-level module or package."""
        return self.id.split(":")[0].split(".")[0]


def documented(folder: Path, package: str = "") -> Iterator[Documented]:
    """What has a docstring that makes a query and a document, in the order of paths and lines."""
    for path in _sources(folder):
        parts = [package] * bool(package) + list(path.relative_to(folder).with_suffix("").parts)
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for name, docstring in _docstrings(path):
            if pair := as_pair(docstring):
                yield Documented(f"{module}:{name}" if name else module, *pair)


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
