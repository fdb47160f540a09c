"""Reads the objects of a JSON file one at a time, whether one stands on each line or all in one array."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rerankkit.errors import InputError
from rerankkit.files import begun, open_file, unreadable
from rerankkit.jsonl_lines import DECODER, Line, checked, complaint, read_lines, refusing, text_lines

CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")


def read_objects(path: str | Path) -> Iterator[Line]:
    """Yields the objects of a file of JSON Lines, or of one JSON array, whose text is read piece by piece."""
    path = Path(path)
    try:
        head, file = begun(open_file(path))
    except OSError as error:
        raise unreadable(path, 0, error) from error
    if head.lstrip().startswith(b"["):
        yield from _Array(path, file).objects()
    else:
        yield from read_lines(path, text_lines(path, file))


class _Array:
    """The text of an array from `_at` on, as far as it is read."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._text, self._at = "", 0
        self._line, self._counted = 1, 0  # lines are counted up to there, not from the start each time

    def objects(self) -> Iterator[Line]:
        with self._file:
            self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
            self._ended = False
            self._skip("[")
            if self._next() == "]":
                raise InputError(f"{self._path}: the array is empty; expected JSON objects in it")
            while True:
                yield self._object()
                if self._next() == "]":
                    break
                self._skip(",")
            self._skip("]")
            if self._next():
                raise self._wrong(self._at, "text after the end of the array")

    def _object(self) -> Line:
        while self._next() or not self._ended:
            self._line, self._counted = self._number(self._at), self._at
            place = f"{self._path}:{self._line}"
            try:
                with refusing(place):
                    value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # near the end of what is read, or in a text without an end, more of the file may make it whole
                cut = error.pos > len(self._text) - 10 or error.msg.startswith("Unterminated string")
                if not cut or self._ended:
                    raise self._wrong(error.pos, f"not valid JSON: {complaint(error)}") from None
                self._read()
            else:
                text, self._at = self._text[self._at : end], end
                return Line(self._path, self._line, checked(value, text, place, "item"))
        raise self._wrong(self._at, "the array breaks off")

    def _next(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # matches anything
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read()

    def _skip(self, char: str) -> None:
        if (found := self._next()) != char:
            raise self._wrong(
                self._at, f"expected {char!r} in the array, found {found!r}" if found else "it breaks off"
            )
        self._at += 1

    def _read(self) -> None:
        self._line = self._number(self._at)
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        try:
            data: Any = self._file.read(max(CHUNK, len(self._text)))
        except OSError as error:
            raise unreadable(self._path, self._number(len(self._text)), error) from error
        self._ended = not data
        try:
            self._text += self._decoder.decode(data, self._ended)
        except UnicodeDecodeError as error:
            number = self._number(len(self._text)) + error.object.count(b"\n", 0, error.start)
            raise InputError(
                f"{self._path}:{number}: byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
            ) from None

    def _number(self, position: int) -> int:
        return self._line + self._text.count("\n", self._counted, position)

    def _wrong(self, position: int, message: str) -> InputError:
        return InputError(f"{self._path}:{self._number(position)}: {message}")
