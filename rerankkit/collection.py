"""A corpus, its queries and its judgements, and the groups that a first stage makes of them."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rerankkit.bm25 import BM25
from rerankkit.errors import InputError
from rerankkit.fingerprints import fingerprint
from rerankkit.jsonl_lines import Line, quoted, require_same
from rerankkit.protocols import Group
from rerankkit.text_files import document_lines, query_lines
from rerankkit.trec import Qrels, Run, best_first, ranked_scores, read_run, run_place
from rerankkit.warnings import warn

QUERY_IDS = ("_id", "id", "qid", "query_id")
QUERY_TEXTS = ("text", "query")
DOC_IDS = ("_id", "id", "doc_id", "docid", "pid")
KEYS = ("id", "text", "title")
"""What of a line may be named by keys of its own."""


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


def read_queries(path: str | Path, keys: Mapping[str, str] | None = None) -> dict[str, str]:
    """Reads queries by id from JSON Lines such as {"_id": "q1", "text": "..."}; `query` may stand for `text`. Or from a
    BEIR folder, TSV or TREC topics.

    Args:
        keys: What the lines call the query's "id" and "text", where that is something else.
    """
    keys = keys or {}
    if "title" in keys:
        raise InputError(f"{path}: a query has no title that is read; name its id and text, such as id=qid,text=title")
    queries: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line in query_lines(path):
        qid = line.filled_text(_key(line, keys, "id", QUERY_IDS, "query id"))
        text = line.filled_text(_key(line, keys, "text", QUERY_TEXTS, "query text"))
        if qid in lines:
            require_same(queries[qid], text, f"{line.place}: query id {qid!r} was given before, in line {lines[qid]}")
        lines.setdefault(qid, line.number)
        queries[qid] = text
    return queries


def read_corpus(
    path: str | Path, only: Container[str] | None = None, keys: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Reads documents by id from JSON Lines such as {"_id": "d1", "title": "...", "text": "..."}; a title goes before
    the text. Or from Pyserini's or MS MARCO v2's JSON Lines, a BEIR folder, TSV or TREC documents.

    Args:
        only: Keep the documents with these ids: a run names few of a large corpus.
        keys: What the lines call the document's "id", "text" and "title", where that is something else.
    """
    keys = keys or {}
    corpus: dict[str, str] = {}
    seen: dict[str, int] = {}  # line and fingerprint of each document, kept or not
    titled = "title" not in keys
    for line in document_lines(path):
        docid = line.filled_text(_doc_id_key(line, keys))
        key = line.first_key([keys["text"]], "document text") if "text" in keys else line.text_key("document text")
        text = line.titled_text(key, keys.get("title", "title"))
        titled = titled or keys["title"] in line.data
        here = line.number << 64 | fingerprint(text)
        if (before := seen.setdefault(docid, here)) != here:
            said = f"{line.place}: document id {docid!r} was given before, in line {before >> 64}"
            require_same(before & _FINGERPRINT, here & _FINGERPRINT, said)
        if only is None or docid in only:
            corpus[docid] = text
    if not titled:
        raise InputError(f'{path}: no line has "{keys["title"]}", which was named as the title; correct it')
    return corpus


_FINGERPRINT = (1 << 64) - 1


def _key(line: Line, keys: Mapping[str, str], part: str, usual: Sequence[str], what: str) -> str:
    return line.first_key([keys[part]] if part in keys else usual, what)


def _doc_id_key(line: Line, keys: Mapping[str, str]) -> str:
    """MS MARCO v2's passages have their own id in `pid`, and in `docid` that of the document they were cut from."""
    is_passage = "id" not in keys and line.has("pid") and line.has("passage")
    return "pid" if is_passage else _key(line, keys, "id", DOC_IDS, "document id")


def parse_keys(text: str | None, option: str) -> dict[str, str]:
    """What lines call their id, text and title, as "id=docid,text=body" says it.

    Args:
        option: Where it was given, for messages.
    """
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair.strip()]
    keys = {part.strip(): key.strip() for part, _, key in pairs}
    if len(keys) < len(pairs):
        raise InputError(f"{option} {text}: one part is named twice; give each of {', '.join(KEYS)} once")
    return require_keys(keys, f"{option} {text}")


def require_keys(keys: Mapping[str, str], where: str) -> dict[str, str]:
    """Refuse keys for what a line does not have."""
    if wrong := [part for part, key in keys.items() if part not in KEYS or not key]:
        raise InputError(f"{where}: {quoted(wrong)} cannot be named; expected such as id=docid,text=body,title=heading")
    return dict(keys)


def first_stage(
    data: Collection,
    queries: dict[str, str],
    k: int,
    path: str | Path | None = None,
    ignore_identical_ids: bool = False,
    run: Run | None = None,
) -> Run:
    """The first stage's best `k` documents of each query, by a TREC run or by BM25.

    Args:
        path: The run's file; BM25 where there is none.
        ignore_identical_ids: Leave out a query's own document, of the same id, as BEIR's evaluation does.
        run: What the file holds, where it is read already.
    """
    require_positive(k, "candidates")
    if path is None:
        found = candidates_from_bm25(data.corpus, queries, k + ignore_identical_ids)
    else:
        found = candidates_from_run(path, data.corpus, data.queries, None if ignore_identical_ids else k, run)
    if not ignore_identical_ids:
        return found
    found = without_own_documents(found, data.qrels)
    return {qid: dict(islice(scores.items(), k)) for qid, scores in found.items()}


def without_own_documents(run: Run, qrels: Qrels) -> Run:
    """A run without the document that has the id of its query, as where arguments are asked for by arguments. One that
    is judged relevant stays: its id is a coincidence, or meant so."""
    own = [qid for qid, scores in run.items() if qid in scores and qrels.get(qid, {}).get(qid, 0) <= 0]
    if own:
        warn("own_documents_left_out", f"{own[0]!r}", len(own))
    return run | {qid: {docid: score for docid, score in run[qid].items() if docid != qid} for qid in own}


def leaves_out_own_documents(reader: Mapping[str, Any]) -> bool:
    """Whether a recipe's reader takes a document of its query's id for the query itself; elsewhere ids such as "1" are
    alike by coincidence."""
    return reader.get("ignore_identical_ids", reader.get("@readers") == "beir.v1") is True


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
