"""The command line, through `main` as a shell would call it: what it prints, writes, and ends with."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny

from rerankkit import Reranker, cli, recipe, registry
from rerankkit.errors import InputError, RunError

Shell = Callable[..., tuple[int, str, str]]
SHIPPED = str(Path(__file__).parent.parent / "recipes" / "llm_pointwise.cfg")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    """Runs a command in this process: exit code, stdout and stderr."""
    logger = logging.getLogger("rerankkit")
    before = logger.handlers, logger.level, logger.propagate

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rerankkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        code = end.value.code
        return code if isinstance(code, int) else 0, said.out, said.err

    yield run
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_no_command_needs_torch_to_say_what_it_does(shell: Shell) -> None:
    for name in ("train", "rank", "evaluate", "check", "fill", "preview", "list", "find", "doctor"):
        code, out, _ = shell(name, "--help")
        assert code == 0 and f"rerankkit {name}" in out


def test_check_finds_nothing_in_what_is_shipped(shell: Shell) -> None:
    assert shell("check", SHIPPED) == (0, f"{SHIPPED}: no problems\n", "")


def test_a_filled_recipe_fills_to_itself(shell: Shell, tmp_path: Path) -> None:
    code, once, _ = shell("fill", SHIPPED)
    assert code == 0 and "candidates = 10" in once
    assert shell("fill", write(tmp_path / "filled.cfg", once)) == (0, once, "")


def test_list_and_find(shell: Shell) -> None:
    code, out, _ = shell("list")
    assert code == 0 and "@heads" in out.splitlines() and "  yes_no.v1" in out.splitlines()
    assert shell("list", "heads")[1].splitlines() == registry.heads.names()
    code, out, _ = shell("find", "heads", "yes_no.v1")
    file, _, line = out.strip().rpartition(":")
    assert code == 0 and file.endswith("heads/yes_no.py")
    assert 0 < int(line) <= len(Path(file).read_text().splitlines())


def test_a_file_of_parts_is_loaded(shell: Shell, tmp_path: Path) -> None:
    text = "from rerankkit import registry\n@registry.losses('cli_made.v1')\ndef made():\n    return None\n"
    file = write(tmp_path / "mine.py", text)
    assert "cli_made.v1" in shell("list", "losses", "--code", file)[1].split()
    assert shell("list", "losses", "--code", tmp_path / "none.py")[0] == 2


@pytest.mark.parametrize(
    ("given", "own", "overrides"),
    [
        ("train r.cfg --training.seed 3 --output m", "train r.cfg --output m", "--training.seed 3"),
        ("train --training.seed 3 r.cfg", "train r.cfg", "--training.seed 3"),
        ("--training.seed=3 train r.cfg", "train r.cfg", "--training.seed=3"),
        ("train r.cfg --a.b -1e-5 --resume", "train r.cfg --resume", "--a.b -1e-5"),
        ("train r.cfg --a.flag --resume", "train r.cfg --resume", "--a.flag"),
        ("train r.cfg --a.flag --a.other x", "train r.cfg", "--a.flag --a.other x"),
        ("train r.cfg --loss.@losses ranknet.v1", "train r.cfg", "--loss.@losses ranknet.v1"),
        ("train r.cfg --output a.b/c --run=x.trec", "train r.cfg --output a.b/c --run=x.trec", ""),
    ],
)
def test_overrides_are_taken_out(given: str, own: str, overrides: str) -> None:
    assert cli._split(given.split()) == (own.split(), overrides.split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--training.max_grad_norm", "-1.5", SHIPPED], "max_grad_norm = -1.5"),
        ([SHIPPED, "--data.dev.candidates=7"], "candidates = 7"),
        ([SHIPPED, "--evaluation.measures", '["AP", "P@5"]'], 'measures = ["AP", "P@5"]'),
        ([SHIPPED, "--model.head.positive= a=b"], 'positive = " a=b"'),
        ([SHIPPED, "--training.bf16", "--data.dev.candidates", "9"], "bf16 = true"),
    ],
)
def test_an_override_reaches_the_recipe(shell: Shell, arguments: list[str], line: str) -> None:
    code, out, err = shell("fill", *arguments)
    assert (code, err) == (0, "") and line in out.splitlines()


@pytest.mark.parametrize("command", [["list"], ["find", "heads", "yes_no.v1"], ["doctor"]])
def test_a_command_without_a_recipe_refuses_overrides(shell: Shell, command: list[str]) -> None:
    code, out, err = shell(*command, "--training.seed", "1")
    assert (code, out) == (2, "") and "--training.seed belongs to a recipe" in err


BAD = {
    "no such recipe": (["check", "llm_pointwize"], ["llm_pointwise"]),
    "unknown override": (["check", SHIPPED, "--training.sead", "1"], ["sead", "seed"]),
    "unknown part": (["check", SHIPPED, "--loss.@losses", "softmax_cross_entropi.v1"], ["softmax_cross_entropy.v1"]),
    "wrong type": (["check", SHIPPED, "--data.dev.candidates", "many"], ["candidates", "many"]),
    "unknown namespace": (["list", "haeds"], ["heads"]),
    "unknown name": (["find", "heads", "yes_on.v1"], ["yes_no.v1"]),
    "unknown option": (["train", SHIPPED, "--outptu", "m"], ["--outptu", "--output"]),
    "unknown command": (["trian"], ["trian"]),
    "missing argument": (["check"], ["Missing argument"]),
    "rank of nothing": (["rank", "m"], ["--query", "--queries", "--docs", "--output"]),
    "rank of half": (["rank", "m", "--queries", "q.jsonl"], ["--docs", "--output"]),
    "rank of both": (["rank", "m", "--query", "x", "--output", "o.trec"], ["--query", "--output"]),
    "a weight out of range": (["rank", "m", "--query", "x", "--interpolate", "1.5"], ["1.5", "between 0 and 1"]),
    "a weight that is none": (["evaluate", "m", "--interpolate", "half"], ["half", "tune"]),
    "unknown measure": (["evaluate", "m", "--measures", "nDGC@10"], ["nDGC@10", "nDCG@10"]),
    "the same twice": (["evaluate", "m", "m"], ["m is given twice"]),
    "no document": (["rank", "m", "--query", "x", "--top", "0"], ["--top"]),
    "no query": (["evaluate", "m", "--limit", "0"], ["--limit"]),
    "unknown model": (["evaluate", "no/such/model"], ["no/such/model"]),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_one_message(shell: Shell, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, said = BAD[case]
    code, out, err = shell(*arguments)
    assert code == 2 and "Traceback" not in err and not list(tmp_path.iterdir())
    assert [word for word in said if word not in err] == []


def test_what_is_wrong_is_said_with_its_line(shell: Shell, tmp_path: Path) -> None:
    file = write(tmp_path / "r.cfg", f'[recipe]\nextends = "{SHIPPED}"\n\n[data.dev]\ncandidates = "x"\n\n[trainin]\n')
    code, _, err = shell("check", file)
    assert code == 2 and [line.split()[0] for line in err.splitlines()] == [str(file), "5", "7"]


def test_recipes_that_extend_each_other(shell: Shell, tmp_path: Path) -> None:
    write(tmp_path / "a.cfg", '[recipe]\nextends = "b.cfg"\n')
    write(tmp_path / "b.cfg", '[recipe]\nextends = "a.cfg"\n')
    code, _, err = shell("check", tmp_path / "a.cfg")
    assert code == 2 and "a.cfg" in err and "b.cfg" in err and len(err.splitlines()) < 6


def test_debug_shows_where(shell: Shell) -> None:
    code, _, err = shell("--debug", "find", "heads", "none.v1")
    assert code == 2 and "Traceback" in err and "error: " in err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (InputError("bad"), 2, "error: bad\n"),
        (RunError("full"), 1, "error: full\n"),
        (KeyError("x"), 1, "error: KeyError: 'x'\n(--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(shell: Shell, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str) -> None:
    def fail(*arguments: object) -> None:
        raise raised

    monkeypatch.setattr(recipe, "load_recipe", fail)
    assert shell("check", SHIPPED) == (code, "", said)


def test_doctor_as_json(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit import doctor

    monkeypatch.setattr(doctor, "report", list)
    code, out, _ = shell("doctor", "--json")
    assert code == 0 and json.loads(out) == doctor.as_dict([]) | {"warnings": {}}


def test_train_saves_a_model_once_and_preview_shows_its_tokens(shell: Shell, tmp_path: Path) -> None:
    import tiny_training

    steps = {"max_steps": 1, "warmup_steps": 0, "eval_strategy": "no", "save_steps": 1, "load_best_model_at_end": False}
    file = tiny_training.recipe(tmp_path / "w", training=steps, groups=4, dev=0)
    given = ("train", file, "--output", tmp_path / "m", "--training.seed", "9")
    code, out, err = shell(*given)
    assert (code, out) == (0, f"saved to {tmp_path / 'm'}\n"), err
    assert "seed = 9" in (tmp_path / "m" / "recipe.cfg").read_text()
    code, out, err = shell(*given)
    assert (code, out) == (2, "") and "--output" in err and "not empty" in err
    code, out, err = shell("preview", file, "--json")
    assert code == 0 and json.loads(out), err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("colbert", "from_recipe"),
        ("recipes/colbert", "from_recipe"),
        ("recipes/colbert.cfg", "from_recipe"),
        ("mine.cfg", "from_recipe"),
        ("kept/mine", "from_recipe"),
        ("nothing", "from_recipe"),
        ("kept", "from_pretrained"),
        ("embedded:minilm-l6", "from_pretrained"),
        ("org/model", "from_pretrained"),
        ("./nowhere", "from_pretrained"),
    ],
)
def test_a_model_is_a_recipe_a_folder_or_a_published_name(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine").write_text("[recipe]")
    monkeypatch.chdir(tmp_path)
    for way in ("from_recipe", "from_pretrained"):
        monkeypatch.setattr(Reranker, way, lambda *given, way=way: way)
    assert cli._load(name, {}, None, False) == kind


def test_every_command_takes_strict(shell: Shell) -> None:
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert len(names) >= 10
    for name in names:
        code, out, _ = shell(name, "--help")
        assert code == 0 and "--strict" in out


@pytest.mark.regression
def test_a_warning_is_an_error_where_that_is_asked_for(shell: Shell, tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path / "r.cfg")
    docs = write(tmp_path / "d.jsonl", '{"_id": "d1", "text": "a file"}\n')
    asked = write(tmp_path / "q.jsonl", '{"_id": "q1", "text": "file"}\n{"_id": "q2", "text": "zebra"}\n')
    given = ("rank", recipe, "--queries", asked, "--docs", docs, "--output", tmp_path / "out.trec")
    code, out, err = shell(*given, "--strict")
    assert (code, out) == (2, "") and not (tmp_path / "out.trec").exists()
    assert err.startswith("error: 1 query left out, such as query 'q2'") and len(err.splitlines()) == 1
    for _ in range(2):  # said once in each command
        code, out, err = shell(*given)
        assert code == 0 and out == f"wrote {tmp_path / 'out.trec'} (1 query left out)\n"
        assert err.startswith("warning: 1 query left out, such as query 'q2'") and len(err.splitlines()) == 1


@pytest.mark.regression
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("rank", SHIPPED, "--queries", "q", "--docs", "", "--output", "o"), "--docs"),
        (("rank", SHIPPED, "--queries", "q", "--docs=", "--output", "o"), "--docs"),
        (("evaluate", SHIPPED, "--measures", ""), "--measures"),
        (("check", ""), "an argument"),
    ],
)
def test_an_empty_argument_is_no_folder_and_no_default(shell: Shell, arguments: tuple[str, ...], name: str) -> None:
    code, out, err = shell(*arguments)
    assert (code, out) == (2, "") and err.startswith(f"error: {name} is empty; give it a value")
    assert shell("check", SHIPPED, "--model.formatter.template", "")[2].startswith("command line")  # the recipe's own
