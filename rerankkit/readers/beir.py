"""Reads a BEIR folder: its judged queries, each with the candidates of a first stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rerankkit.collection import (
    Collection,
    first_stage,
    read_corpus,
    read_queries,
    require_keys,
    require_positive,
)
from rerankkit.errors import InputError
from rerankkit.files import packed_or_plain, without_packing
from rerankkit.jsonl_lines import nearest
from rerankkit.protocols import Group
from rerankkit.registry import registry
from rerankkit.text_files import beir_file
from rerankkit.trec import read_qrels


@registry.readers("beir.v1")
@dataclass(eq=False)
class Beir:
    """Reads a BEIR folder, with BM25's best documents of each judged query as its candidates.

    Recipe:
        [data.train]
        @readers = "beir.v1"
        path = "data/scifact"
        split = "train"
        candidates = 20
        add_positives = true

    Args:
        path: A folder with corpus.jsonl, queries.jsonl and qrels/{split}.tsv, each perhaps packed (.gz, .bz2, .xz).
        candidates: How many documents the first stage gives a query, best first.
        add_positives: Append the relevant documents that the first stage missed. For training; measures over such
            groups would flatter.
        limit: Take a sample of so many queries, the same for the same seed.
        run: A TREC run to take the candidates from, instead of BM25 (k1 0.9, b 0.4, English stop words).
        ignore_identical_ids: Leave out a query's own document, of the same id, unless it is judged relevant, as BEIR's
            evaluation does: ArguAna's queries are documents.
        query_keys: What the lines of queries call their "id" and "text", where that is something else.
        document_keys: What those of documents call their "id", "text" and "title".
    """

    path: str
    split: str = "train"
    candidates: int = 20
    add_positives: bool = False
    limit: int | None = None
    run: str | None = None
    seed: int = 0
    ignore_identical_ids: bool = True
    query_keys: dict[str, str] | None = None
    document_keys: dict[str, str] | None = None

    def __post_init__(self) -> None:
        require_positive(self.candidates, "candidates")
        require_positive(self.limit, "limit")
        for keys in (self.query_keys, self.document_keys):
            require_keys(keys or {}, self.path)
        folder = Path(self.path)
        self._corpus, self._queries = _file(folder, "corpus.jsonl"), _file(folder, "queries.jsonl")
        self._qrels = _qrels(folder, self.split)
        self._groups: list[Group] | None = None

    def __iter__(self) -> Iterator[Group]:
        if self._groups is None:
            self._groups = self._read()
        return iter(self._groups)

    def _read(self) -> list[Group]:
        corpus = read_corpus(self._corpus, keys=self.document_keys)
        data = Collection(corpus, read_queries(self._queries, self.query_keys), read_qrels(self._qrels))
        data.report_unknown(str(self._qrels))
        qids = data.judged_queries(self.limit, self.seed)
        if not qids:
            raise InputError(f"{self._qrels}: none of its queries is in {self._queries}")
        asked = {qid: data.queries[qid] for qid in qids}
        ranked = first_stage(data, asked, self.candidates, self.run, self.ignore_identical_ids)
        return data.groups(ranked, qids, self.add_positives)


def _file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise InputError(
            f"no such folder: {folder}; beir.v1 reads a folder with corpus.jsonl, queries.jsonl and qrels/"
        )
    return beir_file(folder, name)


def _qrels(folder: Path, split: str) -> Path:
    name = folder / "qrels" / f"{split}.tsv"
    path = packed_or_plain(name)
    if path is None:
        plain = map(without_packing, (p.name for p in name.parent.glob("*.tsv*")))
        splits = sorted(name.removesuffix(".tsv") for name in plain)
        raise InputError(
            f"{folder}: no split {split!r}, which would be {name}; splits: {', '.join(splits) or 'none'}"
            f"{nearest(splits, [split])}"
        )
    return path
