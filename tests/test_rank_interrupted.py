"""`rerankkit rank` stopped by a signal: the same command goes on, asks nothing twice and writes the same run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import slow
import tiny
from test_cli import Shell, shell, write

from rerankkit import files
from rerankkit.errors import RunError
from rerankkit.trec import read_run

__all__ = ["shell"]
ROOT = Path(__file__).parent.parent
QUERIES, DOCUMENTS = 4, 12


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command without its output, in a folder with what it needs."""
    monkeypatch.chdir(tmp_path)
    groups = [tiny.group(number, DOCUMENTS) for number in range(QUERIES)]
    write(tmp_path / "queries.tsv", "".join(f"{group.qid}\t{group.query}\n" for group in groups))
    texts = [pair for group in groups for pair in zip(group.doc_ids or [], group.docs, strict=True)]
    write(tmp_path / "docs.tsv", "".join(f"{docid}\t{text}\n" for docid, text in texts))
    lines = (f"{g.qid} Q0 {docid} 1 {-i} x\n" for g in groups for i, docid in enumerate(g.doc_ids or []))
    write(tmp_path / "first.trec", "".join(lines))
    tiny.recipe(tmp_path / "r.cfg")
    files = ["--queries", "queries.tsv", "--docs", "docs.tsv", "--run", "first.trec"]
    return ["rank", "r.cfg", *files, "--model.strategy.@strategies", "slow.v1"]


def costs(file: str) -> dict[str, int]:
    found = json.loads(Path(file).read_text())
    assert list(found["queries"]) == [f"q{number}" for number in range(QUERIES)]
    total: dict[str, int] = found["total"]
    return total


def test_the_same_command_goes_on_after_an_interrupt(shell: Shell, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    patient = [
        sys.executable,
        "-m",
        "rerankkit",
        *command,
        "--code",
        slow.__file__,
        "--output",
        "out.trec",
        "--model.strategy.seconds",
        "60",
    ]
    with subprocess.Popen(patient, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not Path("some are done").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "interrupted; the same command goes on from here\n")
    assert Path("out.trec.answers").exists() and not Path("out.trec").exists()

    code, _, err = shell(*command, "--output", "out.trec", "--costs", "rest.json")
    assert code == 0 and "answers in out.trec.answers" in err, err
    assert not list(Path().glob("out.trec?*"))
    rest = costs("rest.json")
    assert rest["prompts"] + rest["cached"] == QUERIES * DOCUMENTS and rest["cached"] >= 4 and rest["prompts"] > 0
    assert f"{rest['cached']} answers were at hand, {rest['prompts']} prompts were asked" in err

    code, _, err = shell(*command, "--output", "whole.trec", "--costs", "whole.json")
    assert (code, err) == (0, "")
    assert (costs("whole.json")["prompts"], costs("whole.json")["cached"]) == (QUERIES * DOCUMENTS, 0)
    went_on, whole = read_run("out.trec"), read_run("whole.trec")
    assert {q: list(scores) for q, scores in went_on.items()} == {q: list(scores) for q, scores in whole.items()}
    for qid, scores in whole.items():
        assert went_on[qid] == pytest.approx(scores, abs=1e-4)


def test_answers_are_kept_for_other_commands_where_asked(shell: Shell, command: list[str]) -> None:
    once = [*command, "--cache", "kept/answers.sqlite", "--costs", "costs/c.json"]
    assert shell(*once, "--output", "a.trec")[0] == 0 and Path("kept/answers.sqlite").exists()
    assert (costs("costs/c.json")["prompts"], costs("costs/c.json")["cached"]) == (QUERIES * DOCUMENTS, 0)
    code, _, err = shell(*once, "--output", "b.trec")
    assert code == 0 and f"{QUERIES * DOCUMENTS} answers were at hand, 0 prompts were asked" in err
    assert Path("kept/answers.sqlite").exists() and Path("a.trec").read_bytes() == Path("b.trec").read_bytes()


@pytest.mark.parametrize("option", ["--output", "--cache", "--costs"])
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    shell: Shell, command: list[str], option: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    others = () if option == "--output" else ("--output", "o.trec")
    code, _, err = shell(*command, *others, option, "folder")
    assert code == 2 and "folder is a folder; give the name of a file" in err
    code, _, err = shell(*command, *others, option, "r.cfg/out")
    assert code == 1 and "r.cfg/out: its folder cannot be made" in err
    assert not (tmp_path / "some are done").exists() and not list(tmp_path.glob("o*"))


@pytest.mark.parametrize("option", ["--output", "--cache", "--costs"])
def test_a_folder_that_is_read_only_is_said_before_the_work(
    shell: Shell, command: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "closed")  # root may write anywhere
    others = () if option == "--output" else ("--output", "o.trec")
    code, _, err = shell(*command, *others, option, "closed/file")
    assert code == 1 and "closed/file: nothing can be written to its folder" in err
    assert not (tmp_path / "some are done").exists() and not list(tmp_path.glob("o*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--output docs.tsv", "output and docs are one file, docs.tsv"),
        ("--output ./first.trec", "output and run are one file"),
        ("--output o.trec --costs o.trec", "costs and output are one file"),
        ("--output o.trec --costs o.trec.answers", "costs and cache are one file"),
        ("--output o.trec --cache kept --costs kept", "costs and cache are one file"),
        ("--output o.trec --cache queries.tsv", "cache and queries are one file"),
        ("--output r.cfg", "output and model are one file"),
        ("--output corpus.jsonl --docs .", "output and docs are one file"),
    ],
)
def test_nothing_is_written_over_what_is_read_or_written_beside_it(
    shell: Shell, command: list[str], options: str, said: str, tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    given = command if "--docs" not in options else [c for c in command if c not in ("--docs", "docs.tsv")]
    code, _, err = shell(*given, *options.split())
    assert code == 2 and said in err and "a name of its own" in err and len(err.splitlines()) == 1
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_equal_documents_are_no_answers_of_an_earlier_run(shell: Shell, command: list[str], tmp_path: Path) -> None:
    lines = (tmp_path / "docs.tsv").read_text().splitlines()
    write(tmp_path / "docs.tsv", "".join(f"{line.split()[0]}\tall the same\n" for line in lines))
    assert shell(*command, "--output", "o.trec", "--costs", "c.json")[::2] == (0, "")
    assert (costs("c.json")["prompts"], costs("c.json")["cached"]) == (QUERIES, QUERIES * (DOCUMENTS - 1))


def test_answers_stay_until_the_bill_is_written(
    shell: Shell, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, lines: Iterable[str]) -> None:
        if path.name == "c.json":
            raise RunError(f"{path}: cannot be written: No space left on device")
        written(path, lines)

    written = files.write
    monkeypatch.setattr(files, "write", full)
    code, _, err = shell(*command, "--output", "o.trec", "--costs", "c.json")
    assert code == 1 and "c.json: cannot be written: No space" in err
    assert Path("o.trec").exists() and Path("o.trec.answers").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, _, err = shell(*command, "--output", "o.trec", "--costs", "c.json")
    assert code == 0 and "0 prompts were asked" in err and not Path("o.trec.answers").exists()
