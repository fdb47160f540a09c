"""Queries and documents in any of the forms that collections come in, told apart by their first line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.files import packed_or_plain, without_packing
from rerankkit.jsonl_lines import Line, Texts, read_lines, shown, text_lines
from rerankkit.trec_texts import read_documents, read_topics
from rerankkit.tsv_lines import read_tsv, read_tsv_documents

Reads = Callable[[Path, Texts], Iterator[Line]]


def query_lines(path: str | Path) -> Iterator[Line]:
    """The queries of a BEIR folder, of JSON Lines, of TSV or of TREC topics, each file plain or packed."""
    return _lines(Path(path), "queries.jsonl", read_topics, read_tsv)


def document_lines(path: str | Path) -> Iterator[Line]:
    """The documents of a BEIR folder, of JSON Lines, of TSV or of TREC's SGML, each file plain or packed."""
    return _lines(Path(path), "corpus.jsonl", read_documents, read_tsv_documents)


def beir_file(folder: Path, name: str) -> Path:
    """A file of a BEIR folder, plain or packed."""
    if file := packed_or_plain(folder / name):
        return file
    raise InputError(f"{folder}: neither {name} nor {name}.gz is in this folder, so it is not in BEIR's form")


def _begin(lines: Texts) -> Iterator[tuple[int, str]]:
    """Lines up to the first that is not blank."""
    for number, text in lines:
        yield number, text
        if text.strip():
            return


def _lines(
    path: Path,
    beir_name: str,
    read_sgml: Reads,
    read_rows: Reads,
) -> Iterator[Line]:
    if path.is_dir():
        return read_lines(beir_file(path, beir_name))
    lines = text_lines(path)
    begin = list(_begin(lines))
    number, first = (begin[-1][0], begin[-1][1].strip()) if begin else (0, "")
    lines = chain(begin, lines)
    if without_packing(path.name).endswith(".tsv"):
        return read_rows(path, lines)
    if first.startswith("<"):
        return read_sgml(path, lines)
    if first.startswith(("{", "[")) or not first:
        return read_lines(path, lines)
    if "\t" in first:
        return read_rows(path, lines)
    raise InputError(
        f"{path}:{number}: {shown(first)} is neither JSON, {{...}}, nor id<TAB>text, nor TREC's <top>, <topic> or <DOC>"
    )
