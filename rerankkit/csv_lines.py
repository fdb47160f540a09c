"""Reads CSV one row at a time. Every cell is text, "007" and "2024-01-01" and "NA" too; only labels are numbers."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import Line, open_file, quoted


def read_csv(path: Path, separator: str = ",", numbers: Collection[str] = ()) -> Iterator[Line]:
    """Yields the rows of a CSV file with a header, plain or gzip; an empty cell is absent.

    Args:
        numbers: The columns that hold numbers.
    """
    csv.field_size_limit(sys.maxsize)  # documents may be longer than the 131,072 characters that it starts with
    with io.TextIOWrapper(open_file(path), "utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            if not header:
                raise InputError(f"{path}: the file is empty; expected a header, then one row on each line")
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise InputError(f"{path}:1: the header names {quoted(twice)} twice")
            some = False
            for cells in filter(None, reader):
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}:{reader.line_num}: {len(cells)} cells for {len(header)} columns; "
                        "a cell with a separator or a line break in it stands in double quotes"
                    )
                row = {name: _value(cell, name in numbers) for name, cell in zip(header, cells, strict=True) if cell}
                some = True
                yield Line(path, reader.line_num, row)
            if not some:
                raise InputError(f"{path}: no row after the header")
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 after line {reader.line_num}; save the file as UTF-8") from error
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(f"{path}: cannot be read after line {reader.line_num}: {error}") from error


def _value(cell: str, is_number: bool) -> Any:
    if is_number:
        with contextlib.suppress(ValueError):  # whoever needs the number says what is wrong
            return float(cell)
    return cell
