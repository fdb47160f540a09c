"""The text of a recipe: the grammar is confection's, and every fault of form has its line."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from confection import Config
from hypothesis import example, given
from hypothesis import strategies as st

from rerankkit.errors import InputError
from rerankkit.problems import RecipeError
from rerankkit.recipe import Recipe, load_recipe, parse_overrides, read, recipes_folder

FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | FINITE
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str, overrides: dict[str, Any] | None = None, name: str = "mine.cfg") -> Recipe:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return read(tmp_path / name, overrides)

    return write


def faults(recipe: Recipe) -> list[tuple[int, str]]:
    return [(problem.place.line, problem.message) for problem in recipe.sections.problems]


@pytest.mark.parametrize(
    "text",
    [
        '[vars]\na = 1\nb = text\nc = "quoted"\nd = true\ne = True\nf = None\ng = [1, 2.5]\nh = {"x": {"y": 1}}\n',
        '[vars]\na = 1\n\n[model]\n[model.head]\nb = ${vars.a}\nc = "${vars.a}/x"\n',
        "[vars]\na = 1\nd = [${vars.a}, 2]\ne = x ${vars.a}\n",
        '# above\n[vars]\n; beside\na = [\n  1,\n\n  2\n  ]\nb: 3\nc = $$5\nd = {"k": "$$"}\n',
        "[vars]\ntext =\n  one\n  two\n\n  three\nlast = ${text}\n",
        '[vars]\na = "é \\u00e9 \\n"\nb = ${a}\nc = ${vars:b}\n',
    ],
)
def test_values_are_those_of_confection(recipe: Any, text: str) -> None:
    ours = recipe(text)
    assert faults(ours) == []
    assert ours.values == Config().from_str(text)


@given(value=JSON)
@example(value="5$ $$ {x}")
@example(value=["$5", {"a": "$"}])
def test_an_override_arrives_as_it_is(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("override") / "mine.cfg"
    path.write_text("[vars]\na = 1\n")
    if isinstance(value, str) and "${" in value:
        return  # a reference
    arrived = read(path, {"vars.a": value}).values["vars"]["a"]
    assert arrived == value and type(arrived) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[vars]\na = 1\na = 2", 3, "a is there twice, first on line 2"),
        ("[vars]\na = 1\n[model]\n[vars]\nb = 1", 4, "this section is there twice, first on line 1"),
        ("a = 1\n[vars]", 1, "'a' stands before the first [section]"),
        ("[vars]\nnonsense", 2, "cannot read 'nonsense'; write key = value"),
        ("[vars]\n= 3", 2, "cannot read '= 3'; write key = value"),
        ("[vars\na = 1", 1, "'[vars' stands before the first [section]"),
        ("[vars]\n[model..head]", 2, "[model..head] cannot be a section; name it like [model.head]"),
        ("[DEFAULT]\na = 1", 1, "[DEFAULT] cannot be a section; name it like [model.head]"),
        ("[loss.*.a]\nb = 1", 1, "[loss.*.a] cannot be a section; name it like [model.head]"),
        ("[model.head]\na = 1", 1, "write [model] above it"),
        ("[vars]\na = 1\n[vars.a]\nb = 1", 2, "a is also a section, on line 3; keep one of the two"),
        ("[vars]\na = $5", 2, "a: a '$' is written '$$'; '${section.key}' stands for another value"),
        ("[vars]\na = ${vars.b", 2, "a: a '$' is written '$$'; '${section.key}' stands for another value"),
        ("[vars]\nab = 1\na = ${vars.ac}", 3, "a: ${vars.ac} is written nowhere in the recipe (a default cannot be "
         "referred to); did you mean 'vars.ab'?"),
        ("[vars]\na = ${b}\nb = ${vars.a}", 2, "a: the references go in a circle: vars.a -> vars.b -> vars.a"),
        ("[vars]\na = ${a}", 2, "a: the references go in a circle: vars.a -> vars.a"),
        ("[model]\n[vars]\na = ${model}", 3, "a: ${model} names a whole section; name one of its keys"),
        ("[vars]\na = NaN", 2, "a: expected a finite number, got NaN"),
        ("[vars]\na = -Infinity", 2, "a: expected a finite number, got -Infinity"),
        ("[vars]\na = 1e999", 2, "a: expected a finite number, got 1e999"),
        ("[vars]\na = [1, [1e999]]", 2, "a: expected a finite number, got [1, [1e999]]"),
        ("[vars]\na = {\"b\": 1e999}", 2, "b: expected a finite number, got Infinity"),
        ("[vars]\na = 0.02  # low", 2,
         "a: a comment stands on a line of its own; if '0.02  # low' is the text, quote it"),
        ("[vars]\na = \"x\" # y", 2, "a: a comment stands on a line of its own; if '\"x\" # y' is the text, quote it"),
        ("[vars]\na = x ; y", 2, "a: a comment stands on a line of its own; if 'x ; y' is the text, quote it"),
        ("[vars]\na = 'x'", 2, "a: texts are quoted with double quotes: \"x\""),
        ("[vars]\na = [1, 2", 2, "a: not valid JSON: [1, 2"),
        ("[vars]\na = \"x", 2, "a: not valid JSON: \"x"),
        ("[vars]\na = {\"b\": 1", 2, "a: not valid JSON: {\"b\": 1"),
        ("[vars]\na = {\"b\": 1, \"b\": 2}", 2, "a: 'b' is there twice"),
        ("[vars]\na = [{\"@heads\": \"x.v1\"}]", 2, "a: a part cannot stand in a list; give it a section of its own"),
        ("[vars]\na = one\n  # two\n  three", 2,
         "a: line 3 is a comment to the grammar; write the text in quotes, with \\n"),
        ("[vars]\na = one\n  b = 2", 2, "a: line 3 is indented, and so goes on with this value"),
        ("[vars]\na = one\n  [model]", 2, "a: line 3 is indented, and so goes on with this value"),
        ("[vars]\nq = \"say \\\"x\\\"\"\na = \"${vars.q}!\"", 3,
         "a: ${vars.q} holds a quote, a backslash or a new line, and cannot stand in a quoted text"),
    ],
)  # fmt: skip
def test_a_fault_of_form_has_its_line(recipe: Any, text: str, line: int, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (line, message) in faults(recipe(text))


def test_a_fault_is_said_once(recipe: Any) -> None:
    text = "[vars]\na = 5 # x\nb = ${vars.a}\nc = ${b}\n[vars!]\nd = 1\ne\n"
    assert [line for line, _ in faults(recipe(text))] == [5, 2]


def test_more_references_in_a_row_than_the_grammar_follows(recipe: Any) -> None:
    chain = "".join(f"a{number} = ${{vars.a{number + 1}}}\n" for number in range(12))
    found = faults(recipe(f"[vars]\n{chain}a12 = 1\n"))
    assert len(found) == 1 and found[0][1].startswith("cannot be read: Recursion limit exceeded")


def test_a_comment_inside_a_json_list_is_a_comment(recipe: Any) -> None:
    assert recipe("[vars]\na = [1,\n  # two\n  3]").values["vars"]["a"] == [1, 3]


def test_windows_line_ends_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    (tmp_path / "mine.cfg").write_bytes(b"\xef\xbb\xbf[vars]\r\na = 1\r\nb = [1,\r\n  2]\r\n")
    assert read(tmp_path / "mine.cfg").values == {"vars": {"a": 1, "b": [1, 2]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty; a recipe has sections such as [model]"),
        (b" \n\n", "the file is empty; a recipe has sections such as [model]"),
        (b"[vars]\na = \xff\n", "mine.cfg:2: the file is not UTF-8 text"),
        ("folder", "this is a folder; give a recipe file"),
    ],
)
def test_a_file_that_cannot_be_a_recipe(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "mine.cfg"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert message in str(caught.value.problems[0])


@pytest.mark.parametrize("name", ["llm_pointwise", "recipes/llm_pointwise.cfg", "recipes/llm_pointwise"])
def test_shipped_recipes_go_by_name_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(name).path == recipes_folder() / "llm_pointwise.cfg"
    (tmp_path / "mine.cfg").write_text('[recipe]\nextends = "llm_pointwise"\n')
    assert load_recipe("mine.cfg").get("model.head")["@heads"] == "yes_no.v1"
    (tmp_path / "mine.cfg").write_text('[recipe]\nextends = "llm_pointwise.cfg"\n')
    with pytest.raises(RecipeError, match="extends: there is no file llm_pointwise.cfg"):
        load_recipe("mine.cfg")


def test_an_unknown_name_names_the_shipped_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="there is no such file; did you mean 'llm_pointwise'"):
        load_recipe("llm_pointwize")
    with pytest.raises(RecipeError, match="there is no such file; shipped recipes: .*llm_pointwise"):
        load_recipe("zzz.cfg")


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        ("--a.b 1", {"a.b": 1}),
        ("--a.b=1", {"a.b": 1}),
        ("--a.b 1e-5", {"a.b": 1e-5}),
        ("--a.b -1", {"a.b": -1}),
        ("--a.b=-1e-5", {"a.b": -1e-5}),
        ("--a.b", {"a.b": True}),
        ("--a.b --c.d x", {"a.b": True, "c.d": "x"}),
        ("--a.b=", {"a.b": ""}),
        ("--a.b=c=d", {"a.b": "c=d"}),
        ("--a.@losses x.v1", {"a.@losses": "x.v1"}),
        ('--a.b ["x",1]', {"a.b": ["x", 1]}),
        ('--a.b "5"', {"a.b": "5"}),
        ("--a.b null --a.c False", {"a.b": None, "a.c": False}),
        ("--a.b_c-d --x", None),
        ("--a.b 1 --a.b 2", None),
        ("--seed 1", None),
        ("a.b 1", None),
        ("--a.b 1 2", None),
        ("-a.b 1", None),
    ],
)
def test_overrides_of_a_command_line(arguments: str, overrides: dict[str, Any] | None) -> None:
    if overrides is None:
        with pytest.raises(InputError):
            parse_overrides(arguments.split())
    else:
        parsed = parse_overrides(arguments.split())
        assert parsed == overrides and list(map(type, parsed.values())) == list(map(type, overrides.values()))
