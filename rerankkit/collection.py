"""A corpus, its queries and its judgements, and the groups that a first stage makes of them."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rerankkit.bm25 import BM25
from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.text_files import document_lines, query_lines
from rerankkit.trec import Qrels, Run, best_first, ranked_scores, read_run, run_place
from rerankkit.warnings import warn

QUERY_IDS = ("_id", "id", "qid", "query_id")
QUERY_TEXTS = ("text", "query")
DOC_IDS = ("_id", "id", "doc_id", "docid")


@dataclass(slots=True)
class Collection:
    """Documents and queries by id, with the judgements of the queries."""

    corpus: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels = field(default_factory=dict)

    def groups(self, run: Run, qids: Iterable[str] | None = None, add_positives: bool = False) -> list[Group]:
        """One group for each query, its documents in the order of the run; judged queries carry labels.

        Args:
            qids: Which queries; all by default. A query without a result becomes a group without documents, which
                measures count as 0.
            add_positives: Append the relevant documents that the run missed, with the run's lowest score. For
                training only: measures over such groups flatter.
        """
        groups = [self._group(qid, run.get(qid, {}), add_positives) for qid in (self.queries if qids is None else qids)]
        if empty := [group.qid for group in groups if not group.docs]:
            warn("queries_without_candidates", f"query {empty[0]!r} of {len(groups):,}", len(empty))
        return groups

    def _group(self, qid: str, scores: dict[str, float], add_positives: bool) -> Group:
        judged = self.qrels.get(qid)
        scores = dict(scores)
        if add_positives and judged:
            lowest = min(scores.values(), default=0.0)
            missed = [docid for docid, grade in judged.items() if grade > 0 and docid in self.corpus]
            scores |= {docid: lowest for docid in missed if docid not in scores}
        return Group(
            query=self.queries[qid],
            docs=[self.corpus[docid] for docid in scores],
            labels=None if judged is None else [float(judged.get(docid, 0)) for docid in scores],
            qid=qid,
            doc_ids=list(scores),
            first_scores=list(scores.values()),
            judged=None if judged is None else {docid: float(grade) for docid, grade in judged.items()},
        )

    def judged_queries(self, limit: int | None = None, seed: int = 0) -> list[str]:
        """The ids of the queries with a judgement, in file order; with a limit, a sample that the seed decides."""
        qids = [qid for qid in self.queries if qid in self.qrels]
        return sampled(qids, limit, seed)

    def report_unknown(self, source: str) -> None:
        """Warns of judgements whose query or document is in no file."""
        queries = [qid for qid in self.qrels if qid not in self.queries]
        if queries:
            warn("judged_queries_unknown", f"query {queries[0]!r} in {source}", len(queries))
        documents = [
            d for qid, grades in self.qrels.items() if qid in self.queries for d in grades if d not in self.corpus
        ]
        if documents:
            warn("judged_documents_unknown", f"that of document {documents[0]!r} in {source}", len(documents))


def sampled(qids: Sequence[str], limit: int | None, seed: int) -> list[str]:
    """At most `limit` of the ids, in their order: the same sample in every process."""
    if limit is None or limit >= len(qids):
        return list(qids)
    return [qids[i] for i in sorted(random.Random(seed).sample(range(len(qids)), limit))]


def read_queries(path: str | Path) -> dict[str, str]:
    """Reads queries by id from JSON Lines such as {"_id": "q1", "text": "..."}; `query` may stand for `text`. Or from a
    BEIR folder, TSV or TREC topics."""
    queries: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line in query_lines(path):
        qid = line.filled_text(line.first_key(QUERY_IDS, "query id"))
        if qid in lines:
            raise line.wrong(f"query id {qid!r} was given before, in line {lines[qid]}; ids must differ")
        lines[qid] = line.number
        queries[qid] = line.filled_text(line.first_key(QUERY_TEXTS, "query text"))
    return queries


def read_corpus(path: str | Path, only: Container[str] | None = None) -> dict[str, str]:
    """Reads documents by id from JSON Lines such as {"_id": "d1", "title": "...", "text": "..."}; a title goes before
    the text. Or from a BEIR folder, TSV or TREC documents.

    Args:
        only: Keep the documents with these ids: a run names few of a large corpus.
    """
    corpus: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line in document_lines(path):
        docid = line.filled_text(line.first_key(DOC_IDS, "document id"))
        if docid in lines:
            raise line.wrong(f"document id {docid!r} was given before, in line {lines[docid]}; ids must differ")
        lines[docid] = line.number
        text = line.titled_text(line.first_key(["text"], "document text"))
        if only is None or docid in only:
            corpus[docid] = text
    return corpus


def candidates_from_bm25(corpus: dict[str, str], queries: dict[str, str], k: int) -> Run:
    """The best `k` documents of each query by BM25, best first; a query without a known term has none."""
    require_positive(k, "candidates")
    docids = list(corpus)
    hits = BM25(list(corpus.values())).search(list(queries.values()), k)
    return {
        qid: ranked_scores([(docids[position], score) for position, score in found], qid)
        for qid, found in zip(queries, hits, strict=True)
    }


def candidates_from_run(
    path: str | Path, corpus: dict[str, str], queries: dict[str, str], k: int | None = None, run: Run | None = None
) -> Run:
    """The best `k` documents of each query by a TREC run; a run that names what the files lack is refused.

    Args:
        run: What the file holds, where it is read already.
    """
    if k is not None:
        require_positive(k, "candidates")
    run = read_run(path) if run is None else run
    strangers = [qid for qid in run if qid not in queries]
    if strangers:
        raise InputError(
            f"{run_place(path, 0, strangers[0])}: query {strangers[0]!r} is not among the queries "
            f"({len(strangers)} of {len(run)} are not); give the queries that the run was made for"
        )
    missing = [docid for scores in run.values() for docid in scores if docid not in corpus]
    if missing:
        raise InputError(
            f"{run_place(path, 2, missing[0])}: document {missing[0]!r} is not in the corpus "
            f"({len(missing)} ranked documents are not); give the corpus that the run was made for"
        )
    return {
        qid: ranked_scores([(docid, scores[docid]) for docid in best_first(scores)[:k]], qid)
        for qid, scores in run.items()
    }


def require_positive(value: int | None, name: str) -> None:
    """Refuses a count below 1."""
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, but it is {value}")
