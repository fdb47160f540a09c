"""Queries and documents in any of the forms that collections come in, told apart by their first line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import Line, read_lines, shown, text_lines
from rerankkit.trec_texts import read_documents, read_topics
from rerankkit.tsv_lines import read_tsv, read_tsv_documents


def query_lines(path: str | Path) -> Iterator[Line]:
    """The queries of a BEIR folder, of JSON Lines, of TSV or of TREC topics, each file plain or gzip."""
    return _lines(Path(path), "queries.jsonl", read_topics, read_tsv)


def document_lines(path: str | Path) -> Iterator[Line]:
    """The documents of a BEIR folder, of JSON Lines, of TSV or of TREC's SGML, each file plain or gzip."""
    return _lines(Path(path), "corpus.jsonl", read_documents, read_tsv_documents)


def beir_file(folder: Path, name: str) -> Path:
    """A file of a BEIR folder, plain or gzip."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(f"{folder}: neither {name} nor {name}.gz is in this folder, so it is not in BEIR's form")


def _lines(
    path: Path,
    beir_name: str,
    read_sgml: Callable[[Path], Iterator[Line]],
    read_rows: Callable[[Path], Iterator[Line]],
) -> Iterator[Line]:
    if path.is_dir():
        return read_lines(beir_file(path, beir_name))
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return read_rows(path)
    number, first = next(((n, text.strip()) for n, text in text_lines(path) if text.strip()), (0, ""))
    if first.startswith("<"):
        return read_sgml(path)
    if first.startswith(("{", "[")) or not first:
        return read_lines(path)
    if "\t" in first:
        return read_rows(path)
    raise InputError(
        f"{path}:{number}: {shown(first)} is neither JSON, {{...}}, nor id<TAB>text, nor TREC's <top>, <topic> or <DOC>"
    )
