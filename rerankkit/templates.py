"""Texts with fields in braces: what a recipe writes where a prompt has a query and documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from rerankkit.protocols import Piece

_BRACES = re.compile(r"\{\{|\}\}|\{(\w*)\}|[{}]")


def problems(
    template: str, once: Sequence[str], some: Sequence[str] = (), optional: Sequence[str] = ()
) -> Iterator[str]:
    """Say what is wrong with a template that must hold some fields once and some at least once, and may hold others.
    `{{` and `}}` are literal braces."""
    names = [name for _, name in split(template) if name is not None]
    known = (*once, *some, *optional)
    usable = " and ".join(filter(None, (", ".join(f"{{{name}}}" for name in known[:-1]), f"{{{known[-1]}}}")))
    for name in sorted({name for name in names if name not in known}):
        said = f"{{{name}}}" if name.isidentifier() else "a brace that belongs to no field"
        yield f"{said} is unknown; use {usable}, and {{{{ }}}} for literal braces"
    for name in once:
        if names.count(name) != 1:
            yield f"must contain {{{name}}} once, found {names.count(name)} times"
    for name in some:
        if name not in names:
            yield f"must contain {{{name}}} at least once, found 0 times"


def fill(template: str, fields: Mapping[str, Sequence[Piece]]) -> list[Piece]:
    """The pieces of a template with those of its fields; what stands around them is fixed."""
    pieces = []
    for literal, name in split(template):
        pieces.append(Piece(literal, "fixed"))
        if name is not None:
            pieces += fields[name]
    return [piece for piece in pieces if piece.text or piece.role != "fixed"]


@lru_cache(maxsize=64)
def split(template: str) -> tuple[tuple[str, str | None], ...]:
    """Literal text and the name of the field that follows it; the last text has none."""
    found, literal, end = [], "", 0
    for match in _BRACES.finditer(template):
        literal += template[end : match.start()]
        end = match.end()
        if match.group() in ("{{", "}}"):
            literal += match.group()[0]
            continue
        found.append((literal, match.group(1) if match.group(1) is not None else match.group()))
        literal = ""
    return (*found, (literal + template[end:], None))
