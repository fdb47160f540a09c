"""Reads tab-separated queries or documents as MS MARCO has them, without header or quotes.

id<TAB>text                            queries and passages
docid<TAB>url<TAB>title<TAB>body       documents
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import Line, Texts, shown

_HEADERS = {"id", "_id", "qid", "query_id", "query-id", "docid", "doc_id", "doc-id", "corpus-id", "pid"}
_FORMS = {2: "id<TAB>text", 4: "docid<TAB>url<TAB>title<TAB>body"}


def read_tsv(path: str | Path, lines: Texts) -> Iterator[Line]:
    """Yields the rows of a TSV file, of which these are the lines, as `_id` and `text`; empty lines are skipped."""
    for line in _rows(Path(path), lines, pages=False):
        docid, text = line.data["cells"]
        yield Line(line.path, line.number, {"_id": docid, "text": text})


def read_tsv_documents(path: str | Path, lines: Texts) -> Iterator[Line]:
    """As `read_tsv`, or in four columns where the first row has an address in its second: `_id`, `title` and `text`."""
    for line in _rows(Path(path), lines, pages=True):
        docid, *_, text = line.data["cells"]
        title = {"title": line.data["cells"][2]} if len(line.data["cells"]) == 4 else {}
        yield Line(line.path, line.number, {"_id": docid, **title, "text": text})


def _rows(path: Path, lines: Texts, pages: bool) -> Iterator[Line]:
    """The cells of each row, as many as the first one has.

    Args:
        pages: Whether there may be four.
    """
    columns = 0
    for number, text in lines:
        cells = text.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if not columns and cells[0].lower() in _HEADERS:
            raise InputError(f"{path}:{number}: {shown(text.strip())} looks like a header; remove the line")
        columns = columns or (4 if pages and len(cells) == 4 and "://" in cells[1] else 2)
        if len(cells) != columns:
            raise InputError(
                f"{path}:{number}: expected {columns} columns, {_FORMS[columns]}, but found {len(cells)}: "
                f"{shown(text.strip())}; "
                + ("a tab goes behind the id" if len(cells) == 1 else "replace tabs in the text by spaces")
            )
        yield Line(path, number, {"cells": cells})
    if not columns:
        raise InputError(f"{path}: the file is empty; expected id<TAB>text on each line")
