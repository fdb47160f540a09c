"""Recipes: read · extends · override · check · fill · build · write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rerankkit import files
from rerankkit.checking import PARTS, SETTINGS, Checker, Purpose, component_keys
from rerankkit.errors import InputError, RunError
from rerankkit.filling import Writer
from rerankkit.inputs import name_of, overrides_of
from rerankkit.problems import COMMAND_LINE, Place, Problem, RecipeError, report
from rerankkit.protocols import Group
from rerankkit.reading import Section, Sections
from rerankkit.registry import registry
from rerankkit.resolving import evaluate, find_recipe, override, parse_overrides, read_chain, recipes_folder
from rerankkit.training_fields import training_fields
from rerankkit.typecheck import Argument, arguments, converted, is_dict, is_section, members

__all__ = [
    "COMMAND_LINE",
    "Place",
    "Problem",
    "Recipe",
    "RecipeError",
    "build",
    "check",
    "fill",
    "load_recipe",
    "parse_overrides",
    "read",
    "recipes_folder",
    "report",
    "require",
    "write",
]


@dataclass
class Recipe:
    """A recipe with all that it extends and all overrides laid over each other.

    Args:
        values: The sections as nested dicts, `${…}` put in.
        sections: The same as text, each value with its file and line.
    """

    path: Path
    values: dict[str, Any]
    sections: Sections

    def get(self, section: str) -> dict[str, Any]:
        """The values of a section, such as "model.head"; empty where the recipe has none."""
        node: Any = self.values
        for part in section.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node if isinstance(node, dict) else {}

    def has(self, section: str) -> bool:
        """Whether the recipe has a section."""
        return tuple(section.split(".")) in self.sections.entries

    def parts(self) -> list[tuple[str, str]]:
        """The (namespace, name) of every part that the recipe names."""
        blocks = [self.sections.component(section) for section in self.sections.entries]
        return sorted({(key[1:], str(name)) for block in blocks for key, name in block.items()})

    def section(self, section: str) -> dict[str, Any]:
        """The arguments of [training], each of the type of its field."""
        return build(self, section)

    def groups(self, split: str) -> Iterator[Group]:
        """What the reader of [data.train], [data.dev] or [data.test] reads, at least one group."""
        some = False
        for group in build(self, f"data.{split}"):
            some = True
            yield group
        if not some:
            raise InputError(f"[data.{split}] gave no groups")

    def settings(self, section: str) -> Any:
        """The settings of [engine], [sampling] or [evaluation], with their defaults."""
        return build(self, section)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None, purpose: Purpose = "rank") -> Recipe:
    """Read a recipe file, or a shipped recipe by its name, such as `llm_pointwise`, and refuse one that has problems.

    Args:
        overrides: Values by dotted name, such as `{"training.learning_rate": 1e-5, "loss.@losses": "ranknet.v1"}`.
        purpose: What it is for; see `check`.
    """
    recipe = read(path, overrides)
    require(recipe, purpose)
    return recipe


def read(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe without checking it; only a file that cannot be read at all is refused."""
    path = find_recipe(name_of(path, "a recipe"))
    sections = read_chain(path)
    override(sections, overrides_of(overrides))
    return Recipe(path, evaluate(sections), sections)


def check(recipe: Recipe, purpose: Purpose = "train") -> list[Problem]:
    """Find everything that is wrong with a recipe, building nothing.

    Args:
        purpose: "train" needs a loss, training data and [training] too; "rank" checks them if they are there; "load"
            looks only at what a saved model needs, since its training parts may not be installed.
    """
    problems = Checker(recipe.sections, recipe.values).run(purpose)
    main = recipe.sections.start.file

    def order(problem: Problem) -> tuple[Any, ...]:
        file = problem.place.file
        return file != main, file == COMMAND_LINE, file, problem.place.line, problem.section

    return sorted(dict.fromkeys(problems), key=order)


def require(recipe: Recipe, purpose: Purpose = "train") -> None:
    """Refuse a recipe that has problems, with all of them."""
    if problems := check(recipe, purpose):
        raise RecipeError(problems)


def build(recipe: Recipe, section: str) -> Any:
    """Build what a section describes: a part, its own parts first; the settings of a plain section such as [engine];
    or the arguments of [training] as a dict."""
    path, value = tuple(section.split(".")), recipe.get(section)
    if path[0] in PARTS and not component_keys(value) or section == "loss" and not value:
        require(recipe, "load" if path[0] == "model" else "train")
        raise RecipeError([Problem(section, "there is no such part", recipe.sections.start)])
    problems = check(recipe, "load" if path[0] in ("model", *SETTINGS) else "train")
    if found := [p for p in problems if p.section == section or p.section.startswith(f"{section}.")]:
        raise RecipeError(found)
    if section == "training":
        return {key: converted(given, training_fields()[key]) for key, given in value.items()}
    return _make(value, SETTINGS.get(section, Any), path)


def _make(value: Any, hint: Any, path: Section) -> Any:
    """A value of a recipe as the function wants it, its parts built bottom up."""
    if not isinstance(value, dict):
        return converted(value, hint)
    if component_keys(value):
        return _call(value, path)
    dataclass_ = next((kind for kind in members(hint) if is_section(kind)), None)
    if dataclass_ is not None:
        return _guarded(dataclass_, _made(value, arguments(dataclass_), path), path)
    inner = next((get_args(kind)[1] for kind in members(hint) if is_dict(kind) and get_args(kind)), Any)
    return {key: _make(item, inner, (*path, key)) for key, item in value.items()}


def _made(value: dict[str, Any], known: dict[str, Argument], path: Section) -> dict[str, Any]:
    given = {key: item for key, item in value.items() if not key.startswith("@")}
    return {key: _make(item, known[key].hint, (*path, key)) for key, item in given.items()}


def _call(value: dict[str, Any], path: Section) -> Any:
    (key,) = component_keys(value)
    namespace, name = registry.namespace(key[1:]), value[key]
    factory = namespace.get(name)
    product = _guarded(factory, _made(value, arguments(factory), path), path)
    if not isinstance(product, namespace.protocol):
        names = {*vars(namespace.protocol), *namespace.protocol.__annotations__}
        wanted = (n for n in names if not n.startswith("_") or n in ("__call__", "__iter__"))
        lacking = ", ".join(sorted(n for n in wanted if n not in dir(product)))
        made = f"an object of {type(product).__module__}.{type(product).__qualname__}"
        raise InputError(f"[{'.'.join(path)}] {name} makes {made}, which is no {namespace.kind}: it lacks {lacking}")
    return product


def _guarded(factory: Any, given: dict[str, Any], path: Section) -> Any:
    """Call a factory, naming the section in what it refuses."""
    section = ".".join(path)
    try:
        return factory(**given)
    except RunError as error:
        raise RunError(f"[{section}] {error}") from error
    except ValueError as error:  # InputError is one, and so is what a third party's __post_init__ raises
        raise InputError(f"[{section}] {error}") from error


def fill(recipe: Recipe) -> str:
    """The whole recipe as one text that needs no other file: what it extends laid flat, every default written, `${…}`
    kept. [training] says only what was given, since its defaults are transformers' own and change with its version."""
    require(recipe, "rank")
    return Writer(recipe.sections, recipe.values).text()


def write(recipe: Recipe, path: str | Path) -> None:
    """Write the filled recipe to a file."""
    files.write(path, [fill(recipe)])
