"""A recipe written out: flat, every default said, sections in reading order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rerankkit.checking import SECTIONS, SETTINGS, component_keys
from rerankkit.reading import KEY, Section, Sections
from rerankkit.registry import registry
from rerankkit.resolving import references
from rerankkit.typecheck import REQUIRED, Argument, arguments, is_section, members, plain


class Writer:
    """Writes a checked recipe, depth first."""

    def __init__(self, sections: Sections, values: dict[str, Any]) -> None:
        self.sections, self.values = sections, values
        self.blocks: list[str] = []

    def text(self) -> str:
        """The recipe's text, which reads back as the same recipe and is filled to the same text."""
        for name in SECTIONS:
            if name in SETTINGS:
                self.section((name,), _with_defaults(self.values.get(name, {}), arguments(SETTINGS[name])))
            elif name in self.values and (self.values[name] or name != "recipe"):
                self.section((name,), self.values[name])
        return "\n\n".join(self.blocks) + "\n"

    def section(self, path: Section, values: Mapping[str, Any]) -> None:
        """Write a section, then those below it."""
        values = self.filled(values)
        below = {key: value for key, value in values.items() if _is_section(value) and not self.reference(path, key)}
        lines = [f"[{'.'.join(path)}]"]
        if path == ("training",):
            lines.append("# every other field is at the default of transformers' TrainingArguments")
        for key, value in values.items():
            if key not in below:
                lines.append(f"{key} = {self.reference(path, key) or _json(value)}")
        self.blocks.append("\n".join(lines))
        for key, value in below.items():
            self.section((*path, key), value)

    def filled(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments of a part in the order of its signature, its defaults among them."""
        if not component_keys(values):
            return values
        (key,) = component_keys(values)
        known = arguments(registry.namespace(key[1:]).get(values[key]))
        return {key: values[key]} | _with_defaults(values, known)

    def reference(self, path: Section, key: str) -> str:
        """A value's own text where it refers to others."""
        entry = self.sections.entries.get(path, {}).get(key)
        if entry is None or not any(references(path, entry.text)):
            return ""
        return entry.text.replace("\n", "\n    ")


def _with_defaults(values: Mapping[str, Any], known: Mapping[str, Argument]) -> dict[str, Any]:
    filled = {}
    for name, argument in known.items():
        if name not in values and argument.default is REQUIRED:
            continue
        value = values[name] if name in values else plain(argument.default)
        dataclass = next((kind for kind in members(argument.hint) if is_section(kind)), None)
        if dataclass is not None and isinstance(value, dict) and not component_keys(value):
            value = _with_defaults(value, arguments(dataclass))
        filled[name] = value
    return filled


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and all(KEY.fullmatch(key) for key in value)


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if re.search(r"[\ud800-\udfff]", text):
        text = json.dumps(value)  # halves of a character cannot be UTF-8
    return text.replace("$", "$$")
