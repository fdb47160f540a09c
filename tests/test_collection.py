"""Queries and corpora from files, and the groups that a first stage makes of them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rerankkit.collection import (
    Collection,
    candidates_from_bm25,
    candidates_from_run,
    read_corpus,
    read_queries,
    sampled,
)
from rerankkit.errors import InputError
from rerankkit.readers.jsonl import Jsonl
from rerankkit.trec import read_qrels, read_run

CORPUS = {"d1": "cat dog", "d2": "dog mouse", "d3": "cheese"}
QUERIES = {"q1": "cat", "q2": "dog mouse", "q3": "zebra"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_queries_and_documents_by_any_of_their_names(tmp_path: Path) -> None:
    queries = write(tmp_path / "q", {"_id": "007", "text": "a", "metadata": {}}, {"qid": "2", "query": "b"})
    assert read_queries(queries) == {"007": "a", "2": "b"}
    corpus = write(
        tmp_path / "d",
        {"_id": "1", "title": "T", "text": "x"},
        {"doc_id": "2", "text": ""},
        {"id": "3", "title": "", "text": "y"},
    )
    assert read_corpus(corpus) == {"1": "T x", "2": "", "3": "y"}


def test_only_the_documents_of_a_run_are_kept_and_all_are_checked(tmp_path: Path) -> None:
    rows = [{"_id": str(i), "text": f"t{i}"} for i in range(5)]
    assert read_corpus(write(tmp_path / "d", *rows), {"1", "3", "gone"}) == {"1": "t1", "3": "t3"}
    with pytest.raises(InputError, match="d:6: document id '2' was given before, in line 3"):
        read_corpus(write(tmp_path / "d", *rows, {**rows[2], "text": "t9"}), {"1"})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"_id": "1", "text": "b"}, "id '1' was given before, in line 1"),
        ({"_id": 2, "text": "b"}, '"_id" must be text'),
        ({"text": "b"}, 'id: expected "_id" or "id"'),
        ({"_id": "2", "txt": "b"}, 'text: expected "text"'),
        ({"_id": "2", "text": None}, '"text" is null, which counts as absent'),
        ({"_id": "2", "text": ["b"]}, '"text" must be text, but it is a list'),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, bad: Any, says: str) -> None:
    path = write(tmp_path / "data.jsonl", {"_id": "1", "text": "a"}, bad)
    for read in (read_queries, read_corpus):
        with pytest.raises(InputError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}:2: ")
        assert says in str(error.value)


def test_an_empty_query_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match='q:1: "text" is empty'):
        read_queries(write(tmp_path / "q", {"_id": "1", "text": " "}))


def test_groups_hold_candidates_labels_and_all_judgements(caplog: pytest.LogCaptureFixture) -> None:
    data = Collection(CORPUS, QUERIES, {"q1": {"d1": 2, "d3": 1, "gone": 1}, "q3": {"d1": 1}})
    run = candidates_from_bm25(CORPUS, QUERIES, 5)
    with caplog.at_level(logging.WARNING, "rerankkit"):
        first, second, third = data.groups(run)
    assert (first.docs, first.doc_ids, first.labels) == (["cat dog"], ["d1"], [2.0])
    assert first.judged == {"d1": 2, "d3": 1, "gone": 1}
    assert first.first_scores == list(run["q1"].values())
    assert (second.doc_ids, second.labels, second.judged) == (["d2", "d1"], None, None)
    assert (third.docs, third.labels) == ([], [])
    assert "1 query without a candidate, such as query 'q3' of 3" in caplog.text


def test_positives_that_the_first_stage_missed_are_appended() -> None:
    data = Collection(CORPUS, QUERIES, {"q1": {"d1": 0, "d3": 1, "gone": 1, "d2": 0}})
    (group,) = data.groups({"q1": {"d2": 4.0, "d1": 3.0}}, ["q1"], add_positives=True)
    assert (group.doc_ids, group.labels, group.first_scores) == (["d2", "d1", "d3"], [0, 0, 1], [4, 3, 3])


def test_candidates_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("q1 Q0 d3 1 9 x\nq1 Q0 d1 2 8 x\nq1 Q0 d2 3 8 x\nq2 Q0 d1 1 1 x\n")
    run = candidates_from_run(tmp_path / "run", CORPUS, QUERIES, 2)
    assert {qid: list(scores) for qid, scores in run.items()} == {"q1": ["d3", "d2"], "q2": ["d1"]}


@pytest.mark.parametrize(
    ("line", "says"), [("q9 Q0 d1 1 1 x", "query 'q9' is not among the queries"), ("q1 Q0 d9 1 1 x", "document 'd9'")]
)
def test_a_run_of_other_data_is_refused(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "run").write_text(f"q1 Q0 d3 1 9 x\n{line}\n")
    with pytest.raises(InputError, match=f"run:2: {says}"):
        candidates_from_run(tmp_path / "run", CORPUS, QUERIES)


def test_a_sample_keeps_the_order_and_is_always_the_same() -> None:
    qids = [f"q{i}" for i in range(100)]
    sample = sampled(qids, 5, seed=0)
    assert sample == sorted(sample, key=qids.index)
    assert sample == ["q5", "q33", "q49", "q53", "q97"]
    assert sampled(qids, 5, seed=1) != sample
    assert sampled(qids, 100, 0) == sampled(qids, None, 0) == qids


ALIKE = {
    "documents": (read_corpus, '{"_id": "1", "text": "a"}\n', '{"_id": "1", "text": "b"}\n', {"1": "a", "2": "c"}),
    "queries": (read_queries, '{"_id": "1", "text": "a"}\n', '{"_id": "1", "text": "b"}\n', {"1": "a", "2": "c"}),
    "documents of TSV": (read_corpus, "1\ta\n", "1\tb\n", {"1": "a", "2": "c"}),
    "judgements": (read_qrels, "1 0 a 1\n", "1 0 a 2\n", {"1": {"a": 1}, "2": {"c": 1}}),
    "a run": (read_run, "1 Q0 a 1 2.5 x\n", "1 Q0 a 1 2.0 x\n", {"1": {"a": 2.5}, "2": {"c": 2.5}}),
    "rows": (
        lambda path: {group.qid: group.docs for group in Jsonl(str(path))},
        '{"qid": "1", "query": "q", "positive": "a"}\n',
        '{"qid": "1", "query": "q", "positive": "b"}\n',
        {"1": ["a"], "2": ["c"]},
    ),
    "pairs": (
        lambda path: {group.qid: group.docs for group in Jsonl(str(path))},
        '{"qid": "1", "query": "q", "doc_id": "d", "text": "a", "label": 1}\n',
        '{"qid": "1", "query": "q", "doc_id": "d", "text": "a", "label": 0}\n',
        {"1": ["a"], "2": ["c"]},
    ),
}


@pytest.mark.regression
@pytest.mark.parametrize("what", ALIKE)
def test_what_is_given_twice_alike_is_taken_once_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    read, line, other, expected = ALIKE[what]
    third = line.replace("1", "2", 1).replace('"a"', '"c"').replace("\ta", "\tc").replace(" a ", " c ")
    path = tmp_path / "data"
    path.write_text(line + third + line)
    with caplog.at_level(logging.WARNING, "rerankkit"):
        assert read(path) == expected
    assert "1 line repeated, taken once, such as " in caplog.text and f"{path}:3: " in caplog.text
    path.write_text(line + third + other)
    with pytest.raises(InputError, match="data:3: .*, with something else in it; keep the right one"):
        read(path)


@pytest.mark.regression
def test_a_document_that_stands_twice_in_a_row_is_taken_once(tmp_path: Path) -> None:
    row = {"query": "q", "docs": ["a", "b", "a"], "labels": [1, 0, 1], "teacher_scores": [2, 1, 2]}
    path = write(tmp_path / "data.jsonl", {**row, "doc_ids": ["x", "y", "x"]})
    (group,) = Jsonl(str(path))
    assert (group.docs, group.labels, group.teacher_scores, group.doc_ids) == (["a", "b"], [1, 0], [2, 1], ["x", "y"])
    with pytest.raises(InputError, match="data.jsonl:1: document id 'x' stands twice"):
        list(Jsonl(str(write(path, {**row, "doc_ids": ["x", "x", "y"]}))))


@pytest.mark.regression
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"id": "1", "contents": "Title\nbody"}, {"1": "Title\nbody"}),  # Pyserini
        ({"id": "1", "title": "Title", "contents": "Title\nbody"}, {"1": "Title\nbody"}),
        ({"docid": "D1", "url": "u", "title": "T", "headings": "h", "body": "b"}, {"D1": "T b"}),  # MS MARCO v2
        ({"docid": "D1#2", "title": "T", "segment": "s", "start_char": 3}, {"D1#2": "T s"}),
        ({"pid": "P1", "passage": "p", "spans": "(0,1)", "docid": "D1"}, {"P1": "p"}),
    ],
)
def test_documents_as_other_projects_write_them(tmp_path: Path, row: Any, expected: dict[str, str]) -> None:
    assert read_corpus(write(tmp_path / "d.jsonl", row)) == expected


def test_a_text_that_is_called_text_is_the_text(tmp_path: Path) -> None:
    row = {"_id": "1", "text": "t", "body": "b", "contents": "c"}
    assert read_corpus(write(tmp_path / "d.jsonl", row)) == {"1": "t"}


def test_keys_may_be_named(tmp_path: Path) -> None:
    from rerankkit.collection import parse_keys

    docs = write(tmp_path / "d", {"docno": "1", "abstract": "x", "heading": "H", "text": "y"})
    keys = parse_keys("id=docno, text=abstract,title=heading", "--docs-keys")
    assert read_corpus(docs, keys=keys) == {"1": "H x"}
    queries = write(tmp_path / "q", {"number": "1", "question": "x", "text": "y"})
    assert read_queries(queries, {"id": "number", "text": "question"}) == {"1": "x"}
    with pytest.raises(InputError, match='q:1: no query text: expected "query_text", found'):
        read_queries(queries, {"id": "number", "text": "query_text"})
    for wrong in ("body", "test=body", "text="):
        with pytest.raises(InputError, match=f"--docs-keys {wrong}: .* cannot be named; expected such as id=docid"):
            parse_keys(wrong, "--docs-keys")


@pytest.mark.regression
def test_a_null_is_called_null(tmp_path: Path) -> None:
    rows = {
        "label": {"query": "q", "document": "d", "label": None},
        "positive": {"query": "q", "positive": None, "negative": "n"},
        "query": {"query": None, "docs": ["d"]},
    }
    for key, row in rows.items():
        path = write(tmp_path / "data.jsonl", row)
        with pytest.raises(InputError, match=f'data.jsonl:1: "{key}" is null, which counts as absent'):
            list(Jsonl(str(path)))
    good = {"query": "q", "document": "d", "label": 1}
    with pytest.raises(InputError, match='data.jsonl:2: "label" is null, which counts as absent'):
        list(Jsonl(str(write(tmp_path / "data.jsonl", good, rows["label"]))))


@pytest.mark.regression
def test_keys_that_say_nothing_are_refused(tmp_path: Path) -> None:
    from rerankkit.collection import parse_keys

    docs = write(tmp_path / "d", {"id": "1", "heading": "H", "text": "x"})
    with pytest.raises(InputError, match='d: no line has "headings", which was named as the title'):
        read_corpus(docs, keys={"title": "headings"})
    two = write(tmp_path / "two", {"id": "1", "heading": "H", "text": "x"}, {"id": "2", "text": "y"})
    assert read_corpus(two, keys={"title": "heading"}) == {"1": "H x", "2": "y"}
    with pytest.raises(InputError, match="a query has no title that is read"):
        read_queries(docs, {"title": "text"})
    with pytest.raises(InputError, match="id=a,id=b: one part is named twice"):
        parse_keys("id=a,id=b", "--docs-keys")
