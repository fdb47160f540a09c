"""Types of a recipe's values: what a function takes, whether a value fits, and the value as the function wants it."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import inspect
import json
import math
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union

from rerankkit.problems import did_you_mean
from rerankkit.registry import registry

REQUIRED = inspect.Parameter.empty
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_WORDS = {float: "a float", int: "an int", bool: "true or false", str: "a text", type(None): "null", Path: "a path"}


@dataclasses.dataclass(frozen=True)
class Argument:
    """What a recipe may give to a function: its type and its default, REQUIRED where it has none."""

    name: str
    hint: Any
    default: Any


class UnusableSignature(Exception):
    """A function that a recipe cannot call."""


def arguments(factory: Callable[..., Any]) -> dict[str, Argument]:
    """The arguments of a function or class, their annotations resolved; the return annotation is left alone, since
    it may name a class of a heavy package."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError) as error:
        raise UnusableSignature(f"has no signature that Python can read: {error}") from None
    found = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise UnusableSignature(f"takes {parameter.name!r} by position only; a recipe gives arguments by name")
        hint = _resolved(factory, parameter.name, parameter.annotation)
        found[parameter.name] = Argument(parameter.name, hint, parameter.default)
    for field in dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ():
        if field.name in found and field.default_factory is not dataclasses.MISSING:
            found[field.name] = dataclasses.replace(found[field.name], default=field.default_factory())
    for argument in found.values():
        _refuse_default(argument)
    return found


def _refuse_default(argument: Argument) -> None:
    """Refuse a default that the filled recipe could not say, long before a trained model is to be saved with it."""
    name, default = argument.name, argument.default
    if default is REQUIRED or default is None:
        return
    try:
        value = plain(default)
    except TypeError:
        raise UnusableSignature(f"has {default!r} as the default of {name!r}, which no recipe can write") from None
    fits = any(map(is_section, members(argument.hint))) if dataclasses.is_dataclass(default) else True
    if not fits or (not isinstance(value, dict) and misfits(value, argument.hint)):
        raise UnusableSignature(f"has {default!r} as the default of {name!r}, which is not {expected(argument.hint)}")


def plain(default: Any) -> Any:
    """A default as a recipe would give it; a TypeError if none can."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        return {field.name: plain(getattr(default, field.name)) for field in dataclasses.fields(default) if field.init}
    if isinstance(default, enum.Enum):
        return default.value
    if isinstance(default, Path):
        return str(default)
    if isinstance(default, tuple | list | set | frozenset):
        return [plain(item) for item in default]
    if isinstance(default, dict):
        return {key: plain(item) for key, item in default.items()}
    if default is None or isinstance(default, str | int) or (isinstance(default, float) and math.isfinite(default)):
        return default
    raise TypeError(default)


def _resolved(factory: Any, name: str, annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        return typing.get_type_hints(holder, globalns=_namespace(factory, name))[name]
    except Exception as error:
        raise UnusableSignature(
            f"annotates {name!r} with {annotation!r}, which cannot be resolved ({error}); "
            "import it where the module is run, not under TYPE_CHECKING"
        ) from None


def _namespace(factory: Any, name: str) -> dict[str, Any]:
    """The globals in which an argument's annotation was written."""
    factory = inspect.unwrap(factory)
    while isinstance(factory, functools.partial):
        factory = inspect.unwrap(factory.func)
    if dataclasses.is_dataclass(factory):
        kind = factory if isinstance(factory, type) else type(factory)
        owner = next((c for c in kind.__mro__ if name in c.__dict__.get("__annotations__", {})), kind)
        return vars(sys.modules[owner.__module__])
    if isinstance(factory, type):
        factory = inspect.unwrap(vars(factory).get("__init__", factory))
    elif not inspect.isroutine(factory):
        factory = inspect.unwrap(type(factory).__call__)
    return getattr(factory, "__globals__", {})


def members(hint: Any) -> list[Any]:
    """The alternatives of a type, aliases and annotations taken off."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return [member for argument in typing.get_args(hint) for member in members(argument)]
    if origin is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if isinstance(hint, typing.NewType):
        return members(hint.__supertype__)
    if isinstance(hint, typing.TypeVar):
        return members(hint.__bound__) if hint.__bound__ else [Any]
    return [type(None) if hint is None else hint]


def is_dict(hint: Any) -> bool:
    """Whether a type is a dict."""
    return (typing.get_origin(hint) or hint) in _DICTS


def is_section(hint: Any) -> bool:
    """Whether a type is a dataclass, which a recipe fills by a section."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def misfits(value: Any, hint: Any) -> list[tuple[str, str]]:
    """What is wrong with a value of no section, each with its place inside the value, such as "[1]"."""
    alternatives = members(hint)
    found = [_misfits(value, member) for member in alternatives]
    if not all(found):
        return []
    inside = [faults for faults in found if faults[0][0]]
    if len(inside) == 1:
        return inside[0]
    return [("", f"expected {expected(hint)}, got {described(value)}{_advice(value, alternatives)}")]


def _misfits(value: Any, hint: Any) -> list[tuple[str, str]]:
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    wrong = [("", "")]
    if hint in (Any, object):
        return []
    if choices := _choices(hint):
        return [] if any(type(value) is type(choice) and value == choice for choice in choices) else wrong
    if origin in _LISTS:
        if not isinstance(value, list):
            return wrong
        is_fixed = origin is tuple and inner and inner[-1] is not Ellipsis
        if is_fixed and len(inner) != len(value):
            return wrong
        kinds = inner if is_fixed else [inner[0] if inner else Any] * len(value)
        pairs = enumerate(zip(value, kinds, strict=True))
        return [(f"[{i}]{at}", m) for i, (item, kind) in pairs for at, m in misfits(item, kind)]
    if origin in _DICTS:
        if not isinstance(value, dict):
            return wrong
        key_kind, kind = inner or (Any, Any)
        keys = [(f"[{k!r}]", m) for k in value for _, m in misfits(k, key_kind)]
        return keys + [(f"[{k!r}]{at}", m) for k, item in value.items() for at, m in misfits(item, kind)]
    if hint is float:
        return [] if type(value) is float or (type(value) is int and abs(value) < sys.float_info.max) else wrong
    if hint in (int, bool, str, type(None)):
        return [] if type(value) is hint else wrong
    if hint is Path:
        return [] if type(value) is str else wrong
    return wrong


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal or an enumeration; none of any other type."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return tuple(m.value for m in hint) if isinstance(hint, type) and issubclass(hint, enum.Enum) else ()


def expected(hint: Any) -> str:
    """A type in plain words."""
    words = [_expected(member) for member in members(hint)]
    return " or ".join(dict.fromkeys(words))


def _expected(hint: Any) -> str:
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if _choices(hint):
        choices = [repr(choice) for choice in _choices(hint)]
        few = choices if len(choices) <= 12 else [*choices[:4], f"… ({len(choices)} in all)"]
        return f"one of {', '.join(few)}" if len(choices) > 1 else choices[0]
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return f"a list of {' and '.join(expected(kind) for kind in inner)}"
    if origin in _LISTS:
        return f"a list, each {expected(inner[0])}" if inner and inner[0] is not Any else "a list"
    if origin in _DICTS:
        return "a section or dict"
    if is_section(hint):
        return f"a section of {', '.join(field.name for field in dataclasses.fields(hint))}"
    for namespace in registry.namespaces().values():
        if hint is namespace.protocol:
            return f"a {namespace.kind}, a section with @{namespace.name}"
    name = getattr(hint, "__name__", str(hint))
    return f"a {name}, which no recipe can write" if hint not in (Any, object) else "a value"


def described(value: Any) -> str:
    """A value in plain words."""
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) < 80 else f"the text {value[:60]!r}…"
    if isinstance(value, dict):
        return "a section or dict"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"the list {text}" if len(text) < 80 else "a list"
    return text if value is None or isinstance(value, bool) else f"the number {text[:40]}"


def _advice(value: Any, alternatives: list[Any]) -> str:
    """How to write what the user probably meant."""
    if str in alternatives and isinstance(value, int | float):
        return f"; write {json.dumps(json.dumps(value))}"
    if int in alternatives and isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    if not isinstance(value, str):
        return ""
    choices = [choice for kind in alternatives for choice in _choices(kind) if type(choice) is str]
    if near := did_you_mean(value, choices):
        return near
    literals = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if bool in alternatives and value.lower() in literals:
        return f"; write {json.dumps(literals[value.lower()])}"
    if type(None) in alternatives and value.lower() in ("none", "null", "nil"):
        return "; write null"
    if (int not in alternatives and float not in alternatives) or not re.fullmatch(
        r"[-+]?[\d_]*\.?[\d_]*([eE][-+]?\d+)?", value
    ):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number) or (float not in alternatives and number != int(number)):
        return ""
    return f"; write {json.dumps(number if '.' in value or float in alternatives else int(number))}"


def converted(value: Any, hint: Any) -> Any:
    """A value that fits, as the function wants it: a float for an int, a Path for a text, a tuple for a list."""
    kinds = [member for member in members(hint) if not _misfits(value, member)]
    exact = [kind for kind in kinds if kind is type(value)]
    for kind in exact or kinds[:1]:
        origin, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
        if kind is float:
            return float(value)
        if kind is Path:
            return Path(value)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return kind(value)
        if origin in _LISTS:
            is_fixed = origin is tuple and inner and inner[-1] is not Ellipsis
            each = inner if is_fixed else [inner[0] if inner else Any] * len(value)
            items = [converted(item, item_kind) for item, item_kind in zip(value, each, strict=True)]
            return origin(items) if origin in (tuple, set, frozenset) else items
        if origin in _DICTS:
            return {k: converted(v, inner[1]) if inner else v for k, v in value.items()}
    return value
