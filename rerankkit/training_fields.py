"""The fields of transformers' TrainingArguments, read off its source: importing it takes seconds."""

from __future__ import annotations

import ast
import functools
import importlib.util
import operator
from pathlib import Path
from typing import Any, Literal

from rerankkit.errors import InputError
from rerankkit.typecheck import members

_NAMES = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "Any": Any}
OWN = {"score_chunk": int | None}
"""What [training] may say besides: how many prompts are scored at once (see TrainingModule)."""


@functools.cache
def training_fields() -> dict[str, Any]:
    """The type of each field of [training]; an enumeration is the Literal of its values."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise InputError("[training] is checked against transformers, which is not installed; pip install transformers")
    package = Path(spec.origin).parent
    trees = [ast.parse((package / file).read_bytes()) for file in ("training_args.py", "trainer_utils.py")]
    classes = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    choices = {name: values for name, node in classes.items() if (values := _enumeration(node))}
    fields = {
        node.target.id: _without_text(_annotation(node.annotation, choices), choices)
        for node in classes["TrainingArguments"].body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return fields | OWN


def _enumeration(node: ast.ClassDef) -> Any:
    if not any(isinstance(base, ast.Name) and base.id.endswith("Enum") for base in node.bases):
        return None
    values = [a.value.value for a in node.body if isinstance(a, ast.Assign) and isinstance(a.value, ast.Constant)]
    return Literal[tuple(values)]


def _annotation(node: ast.expr, choices: dict[str, Any]) -> Any:
    """The type that an annotation spells. What a recipe cannot write, such as a class, is `type`."""
    match node:
        case ast.Constant(value=None):
            return type(None)
        case ast.Constant(value=str(text)):
            return _annotation(ast.parse(text, mode="eval").body, choices)
        case ast.Name(id=name):
            return choices.get(name) or _NAMES.get(name, type)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _annotation(left, choices) | _annotation(right, choices)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            return Literal[ast.literal_eval(inner)]
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _annotation(inner, choices) | None
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=kinds)):
            return functools.reduce(operator.or_, (_annotation(kind, choices) for kind in kinds))
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return list[_annotation(inner, choices)]  # type: ignore[misc]
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, value])):
            return dict[_annotation(key, choices), _annotation(value, choices)]  # type: ignore[misc]
        case _:
            return type


def _without_text(hint: Any, choices: dict[str, Any]) -> Any:
    """`SchedulerType | str` means the text of one of its values, not any text."""
    kinds = members(hint)
    if any(kind in choices.values() for kind in kinds):
        return functools.reduce(operator.or_, (kind for kind in kinds if kind is not str))
    return hint
