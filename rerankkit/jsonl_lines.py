"""Reads JSON Lines, plain or packed, one checked object at a time, and says file and line of everything that is wrong.

Text stays text: "2024-01-01" and "007" arrive as they are written, and a number where text belongs is refused.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from rerankkit.errors import InputError
from rerankkit.files import open_file, unreadable
from rerankkit.warnings import warn

TEXTS = ("text", "contents", "body", "segment", "passage")
"""What a document's text is called: by BEIR, by Pyserini, by MS MARCO v2's documents, segments and passages."""
Texts = Iterable[tuple[int, str]]
"""Lines of a file, each with its number."""
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    Decimal: "a decimal number",
    list: "a list",
    dict: "an object",
    bytes: "bytes",
    date: "a date",
    datetime: "a date and time",
    time: "a time of day",
    timedelta: "a duration",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One object with the place it was read from.

    Args:
        unit: What stands between the path and the number in messages.
    """

    path: Path | str
    number: int
    data: dict[str, Any]
    unit: str = ":"

    @property
    def place(self) -> str:
        """`file:line`, or `dataset, row N`, for messages."""
        return f"{self.path}{self.unit}{self.number}"

    def wrong(self, message: str) -> InputError:
        """The error to raise for something wrong in this line."""
        return InputError(f"{self.place}: {message}")

    def has(self, key: str) -> bool:
        """Whether the key is there with a value; null counts as absent."""
        return self.data.get(key) is not None

    def first_key(self, names: Sequence[str], what: str) -> str:
        """The one of several names for a thing that this line uses."""
        found = [name for name in names if self.has(name)]
        if len(found) > 1:
            raise self.wrong(f"{what} is given twice, by {quoted(found)}; keep one of them")
        if not found:
            self.require_no_null(names)
            raise self.wrong(
                f"no {what}: expected {quoted(names, ' or ')}, found {quoted(self.data)}{nearest(names, self.data)}"
            )
        return found[0]

    def require_no_null(self, names: Iterable[str]) -> None:
        """Refuse a line where one of these keys is null, which counts as absent."""
        if nulls := [name for name in names if name in self.data and self.data[name] is None]:
            raise self.wrong(f"{quoted(nulls)} is null, which counts as absent; give it a value, or remove the line")

    def text_key(self, what: str) -> str:
        """The name by which this line gives a document's text: `text`, else what other projects call it."""
        return "text" if self.has("text") else self.first_key(TEXTS, what)

    def text(self, key: str) -> str:
        """The text under a key."""
        value = self.data[key]
        if not isinstance(value, str):
            remedy = f'; put it in quotes: "{value}"' if isinstance(value, int | float) else ""
            raise self.wrong(f'"{key}" must be text, but it is {kind(value)}{remedy}')
        return value

    def filled_text(self, key: str) -> str:
        """The text under a key, which must hold more than white space."""
        value = self.text(key)
        if not value.strip():
            raise self.wrong(f'"{key}" is empty; give it some text or remove the line')
        return value

    def numbers(self, key: str, count: int) -> list[float]:
        """The list of numbers under a key, one for each document."""
        values = self.data[key]
        if not isinstance(values, list):
            raise self.wrong(f'"{key}" must be a list of numbers, but it is {kind(values)}')
        if len(values) != count:
            raise self.wrong(f'"{key}" has {len(values)} entries for {count} documents; give one for each document')
        return [self.number_of(value, key) for value in values]

    def number_of(self, value: Any, key: str) -> float:
        """The value as a float; text and true or false are no numbers."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f'"{key}" must hold numbers, but it holds {kind(value)}: {shown(value)}')
        try:
            number = float(value)
        except OverflowError:
            raise self.wrong(f'"{key}" holds a number too large to use') from None
        if not math.isfinite(number):
            raise self.wrong(f'"{key}" must hold numbers, but it holds {number}')
        return number

    def document(self, value: Any, key: str) -> str:
        """A document: text, or an object with a text and perhaps a title, which goes before it."""
        if isinstance(value, str):
            return value
        if not isinstance(value, dict):
            raise self.wrong(f'"{key}" must hold text or {{"title", "text"}} objects, but it holds {kind(value)}')
        inner = replace(self, data=value)
        return inner.titled_text(inner.text_key(f'text in a document of "{key}"'))

    def titled_text(self, key: str, title_key: str = "title") -> str:
        """The text under a key, after the line's title where it has one; Pyserini's `contents` begin with theirs."""
        title, text = self.text(title_key) if self.has(title_key) else "", self.text(key)
        return f"{title} {text}" if title and not (key == "contents" and text.startswith(title)) else text


def read_lines(path: str | Path, lines: Texts | None = None) -> Iterator[Line]:
    """Yields the objects of a JSON Lines file, reading one line at a time; empty lines are skipped but counted.

    Args:
        lines: Those of the file, where it is open already.
    """
    path = Path(path)
    some = False
    for number, text in text_lines(path) if lines is None else lines:
        if text.strip():
            some = True
            yield Line(path, number, _parse(text, f"{path}:{number}"))
    if not some:
        raise InputError(f"{path}: the file is empty; expected one JSON object on each line")


def text_lines(path: str | Path, file: BinaryIO | None = None) -> Iterator[tuple[int, str]]:
    """Yields number and text of each line of a UTF-8 file, plain or packed; only a line feed ends a line.

    Args:
        file: The file, where it is open already.
    """
    path = Path(path)
    number = 0
    try:
        with open_file(path) if file is None else file as opened:
            for number, raw in enumerate(opened, start=1):
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{path}:{number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not UTF-8; "
                        "save the file as UTF-8"
                    ) from None
                if number == 1 and "\0" in text[:2]:
                    raise InputError(f"{path}:1: every second byte is 0, as in UTF-16; save the file as UTF-8")
                if text.startswith("\ufeff"):
                    if number > 1:
                        raise InputError(f"{path}:{number}: a byte-order mark inside the file; remove it")
                    text = text[1:]
                yield number, text
    except OSError as error:
        raise unreadable(path, number, error) from error


def require_same(before: object, value: object, message: str) -> None:
    """Warn of what is given twice in the same way, and refuse what is given twice in different ways.

    Args:
        message: Where what stands a second time.
    """
    if before != value:
        raise InputError(f"{message}, with something else in it; keep the right one")
    warn("lines_repeated", message)


def complaint(error: json.JSONDecodeError) -> str:
    """What a decoder says is wrong, without the place that some of its sentences expect behind them."""
    return error.msg.removesuffix(" at")


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        with refusing(place):
            value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        hint = "; expected one JSON object on each line" if text.lstrip()[:1] in ("[", "{") else ""
        raise InputError(f"{place}: not valid JSON at column {error.colno}: {complaint(error)}{hint}") from None
    return checked(value, text, place)


@contextlib.contextmanager
def refusing(place: str) -> Iterator[None]:
    """Says where valid JSON holds what cannot be used."""
    try:
        yield
    except RecursionError:
        raise InputError(f"{place}: nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise InputError(f"{place}: {error}") from None


def checked(value: Any, text: str, place: str, what: str = "line") -> dict[str, Any]:
    """The value that some JSON text stands for, which must be an object of real characters."""
    if not isinstance(value, dict):
        raise InputError(f"{place}: expected a JSON object, {{...}}, but the {what} is {kind(value)}")
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise InputError(f"{place}: {half} is half of a surrogate pair, no character; correct it") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{twice}" stands twice in one object; keep one of them')
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that can be used (nor valid JSON)")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large for a number")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def shown(value: Any) -> str:
    """A value, short enough for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def quoted(names: Iterable[str], joint: str = ", ") -> str:
    """Names in quotes, joined."""
    return joint.join(f'"{name}"' for name in names) or "nothing"


def nearest(wanted: Iterable[str], found: Iterable[str], cutoff: float = 0.7) -> str:
    """`; did you mean …?` where something found resembles something wanted, else nothing."""
    found = list(found)
    for name in wanted:
        close = difflib.get_close_matches(name, [f for f in found if f != name], n=1, cutoff=cutoff)
        if close:
            return f'; did you mean "{name}" by "{close[0]}"?'
    return ""
