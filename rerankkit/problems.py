"""What is wrong with a recipe: all of it at once, each with its section, file and line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rerankkit.errors import InputError

COMMAND_LINE = "command line"


class Place(NamedTuple):
    """Where something is written: a file and a line, or an override."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    section: str
    message: str
    place: Place

    def __str__(self) -> str:
        section = f"[{self.section}] " if self.section else ""
        return f"{self.place}: {section}{self.message}"


class RecipeError(InputError):
    """A recipe that cannot be used; its text is the report of all its problems."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(report(self.problems))


def report(problems: Iterable[Problem]) -> str:
    """Write problems as a person reads them: grouped by file, in the order of the lines."""
    files: dict[str, list[Problem]] = {}
    for problem in problems:
        files.setdefault(problem.place.file, []).append(problem)
    lines = []
    for file, found in files.items():
        lines.append(file)
        width = max(len(str(problem.place.line or "")) for problem in found)
        sections = max(len(problem.section) for problem in found) + 2
        for problem in found:
            line = str(problem.place.line or "").rjust(width)
            section = f"[{problem.section}]" if problem.section else ""
            lines.append(f"  {line}  {section.ljust(sections)}  {problem.message}")
    return "\n".join(lines)


def shown(path: Path) -> str:
    """A path as it is printed: relative to the current folder where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    known = list(known)
    stems: dict[str, str] = {}
    for candidate in known:
        stems.setdefault(candidate.rsplit(".v", 1)[0], candidate)
    text = str(name)
    near = difflib.get_close_matches(text, known, n=1) or [
        stems[stem] for stem in difflib.get_close_matches(text.rsplit(".v", 1)[0], stems, n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else ""
