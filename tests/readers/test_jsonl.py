"""The three forms of a row, and every way in which a row can be wrong."""

import gzip
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.readers.jsonl import Jsonl


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


def read(path: Path, *rows: Any) -> list[Group]:
    return list(Jsonl(str(write(path, *rows))))


def test_rows_of_positives_and_negatives(path: Path) -> None:
    groups = read(
        path,
        {"query": "q", "positive": "p", "negative": ["n", {"title": "t", "text": "n2"}], "qid": "007"},
        {"query": "r", "positive": [{"title": "", "text": "p1"}, "p2"], "negative": None, "teacher_scores": [1, 2.5]},
    )
    assert groups == [
        Group("q", ["p", "n", "t n2"], [1, 0, 0], qid="007"),
        Group("r", ["p1", "p2"], [1, 1], teacher_scores=[1, 2.5]),
    ]


@pytest.mark.regression
def test_rows_of_numbered_negatives(path: Path) -> None:
    groups = read(
        path,
        {"query": "q", "positive": "p", "negative_2": "n2", "negative_1": "n1", "negative_10": "n10", "qid": "7"},
        {"query": "r", "positive": ["p1", "p2"], "negative_1": {"title": "t", "text": "n"}, "negative_2": None},
        {"query": "s", "positive": "p", "negative": ["n0"], "negative_1": "n1", "doc_ids": ["a", "b", "c"]},
        {"query": "t", "positive": "p"},
    )
    assert groups == [
        Group("q", ["p", "n1", "n2", "n10"], [1, 0, 0, 0], qid="7"),
        Group("r", ["p1", "p2", "t n"], [1, 1, 0]),
        Group("s", ["p", "n0", "n1"], [1, 0, 0], doc_ids=["a", "b", "c"]),
        Group("t", ["p"], [1]),
    ]
    bad = Jsonl(str(write(path, {"query": "q", "positive": "p", "bad_1": "n1", "bad_2": "n2"})), negative_key="bad")
    assert list(bad) == [Group("q", ["p", "n1", "n2"], [1, 0, 0])]
    with pytest.raises(InputError, match='did you mean "negative" by "negative1"'):
        read(path, {"query": "q", "positive": "p", "negative1": "n"})
    with pytest.raises(InputError, match=r':1: "negative_1".*a number'):
        read(path, {"query": "q", "positive": "p", "negative_1": 3})


def test_rows_of_listed_documents(path: Path) -> None:
    row = {"query": "q", "docs": ["a", "b"], "labels": [0, 2], "teacher_scores": [-1, 3], "doc_ids": ["1", "2"]}
    assert read(path, row, {"query": "r", "docs": ["a"]}) == [
        Group("q", ["a", "b"], [0, 2], [-1, 3], doc_ids=["1", "2"]),
        Group("r", ["a"]),
    ]


def test_flat_rows_are_gathered_by_query_wherever_they_stand(path: Path) -> None:
    groups = read(
        path,
        {"query": "q", "document": "a", "label": 1},
        {"query": "r", "document": {"title": "t", "text": "b"}, "label": 0},
        {"query": "q", "document": "c", "label": 0.5},
    )
    assert groups == [Group("q", ["a", "c"], [1, 0.5]), Group("r", ["t b"], [0])]


def test_flat_rows_with_ids(path: Path) -> None:
    groups = read(
        path,
        {"query_id": "1", "query": "q", "doc_id": "d2", "title": "t", "text": "a", "label": 1},
        {"query_id": "2", "query": "q", "doc_id": "d2", "text": "a", "label": 0},
    )
    assert groups == [
        Group("q", ["t a"], [1], qid="1", doc_ids=["d2"]),
        Group("q", ["a"], [0], qid="2", doc_ids=["d2"]),
    ]


def test_flat_rows_by_other_names(path: Path) -> None:
    write(path, {"query": "q", "document": "a", "labels": 1}, {"query": "q", "text": "b", "label": 0.5})
    assert list(Jsonl(str(path))) == [Group("q", ["a", "b"], [1, 0.5])]
    write(path, {"question": "q", "passage": {"title": "t", "text": "a"}, "grade": 3, "label": "unused"})
    reader = Jsonl(str(path), query_key="question", document_key="passage", label_key="grade")
    assert list(reader) == [Group("q", ["t a"], [3])]
    # what open-retrievals calls its positives in training pairs
    write(path, {"query": "q", "document": ["a", "b"], "negative": ["c"]})
    assert list(Jsonl(str(path), positive_key="document")) == [Group("q", ["a", "b", "c"], [1, 1, 0])]


def test_flat_rows_are_gathered_on_disk_as_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    rows = [
        {"qid": f"{q}", "query": f"query {q}", "doc_id": f"d{i}", "text": f"text\n {i}", "label": draw.random()}
        for i, q in enumerate(draw.choices(range(30), k=300))
    ]
    expected: dict[str, Group] = {}
    for row in rows:
        group = expected.setdefault(row["qid"], Group(row["query"], [], [], qid=row["qid"], doc_ids=[]))
        assert group.labels is not None and group.doc_ids is not None
        group.docs.append(row["text"])
        group.labels.append(row["label"])
        group.doc_ids.append(row["doc_id"])
    assert read(path, *rows) == list(expected.values())
    monkeypatch.setattr("rerankkit.rows.IN_MEMORY", 100)
    assert read(path, *rows) == list(expected.values())


GOOD = {"query": "q", "positive": "p", "negative": "n", "qid": "1"}
LISTED = {"query": "q", "docs": ["a", "b"], "labels": [1, 0]}
FLAT = {"qid": "1", "query": "q", "doc_id": "d", "text": "a", "label": 1}


@pytest.mark.parametrize(
    ("first", "bad", "says"),
    [
        (GOOD, {"query": " \n", "positive": "p"}, '"query" is empty'),
        (GOOD, {"query": 7, "positive": "p"}, '"query" must be text, but it is a number; put it in quotes: "7"'),
        (GOOD, {"positive": "p"}, 'no "query": expected "query", "positive", found "positive"'),
        (GOOD, {"qeury": "q", "positive": "p"}, 'did you mean "query" by "qeury"?'),
        (GOOD, {"query": "q", "positive": "p", "negatives": "n"}, 'did you mean "negative" by "negatives"?'),
        (GOOD, {"query": "q", "positive": []}, '"positive" is an empty list'),
        (GOOD, {"query": "q", "positive": ["p", 3]}, '"positive" must hold text or'),
        (GOOD, {"query": "q", "positive": {"title": "t"}}, 'no text in a document of "positive": expected "text"'),
        (GOOD, {"query": "q", "positive": {"title": 1, "text": "t"}}, '"title" must be text'),
        (GOOD, {**GOOD, "query": "r"}, "query id '1' was given before, at "),
        (GOOD, {"query": "q", "positive": "p", "qid": 1}, '"qid" must be text'),
        (GOOD, {"query": "q", "positive": "p", "qid": "2", "query_id": "2"}, "query id is given twice"),
        (GOOD, {"query": "q", "positive": "p", "doc_ids": ["1", "2"]}, '"doc_ids" has 2 entries for 1 documents'),
        (GOOD, LISTED, 'no "positive": expected'),
        (LISTED, {"query": "q", "docs": []}, "but it is an empty list"),
        (LISTED, {"query": "q", "docs": "a"}, '"docs" must be a list with at least one document, but it is text'),
        (LISTED, {**LISTED, "labels": [1]}, '"labels" has 1 entries for 2 documents'),
        (LISTED, {**LISTED, "labels": ["1", "0"]}, '"labels" must hold numbers, but it holds text: "1"'),
        (LISTED, {**LISTED, "labels": [True, False]}, '"labels" must hold numbers, but it holds true or false'),
        (LISTED, {**LISTED, "labels": 1}, '"labels" must be a list of numbers'),
        (LISTED, {**LISTED, "doc_ids": ["x", "x"]}, "document id 'x' stands twice"),
        (LISTED, {**LISTED, "doc_ids": [1, 2]}, '"doc_ids" must be a list of texts'),
        (LISTED, {"query": "q", "docs": ["a"], "label": [1]}, 'did you mean "labels" by "label"?'),
        (FLAT, {**FLAT, "label": 0}, "document id 'd' was given for this query before, at "),
        (FLAT, {**FLAT, "doc_id": "e", "query": "r"}, "query id '1' had another query at "),
        (FLAT, {"qid": "1", "query": "q", "text": "b", "label": 1}, 'either all rows of a query have a "doc_id"'),
        (FLAT, {**FLAT, "doc_id": "e", "label": "1"}, '"label" must hold numbers'),
        (FLAT, {**FLAT, "doc_id": "e", "labels": 1}, "label is given twice"),
        (FLAT, {"qid": "1", "query": "q", "doc_id": "e", "text": "b"}, 'no "label": expected'),
        (FLAT, {**FLAT, "doc_id": "e", "document": "b"}, "document is given twice"),
        (FLAT, {"qid": "1", "query": "q", "label": 1}, 'no document: expected "document" or "text"'),
    ],
)
def test_a_wrong_row_is_named(path: Path, first: Any, bad: Any, says: str) -> None:
    with pytest.raises(InputError) as error:
        read(path, first, bad)
    assert str(error.value).startswith(f"{path}:2: ")
    assert says in str(error.value)


def test_an_unknown_form_names_the_keys(path: Path) -> None:
    with pytest.raises(InputError, match='found "query", "positives"; did you mean "positive" by "positives"'):
        read(path, {"query": "q", "positives": ["p"]})


def test_keys_can_be_named(path: Path) -> None:
    write(path, {"question": "q", "good": "p", "bad": "n"})
    reader = Jsonl(str(path), query_key="question", positive_key="good", negative_key="bad")
    assert list(reader) == [Group("q", ["p", "n"], [1, 0])]


def test_what_is_odd_but_legal_is_kept_and_reported_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, {"query": "q", "positive": ["", "x"], "source": 1}, {"query": "r", "positive": "x", "negative": "x"})
    reader = Jsonl(str(path))
    with caplog.at_level(logging.WARNING, "rerankkit"):
        assert [group.docs for group in reader] == [["", "x"], ["x", "x"]]
        assert len(list(reader)) == 2
    assert sorted(record.getMessage().partition("; ")[0] for record in caplog.records) == [
        "1 document empty, kept, such as of query 'q'",
        "1 document of two different labels for one query, kept, such as 'x' of query 'r'",
        f'1 row with keys that are not used, such as "source" at {path}:1',
        f"1 row without a negative, kept, such as {path}:1",
    ]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", {"query": "2", "positive": "p", "qid": "x"})
    write(tmp_path / "a.jsonl", {"query": "1", "positive": "p"})
    (tmp_path / "notes.txt").write_text("not data")
    assert [group.query for group in Jsonl(str(tmp_path))] == ["1", "2"]
    write(tmp_path / "c.jsonl", {"query": "3", "positive": "p", "qid": "x"})
    with pytest.raises(InputError, match=r"c\.jsonl:1: query id 'x' was given before, at .*b\.jsonl:1"):
        list(Jsonl(str(tmp_path)))
    (tmp_path / "c.jsonl").unlink()
    (tmp_path / "0.json").write_text(json.dumps([{"query": "array", "positive": "p"}] * 2, indent=2))
    (tmp_path / "z.json.gz").write_bytes(gzip.compress(b'{"query": "packed", "positive": "p"}'))
    assert [group.query for group in Jsonl(str(tmp_path))] == ["array", "array", "1", "2", "packed"]


def test_rows_stream(path: Path) -> None:
    path.write_text('{"query": "q", "positive": "p"}\n' * 3 + "broken")
    groups = iter(Jsonl(str(path)))
    assert [next(groups).query for _ in range(3)] == ["q"] * 3
    with pytest.raises(InputError, match=r"data\.jsonl:4: not valid JSON"):
        next(groups)
    assert len(list(Jsonl(str(path), limit=2))) == 2


def test_a_wrong_source_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        Jsonl(str(tmp_path / "missing.jsonl"))
    with pytest.raises(InputError, match=r"no \*\.jsonl or \*\.json file"):
        Jsonl(str(tmp_path))
    with pytest.raises(InputError, match="limit must be at least 1"):
        Jsonl(str(write(tmp_path / "a.jsonl", GOOD)), limit=0)
