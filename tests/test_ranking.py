"""`rerankkit rank` and `rerankkit evaluate` on a tiny model, and the wrong inputs of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from test_cli import Shell, shell, write

from rerankkit.trec import read_run

__all__ = ["shell"]
TEXTS = {
    "d1": "the open function returns a file object",
    "d2": "sort a list of tuples by key",
    "d3": "a cat sat on the mat",
    "d4": "a file on the disk",
}
QUERIES = '{"_id": "q1", "text": "open a file"}\n{"_id": "q2", "text": "sort tuples"}\n'
RUN = "q1 Q0 d4 1 2.0 x\nq1 Q0 d1 2 1.0 x\nq2 Q0 d2 1 5.0 x\nq2 Q0 d3 2 4.0 x\n"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BEIR folder and a recipe, in the current folder."""
    monkeypatch.chdir(tmp_path)
    lines = (json.dumps({"_id": docid, "text": text}) for docid, text in TEXTS.items())
    write(tmp_path / "corpus.jsonl", "\n".join(lines))
    write(tmp_path / "queries.jsonl", QUERIES)
    write(tmp_path / "first.trec", RUN)
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n")
    reader = '@readers = "beir.v1"\npath = "."\nsplit = "test"\n'
    tiny.recipe(tmp_path / "r.cfg", extra=f"[data]\n[data.dev]\n{reader}[data.test]\n{reader}")
    return tmp_path


FILES = ("rank", "r.cfg", "--queries", "queries.jsonl", "--docs", "corpus.jsonl")


def test_rank_writes_a_run_of_the_first_stage_documents(shell: Shell, data: Path) -> None:
    code, out, err = shell(*FILES, "--run", "first.trec", "--output", "new/out.trec")
    assert (code, out) == (0, "wrote new/out.trec\n"), err
    run = read_run(data / "new" / "out.trec")
    assert {qid: set(scores) for qid, scores in run.items()} == {"q1": {"d1", "d4"}, "q2": {"d2", "d3"}}
    assert shell(*FILES, "--run", "first.trec", "--interpolate", "0", "--output", "same.trec")[0] == 0
    kept = {qid: sorted(scores, key=lambda docid: -scores[docid]) for qid, scores in read_run("same.trec").items()}
    assert kept == {"q1": ["d4", "d1"], "q2": ["d2", "d3"]}


@pytest.mark.parametrize("docs", [(), ("--docs", "corpus.jsonl")])
def test_one_query_is_shown(shell: Shell, data: Path, docs: tuple[str, ...]) -> None:
    code, out, err = shell("rank", "r.cfg", "--query", "open a file", *docs, "--show", "1")
    assert code == 0, err
    assert "open a file" in out and ("d1" in out) + ("d4" in out) + ("d3" in out) == 1


def test_evaluate_compares_a_model_with_a_run(shell: Shell, data: Path) -> None:
    given = ("evaluate", "r.cfg", "first.trec", "--measures", "RR@10", "--interpolate")
    code, out, err = shell(*given, "0.25", "--json", "--output", "new/last.trec", "--baseline", "first.trec")
    assert code == 0, err
    found = json.loads(out)
    assert (found["baseline"], found["queries"]) == ("first.trec", 2)
    assert list(found["systems"]) == ["first stage", "r.cfg", "r.cfg (0.25) + first stage", "first.trec"]
    assert found["systems"]["first.trec"]["measures"] == {"RR@10": 0.75}
    assert read_run("new/last.trec") == read_run("first.trec")
    code, out, err = shell(*given, "tune", "--limit", "1", "--json")
    assert code == 0 and json.loads(out)["queries"] == 1, err


def test_evaluate_draws_a_table_of_runs_alone(shell: Shell, data: Path) -> None:
    code, out, err = shell("evaluate", "first.trec", "--data", ".", "--measures", "RR@10")
    assert code == 0 and "0.75" in out and "first.trec" in out, err


BAD = {
    "a broken line": ("queries.jsonl", QUERIES + '{"_id": "q3"', "queries.jsonl:3"),
    "a wrong key": ("queries.jsonl", '{"_id": "q1", "txet": "x"}\n', "queries.jsonl:1"),
    "an empty file": ("corpus.jsonl", "", "corpus.jsonl: the file is empty"),
    "an id twice": ("queries.jsonl", QUERIES + '{"_id": "q1", "text": "x"}\n', "queries.jsonl:3"),
    "an unknown document": ("first.trec", RUN + "q2 Q0 d9 3 1.0 x\n", "first.trec:5: document 'd9'"),
    "an unknown query": ("first.trec", RUN + "q9 Q0 d1 1 1.0 x\n", "first.trec:5: query 'q9'"),
    "a score that is none": ("first.trec", RUN + "q2 Q0 d1 3 nan x\n", "first.trec:5"),
    "an infinite score": ("first.trec", RUN + "q2 Q0 d1 3 inf x\n", "first.trec:5"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_data_is_one_message_and_nothing_is_written(shell: Shell, data: Path, case: str) -> None:
    file, text, said = BAD[case]
    write(data / file, text)
    for command in (FILES, ("evaluate", "r.cfg", "--data", ".")):
        code, out, err = shell(*command, "--run", "first.trec", "--output", "out.trec")
        assert (code, out) == (2, "") and said in err and "Traceback" not in err
        assert len(err.splitlines()) == 1 and not (data / "out.trec").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rank", "r.cfg", "--query", " ", "--docs", "corpus.jsonl"], "the query is empty"),
        (["rank", "r.cfg", "--query", "zebra", "--docs", "corpus.jsonl"], "zebra"),
        (["rank", "qrels", "--query", "file", "--docs", "corpus.jsonl"], "qrels"),
        (["evaluate", "first.trec", "--data", ".", "--baseline", "none", "--output", "out.trec"], "first.trec"),
        (["evaluate", "first.trec"], "--data"),
        (["evaluate", "first.trec", "--data", "missing"], "missing"),
        (["evaluate", "first.trec", "--data", "qrels"], "qrels"),
        (["evaluate", "first.trec", "--data", ".", "--split", "tset"], "test"),
        (["evaluate", "first.trec", "--data", "queries.jsonl", "--run", "first.trec"], "no BEIR folder"),
    ],
)
def test_wrong_options_are_one_message(shell: Shell, data: Path, arguments: list[str], said: str) -> None:
    code, out, err = shell(*arguments)
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1
    assert not (data / "out.trec").exists()


def test_a_place_that_cannot_be_written(shell: Shell, data: Path) -> None:
    code, _, err = shell("evaluate", "first.trec", "--data", ".", "--output", "first.trec/out.trec")
    assert code == 1 and "first.trec/out.trec" in err and "FileExistsError" not in err
