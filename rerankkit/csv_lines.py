"""Reads CSV and TSV by rows. Every cell is text, "007" and "2024-01-01" and "NA" too; only labels are numbers."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from rerankkit.errors import InputError
from rerankkit.files import open_file, unreadable
from rerankkit.jsonl_lines import Line, quoted, shown, text_lines
from rerankkit.warnings import warn

_IN_QUOTES = re.compile(r'"(?:[^"]|"")*"')


def read_csv(path: Path, numbers: Collection[str] = ()) -> Iterator[Line]:
    """Yields the rows of a CSV file with a header, plain or packed; an empty cell is absent.

    Args:
        numbers: The columns that hold numbers.
    """
    csv.field_size_limit(sys.maxsize)  # documents may be longer than the 131,072 characters that it starts with
    with io.TextIOWrapper(open_file(path), "utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            yield from _rows(path, ((reader.line_num, cells) for cells in reader if cells), numbers)
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 after line {reader.line_num}; save the file as UTF-8") from error
        except OSError as error:
            raise unreadable(path, reader.line_num, error) from error


def read_tsv_table(path: Path, numbers: Collection[str] = ()) -> Iterator[Line]:
    """As `read_csv`, with a tab between the cells; quotes are text, and only a line feed ends a row."""
    lines = ((number, text.rstrip("\r\n").split("\t")) for number, text in text_lines(path))
    for line in _rows(path, (row for row in lines if row[1] != [""]), numbers):
        for name, cell in line.data.items():
            if isinstance(cell, str) and _IN_QUOTES.fullmatch(cell):
                warn("quotes_kept", f'"{name}" at {line.place}: {shown(cell)}')
        yield line


def _rows(path: Path, rows: Iterator[tuple[int, Sequence[str]]], numbers: Collection[str]) -> Iterator[Line]:
    _, header = next(rows, (0, []))
    if not header:
        raise InputError(f"{path}: the file is empty; expected a header, then one row on each line")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise InputError(f"{path}:1: the header names {quoted(twice)} twice")
    some = False
    for number, cells in rows:
        if len(cells) != len(header):
            raise InputError(
                f"{path}:{number}: {len(cells)} cells for {len(header)} columns; a cell with a separator or a line "
                "break in it stands in double quotes, which CSV has and TSV has not"
            )
        some = True
        yield Line(
            path,
            number,
            {name: _value(cell, name in numbers) for name, cell in zip(header, cells, strict=True) if cell},
        )
    if not some:
        raise InputError(f"{path}: no row after the header")


def _value(cell: str, is_number: bool) -> Any:
    if is_number:
        with contextlib.suppress(ValueError):  # whoever needs the number says what is wrong
            return float(cell)
    return cell
