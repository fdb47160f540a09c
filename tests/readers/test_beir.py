"""A BEIR folder becomes groups of candidates."""

import gzip
import json
import logging
from pathlib import Path

import pytest

from rerankkit.errors import InputError
from rerankkit.readers.beir import Beir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = [("d1", "Cats", "purr"), ("d2", "", "cats and dogs"), ("007", "", "mice fear cats"), ("d4", "", "")]
    rows = "".join(json.dumps({"_id": i, "title": title, "text": text}) + "\n" for i, title, text in documents)
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    queries = [("q1", "cats"), ("q2", "dogs purr"), ("q3", "mice"), ("q4", "zebra"), ("q5", "unjudged")]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in queries))
    (tmp_path / "qrels").mkdir()
    judgements = ["q4\td1\t1", "q1\t007\t2", "q1\td1\t0", "q2\td4\t1", "q3\tgone\t1", "q9\td1\t1"]
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judgements) + "\n")
    (tmp_path / "qrels" / "train.tsv").write_text("q5\td1\t1\n")
    return tmp_path


def test_candidates_come_from_bm25(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rerankkit"):
        groups = {group.qid: group for group in Beir(str(folder), "test")}
    assert list(groups) == ["q1", "q2", "q3", "q4"]
    first = groups["q1"]
    assert first.doc_ids is not None and first.first_scores is not None
    assert sorted(first.doc_ids) == ["007", "d1", "d2"]
    assert "Cats purr" in first.docs
    assert dict(zip(first.doc_ids, first.labels or [], strict=True)) == {"007": 2, "d1": 0, "d2": 0}
    assert first.first_scores == sorted(first.first_scores, reverse=True)
    assert groups["q3"].judged == {"gone": 1}
    assert groups["q4"].docs == []
    assert "1 judged query unknown and left out, such as query 'q9'" in caplog.text
    assert "1 judgement of no known document, such as that of document 'gone'" in caplog.text


def test_training_groups_hold_the_positives_that_bm25_missed(folder: Path) -> None:
    groups = {group.qid: group for group in Beir(str(folder), "test", candidates=1, add_positives=True)}
    assert groups["q2"].doc_ids is not None
    assert groups["q2"].doc_ids[-1] == "d4"
    assert groups["q2"].labels == [0, 1]
    assert (groups["q4"].doc_ids, groups["q4"].labels) == (["d1"], [1])


def test_a_sample_is_the_same_for_the_same_seed_and_every_iteration(folder: Path) -> None:
    reader = Beir(str(folder), "test", limit=2, seed=3)
    sample = [group.qid for group in reader]
    assert len(sample) == 2
    assert (
        sample == [group.qid for group in reader] == [group.qid for group in Beir(str(folder), "test", limit=2, seed=3)]
    )


def test_candidates_can_come_from_a_run(folder: Path) -> None:
    (folder / "first.trec").write_text("q1 Q0 d4 1 3 x\nq1 Q0 007 2 2 x\nq1 Q0 d1 3 1 x\n")
    groups = list(Beir(str(folder), "test", candidates=2, run=str(folder / "first.trec")))
    assert [group.doc_ids for group in groups] == [["d4", "007"], [], [], []]
    assert groups[0].first_scores == [3, 2]


def test_a_wrong_folder_or_split_is_refused_at_once(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no split 'tset'.*splits: test, train; did you mean \"test\""):
        Beir(str(folder), "tset")
    with pytest.raises(InputError, match="no such folder"):
        Beir(str(folder / "missing"))
    with pytest.raises(InputError, match="neither corpus.jsonl nor"):
        Beir(str(folder / "qrels"))
    with pytest.raises(InputError, match="candidates must be at least 1"):
        Beir(str(folder), candidates=0)


def test_qrels_of_another_collection_are_refused(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text("x\td1\t1\n")
    with pytest.raises(InputError, match=r"dev\.tsv: none of its queries is in"):
        list(Beir(str(folder), "dev"))


ARGUMENTS = {"a1": "taxes should rise for the rich", "a2": "taxes should not rise for the rich", "a3": "cats are nice"}


@pytest.fixture
def arguana(tmp_path: Path) -> Path:
    """Queries that are documents of the corpus under their own ids, and are answered by others."""
    rows = [json.dumps({"_id": docid, "title": "debate", "text": text}) for docid, text in ARGUMENTS.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "a1", "text": ARGUMENTS["a1"]}))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\na1\ta2\t1\n")
    return tmp_path


@pytest.mark.regression
def test_a_query_that_is_a_document_does_not_find_itself(arguana: Path, caplog: pytest.LogCaptureFixture) -> None:
    from rerankkit.evaluate import first_run, measure, qrels_of

    with caplog.at_level(logging.WARNING, "rerankkit"):
        (group,) = Beir(str(arguana), "test", candidates=1)
    assert (group.doc_ids, group.labels) == (["a2"], [1.0])
    assert measure(first_run([group]) or {}, qrels_of([group])).means["nDCG@10"] == 1.0
    assert (
        "1 query whose own document, of the same id, is left out as in BEIR's evaluation, such as 'a1'" in caplog.text
    )
    run = arguana / "run"
    run.write_text("a1 Q0 a1 1 9 x\na1 Q0 a2 2 8 x\na1 Q0 a3 3 7 x\n")
    (group,) = Beir(str(arguana), "test", candidates=2, run=str(run))
    assert group.doc_ids == ["a2", "a3"]


def test_its_own_document_stays_where_asked_and_where_it_is_relevant(arguana: Path) -> None:
    (group,) = Beir(str(arguana), "test", candidates=1, ignore_identical_ids=False)
    assert group.doc_ids == ["a1"]
    (arguana / "qrels" / "test.tsv").write_text("a1\ta1\t1\n")
    (group,) = Beir(str(arguana), "test", candidates=1)
    assert (group.doc_ids, group.labels) == (["a1"], [1.0])


@pytest.mark.regression
def test_nor_is_it_a_negative_of_its_query(arguana: Path) -> None:
    from rerankkit.protocols import Group
    from rerankkit.sampling import TrainingGroups
    from rerankkit.settings import Sampling

    (group,) = Beir(str(arguana), "test")
    other = Group("who?", [ARGUMENTS["a1"]], [1.0], qid="q2", doc_ids=["a1"])  # it answers another query
    groups = TrainingGroups([group, other], Sampling(group_size=3, random_negatives=1), 0, own_ids=True)
    assert all("a1" not in (groups[epoch, 0].doc_ids or []) for epoch in range(20))
    assert groups.known_positives(group).covers("", "a1")


def test_keys_of_lines_and_packed_judgements(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"nr": "d", "abstract": "cats"}))
    (tmp_path / "queries.jsonl").write_text(json.dumps({"nr": "q", "question": "cats"}))
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv.gz").write_bytes(gzip.compress(b"q\td\t1\n"))
    keys = {"query_keys": {"id": "nr", "text": "question"}, "document_keys": {"id": "nr", "text": "abstract"}}
    (group,) = Beir(str(tmp_path), "test", query_keys=keys["query_keys"], document_keys=keys["document_keys"])
    assert (group.query, group.docs) == ("cats", ["cats"])
    with pytest.raises(InputError, match='"name" cannot be named'):
        Beir(str(tmp_path), "test", query_keys={"name": "x"})
