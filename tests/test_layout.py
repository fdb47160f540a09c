"""The house rules that a reader counts on, checked on the files themselves."""

import ast
import inspect
import os
import re
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from rerankkit.recipe import check, read
from rerankkit.registry import registry

ROOT = Path(__file__).parent.parent
NAMESPACES = tuple(registry.namespaces())
COMPONENTS = sorted(file for name in NAMESPACES for file in (ROOT / "rerankkit" / name).glob("[!_]*.py"))
SOURCES = sorted(
    file for folder in ("rerankkit", "kernels", "tests", "benchmarks") for file in ROOT.glob(f"{folder}/**/*.py")
)
# Hugging Face's package of this name, as far as importing transformers goes.
HUB_KERNELS = """
from unittest.mock import MagicMock
__version__ = "0.18.2"
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock(name=name)
"""


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def parts() -> Iterator[tuple[str, str, Any]]:
    """Namespace, name and factory of every part that rerankkit itself brings."""
    for namespace, catalogue in registry.namespaces().items():
        for name in catalogue.names():
            if registry.origin(namespace, name).package == "rerankkit":
                yield namespace, name, catalogue.get(name)


def recipe_block(factory: Any) -> str:
    """The indented lines under `Recipe:` in a docstring; empty where there are none."""
    block = re.search(r"^Recipe:\n((?:(?: +.*)?\n)+)", (inspect.getdoc(factory) or "") + "\n", flags=re.MULTILINE)
    return textwrap.dedent(block[1]) if block else ""


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def imported(file: Path) -> Iterator[str]:
    """The full name of every module, or name of a module, that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 or "rerankkit_kernels" in file.parts, f"{relative(file)}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def from_the_root(code: str, **environment: str) -> str:
    """What a fresh interpreter prints for `code`, with the repository root first on its path."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("folder", ["kernels", "recipes", "tests", "benchmarks"])
def test_folders_beside_the_package_are_no_packages(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_our_kernels_folder_is_never_taken_for_the_hub_package() -> None:
    spec = "import importlib.util; print(getattr(importlib.util.find_spec('kernels'), 'origin', None))"
    assert not from_the_root(spec).startswith(str(ROOT))
    assert from_the_root("from transformers.utils import is_kernels_available as have; print(have())") in (
        "True",
        "False",
    )


def test_transformers_finds_the_hub_package_from_the_repository_root(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text(HUB_KERNELS)
    (tmp_path / "kernels-0.18.2.dist-info").mkdir()
    (tmp_path / "kernels-0.18.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
    )
    code = (
        "import transformers.models.llama.modeling_llama, kernels\n"
        "from transformers.utils import is_kernels_available\n"
        "print(is_kernels_available(), kernels.__file__)"
    )
    said = from_the_root(code, PYTHONPATH=str(tmp_path), USE_HUB_KERNELS="0")
    assert said == f"True {tmp_path / 'kernels' / '__init__.py'}"


def test_files_stay_short() -> None:
    assert statistics.median(lines(file) for file in COMPONENTS) < 90
    assert {relative(file): lines(file) for file in COMPONENTS if lines(file) > 150} == {}
    assert {relative(file): lines(file) for file in SOURCES if lines(file) > 400} == {}


def test_components_import_no_other_component_and_nothing_above_them() -> None:
    above = ("recipe", "reranker", "engine", "trainer", "evaluate", "cli")
    forbidden = tuple(f"rerankkit.{name}." for name in NAMESPACES + above)
    found = [
        f"{relative(file)} imports {name}"
        for file in COMPONENTS
        for name in imported(file)
        if f"{name}.".startswith(forbidden)
    ]
    assert found == []


def test_the_kernels_import_nothing_of_rerankkit() -> None:
    files = [file for file in SOURCES if "rerankkit_kernels" in file.parts and "kernels" in file.parts]
    found = [
        f"{relative(file)} imports {name}"
        for file in files
        if not relative(file).startswith("tests/")
        for name in imported(file)
        if f"{name}.".startswith("rerankkit.")
    ]
    assert found == []


def test_components_have_open_signatures_and_no_hidden_imports() -> None:
    found = []
    for file in COMPONENTS:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg:
                found.append(f"{relative(file)}:{node.lineno} **{node.args.kwarg.arg}")
            # With such an import a type hint cannot be resolved, which would switch the recipe's check off.
            if isinstance(node, ast.Name) and node.id == "TYPE_CHECKING":
                found.append(f"{relative(file)}:{node.lineno} TYPE_CHECKING")
    assert found == []


def test_the_command_line_is_one_thin_function_per_command() -> None:
    tree = ast.parse((ROOT / "rerankkit" / "cli.py").read_text())
    commands = {
        node.name.rstrip("_"): sum(isinstance(inner, ast.stmt) for inner in ast.walk(node)) - 1
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("app.command" in ast.unparse(d) for d in node.decorator_list)
    }
    assert set(commands) == set(
        ["train", "rank", "evaluate", "check", "fill", "preview", "list", "find", "doctor", "export"]
    )
    assert {name: count for name, count in commands.items() if count >= 20} == {}


def test_one_word_in_every_place() -> None:
    """`@heads` in a recipe is the folder rerankkit/heads, and `yes_no.v1` the file yes_no.py in it."""
    written = {(namespace, name): Path(registry.namespace(namespace).find(name).file) for namespace, name, _ in parts()}
    elsewhere = [
        f"{namespace} {name} is written in {file}"
        for (namespace, name), file in written.items()
        if file != ROOT / "rerankkit" / namespace / f"{name.rsplit('.v', 1)[0]}.py"
    ]
    assert elsewhere == []
    assert set(COMPONENTS) == set(written.values())


def test_every_option_of_a_part_has_a_type_that_resolves() -> None:
    untyped = []
    for namespace, name, factory in parts():
        hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
        untyped += [f"{namespace} {name}: {key}" for key in inspect.signature(factory).parameters if key not in hints]
    assert untyped == []


def test_every_part_shows_how_a_recipe_writes_it(tmp_path: Path) -> None:
    wrong = []
    for namespace, name, factory in parts():
        file = tmp_path / f"{namespace}.{name}.cfg"
        file.write_text("[model]\n[data]\n" + recipe_block(factory))
        recipe = read(file)
        shown = [".".join(path) for path in recipe.sections.entries if path not in {("model",), ("data",)}]
        if [recipe.get(section).get(f"@{namespace}") for section in shown].count(name) != 1:
            wrong.append(f"{namespace} {name}: its docstring has no Recipe: block of it")
        # The block is a piece of a recipe: what is wrong with the rest, such as its absence, does not count.
        wrong += [str(problem) for problem in check(recipe, "rank") if problem.section in shown]
    assert wrong == []
