"""`rerankkit rank` and `rerankkit evaluate` on a tiny model, and the wrong inputs of both."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar

import pytest
import tiny
from test_cli import Shell, shell, write

from rerankkit import Reranker, ranking
from rerankkit.heads.generated_order import GeneratedOrder
from rerankkit.protocols import Asked, Group, Order, Reading
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


SHAPES = {
    "queries.tsv": "q1\topen a file\nq2\tsort tuples\n",
    "topics.txt": "<top><num>Number: q1<title>open a file</top><top><num>q2<title>sort tuples</top>",
    ".": "",
}
CORPORA = {
    "collection.tsv": "".join(f"{docid}\t{text}\n" for docid, text in TEXTS.items()),
    "docs.sgml": "".join(f"<DOC><DOCNO>{d}</DOCNO><TEXT>{text}</TEXT></DOC>\n" for d, text in TEXTS.items()),
    ".": "",
}


def test_every_form_of_the_files_gives_the_same_run(shell: Shell, data: Path) -> None:
    for file, text in {**SHAPES, **CORPORA}.items():
        if text:
            write(data / file, text)
    found = set()
    for queries, docs in zip(SHAPES, CORPORA, strict=True):
        given = ("--queries", queries, "--docs", docs, "--run", "first.trec", "--output", "out.trec")
        code, _, err = shell("rank", "r.cfg", *given, "--tag", "mine")
        assert code == 0, err
        found.add((data / "out.trec").read_text())
    (run,) = found
    assert len(run.splitlines()) == 4 and all(line.endswith(" mine") for line in run.splitlines())


class Seen:
    """A strategy that keeps the order it was given, and what it was given."""

    groups: ClassVar[list[Group]] = []

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        self.groups.append(group)
        yield from ()
        return [(position, -float(position)) for position in range(len(group.docs))]

    def training_asks(self, group: Group) -> list[Asked]:
        return [(position,) for position in range(len(group.docs))]


@pytest.mark.parametrize("command", ["rank", "evaluate"])
def test_the_first_stage_may_be_shown_in_another_order(shell: Shell, data: Path, command: str) -> None:
    strategy = "from rerankkit import registry\nfrom test_ranking import Seen\nregistry.strategies('seen.v1')(Seen)\n"
    name = f"seen_{command}.v1"
    code_file = write(data / f"{command}.py", strategy.replace("seen.v1", name))
    write(data / "first.trec", "".join(f"q1 Q0 d{i} 1 {i}.0 x\n" for i in (1, 2, 3, 4)))
    files = ("--queries", "queries.jsonl", "--docs", "corpus.jsonl") if command == "rank" else ("--data", ".")
    seen = {}
    for order in ("given", "inverse", "random", "random --seed 1"):
        Seen.groups.clear()
        given = ("--run", "first.trec", "--hits", "3", "--output", "out.trec", "--model.strategy.@strategies", name)
        flags = ("--first-stage-order", *order.split(), "--code", code_file)
        code, _, err = shell(command, "r.cfg", *files, *given, *flags)
        assert code == 0, err
        group = Seen.groups[0]
        assert group.first_scores == [float(docid[1:]) for docid in group.doc_ids or []]
        assert group.docs == [TEXTS[docid] for docid in group.doc_ids or []]
        seen[order] = group.doc_ids
        assert list(read_run("out.trec")["q1"]) == group.doc_ids
    assert seen["given"] == ["d4", "d3", "d2"] and seen["inverse"] == ["d2", "d3", "d4"]
    assert sorted(seen["random"] or []) == ["d2", "d3", "d4"] and seen["random"] != seen["random --seed 1"]


def test_one_candidate_identical_documents_and_a_query_without_any(shell: Shell, data: Path) -> None:
    same = "".join(json.dumps({"_id": f"s{i}", "text": "sort"}) + "\n" for i in range(3))
    write(data / "corpus.jsonl", same + '{"_id": "empty", "text": ""}\n')
    write(data / "queries.jsonl", QUERIES + '{"_id": "q3", "text": "zebra"}\n')
    write(data / "first.trec", "q1 Q0 empty 1 1.0 x\n" + "".join(f"q2 Q0 s{i} 1 {9 - i} x\n" for i in range(3)))
    code, out, err = shell(*FILES, "--run", "first.trec", "--output", "out.trec", "--costs", "costs.json")
    assert code == 0 and out == "wrote out.trec (1 query left out)\n"
    assert json.loads((data / "costs.json").read_text())["warnings"] == {"queries_left_out": 1}
    assert "1 query left out, such as query 'q3' of 3 (first.trec has no line for it); give" in err
    run = read_run("out.trec")
    assert {qid: sorted(scores) for qid, scores in run.items()} == {"q1": ["empty"], "q2": ["s0", "s1", "s2"]}
    assert max(run["q2"].values()) == pytest.approx(min(run["q2"].values()), abs=1e-4)
    code, _, err = shell(*FILES, "--output", "bm25.trec")
    assert code == 0 and "2 queries left out, such as query 'q1' of 3 (BM25 finds nothing for it)" in err
    assert list(read_run("bm25.trec")) == ["q2"]


@pytest.mark.parametrize(
    ("file", "text", "arguments", "said"),
    [
        ("first.trec", "\n", ["--run", "first.trec"], "first.trec: no ranked document in this file"),
        ("first.trec", RUN + "q1 Q0 d1 3 0 x\n", ["--run", "first.trec"], "first.trec:5: query 'q1' has document 'd1'"),
        ("queries.jsonl", '{"_id": "q1", "text": "zebra"}\n', [], "no document has a word of any query"),
        (
            "queries.jsonl",
            '{"_id": "q 1", "text": "file"}\n',
            [],
            "queries.jsonl: the query id 'q 1' cannot stand in a TREC",
        ),
        ("corpus.jsonl", '{"_id": "d 1", "text": "file"}\n', [], "corpus.jsonl: the document id 'd 1' cannot stand"),
        ("first.trec", RUN, ["--tag", "a b"], "--tag 'a b' cannot stand in a TREC run"),
    ],
)
def test_what_cannot_become_a_run_is_said_before_the_work(
    shell: Shell, data: Path, file: str, text: str, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reranker, "from_recipe", lambda *given: pytest.fail("the model was loaded"))
    write(data / file, text)
    code, out, err = shell(*FILES, *arguments, "--output", "out.trec")
    assert (code, out) == (2, "") and said in err and len(err.splitlines()) == 1


def test_no_first_stage_has_no_order_to_change(shell: Shell, data: Path) -> None:
    write(data / "groups.jsonl", '{"query": "a", "docs": ["b", "c"], "labels": [1, 0]}\n')
    code, _, err = shell("evaluate", "r.cfg", "--data", "groups.jsonl", "--first-stage-order", "random")
    assert code == 2 and "--first-stage-order random: this data has no first stage" in err
    assert shell(*FILES, "--first-stage-order", "upwards", "--output", "out.trec")[0] == 2


WRITTEN = (
    *("--model.formatter.@formatters", "documents.v1", "--model.head.@heads", "generated_order.v1"),
    *("--model.head.max_new_tokens", "4", "--model.strategy.@strategies", "sliding_window.v1"),
)


@pytest.mark.parametrize(
    "command",
    [
        (*FILES, "--run", "first.trec", "--output", "out.trec"),
        ("evaluate", "r.cfg", "--data", ".", "--run", "first.trec", "--json"),
        ("rank", "r.cfg", "--query", "open a file", "--docs", "corpus.jsonl"),
    ],
)
def test_answers_that_are_none_are_told_wherever_it_is_printed(
    shell: Shell, data: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GeneratedOrder, "read", lambda *_: Reading([2.0, 1.0], {"refused": 1, "out_of_range": 3}))
    code, out, err = shell(*command, *WRITTEN, "--hits", "2")
    asked = 1 if "--query" in command else 2
    said = "2 answers" if asked == 2 else "1 answer"
    query = "query" if asked == 1 else "q1"
    assert code == 0 and err == (
        f"warning: {said} not as asked, such as one about query '{query}' (refused 1, out_of_range 3); documents that "
        "it does not name keep their order; a larger [model.head] max_new_tokens gives it room\n"
    )
    if "--json" in command:
        assert json.loads(out)["warnings"] == {"answers_odd": 2}
    else:
        assert out.splitlines()[-1].endswith(f" ({said} not as asked)")
    monkeypatch.setattr(GeneratedOrder, "read", lambda *_: Reading([1.0, 2.0], {}))
    assert shell(*command, *WRITTEN, "--hits", "2")[::2] == (0, "")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ("first.trec bad.trec", 2, "bad.trec:1"),
        ("first.trec --baseline nnoe", 2, "--baseline nnoe: none of the systems, which are first stage, r.cfg, first"),
        ("first.trec --interpolate 0.5 --baseline nnoe", 2, "r.cfg (0.5) + first stage"),
        ("--output r.cfg/out.trec", 1, "r.cfg/out.trec: its folder cannot be made"),
        ("--output corpus.jsonl", 2, "output and data are one file"),
        ("--output qrels/test.tsv", 2, "output and data are one file"),
        ("--output first.trec --run first.trec", 2, "output and run are one file"),
        ("first.trec --output ./first.trec", 2, "output and systems are one file"),
        ("--output r.cfg", 2, "output and systems are one file"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_ranks(
    shell: Shell, data: Path, options: str, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reranker, "rank_groups", lambda *_, **__: pytest.fail("the model was asked"))
    write(data / "bad.trec", "q1 d1\n")
    found, out, err = shell("evaluate", "r.cfg", *options.split(), "--data", ".")
    assert (found, out) == (code, "") and said in err and len(err.splitlines()) == 1


@pytest.mark.regression
def test_a_query_among_its_own_candidates_is_said_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(("a cat sat", "a cat ran", "a dog ran"))
    ]
    for name, rows in (("queries.jsonl", lines[:1]), ("corpus.jsonl", lines)):
        (tmp_path / name).write_text("\n".join(rows))
    queries, docs = tmp_path / "queries.jsonl", tmp_path / "corpus.jsonl"
    with caplog.at_level("WARNING", "rerankkit"):
        (group,) = ranking.file_groups(queries, docs, None, 1)
    assert group.doc_ids == ["0"]
    assert "1 query among its own candidates, under its own id, such as '0'" in caplog.text
    (group,) = ranking.file_groups(tmp_path, tmp_path, None, 1)  # a BEIR folder, and BEIR's convention
    assert group.doc_ids == ["1"]
    assert "of the same id, is left out as in BEIR's evaluation" in caplog.text


def test_one_id_for_a_query_and_for_another_text_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "q.tsv").write_text("1\tcat\n")
    (tmp_path / "d.tsv").write_text("1\tdogs\n2\ta cat\n")
    (tmp_path / "run").write_text("1 Q0 1 1 2 x\n1 Q0 2 2 1 x\n")
    with caplog.at_level("WARNING", "rerankkit"):
        (group,) = ranking.file_groups(tmp_path / "q.tsv", tmp_path / "d.tsv", tmp_path / "run", 2)
    assert group.doc_ids == ["1", "2"] and caplog.text == ""
    files = tmp_path / "q.tsv", tmp_path / "d.tsv", tmp_path / "run"
    assert ranking.file_groups(*files, 2, ignore_identical_ids=True)[0].doc_ids == ["2"]


def test_keys_on_the_command_line(shell: Shell, tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path / "r.cfg") or tmp_path / "r.cfg"
    write(tmp_path / "q", '{"nr": "q", "question": "open a file"}\n')
    write(tmp_path / "d", '{"nr": "d", "abstract": "the open function", "text": "no"}\n')
    files = ["--queries", tmp_path / "q", "--docs", tmp_path / "d", "--output", tmp_path / "out"]
    keys = ["--queries-keys", "id=nr,text=question", "--docs-keys", "id=nr,text=abstract"]
    assert shell("rank", recipe, *files, *keys)[0] == 0
    assert list(read_run(tmp_path / "out")) == ["q"]
    code, _, err = shell("rank", recipe, *files, "--docs-keys", "abstract")
    assert code == 2 and '"abstract" cannot be named; expected such as id=docid' in err


@pytest.mark.regression
def test_costs_on_standard_output_stand_there_alone(shell: Shell, data: Path) -> None:
    found = shell(*FILES, "--output", "out.trec", "--costs", "-")
    assert found[:2] == (0, "") and found[2].endswith("wrote out.trec\n")  # the costs go straight to the descriptor


@pytest.mark.regression
@pytest.mark.parametrize("output", [".", "..", "/"])
def test_a_folder_is_no_output(shell: Shell, data: Path, output: str) -> None:
    assert shell(*FILES, "--output", output)[::2] == (2, f"error: {output} is a folder; give the name of a file\n")
