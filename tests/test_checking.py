"""The guard: everything that is wrong with a recipe, with its line, and nothing built."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import catalogue
import pytest

from rerankkit.protocols import Formatter, Head, Loss
from rerankkit.recipe import Recipe, check, read, report
from rerankkit.registry import registry

if TYPE_CHECKING:
    from nowhere import Hidden

GOOD = """\
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
[model.strategy]
@strategies = "pointwise.v1"
[loss]
@losses = "ranknet.v1"
[data]
[data.train]
@readers = "jsonl.v1"
path = "train.jsonl"
[training]
max_steps = 1
"""
LINES = len(GOOD.splitlines())


@dataclass(frozen=True)
class Options:
    size: int
    name: str = "x"


def built(*_: Any, **__: Any) -> None:
    raise AssertionError("the guard builds nothing")


def parted(
    scale: float = 1.0,
    count: int | None = None,
    names: list[str] = None,  # type: ignore[assignment]  # noqa: RUF013
    mode: Literal["auto", "triton"] = "auto",
    child: Head | None = None,
    either: Loss | Formatter | None = None,
    options: Options | None = None,
    anything: Any = None,
    flag: bool = False,
    table: dict[str, int] | None = None,
) -> Head:
    return built()  # type: ignore[return-value]


def hidden(thing: Hidden) -> Head:
    return built()  # type: ignore[return-value]


def positional(thing: int, /) -> Head:
    return built()  # type: ignore[return-value]


def starred(*args: int, **kwargs: int) -> Head:
    return built()  # type: ignore[return-value]


def unwritable(scale: Any = object) -> Head:
    return built()  # type: ignore[return-value]


def infinite(scale: float = float("inf")) -> Head:
    return built()  # type: ignore[return-value]


def misfit(scale: int = 1.5) -> Head:  # type: ignore[assignment]
    return built()  # type: ignore[return-value]


def checked(template: str = "", size: int = 1, needed: int = 2) -> Head:
    return built()  # type: ignore[return-value]


def _check(template: str, size: int) -> Iterator[tuple[str, str]]:
    if size > 9:
        raise RuntimeError("no such size")
    if "{document}" not in template:
        yield "template", "must contain {document}"


checked.check = _check  # type: ignore[attr-defined]
PARTS: dict[str, Callable[..., Any]] = {
    "test.parted.v1": parted,
    "test.hidden.v1": hidden,
    "test.positional.v1": positional,
    "test.starred.v1": starred,
    "test.unwritable.v1": unwritable,
    "test.infinite.v1": infinite,
    "test.misfit.v1": misfit,
    "test.checked.v1": checked,
    "test.partial.v1": functools.partial(parted, scale=2.0),
    "test.c.v1": dict,
}


@pytest.fixture(autouse=True)
def parts() -> Iterator[None]:
    for name, factory in PARTS.items():
        registry.heads(name, factory)
    yield
    for name in PARTS:
        del catalogue.REGISTRY["rerankkit", "heads", name]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recipe]:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Recipe:
        (tmp_path / "mine.cfg").write_text(text)
        return read("mine.cfg")

    return write


def said(recipe: Recipe, purpose: Any = "train") -> list[str]:
    return [f"{p.place.line} [{p.section}] {p.message}" for p in check(recipe, purpose)]


def test_four_mistakes_in_one_report(recipe: Any) -> None:
    text = GOOD.replace("hf_causal", "hf_casual").replace('@heads = "yes_no.v1"', '@losses = "ranknet.v1"')
    text = text.replace('@losses = "ranknet.v1"\n[data]', '@losses = "ranknet.v1"\nsigm = 2.0\n[data]')
    text += "learning_rate = fast\nlerning_rate = 1\n"
    assert report(check(recipe(text))) == (
        "mine.cfg\n"
        "   7  [model.backbone]  no backbones named 'hf_casual.v1'; did you mean 'hf_causal.v1'? "
        f"(known: {', '.join(registry.backbones.names())})\n"
        "  10  [model.head]      expects a head, but @losses makes a loss\n"
        "  15  [loss]            ranknet.v1 has no argument 'sigm'; did you mean 'sigma'?\n"
        "  22  [training]        learning_rate: expected a float, got the text 'fast'\n"
        "  23  [training]        transformers' TrainingArguments has no field 'lerning_rate'; "
        "did you mean 'learning_rate'?"
    )


def test_the_report_of_several_files(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "base.cfg").write_text(GOOD.replace("max_steps = 1", "max_steps = one"))
    recipe('[recipe]\nextends = "base.cfg"\n[engine]\nbatch_token = 1\n')
    assert report(check(read("mine.cfg", {"loss.sigma": "x"}))) == (
        "mine.cfg\n"
        "  4  [engine]  [engine] has no key 'batch_token'; did you mean 'batch_tokens'?\n"
        "base.cfg\n"
        "  20  [training]  max_steps: expected an int, got the text 'one'\n"
        "command line\n"
        "    [loss]  sigma: expected a float, got the text 'x'"
    )


def test_a_good_recipe_has_no_problems(recipe: Any) -> None:
    assert said(recipe(GOOD)) == said(recipe(GOOD), "rank") == said(recipe(GOOD), "load") == []


@pytest.mark.parametrize(
    ("section", "line"),
    [("model.formatter", 1), ("model.head", 1), ("loss", 1), ("data.train", 15), ("training", 1), ("model", 1)],
)
def test_a_missing_section(recipe: Any, section: str, line: int) -> None:
    blocks = ("\n" + GOOD).split("\n[")
    text = "".join(f"[{block}\n" for block in blocks[1:] if not block.startswith((f"{section}]", f"{section}.")))
    found = said(recipe(text))
    assert len(found) == (5 if section == "model" else 1)
    assert all(f"{line} [{section}" in message and "this section is missing" in message for message in found)
    ranking = {"model.formatter": 1, "model.head": 1, "model": 5}.get(section, 0)
    assert len(said(recipe(text), "rank")) == len(said(recipe(text), "load")) == ranking


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ("scale = 2\ncount = null\nnames = null\nmode = \"triton\"\nflag = true\nanything = [1]", []),
        ("scale = fast", ["scale: expected a float, got the text 'fast'"]),
        ("scale = .5", ["scale: expected a float, got the text '.5'; write 0.5"]),
        ("scale = 5.", ["scale: expected a float, got the text '5.'; write 5.0"]),
        ("scale = 1_000", ["scale: expected a float, got the text '1_000'; write 1000.0"]),
        ('scale = "0.02"', ["scale: expected a float, got the text '0.02'; write 0.02"]),
        ("scale = 1e5\ncount = 5", []),
        ("scale = nan", ["scale: expected a float, got the text 'nan'"]),
        ("scale = true", ["scale: expected a float, got true"]),
        ("scale = null", ["scale: expected a float, got null"]),
        ("scale = [1]", ["scale: expected a float, got the list [1]"]),
        ("scale = {\"a\": 1}", ["scale: expected a float, got a section or dict"]),
        ("scale =", ["scale: expected a float, got the text ''"]),
        ("count = true", ["count: expected an int or null, got true"]),
        ("count = 1.0", ["count: expected an int or null, got the number 1.0; write 1"]),
        ("count = 1.5", ["count: expected an int or null, got the number 1.5"]),
        ("count = 1_0", ["count: expected an int or null, got the text '1_0'; write 10"]),
        ("count = none", ["count: expected an int or null, got the text 'none'; write null"]),
        ("flag = yes", ["flag: expected true or false, got the text 'yes'; write true"]),
        ("flag = 1", ["flag: expected true or false, got the number 1"]),
        ('names = ["a", 5]', ['names[1]: expected a text, got the number 5; write "5"']),
        ('names = "a"', ["names: expected a list, each a text, got the text 'a'"]),
        ('mode = "tritn"', ["mode: expected one of 'auto', 'triton', got the text 'tritn'; did you mean 'triton'?"]),
        ("mode = 1", ["mode: expected one of 'auto', 'triton', got the number 1"]),
        ("table = {\"a\": 1.5}", ["a: expected an int, got the number 1.5"]),
        ("sclae = 1", ["test.parted.v1 has no argument 'sclae'; did you mean 'scale'?"]),
        ("scale = 5 # low", ["scale: a comment stands on a line of its own; if '5 # low' is the text, quote it"]),
        ("child = 5", ["child: expected a head, a section with @heads or null, got the number 5"]),
        ('@losses = "ranknet.v1"', ["has @heads and @losses; keep one"]),
        ("options = {\"size\": 1}", []),
        ("options = {\"siz\": 1}", ["Options has no key 'siz'; did you mean 'size'?", "Options needs 'size', an int"]),
        ("options = {\"size\": \"1\"}", ["size: expected an int, got the text '1'; write 1"]),
        ("options = 3", ["options: expected a section of size, name or null, got the number 3"]),
        ("child = {\"@heads\": \"yes_no.v1\"}", []),
        ("child = {\"@heads\": \"yes_mo.v1\"}", [
            "no heads named 'yes_mo.v1'; did you mean 'yes_no.v1'? (known: "]),
        ("child = {\"positive\": \"x\"}", ['needs @heads = "…", the name of a head']),
        ("child = {\"@readers\": \"jsonl.v1\"}", ["expects a head, but @readers makes a reader"]),
        ("either = {\"@losses\": \"ranknet.v1\"}", []),
        ("either = {\"@heads\": \"yes_no.v1\"}", ["expects a formatter or a loss, but @heads makes a head"]),
        ("scale = {\"@heads\": \"yes_no.v1\"}", ["scale: expected a float, got a section or dict"]),
        ("anything = {\"@loses\": \"x\"}", ["no registry named 'loses'; did you mean 'losses'? (known: "]),
        ("anything = {\"@losses\": 5}", ["@losses: expected the name of a loss, got the number 5"]),
    ],
)  # fmt: skip
def test_arguments(recipe: Any, settings: str, messages: list[str]) -> None:
    for name in ("test.parted.v1", "test.partial.v1"):
        found = said(recipe(GOOD.replace('@heads = "yes_no.v1"', f'@heads = "{name}"\n{settings}')))
        assert len(found) == len(messages), found
        for have, message in zip(found, messages, strict=True):
            assert message.replace("test.parted.v1", name) in have
            assert have.startswith(("11 [model.head]", "11 [model.head.", "10 [model.head]"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test.hidden.v1", "annotates 'thing' with 'Hidden', which cannot be resolved (name 'Hidden' is not defined); "
         "import it where the module is run, not under TYPE_CHECKING"),
        ("test.positional.v1", "takes 'thing' by position only; a recipe gives arguments by name"),
        ("test.starred.v1", "test.starred.v1 has no argument 'scale'; it has none"),
        ("test.unwritable.v1", "has <class 'object'> as the default of 'scale', which no recipe can write"),
        ("test.infinite.v1", "has inf as the default of 'scale', which no recipe can write"),
        ("test.misfit.v1", "has 1.5 as the default of 'scale', which is not an int"),
        ("test.c.v1", "has no signature that Python can read"),
    ],
)  # fmt: skip
def test_functions_that_a_recipe_cannot_call(recipe: Any, name: str, message: str) -> None:
    (found,) = said(recipe(GOOD.replace('@heads = "yes_no.v1"', f'@heads = "{name}"\nscale = 1')))
    assert message in found


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        ('template = "{document}"', []),
        ('template = "x"', ["11 [model.head] template: must contain {document}"]),
        ("size = 2", ["10 [model.head] template: must contain {document}"]),
        ("template = 5", ['11 [model.head] template: expected a text, got the number 5; write "5"']),
        ("size = 10", ["10 [model.head] test.checked.v1: its own check fails with RuntimeError: no such size"]),
        ("needed = x", ["11 [model.head] needed: expected an int, got the text 'x'",
                        "10 [model.head] template: must contain {document}"]),
    ],
)  # fmt: skip
def test_a_part_looks_at_its_own_arguments(recipe: Any, settings: str, messages: list[str]) -> None:
    found = said(recipe(GOOD.replace('@heads = "yes_no.v1"', f'@heads = "test.checked.v1"\n{settings}')))
    assert sorted(found) == sorted(messages)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[engin]\na = 1", "21 [engin] no recipe has this section; did you mean 'engine'?"),
        ("[engine]\nbatch_tokens = true", "22 [engine] batch_tokens: expected an int, got true"),
        ("[engine]\nbatch_tokens = 0", "22 [engine] batch_tokens: must be at least 1, got 0"),
        ("[engine]\nprefix_tokens = -1",
         "22 [engine] prefix_tokens: must be at least 0, which keeps nothing, got -1"),
        ("[engine.more]\na = 1\n[engine]",
         "21 [engine] [engine] has no key 'more'; it has batch_tokens, prefix_tokens"),
        ('[engine]\n@heads = "yes_no.v1"', "22 [engine] @heads: this section holds plain values, not a part"),
        ("[sampling]\nhardest = 1.5", "22 [sampling] hardest: expected an int or null, got the number 1.5"),
        ('[evaluation]\nmeasures = "RR"', "22 [evaluation] measures: expected a list, each a text, got the text 'RR'"),
        ("[data.tset]\na = 1", "21 [data.tset] [data] has no such part; did you mean 'test'?"),
        ("[data.dev]\npath = \"x\"", '21 [data.dev] needs @readers = "…", the name of a reader'),
        ("[data.dev]\n@readers = 5", "22 [data.dev] @readers: expected the name of a reader, got the number 5"),
        ("[data.dev]\n@readers = \"jsonl.v1\"", "22 [data.dev] jsonl.v1 needs 'path', a text"),
        ("[recipe]\ndescription = 5", '22 [recipe] description: expected a text, got the number 5; write "5"'),
        ("[model.hed]\n@heads = \"x\"", "21 [model.hed] [model] has no such part; did you mean 'head'?"),
    ],
)  # fmt: skip
def test_sections(recipe: Any, text: str, message: str) -> None:
    assert said(recipe(GOOD + text)) == [message]
    if not text.startswith(("[data", "[recipe")):
        assert said(recipe(GOOD + text), "load") == [message]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("output_dir = \"x\"", "output_dir: the folder is given by --output, not by the recipe"),
        ("do_train = true", "do_train: `rerankkit train` trains, and nothing else does; leave it out"),
        ("do_train = false", "do_train: `rerankkit train` trains, and nothing else does; leave it out"),
        ("do_eval = true", "do_eval: there is validation where there is [data.dev]; leave it out"),
        ("do_predict = true", "do_predict: `rerankkit rank` does that; leave it out"),
        ("lr_scheduler_type = \"cosin\"", "lr_scheduler_type: expected one of 'linear', 'cosine', "),
        ("bf16 = 1", "bf16: expected true or false, got the number 1"),
        ("eval_steps = ten", "eval_steps: expected a float or null, got the text 'ten'"),
        ("report_to = [1]", 'report_to[0]: expected a text, got the number 1; write "1"'),
        ("optim = \"adam\"", "optim: expected one of 'adamw_torch', "),
        ("lr_scheduler_kwargs = 5",
         "lr_scheduler_kwargs: expected a section or dict or a text or null, got the number 5"),
    ],
)  # fmt: skip
def test_training_is_checked_against_transformers(recipe: Any, line: str, message: str) -> None:
    (found,) = said(recipe(GOOD + line))
    assert found.startswith(f"{LINES + 1} [training] {message}")
    assert said(recipe(GOOD + line), "load") == []


def test_a_loop_of_key_and_parts_is_reported_where_it_stands(recipe: Any) -> None:
    text = GOOD.replace("[model]\n", '[model]\nname = "x"\n@heads = "y"\n')
    parts = "[model] holds only sections: formatter, collator, backbone, head, strategy"
    assert said(recipe(text)) == [f"2 [model] unknown key 'name'; {parts}", f"3 [model] unknown key '@heads'; {parts}"]


def test_checking_imports_no_heavy_package(tmp_path: Path) -> None:
    (tmp_path / "mine.cfg").write_text(GOOD)
    code = (
        "import sys\nfrom rerankkit.recipe import check, fill, read\n"
        f"recipe = read({str(tmp_path / 'mine.cfg')!r})\nassert not check(recipe), check(recipe)\nfill(recipe)\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]", done.stderr
