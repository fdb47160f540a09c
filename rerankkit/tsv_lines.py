"""Reads tab-separated queries or documents as MS MARCO has them: `id<TAB>text`, without header or quotes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import Line, shown, text_lines

_HEADERS = {"id", "_id", "qid", "query_id", "query-id", "docid", "doc_id", "doc-id", "corpus-id", "pid"}


def read_tsv(path: str | Path) -> Iterator[Line]:
    """Yields the rows of a TSV file, plain or gzip, as `_id` and `text`; empty lines are skipped but counted."""
    path = Path(path)
    some = False
    for number, text in text_lines(path):
        cells = text.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        if len(cells) != 2:
            raise InputError(
                f"{path}:{number}: expected 2 columns, id<TAB>text, but found {len(cells)}: {shown(text.strip())}; "
                f"{'a tab goes behind the id' if len(cells) == 1 else 'replace tabs in the text by spaces'}"
            )
        if not some and cells[0].lower() in _HEADERS:
            raise InputError(f"{path}:{number}: {shown(text.strip())} looks like a header; remove the line")
        some = True
        yield Line(path, number, {"_id": cells[0], "text": cells[1]})
    if not some:
        raise InputError(f"{path}: the file is empty; expected id<TAB>text on each line")
