"""TREC runs and qrels, in and out.

trec_eval ignores the rank column of a run and orders by score, equal scores by document id backwards, after rounding
scores to float32. A ranking of ours is therefore written with scores that float32 tells apart: where a score does not
lie below the one before it, it becomes the next smaller float32. All tools then see the order that we ranked in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from rerankkit import files
from rerankkit.errors import InputError
from rerankkit.jsonl_lines import require_same, text_lines
from rerankkit.warnings import warn

Run = dict[str, dict[str, float]]
"""The score of each document, by query; a ranking's documents stand best first."""
Qrels = dict[str, dict[str, int]]
"""The grade of each judged document, by query."""

_SMALLEST = 2.0**-126  # of the normal float32
_HEADER_ENDS = {"score", "rel", "relevance", "label", "grade"}


def ranked_scores(ranking: Iterable[tuple[str, float]], qid: str) -> dict[str, float]:
    """The scores of a ranking, made strictly decreasing in float32 so that its order is the only one they allow."""
    import numpy as np

    scores: dict[str, float] = {}
    before = np.float32(np.inf)
    for docid, score in ranking:
        _require_finite(score, qid, docid)
        if docid in scores:
            raise InputError(f"query {qid!r}: document {docid!r} is ranked twice")
        below = np.nextafter(before, np.float32(-np.inf))
        if abs(below) < _SMALLEST:  # some processes read the even smaller numbers as 0
            below = np.float32(0.0 if before > 0 else -_SMALLEST)
        before = min(np.float32(score if abs(score) >= _SMALLEST else 0.0), below)
        if not np.isfinite(before):
            raise InputError(f"query {qid!r}: no float32 lies below the lowest score; scale the scores")
        scores[docid] = float(before)
    return scores


def best_first(scores: Mapping[str, float]) -> list[str]:
    """Document ids as trec_eval orders them: by float32 score, equal scores by id backwards."""
    import numpy as np

    # two stable sorts: first the ids backwards, then the scores
    return sorted(sorted(scores, reverse=True), key=lambda docid: -np.float32(scores[docid]))


def _usable(score: float) -> bool:
    return math.isfinite(score) and abs(score) <= 3.4028235e38


def _require_finite(score: float, qid: str, docid: str) -> None:
    if not _usable(score):
        raise InputError(f"query {qid!r}, document {docid!r}: the score {score} is not a finite number")


def require_finite(run: Run) -> None:
    """Refuses a run with a score that is not a number or infinite, naming its query and document."""
    for qid, scores in run.items():
        for docid, score in scores.items():
            _require_finite(score, qid, docid)


def read_run(path: str | Path) -> Run:
    """Reads `qid Q0 docid rank score tag` lines; each query's documents come in trec_eval's order, by their scores.

    Ranks decide nothing, as in trec_eval; a warning says where they contradict the scores.
    """
    run: Run = {}
    ranks: dict[str, list[str]] = {}
    for number, text in text_lines(path):
        place, fields = f"{path}:{number}", _fields(text)
        if not fields:
            continue
        if len(fields) != 6:
            raise InputError(
                f"{place}: expected 6 columns, 'qid Q0 docid rank score tag', but found {len(fields)}: {_cut(text)}"
            )
        qid, docid, score = fields[0], fields[2], _score(fields[4], place)
        documents = run.setdefault(qid, {})
        if docid in documents:
            require_same(documents[docid], score, f"{place}: query {qid!r} has document {docid!r} a second time")
        else:
            documents[docid] = score
            ranks.setdefault(qid, []).append(fields[3])
    if not run:
        raise InputError(f"{path}: no ranked document in this file")
    ordered = {qid: {docid: scores[docid] for docid in best_first(scores)} for qid, scores in run.items()}
    for qid, scores in run.items():
        _compare_ranks(dict(zip(scores, ranks[qid], strict=True)), list(ordered[qid]), f"query {qid!r} of {path}")
    return ordered


def _compare_ranks(ranks: dict[str, str], docids: list[str], place: str) -> None:
    """Warn where documents ordered by score do not stand in the order of their ranks; equal ranks say nothing."""
    if not all(rank.isdecimal() for rank in ranks.values()):
        return
    for before, after in pairwise(docids):
        if int(ranks[before]) > int(ranks[after]):
            example = f"{place}: {before!r} at rank {ranks[before]} has no lower score than {after!r} at {ranks[after]}"
            warn("ranks_contradicted", example)
            return


def run_place(path: str | Path, column: int, value: str) -> str:
    """File and line where a run first has this value in a column, for messages; a pipe cannot be read again."""
    if files.is_stream(path):
        return str(path)
    rows = ((number, _fields(text)) for number, text in text_lines(path))
    return f"{path}:{next(number for number, fields in rows if fields and fields[column] == value)}"


def _score(text: str, place: str) -> float:
    import numpy as np

    try:
        value = float(text.replace("_", "?"))
    except ValueError:
        raise InputError(f"{place}: the score must be a number, but it is {text!r}") from None
    if not _usable(value):
        raise InputError(f"{place}: the score {text} is not a finite number")
    return float(np.float32(value))


def write_run(run: Run, path: str | Path, tag: str = "rerankkit") -> None:
    """Writes a run, each query best first, equal scores in the given order; the file appears whole or not at all."""
    require_word(tag, "the tag")
    files.write(path, _run_lines(run, tag))


def _run_lines(run: Run, tag: str) -> Iterator[str]:
    for qid, scores in run.items():
        require_word(qid, "the query id")
        ordered = sorted(scores.items(), key=lambda item: -item[1])
        for rank, (docid, score) in enumerate(ranked_scores(ordered, qid).items(), start=1):
            require_word(docid, "the document id")
            yield f"{qid} Q0 {docid} {rank} {score!r} {tag}\n"


def require_word(name: str, what: str) -> None:
    """Refuses a name with white space, which separates the columns of a run."""
    if not name or any(letter.isspace() for letter in name):
        raise InputError(f"{what} {name!r} cannot stand in a TREC run: it must be one word without white space")


def read_qrels(path: str | Path) -> Qrels:
    """Reads TREC qrels (`qid 0 docid grade`) or BEIR's (`query-id corpus-id score`, with or without that header)."""
    qrels: Qrels = {}
    for number, text in text_lines(path):
        place = f"{path}:{number}"
        fields = text.strip("\r\n").split("\t") if text.count("\t") == 2 else _fields(text)
        if not fields or (number == 1 and fields[-1].lower() in _HEADER_ENDS):
            continue
        if len(fields) not in (3, 4):
            raise InputError(
                f"{place}: expected 3 columns, 'query-id corpus-id score', or 4, 'qid 0 docid grade', "
                f"but found {len(fields)}: {_cut(text)}"
            )
        qid, docid, grade = fields[0], fields[-2], fields[-1].strip()
        if not re.fullmatch(r"[+-]?[0-9]{1,9}(\.0+)?", grade):  # a table with a gap in it was saved with 1.0 for 1
            raise InputError(f"{place}: the grade must be a whole number, but it is {grade!r}")
        documents = qrels.setdefault(qid, {})
        if docid in documents:
            require_same(
                documents[docid], int(float(grade)), f"{place}: query {qid!r} has document {docid!r} a second time"
            )
        documents[docid] = int(float(grade))
    if not qrels:
        raise InputError(f"{path}: no judgement in this file")
    return qrels


def _fields(text: str) -> list[str]:
    # as C does it: other white space of Unicode may be part of an id
    return [field for field in re.split(r"[ \t\r\n\v\f]+", text) if field]


def _cut(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
