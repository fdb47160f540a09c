"""Runs and qrels: what is written is read back in the same order by every tool, and wrong lines are named."""

import logging
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.errors import InputError, RunError
from rerankkit.trec import Run, best_first, ranked_scores, read_qrels, read_run, write_run

finite = st.floats(-(2.0**100), 2.0**100, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1.0 + 1e-9, 1e-40])


@given(st.lists(finite, max_size=30))
def test_a_written_order_is_the_only_one_the_scores_allow(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float]
) -> None:
    path = tmp_path_factory.mktemp("run") / "a.trec"
    given_order = [f"d{i:02}" for i in range(len(scores))]
    run = {"q": dict(zip(given_order, scores, strict=True)), "other": {"d": 1.0}}
    expected = sorted(given_order, key=lambda d: -run["q"][d])
    write_run(run, path)
    back = read_run(path)
    assert list(back.get("q", {})) == expected
    exact = [np.float32(score) for score in back.get("q", {}).values()]
    assert all(higher > lower for higher, lower in pairwise(exact))
    write_run(back, path)
    assert read_run(path) == back


def test_scores_that_differ_are_written_as_they_are(tmp_path: Path) -> None:
    scores = [float(np.float32(s)) for s in (3.1415927, 0.1, -2.5)]
    write_run({"q": dict(zip("abc", scores, strict=True))}, tmp_path / "run")
    assert (tmp_path / "run").read_text().splitlines()[1] == f"q Q0 b 2 {scores[1]!r} rerankkit"
    assert list(read_run(tmp_path / "run")["q"].values()) == scores


def test_the_order_of_a_ranking_wins_over_its_scores() -> None:
    scores = ranked_scores([("a", 1.0), ("b", 1.0), ("c", 5.0), ("d", 0.5)], "q")
    assert list(scores) == ["a", "b", "c", "d"]
    assert best_first(scores) == ["a", "b", "c", "d"]
    assert scores["c"] == pytest.approx(1.0, abs=1e-6)
    assert scores["d"] == 0.5


def test_ties_of_a_strange_run_are_read_as_trec_eval_does(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("q Q0 a 1 1.0 x\nq Q0 c 2 1.00000001 x\nq Q0 b 3 1 x\nq Q0 z 4 0.5 x\n")
    order = list(read_run(path)["q"])
    assert order == ["c", "b", "a", "z"]
    for place, docid in enumerate(order, start=1):
        evaluator = pytrec_eval.RelevanceEvaluator({"q": {docid: 1}}, {"recip_rank"})
        run = {"q": {"a": 1.0, "c": 1.00000001, "b": 1.0, "z": 0.5}}
        assert evaluator.evaluate(run)["q"]["recip_rank"] == pytest.approx(1 / place)


def test_other_tools_read_what_is_written(tmp_path: Path) -> None:
    run: Run = {"q1": {"a": 2.0, "b": 2.0, "c": 2.0}, "007": {"x-é": 1e-8, "y": 0.0, "z": 0.0}}
    write_run(run, tmp_path / "run", tag="mine")
    theirs: Run = {}
    for row in ir_measures.read_trec_run(str(tmp_path / "run")):
        theirs.setdefault(row.query_id, {})[row.doc_id] = row.score
    assert theirs == read_run(tmp_path / "run")
    assert {qid: list(scores) for qid, scores in theirs.items()} == {"q1": ["a", "b", "c"], "007": ["x-é", "y", "z"]}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, 1e300])
def test_scores_that_are_not_finite_are_refused_with_their_place(tmp_path: Path, score: float) -> None:
    path = tmp_path / "run"
    path.write_text("old")
    with pytest.raises(InputError, match="query 'q2', document 'b': the score"):
        write_run({"q1": {"a": 1.0}, "q2": {"a": 0.0, "b": score}}, path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["a b", "", "a\tb", "a\u00a0b", " a"])
def test_ids_with_white_space_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="the document id"):
        write_run({"q": {name: 1.0}}, tmp_path / "run")
    with pytest.raises(InputError, match="the query id"):
        write_run({name: {"a": 1.0}}, tmp_path / "run")
    with pytest.raises(InputError, match="the tag"):
        write_run({"q": {"a": 1.0}}, tmp_path / "run", tag=name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("old")
    code = (
        "import resource, signal, sys; from rerankkit.trec import write_run; from rerankkit.errors import RunError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_run({'q': {f'd{i}': float(-i) for i in range(1000)}}, sys.argv[1])\n"
        "except RunError as error: print(error)"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: cannot be written: File too large\n"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written: No such file or directory"):
        write_run({"q": {"a": 1.0}}, tmp_path / "missing" / "run")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q Q0 b 2 0.5", "expected 6 columns, 'qid Q0 docid rank score tag', but found 5"),
        ("q Q0 b 2 0.5 x y", "found 7"),
        ("q Q0 b 2 high x", "the score must be a number, but it is 'high'"),
        ("q Q0 b 2 1_0 x", "the score must be a number"),
        ("q Q0 b 2 nan x", "the score nan is not a finite number"),
        ("q Q0 b 2 1e39 x", "the score 1e39 is not a finite number"),
        ("q Q0 a 2 0.5 x", "query 'q' has document 'a' a second time"),
    ],
)
def test_a_wrong_run_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "run"
    path.write_text(f"q Q0 a 1 1.0 x\n\n{line}\n")
    with pytest.raises(InputError) as error:
        read_run(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert says in str(error.value)


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("\n")
    with pytest.raises(InputError, match="no ranked document"):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\n007\td 1\t1\nq\td2\t0\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\n007\td 1\t1\r\n\r\nq\td2\t0\r\n",
        "007\td 1\t1\nq\td2\t0\n",
    ],
)
def test_beir_qrels(tmp_path: Path, content: str) -> None:
    (tmp_path / "qrels.tsv").write_text(content, encoding="utf-8", newline="")
    assert read_qrels(tmp_path / "qrels.tsv") == {"007": {"d 1": 1}, "q": {"d2": 0}}


def test_trec_qrels(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("1 0 a 2\n1\t0\tb\t-1\n2 0 a 0\n")
    assert read_qrels(tmp_path / "qrels") == {"1": {"a": 2, "b": -1}, "2": {"a": 0}}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("q\tb", "expected 3 columns"),
        ("q\tb\t0.5", "the grade must be a whole number, but it is '0.5'"),
        ("q\tb\tyes", "the grade must be a whole number"),
        ("q\ta\t0", "query 'q' has document 'a' a second time"),
    ],
)
def test_a_wrong_judgement_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq\ta\t1\n{line}\n")
    with pytest.raises(InputError) as error:
        read_qrels(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert says in str(error.value)


def test_qrels_without_a_judgement_are_refused(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(InputError, match="no judgement"):
        read_qrels(tmp_path / "qrels.tsv")


@pytest.mark.parametrize(
    ("lines", "warns"),
    [
        pytest.param("q Q0 a 1 1 x\nq Q0 b 2 2 x\nq Q0 c 3 3 x\n", True, marks=pytest.mark.regression),  # rising scores
        pytest.param(
            "q Q0 a 1 1 x\nq Q0 b 2 1 x\n", True, marks=pytest.mark.regression
        ),  # equal scores: trec_eval puts b first
        ("q Q0 b 1 1 x\nq Q0 a 2 1 x\n", False),
        ("q Q0 a 2 1 x\nq Q0 b 1 2 x\n", False),
        ("q Q0 a 1 1 x\nq Q0 b 1 2 x\n", False),  # equal ranks say nothing
        ("q Q0 a - 1 x\nq Q0 b - 2 x\n", False),
        pytest.param("p Q0 a 1 2 x\nq Q0 a 0 1 x\np Q0 b 2 1 x\nq Q0 b 1 2 x\n", True, marks=pytest.mark.regression),
    ],
)
def test_ranks_that_contradict_the_scores_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: str, warns: bool
) -> None:
    (tmp_path / "run").write_text(lines)
    with caplog.at_level(logging.WARNING, "rerankkit"):
        run = read_run(tmp_path / "run")
    assert ("1 query with ranks that contradict the scores, which count, such as query 'q' of" in caplog.text) == warns
    assert [list(scores) for scores in run.values()] == [best_first(scores) for scores in run.values()]


@pytest.mark.regression
def test_whole_grades_may_be_written_with_a_point(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("1 0 a 2.0\n1 0 b 0.00\n1 0 c -1.0\n1 0 a 2\n")
    assert read_qrels(tmp_path / "qrels") == {"1": {"a": 2, "b": 0, "c": -1}}
