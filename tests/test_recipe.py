"""Recipes laid over each other, filled, and built."""

from __future__ import annotations

import enum
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import catalogue
import pytest
from confection import Config

from rerankkit.errors import InputError, RunError
from rerankkit.problems import RecipeError
from rerankkit.protocols import Formatter, Head
from rerankkit.recipe import Recipe, build, check, fill, load_recipe, read, recipes_folder, write
from rerankkit.registry import registry
from rerankkit.settings import Engine, Evaluation

BASE = """
[vars]
rate = 1e-4

[model]

[model.formatter]
@formatters = "pointwise.v1"

[model.collator]
@collators = "sequence.v1"

[model.backbone]
@backbones = "hf_causal.v1"
name = "some/model"

[model.head]
@heads = "yes_no.v1"
positive = " yes"

[model.strategy]
@strategies = "pointwise.v1"

[loss]
@losses = "ranknet.v1"
sigma = 2.0

[data]

[data.train]
@readers = "jsonl.v1"
path = "train.jsonl"

[training]
learning_rate = ${vars.rate}
max_steps = 10
"""


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    size: int
    scale: float = 1.0
    names: tuple[str, ...] = ("a",)


@dataclass
class Keeper:
    """A head that keeps what it was built with."""

    scale: float = 1.0
    colour: Colour = Colour.RED
    folder: Path = Path("here")
    pair: tuple[int, str] | None = None
    inner: Inner | None = None
    default_inner: Inner = Inner(3)
    child: Head | None = None
    formatters: dict[str, Formatter] | None = None
    options: dict[str, float] | None = None
    mode: Literal["a", "b"] | float = "a"
    module: Any = None

    def bind(self, backbone: Any) -> None: ...

    def score(self, hidden: Any, batch: Any) -> Any: ...


def no_head() -> object:
    return object()


def refuses(size: int = 1, kind: str = "value") -> Keeper:
    raise {"value": ValueError, "input": InputError, "run": RunError, "bug": KeyError}[kind]("size must be even")


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    registry.heads("test.head.v1", Keeper)
    registry.heads("test.none.v1", no_head)
    registry.heads("test.refuses.v1", refuses)
    yield
    for name in ("test.head.v1", "test.none.v1", "test.refuses.v1"):
        del catalogue.REGISTRY["rerankkit", "heads", name]


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    def write_and_read(text: str = "", overrides: dict[str, Any] | None = None, base: str = BASE) -> Recipe:
        (tmp_path / "base.cfg").write_text(base)
        (tmp_path / "mine.cfg").write_text('[recipe]\nextends = "base.cfg"\n' + textwrap.dedent(text))
        return read(tmp_path / "mine.cfg", overrides)

    return write_and_read


def messages(recipe: Recipe, purpose: Any = "train") -> list[str]:
    return [f"[{problem.section}] {problem.message}" for problem in check(recipe, purpose)]


def test_a_child_adds_to_the_same_part_and_replaces_another(recipe: Any) -> None:
    child = recipe('[model.head]\nnegative = " no"\n[loss]\n@losses = "softmax_cross_entropy.v1"\n')
    assert child.get("model.head") == {"@heads": "yes_no.v1", "positive": " yes", "negative": " no"}
    assert child.get("loss") == {"@losses": "softmax_cross_entropy.v1"}
    assert child.get("training") == {"learning_rate": 1e-4, "max_steps": 10}
    assert messages(child) == []


def test_another_part_takes_the_sections_below_the_old_one_along(recipe: Any) -> None:
    base = BASE + "\n[model.backbone.lora]\nr = 4\n"
    assert "lora" in recipe('[model.backbone]\nname = "x"\n', base=base).get("model.backbone")
    other = '[model.backbone.lora]\nr = 8\n[model.backbone]\n@backbones = "other.v1"\n'
    assert recipe(other, base=base).get("model.backbone") == {"@backbones": "other.v1", "lora": {"r": 8}}


def test_a_value_and_a_section_of_one_name_replace_each_other(recipe: Any) -> None:
    with_section = BASE + "\n[model.backbone.lora]\nr = 4\n"
    assert recipe("[model.backbone]\nlora = null\n", base=with_section).get("model.backbone")["lora"] is None
    assert recipe("", {"model.backbone.lora": None}, with_section).get("model.backbone")["lora"] is None
    with_value = BASE.replace('name = "some/model"', 'name = "some/model"\nlora = null')
    assert recipe("[model.backbone.lora]\nr = 4\n", base=with_value).get("model.backbone.lora") == {"r": 4}
    assert recipe("", {"model.backbone.lora.r": 4}, with_value).get("model.backbone.lora") == {"r": 4}


def test_precedence_is_command_line_child_base_default(recipe: Any) -> None:
    text = "[vars]\nrate = 2e-4\n[training]\nmax_steps = 20\n"
    child = recipe(text, {"training.max_steps": 30, "engine.batch_tokens": 64})
    assert child.section("training") == {"learning_rate": 2e-4, "max_steps": 30}
    assert child.settings("engine") == Engine(batch_tokens=64)
    assert recipe(text, {"vars.rate": 3e-4}).section("training")["learning_rate"] == 3e-4


@pytest.mark.parametrize("order", [1, -1])
def test_an_override_of_the_part_drops_the_old_ones_arguments(recipe: Any, order: int) -> None:
    overrides = dict([("loss.@losses", "softmax_cross_entropy.v1"), ("loss.temperature", 2.0)][::order])
    assert recipe("", overrides).get("loss") == {"@losses": "softmax_cross_entropy.v1", "temperature": 2.0}
    assert recipe("", {"loss.@losses": "ranknet.v1"}).get("loss") == {"@losses": "ranknet.v1", "sigma": 2.0}
    assert recipe("", {"loss": {"@losses": "ranknet.v1"}}).get("loss") == {"@losses": "ranknet.v1"}


def test_chains_of_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "a.cfg").write_text('[recipe]\nextends = "below/b.cfg"\n[vars]\na = 1')
    (tmp_path / "below/b.cfg").write_text('[recipe]\nextends = "c.cfg"\ndescription = "b"\n[vars]\na = 2\nb = 2')
    (tmp_path / "below/c.cfg").write_text("[vars]\na = 3\nb = 3\nc = 3\n")
    assert read("a.cfg").values == {"recipe": {}, "vars": {"a": 1, "b": 2, "c": 3}}
    (tmp_path / "below/c.cfg").write_text('\n[recipe]\nextends = "../a.cfg"\n')
    (circle,) = check(read("a.cfg"))
    assert circle.message == (
        "extends: the recipes go in a circle: a.cfg -> below/b.cfg -> below/c.cfg -> below/../a.cfg"
    )
    assert (circle.place.file, circle.place.line) == ("below/c.cfg", 3)
    (tmp_path / "below/c.cfg").unlink()
    (missing,) = check(read("a.cfg"))
    assert missing.message == "extends: there is no file below/c.cfg (a.cfg -> below/b.cfg -> below/c.cfg)"
    assert (missing.place.file, missing.place.line) == ("below/b.cfg", 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("extends = 5", 'extends: expected the path of a recipe, such as extends = "base.cfg", got 5'),
        ("extends = ", 'extends: expected the path of a recipe, such as extends = "base.cfg", got nothing'),
        ('extends = "mine.cfg"', "extends: the recipes go in a circle: mine.cfg -> mine.cfg"),
        ('extends = "folder"', "extends: folder: this is a folder"),
        ('extends = "empty.cfg"', "extends: empty.cfg: the file is empty"),
        ('extnds = "base.cfg"', "[recipe] has no key 'extnds'; did you mean 'extends'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.cfg").touch()
    (tmp_path / "mine.cfg").write_text(f"[recipe]\n{line}\n[engine]\nbatch_tokens = 1.5\n")
    found = check(read("mine.cfg"))
    assert [problem.place.line for problem in found if problem.message.startswith(message)] == [2]
    assert "batch_tokens: expected an int, got the number 1.5" in [problem.message for problem in found]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"training.learning_rat": 1}, "[training] transformers' TrainingArguments has no field 'learning_rat'; "
         "did you mean 'learning_rate'?"),
        ({"trainin.learning_rate": 1}, "[trainin] no recipe has this section; did you mean 'training'?"),
        ({"training.learning_rate": float("nan")}, "[training] learning_rate: expected a finite number, got NaN"),
        ({"loss.@losses": "yes_no.v1"}, "[loss] no losses named 'yes_no.v1' (known: "),
        ({"loss.@heads": "yes_no.v1"}, "[loss] expects a loss, but @heads makes a head"),
        ({"recipe.extends": "x.cfg"}, "[recipe] extends cannot be overridden; name the other recipe instead"),
        ({"training": 5}, "[] training is a section; override one of its keys, training.KEY"),
        ({"training..x": 5}, "[] 'training..x' is no section.key"),
        ({"model.head": 5}, '[model] head: expected a head, a section with @heads = "…"'),
    ],
)  # fmt: skip
def test_a_wrong_override_is_a_problem_of_the_command_line(recipe: Any, override: Any, message: str) -> None:
    found = check(recipe("", override))
    assert found[0].place.file == "command line"
    assert f"[{found[0].section}] {found[0].message}".startswith(message)


def test_a_value_that_is_no_json_cannot_override(recipe: Any) -> None:
    with pytest.raises(InputError, match="override training.seed: a object cannot be written in a recipe"):
        recipe("", {"training.seed": object()})
    assert recipe("", {"data.train.path": Path("a/b")}).get("data.train")["path"] == "a/b"


def test_fill_writes_every_default_and_reads_back(recipe: Any, tmp_path: Path) -> None:
    text = """
        [model.head]
        @heads = "test.head.v1"
        options = {"a": 1, "b c": 0.5}
        [model.head.inner]
        size = 2
        [model.head.child]
        @heads = "test.head.v1"
        scale = ${vars.rate}
        [vars]
        price = "5$$ {x} \\u2028 \\ud800 \\"quoted\\" é"
        long =
          one ${vars.rate}

          two
        [model.formatter]
        system = ""
    """
    original = recipe(text)
    filled = fill(original)
    (tmp_path / "filled.cfg").write_text(filled, encoding="utf-8")
    again = read(tmp_path / "filled.cfg")
    assert fill(again) == filled and filled.endswith("\n")
    assert Config().from_str(filled) == again.values
    assert again.values["vars"] == original.values["vars"]
    assert again.get("model.head.inner") == {"size": 2, "scale": 1.0, "names": ["a"]}
    assert again.get("model.head.default_inner") == {"size": 3, "scale": 1.0, "names": ["a"]}
    assert again.get("model.head")["pair"] is None and again.get("model.head")["colour"] == "red"
    assert build(again, "model.head") == build(original, "model.head")
    assert "learning_rate = ${vars.rate}\n" in filled and "scale = ${vars.rate}\n" in filled
    headers = [line for line in filled.splitlines() if line.startswith("[")]
    assert headers[0] == "[vars]" and headers[-2:] == ["[evaluation]", "[engine]"]
    assert [h for h in headers if h.startswith("[model.head")] == [
        "[model.head]", "[model.head.inner]", "[model.head.default_inner]", "[model.head.child]",
        "[model.head.child.default_inner]",
    ]  # fmt: skip
    write(again, tmp_path / "written.cfg")
    assert (tmp_path / "written.cfg").read_text(encoding="utf-8") == filled


def test_build_gives_arguments_of_the_annotated_types(recipe: Any) -> None:
    text = """
        [model.head]
        @heads = "test.head.v1"
        scale = 2
        colour = "blue"
        folder = "there"
        pair = [1, "x"]
        mode = 3
        options = {"a": 1}
        [model.head.inner]
        size = 2
        names = ["b", "c"]
        [model.head.child]
        @heads = "test.head.v1"
        [model.head.formatters.first]
        @formatters = "pointwise.v1"
        [model.head.formatters]
    """
    head = build(recipe(text), "model.head")
    formatters, head.formatters = head.formatters, None
    assert head == Keeper(
        2.0, Colour.BLUE, Path("there"), (1, "x"), Inner(2, 1.0, ("b", "c")), Inner(3), Keeper(), None, {"a": 1.0}, 3.0
    )
    assert type(head.scale) is float and type(head.options["a"]) is float and type(head.mode) is float
    assert isinstance(formatters["first"], Formatter)


def test_build_of_plain_sections(recipe: Any) -> None:
    text = '[evaluation]\nmeasures = ["RR"]\n[training]\nlearning_rate = 1\nlr_scheduler_kwargs = {"min_lr": 1}\n'
    assert build(recipe(text), "evaluation") == Evaluation(["RR"])
    training = build(recipe(text), "training")
    assert training == {"learning_rate": 1.0, "max_steps": 10, "lr_scheduler_kwargs": {"min_lr": 1}}
    assert type(training["learning_rate"]) is float
    assert recipe(text).parts()[0] == ("backbones", "hf_causal.v1") and len(recipe(text).parts()) == 7


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ('@heads = "test.none.v1"', InputError, r"\[model.head\] test.none.v1 makes an object of builtins.object, "
         "which is no head: it lacks bind, module, score"),
        ('@heads = "test.refuses.v1"', InputError, r"\[model.head\] size must be even"),
        ('@heads = "test.refuses.v1"\nkind = "input"', InputError, r"\[model.head\] size must be even"),
        ('@heads = "test.refuses.v1"\nkind = "run"', RunError, r"\[model.head\] size must be even"),
        ('@heads = "test.refuses.v1"\nkind = "bug"', KeyError, "size must be even"),
        ('@heads = "test.refuses.v1"\nsize = "x"', RecipeError, "size: expected an int, got the text 'x'"),
    ],
)  # fmt: skip
def test_build_names_the_section(recipe: Any, settings: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build(recipe(f"[model.head]\n{settings}\n"), "model.head")


def test_build_of_nothing(recipe: Any) -> None:
    with pytest.raises(RecipeError, match=r"\[data.dev\]  there is no such part"):
        build(recipe(), "data.dev")


def test_shipped_recipes_are_without_problems_and_filled_twice_the_same(tmp_path: Path) -> None:
    shipped = sorted(recipes_folder().rglob("*.cfg"))
    assert shipped
    for path in shipped:
        if path.name == "base.cfg":  # what the others share; it has no model of its own
            assert {problem.message.partition(";")[0] for problem in check(read(path))} == {"this section is missing"}
            continue
        found = load_recipe(path, purpose="rank" if path.parent.name == "pretrained" else "train")
        (tmp_path / "filled.cfg").write_text(fill(found), encoding="utf-8")
        assert fill(read(tmp_path / "filled.cfg")) == fill(found)


@pytest.mark.regression
def test_a_recipe_may_come_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end, other = os.pipe()
    os.write(other, b'[recipe]\nextends = "base.cfg"\n[engine]\nbatch_tokens = 77\n')
    os.close(other)
    (tmp_path / "base.cfg").write_text('[recipe]\nextends = "llm_pointwise"\n[engine]\nbatch_tokens = 5\n')
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(f"/dev/fd/{end}")
    os.close(end)
    assert recipe.settings("engine").batch_tokens == 77 and recipe.has("model.head")
