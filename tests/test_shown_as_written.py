"""Texts of users on the screen of a command: what rich would read as markup or as a picture's name is shown."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from rich.console import Console
from test_cli import Shell, shell, write

from rerankkit.bill import Bill, Costs
from rerankkit.evaluate import compare
from rerankkit.tables import render

__all__ = ["shell"]
ODD = ("[/INST]", "[/quote]", "[red]", ":smile:", "[link=x]", "[bold]a[/bold]", "\\[a]", "[@click=f()]", ":warning:")


@pytest.mark.regression
@pytest.mark.parametrize("odd", ODD)
def test_one_query_is_shown_as_it_is_written(shell: Shell, tmp_path: Path, odd: str) -> None:
    recipe = tiny.recipe(tmp_path / "r.cfg")
    lines = [{"_id": f"{odd}id{n}", "text": f"a file {odd} on the mat {n}"} for n in range(2)]
    docs = write(tmp_path / "docs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = shell("rank", recipe, "--query", f"a file {odd}", "--docs", docs)
    assert code == 0, err
    shown = "".join(out.split())
    assert "".join(f"a file {odd}".split()) in shown
    for line in lines:
        assert line["_id"] in shown and "".join(line["text"].split()) in shown


@pytest.mark.regression
def test_nothing_in_a_document_acts_on_the_terminal_or_is_cut_off(shell: Shell, tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path / "r.cfg")
    lines = [{"_id": "x" * 150, "text": "a file \x1b[2J\x07 \x9b31m gone\r\nhere"}]
    docs = write(tmp_path / "docs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = shell("rank", recipe, "--query", "a file", "--docs", docs)
    assert code == 0 and not {"\x1b", "\x07", "\x9b", "\r"} & set(out), err
    shown = "".join(character for character in out if character not in "│ \n")
    assert "x" * 150 in shown and r"afile\x1b[2J\x07\x9b31mgonehere" in shown


@pytest.mark.regression
@pytest.mark.parametrize("odd", ["[/a]", "[red]", ":smile:"])
def test_systems_are_called_as_they_are_named(shell: Shell, tmp_path: Path, odd: str) -> None:
    (tmp_path / "qrels").mkdir()
    write(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    write(tmp_path / "corpus.jsonl", '{"_id": "d1", "text": "a file"}\n{"_id": "d2", "text": "file"}\n')
    write(tmp_path / "queries.jsonl", '{"_id": "q1", "text": "file"}\n')
    runs = []
    for number, docid in enumerate(("d1", "d2")):
        runs.append(tmp_path / f"{number}" / f"{odd}{number}".replace("/", "|"))
        runs[-1].parent.mkdir()
        write(runs[-1], f"q1 Q0 {docid} 1 1.0 x\n")
    code, out, err = shell("evaluate", *runs, "--data", tmp_path, "--measures", "RR@10")
    assert code == 0, err
    for run in runs:
        assert out.count(run.name) >= 2  # in the table and below it


@pytest.mark.regression
def test_tables_are_literal_on_anybodys_console() -> None:
    console = Console(file=io.StringIO(), width=200, record=True)
    systems = {"[red]a": {"q": {"d": 1.0}}, ":smile:": {}, "[/b]": {"q": {"d": 2.0}, "r": {"d": 1.0}}}
    console.print(render(compare(systems, {"q": {"d": 1}}, ["RR@10"]), title="[i]title"))
    console.print(Bill(Costs(faults={"[/fault]": 1}), []).table())
    text = console.export_text()
    for name in ("[red]a", ":smile:", "[/b]", "[i]title", "[/fault]"):
        assert name in text
    assert "Against [red]a:" in text and "Queries without results: :smile: 1" in text


def test_there_is_one_console() -> None:
    folder = Path(__file__).parent.parent / "rerankkit"
    makers = [path.name for path in folder.rglob("*.py") if "Console(" in path.read_text(encoding="utf-8")]
    assert makers == ["screen.py"]


def test_lines_above_a_bar_are_literal() -> None:
    code = "from rerankkit.progress import Bar\nwith Bar('[red]ranking :smile:') as bar: bar.say('[/x] :smile: [red]')"
    here = Path(__file__).parent.parent
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert found.stderr == "[/x] :smile: [red]\n"
