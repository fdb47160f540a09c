"""From files to values: what a recipe extends, what the command line overrides, what `${…}` stands for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerankkit.errors import InputError
from rerankkit.files import is_stream
from rerankkit.problems import COMMAND_LINE, Place, Problem, RecipeError, did_you_mean, shown
from rerankkit.reading import KEY, NAME, Entry, Section, Sections, load, scan

_DOLLAR = re.compile(r"\$(\$|\{([^}]*)\}|)")


class _Bad:
    """Stands for a value that was reported while reading."""

    def __repr__(self) -> str:
        return "BAD"


BAD = _Bad()


def recipes_folder() -> Path:
    """The recipes that come with rerankkit: inside the wheel, or beside the package in a checkout."""
    here = Path(__file__).parent
    return next((folder for folder in (here / "recipes", here.parent / "recipes") if folder.is_dir()), here / "recipes")


def find_recipe(name: str | Path) -> Path:
    """The file that a name means: a path, or a shipped recipe such as `llm_pointwise`."""
    path = Path(name)
    if path.is_file() or is_stream(path):
        return path
    shipped, folder = shipped_recipe(path), recipes_folder()
    if shipped is not None:
        return shipped
    if path.exists() or path.is_absolute():
        return path  # reading it says what is wrong
    known = [recipe.relative_to(folder).with_suffix("").as_posix() for recipe in sorted(folder.rglob("*.cfg"))]
    hint = did_you_mean(path.stem, known) or (f"; shipped recipes: {', '.join(known)}" if known else "")
    raise RecipeError([Problem("", f"there is no such file{hint}", Place(str(name)))])


def shipped_recipe(path: Path) -> Path | None:
    """The shipped recipe called `llm_pointwise` or `recipes/llm_pointwise.cfg`, if there is one."""
    parts = path.parts[1:] if path.parts[:1] == ("recipes",) else path.parts
    if path.is_absolute() or ".." in parts or not parts or (path.suffix == ".cfg" and len(parts) == len(path.parts)):
        return None
    file = recipes_folder().joinpath(*parts)
    file = file if file.suffix == ".cfg" else file.with_name(f"{file.name}.cfg")
    return file if file.is_file() else None


def read_chain(path: Path, above: tuple[Path, ...] = ()) -> Sections:
    """Read a recipe over the one that it extends, over the one that that extends."""
    sections = scan(path)
    entry = sections.entries.get(("recipe",), {}).pop("extends", None)
    if entry is None or entry.is_bad:
        return sections
    chain = (*above, path)
    value = load(entry.text)
    if not isinstance(value, str) or not value.strip() or "${" in value:
        message = f'extends: expected the path of a recipe, such as extends = "base.cfg", got {entry.text or "nothing"}'
    else:
        base = (Path() if is_stream(path) else path.parent) / value  # a pipe lies nowhere
        if not base.is_file() and base.suffix != ".cfg":
            base = shipped_recipe(Path(value)) or base
        route = " -> ".join(shown(p) for p in (*chain, base))
        if base.resolve() in {p.resolve() for p in chain}:
            message = f"extends: the recipes go in a circle: {route}"
        elif not base.exists():
            message = f"extends: there is no file {shown(base)} ({route})"
        else:
            return _extended(base, chain, sections, entry)
    sections.report(("recipe",), message, entry.place)
    sections.complete = False
    return sections


def _extended(base: Path, chain: tuple[Path, ...], sections: Sections, entry: Entry) -> Sections:
    try:
        below = read_chain(base, chain)
    except RecipeError as error:
        sections.report(("recipe",), f"extends: {error.problems[0]}", entry.place)
        sections.complete = False
        return sections
    below.drop(("recipe",))  # a base describes itself, not what extends it
    below.update(sections)
    return below


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Read `--section.key VALUE`, `--section.key=VALUE` and `--section.flag`, which means true.

    A value is JSON if it parses as JSON, and text otherwise.
    """
    overrides: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            raise InputError(f"unexpected argument {argument!r}; overrides are written --section.key value")
        if "." not in name:
            raise InputError(f"unknown option --{name}; overrides are written --section.key value")
        if name in overrides:
            raise InputError(f"--{name} is given twice")
        if equals:
            overrides[name] = load(value)
        elif rest and not rest[0].startswith("--"):
            overrides[name] = load(rest.pop(0))
        else:
            overrides[name] = True
    return overrides


def override(sections: Sections, overrides: Mapping[str, Any]) -> None:
    """Lay `{"section.key": value}` over a recipe: whole blocks first, then `@` keys, then values."""
    place = Place(COMMAND_LINE)

    def rank(name: str) -> tuple[bool, bool, int]:
        return not isinstance(overrides[name], Mapping), "@" not in name, name.count(".")

    for name in sorted(overrides, key=rank):
        *parents, key = name.split(".")
        section, value = tuple(parents), overrides[name]
        if not all(NAME.fullmatch(part) for part in parents) or not KEY.fullmatch(key):
            sections.report((), f"{name!r} is no section.key", place)
            continue
        if name == "recipe.extends":
            sections.report(section, "extends cannot be overridden; name the other recipe instead", place)
            continue
        if not parents and not isinstance(value, Mapping):
            sections.report((), f"{name} is a section; override one of its keys, {name}.KEY", place)
            continue
        text = _written(name, value)
        for depth in range(1, len(section) + 1):
            if section[:depth] not in sections.entries:
                sections.open(section[:depth], place)
        if not parents:
            sections.drop((key,))
            sections.entries.setdefault((), {})
            sections.set((), key, Entry(text, place))
            del sections.entries[()]
            continue
        before = sections.component(section) if key.startswith("@") else {}
        if before and before != {key: load(text)}:
            sections.drop(section)
            sections.open(section, place)
        sections.set(section, key, Entry(text, place))


def _written(name: str, value: Any) -> str:
    value = str(value) if isinstance(value, Path) else dict(value) if isinstance(value, Mapping) else value
    if isinstance(value, str) and "${" in value:
        return value
    try:
        return re.sub(r"\$(?!\{)", "$$", json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):
        raise InputError(f"override {name}: a {type(value).__name__} cannot be written in a recipe") from None


def evaluate(sections: Sections) -> dict[str, Any]:
    """The values of all sections as nested dicts, with BAD for those that were reported."""
    good: dict[tuple[Section, str], Entry] = {}
    for section, entries in sections.entries.items():
        parent = section[:-1]
        if parent and parent not in sections.entries and sections.complete:
            sections.report(section, f"write [{'.'.join(parent)}] above it", sections.headers[section])
        for key, entry in entries.items():
            message = None if entry.is_bad else _text_fault(sections, section, key, entry.text)
            if message:
                sections.report(section, f"{key}: {message}", entry.place)
            elif message is None and not entry.is_bad:
                good[section, key] = entry
    values = _by_confection(sections, good)
    tree: dict[str, Any] = {}
    for section in sorted(sections.entries, key=len):
        node = tree
        for part in section:
            node = node.setdefault(part, {})
        for key, entry in sections.entries[section].items():
            node[key] = values.get((section, key), BAD)
            if node[key] is not BAD and (message := _value_fault(section, entry.text, node[key], values)):
                sections.report(section, f"{key}: {message}", entry.place)
                node[key] = BAD
    return tree


def _by_confection(sections: Sections, good: dict[tuple[Section, str], Entry]) -> dict[tuple[Section, str], Any]:
    from confection import Config

    lines: dict[Section, list[str]] = {}
    for section, key in good:
        for depth in range(1, len(section) + 1):
            lines.setdefault(section[:depth], [f"[{'.'.join(section[:depth])}]"])
        lines[section].append(f"{key} = " + good[section, key].text.replace("\n", "\n    "))
    try:
        tree = Config().from_str("\n".join(line for section in sorted(lines, key=len) for line in lines[section]))
    except Exception as error:  # such as more than ten references in a row
        message = str(error.__context__ or error).strip().splitlines()[0]
        sections.report((), f"cannot be read: {message}", sections.start)
        return {}

    def value(section: Section, key: str) -> Any:
        node: Any = tree
        for part in section:
            node = node[part]
        return node[key]

    return {(section, key): value(section, key) for section, key in good}


def references(section: Section, text: str) -> Iterator[tuple[str, Section, str] | None]:
    """Each `${…}` of a text, with the section and key that it names; None for a stray `$`."""
    for match in _DOLLAR.finditer(text):
        if match.group(2) is not None:
            *path, key = match.group(2).replace(":", ".").split(".")
            yield match.group(), tuple(path) or section, key
        elif match.group(1) != "$":
            yield None


def _text_fault(
    sections: Sections, section: Section, key: str, text: str, trail: tuple[tuple[Section, str], ...] = ()
) -> str | None:
    """What is wrong with a text before it is read; "" where it leads to a fault that is reported elsewhere.

    Args:
        trail: The values whose references led here, first to last.
    """
    if text[:1] == text[-1:] == "'":
        return "" if trail else f"texts are quoted with double quotes: {json.dumps(text[1:-1], ensure_ascii=False)}"
    for reference in references(section, text):
        if reference is None:
            return "" if trail else "a '$' is written '$$'; '${section.key}' stands for another value"
        written, target, name = reference
        entry = sections.entries.get(target, {}).get(name)
        route = (*trail, (section, key))
        if (target, name) in route:
            circle = " -> ".join(".".join((*s, k)) for s, k in (*route, (target, name)))
            return f"the references go in a circle: {circle}" if (target, name) == route[0] else ""
        if entry is None:
            return "" if trail else _unknown_reference(sections, written, (*target, name), (*section, key))
        deeper = "" if entry.is_bad else _text_fault(sections, target, name, entry.text, route)
        if deeper is not None:
            return deeper
    return None


def _unknown_reference(sections: Sections, written: str, target: Section, origin: Section) -> str:
    if {target, target[-1:]} & sections.entries.keys():
        return f"{written} names a whole section; name one of its keys"
    known = [(*section, key) for section, entries in sections.entries.items() for key in entries]
    hint = did_you_mean(".".join(target), [".".join(path) for path in known if path != origin])
    return f"{written} is written nowhere in the recipe (a default cannot be referred to){hint}"


def _value_fault(section: Section, text: str, value: Any, values: Mapping[tuple[Section, str], Any]) -> str:
    """What is wrong with a value that the grammar lets pass."""
    if _anywhere(value, lambda part: isinstance(part, float) and not math.isfinite(part)):
        return f"expected a finite number, got {text}"
    if _anywhere(value, lambda part: isinstance(part, list) and any(_is_part(item) for item in part)):
        return "a part cannot stand in a list; give it a section of its own"
    if not isinstance(value, str):
        return ""
    if _is_json(text):
        for reference in references(section, text):
            if reference and re.search(r'["\\\x00-\x1f]', str(values.get(reference[1:], ""))):
                return f"{reference[0]} holds a quote, a backslash or a new line, and cannot stand in a quoted text"
        return ""
    if re.search(r"\s[#;](\s|$)|\s#", text):
        return f"a comment stands on a line of its own; if {value!r} is the text, quote it"
    if text.startswith('"') or re.match(r'\[|\{\s*"', text):
        return f"not valid JSON: {text}"
    return ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and any(key.startswith("@") for key in value)


def _anywhere(value: Any, test: Callable[[Any], bool]) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return test(value) or any(_anywhere(part, test) for part in inside)
