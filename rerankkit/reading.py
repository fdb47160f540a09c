"""A recipe's text: its sections and values as they are written, each with its line.

The grammar is confection's, and confection gives the values (JSON, `${…}`). Before it does, this module finds what is
wrong with the text: confection stops at the first fault, knows no lines, and lets some faults pass for values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rerankkit.files import read_bytes
from rerankkit.problems import Place, Problem, RecipeError, shown

Section = tuple[str, ...]
"""A section's path, such as ("model", "head")."""

NAME = re.compile(r"[A-Za-z_][\w-]*")
KEY = re.compile(r"@?[A-Za-z_][\w-]*")
_HEADER = re.compile(r"\[([^\[\]]*)\]\s*([#;].*)?$")
_OPTION = re.compile(r"(.*?)\s*[=:]\s*(.*)$")


@dataclass(frozen=True)
class Entry:
    """A value as it is written.

    Args:
        is_bad: Whether it was reported already, so that nothing more is said about it.
    """

    text: str
    place: Place
    is_bad: bool = False


@dataclass
class Sections:
    """The sections of a recipe, in the order of the file.

    Args:
        start: Where the recipe itself begins, for what is missing from it.
        headers: Where each section begins.
        complete: Whether every file was there; a recipe without its base lacks things for no fault of its own.
    """

    start: Place
    entries: dict[Section, dict[str, Entry]] = field(default_factory=dict)
    headers: dict[Section, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    complete: bool = True

    def report(self, section: Section, message: str, place: Place) -> None:
        """Note a problem."""
        self.problems.append(Problem(".".join(section), message, place))

    def open(self, section: Section, place: Place) -> None:
        """Begin a section, which takes the place of a value of its name."""
        self.entries.get(section[:-1], {}).pop(section[-1], None)
        self.entries.setdefault(section, {})
        self.headers[section] = place

    def drop(self, section: Section) -> None:
        """Remove a section and those below it."""
        for other in [s for s in self.entries if s[: len(section)] == section]:
            del self.entries[other], self.headers[other]

    def set(self, section: Section, key: str, entry: Entry) -> None:
        """Write a value, which takes the place of a section of its name. A dict becomes a section; null in [data]
        leaves out what the recipe would have extended."""
        self.drop((*section, key))
        if section == ("data",) and entry.text == "null":
            return
        content = _dict_in(entry.text)
        if content is None:
            self.entries[section][key] = entry
            return
        self.open((*section, key), entry.place)
        for name, value in content.items():
            self.set((*section, key), name, Entry(json.dumps(value, ensure_ascii=False), entry.place))

    def component(self, section: Section) -> dict[str, Any]:
        """The @ keys of a section with their values."""
        return {k: load(e.text) for k, e in self.entries.get(section, {}).items() if k.startswith("@")}

    def update(self, other: Sections) -> None:
        """Lay another recipe over this one. The same part adds to a block's arguments, another replaces the block."""
        for section in other.entries:
            before, after = self.component(section), other.component(section)
            if before and after and before != after:
                self.drop(section)
        for section, entries in other.entries.items():
            self.open(section, other.headers[section])
            for key, entry in entries.items():
                self.set(section, key, entry)
        self.start = other.start
        self.problems += other.problems
        self.complete = self.complete and other.complete


def load(text: str) -> Any:
    """A value's text without references, as confection reads it: JSON, True, False, None, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)


def _dict_in(text: str) -> dict[str, Any] | None:
    """The dict that a text spells, where it can be written as a section."""
    value = load(text) if text.startswith("{") else None
    return value if isinstance(value, dict) and all(KEY.fullmatch(key) for key in value) else None


def read_file(path: Path) -> str:
    """The text of a recipe file; a file that cannot be one is refused."""
    message = ""
    try:
        data = read_bytes(path)
        text = data.decode("utf-8-sig")
        message = "" if text.strip() else "the file is empty; a recipe has sections such as [model]"
        if text.lstrip().startswith("{"):
            message = (
                "this is JSON; a recipe has sections such as [model]. Of a model give the folder, not its config.json"
            )
    except FileNotFoundError:
        message = "there is no such file"
    except IsADirectoryError:
        message = "this is a folder; give a recipe file, such as recipes/llm_pointwise.cfg"
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError([Problem("", "the file is not UTF-8 text", Place(shown(path), line))]) from None
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
    if message:
        raise RecipeError([Problem("", message, Place(shown(path)))])
    return text.replace("\r\n", "\n")


def scan(path: Path) -> Sections:
    """Read one file, noting every fault of form."""
    file = shown(path)
    sections = Sections(Place(file, 1))
    current: Section | None = None
    keys: dict[tuple[Section, str], Place] = {}
    for line in _lines(read_file(path)):
        place = Place(file, line.number)
        if line.header is not None:
            current = tuple(line.header.split("."))
            if not all(NAME.fullmatch(part) for part in current) or current[0] == "DEFAULT":
                sections.report((), f"[{line.header}] cannot be a section; name it like [model.head]", place)
                current = ("",)  # what stands below is not reported as well
            elif current in sections.headers:
                message = f"this section is there twice, first on line {sections.headers[current].line}"
                sections.report(current, message, place)
            else:
                sections.open(current, place)
        elif current == ("",):
            continue
        elif current is None:
            sections.report((), f"{(line.key or line.text)!r} stands before the first [section]", place)
        elif line.key is None or not KEY.fullmatch(line.key):
            sections.report(current, f"cannot read {line.text!r}; write key = value", place)
        elif (current, line.key) in keys:
            first = keys[current, line.key].line
            sections.report(current, f"{line.key} is there twice, first on line {first}", place)
        else:
            keys[current, line.key] = place
            if line.fault:
                sections.report(current, f"{line.key}: {line.fault}", place)
            sections.entries[current][line.key] = Entry(line.text, place, bool(line.fault))
    for (section, key), place in keys.items():
        if (*section, key) in sections.headers:
            other = sections.headers[*section, key].line
            sections.report(section, f"{key} is also a section, on line {other}; keep one of the two", place)
            sections.entries[section].pop(key, None)
        elif not (entry := sections.entries[section][key]).is_bad:
            sections.set(section, key, entry)
    return sections


class _Line(NamedTuple):
    """A section's header, or a key with its value, all its lines joined."""

    number: int
    header: str | None = None
    key: str | None = None
    text: str = ""
    fault: str = ""


def _lines(text: str) -> Iterator[_Line]:
    """Split a text by the rules of configparser: an indented line goes on with the value above it."""
    number, key, parts, fault = 0, "", [""], ""
    indent = 0

    def value() -> _Line:
        joined = "\n".join(parts).rstrip()
        return _Line(number, None, key, joined, fault if isinstance(load(joined), str) else _json_fault(joined))

    for position, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if stripped.startswith(("#", ";")):
            if key and depth > indent:
                fault = fault or f"line {position} is a comment to the grammar; write the text in quotes, with \\n"
            continue
        if not stripped:
            parts.append("")
            continue
        if key and depth > indent:
            parts.append(stripped)
            if _HEADER.match(stripped) or re.match(r"@?\w+\s*=", stripped):
                fault = fault or f"line {position} is indented, and so goes on with this value"
            continue
        if key:
            yield value()
        indent, number, key, parts, fault = depth, position, "", [""], ""
        if header := _HEADER.match(stripped):
            yield _Line(position, header=header.group(1))
        elif (option := _OPTION.match(stripped)) and option.group(1):
            key, parts = option.group(1), [option.group(2)]
        else:
            yield _Line(position, text=stripped)
    if key:
        yield value()


def _json_fault(text: str) -> str:
    """A key that JSON has twice: the parser would keep the last without a word."""
    twice: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(name for name in names if names.count(name) > 1)
        return dict(pairs)

    if text.startswith(("{", "[")):
        json.loads(text, object_pairs_hook=collect)
    return f"{twice[0]!r} is there twice" if twice else ""
