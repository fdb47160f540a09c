"""Everything that is wrong with a recipe, found without building anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from rerankkit import fitting
from rerankkit.problems import Place, Problem, did_you_mean
from rerankkit.reading import Section, Sections
from rerankkit.registry import Catalogue, RegistryError, registry
from rerankkit.resolving import BAD
from rerankkit.settings import Engine, Evaluation, Sampling
from rerankkit.training_fields import training_fields
from rerankkit.typecheck import (
    REQUIRED,
    Argument,
    UnusableSignature,
    arguments,
    described,
    expected,
    is_dict,
    is_section,
    members,
    misfits,
)

Purpose = Literal["train", "rank", "load"]
PARTS = {
    "model": {
        "formatter": registry.formatters,
        "collator": registry.collators,
        "backbone": registry.backbones,
        "head": registry.heads,
        "strategy": registry.strategies,
    },
    "data": {"train": registry.readers, "dev": registry.readers, "test": registry.readers},
}
SETTINGS: dict[str, type] = {"engine": Engine, "sampling": Sampling, "evaluation": Evaluation}
RECIPE = {"extends": Argument("extends", str, ""), "description": Argument("description", str, "")}
SECTIONS = ("recipe", "vars", "model", "loss", "data", "sampling", "training", "evaluation", "engine")
"""The sections of a recipe, in the order in which they are read and written."""
ELSEWHERE = {
    "output_dir": "the folder is given by --output, not by the recipe",
    "do_train": "`rerankkit train` trains, and nothing else does; leave it out",
    "do_eval": "there is validation where there is [data.dev]; leave it out",
    "do_predict": "`rerankkit rank` does that; leave it out",
}
"""Fields of TrainingArguments that a recipe does not decide."""


class Checker:
    """Collects problems, section by section."""

    def __init__(self, sections: Sections, values: dict[str, Any]) -> None:
        self.sections, self.values = sections, values
        self.problems = list(sections.problems)
        self.faulty: set[Section] = set()

    def run(self, purpose: Purpose) -> list[Problem]:
        """Check what a purpose needs: to train, to rank from a recipe, or to load a saved model, whose training
        parts need not even be installed."""
        for name, value in self.values.items():
            if name not in SECTIONS:
                self.add((name,), f"no recipe has this section{did_you_mean(name, SECTIONS)}")
            elif name in PARTS and (purpose != "load" or name == "model"):
                self.parts((name,), value, PARTS[name])
        self.fit(self.values.get("model", {}), purpose)
        for name, cls in SETTINGS.items():
            given, known = self.values.get(name, {}), arguments(cls)
            self.keys((name,), given, known, f"[{name}]")
            self.ask((name,), given, name, cls, known)
        self.keys(("recipe",), self.values.get("recipe", {}), RECIPE, "[recipe]")
        if "loss" in self.values and purpose != "load":
            self.block(("loss",), self.values["loss"], [registry.losses])
        if "training" in self.values and purpose != "load":
            self.training(self.values["training"])
        if self.sections.complete:
            self.missing(purpose)
        return self.problems

    def add(self, section: Section, message: str, key: str = "") -> None:
        self.faulty.add((*section, key))
        self.problems.append(Problem(".".join(section), message, self.place((*section, key))))

    def place(self, path: Section) -> Place:
        """Where a value is written, or else the nearest section around it."""
        while path:
            entry = self.sections.entries.get(path[:-1], {}).get(path[-1])
            if entry is not None or path in self.sections.headers:
                return entry.place if entry else self.sections.headers[path]
            path = path[:-1]
        return self.sections.start

    def missing(self, purpose: Purpose) -> None:
        needed: dict[Section, Catalogue | None] = {("model", part): ns for part, ns in PARTS["model"].items()}
        if purpose == "train":
            needed |= {("loss",): registry.losses, ("data", "train"): registry.readers, ("training",): None}
        for section, namespace in needed.items():
            if section not in self.sections.entries and not self.is_value(section):
                inside = f'with @{namespace.name} = "…"' if namespace else "with the arguments of the training"
                self.add(section, f"this section is missing; add it {inside}")

    def is_value(self, section: Section) -> bool:
        return section[-1] in self.sections.entries.get(section[:-1], {})

    def parts(self, section: Section, value: Any, parts: Mapping[str, Catalogue]) -> None:
        for key, block in value.items():
            if key in parts:
                self.block((*section, key), block, [parts[key]])
            elif isinstance(block, dict):
                self.add((*section, key), f"[{section[0]}] has no such part{did_you_mean(key, parts)}")
            else:
                self.add(section, f"unknown key {key!r}; [{section[0]}] holds only sections: {_listed(parts)}", key)

    def fit(self, model: Any, purpose: Purpose) -> None:
        """Look at the parts of the model beside one another, those that are by themselves without fault."""
        faulty, keys, named = {section[:2] for section in self.faulty}, {}, {}
        for part, namespace in PARTS["model"].items():
            block = model.get(part) if isinstance(model, dict) else None
            if not isinstance(block, dict) or ("model", part) in faulty:
                continue
            for key in component_keys(block):
                if isinstance(block[key], str):
                    keys[part], named[part] = key, (block[key], namespace.get(block[key]))
        for part, message in fitting.misfits(named):
            self.add(("model", part), message, keys[part])
        # a saved model was trained with its markers, whatever tokens they are
        if purpose != "load" and "collator" in named and isinstance(name := model.get("backbone", {}).get("name"), str):
            block, (_, factory) = model["collator"], named["collator"]
            for argument, message in fitting.foreign_markers(factory, block, name):
                self.add(
                    ("model", "collator"), f"{argument}: {message}", argument if argument in block else "@collators"
                )

    def training(self, values: Mapping[str, Any]) -> None:
        for key in [key for key in ELSEWHERE if key in values]:
            self.add(("training",), f"{key}: {ELSEWHERE[key]}", key)
        fields = {name: Argument(name, hint, ...) for name, hint in training_fields().items()}
        given = {key: value for key, value in values.items() if key not in ELSEWHERE}
        self.keys(("training",), given, fields, "transformers' TrainingArguments", "field")

    def keys(
        self, section: Section, values: dict[str, Any], known: Mapping[str, Argument], owner: str, word: str = "key"
    ) -> None:
        """Check the keys of a section against what its owner knows."""
        anchor = next((key for key in values if key.startswith("@")), "")
        if anchor and word != "argument":
            self.add(section, f"{anchor}: this section holds plain values, not a part", anchor)
        for key, value in values.items():
            if key.startswith("@"):
                continue
            if key not in known:
                hint = did_you_mean(key, known) or (f"; it has {_listed(known)}" if len(known) < 20 else "")
                self.add(section, f"{owner} has no {word} {key!r}{hint}", key)
            elif value is not None or known[key].default is not None:
                self.value(section, key, value, known[key].hint)
        for argument in known.values():
            if argument.default is REQUIRED and argument.name not in values and self.sections.complete:
                self.add(section, f"{owner} needs {argument.name!r}, {expected(argument.hint)}", anchor)

    def value(self, section: Section, key: str, value: Any, hint: Any) -> None:
        """Check one value, which may be a part or a section of its own."""
        if not isinstance(value, dict):
            for at, message in misfits(value, hint) if value is not BAD else ():
                self.add(section, f"{key}{at}: {message}", key)
            return
        below, alternatives = (*section, key), members(hint)
        namespaces = [ns for ns in registry.namespaces().values() if ns.protocol in alternatives]
        if not namespaces and Any in alternatives and component_keys(value):
            namespaces = list(registry.namespaces().values())
        dataclass = next((kind for kind in alternatives if is_section(kind)), None)
        mapping = next((kind for kind in alternatives if is_dict(kind)), None)
        if namespaces:
            self.block(below, value, namespaces)
        elif dataclass is not None:
            self.keys(below, value, arguments(dataclass), dataclass.__name__)
        elif mapping is not None and not component_keys(value):
            for name, item in value.items():
                self.value(below, name, item, (*get_args(mapping), Any, Any)[1])
        elif Any not in alternatives:
            self.add(section, f"{key}: expected {expected(hint)}, got {described(value)}", key)

    def block(self, section: Section, value: Any, namespaces: list[Catalogue]) -> None:
        """Check a block that is to be a part: one @ key, of the right kind, known, with fitting arguments."""
        wanted = " or ".join(dict.fromkeys(_a(namespace.kind) for namespace in namespaces))
        example = namespaces[0].name
        if not isinstance(value, dict):
            if value is not BAD:
                self.add(
                    section[:-1], f'{section[-1]}: expected {wanted}, a section with @{example} = "…"', section[-1]
                )
            return
        keys = component_keys(value)
        if len(keys) != 1:
            count = f"has {' and '.join(keys)}; keep one" if keys else f'needs @{example} = "…", the name of {wanted}'
            if self.sections.complete or keys:
                self.add(section, count, keys[-1] if keys else "")
            return
        key, name = keys[0], value[keys[0]]
        try:
            namespace = registry.namespace(key[1:])
            if namespace not in namespaces:
                self.add(section, f"expects {wanted}, but {key} makes {_a(namespace.kind)}", key)
                return
            if name is BAD:
                return
            if not isinstance(name, str):
                self.add(section, f"{key}: expected the name of {_a(namespace.kind)}, got {described(name)}", key)
                return
            factory = namespace.get(name)
            known = arguments(factory)
        except RegistryError as error:
            self.add(section, str(error), key)
            return
        except UnusableSignature as error:
            self.add(section, f"{name} {error}", key)
            return
        self.keys(section, value, known, name, "argument")
        self.ask(section, value, name, factory, known)

    def ask(
        self, section: Section, value: dict[str, Any], name: str, factory: Any, known: Mapping[str, Argument]
    ) -> None:
        """Let what has a `check` look at the arguments that the check names, where nothing is wrong so far."""
        check = own_check(factory)
        if check is None:
            return
        given = {key: argument.default for key, argument in known.items()} | value
        anchor = next(iter(component_keys(value)), "")
        given = {key: given[key] for key in inspect.signature(check).parameters if key in given}
        if any((*section, key) in self.faulty or v is BAD or v is REQUIRED for key, v in given.items()):
            return
        try:
            for argument, message in check(**given):
                self.add(section, f"{argument}: {message}", argument if argument in value else anchor)
        except Exception as error:  # a stranger's check must not hide the other problems
            self.add(section, f"{name}: its own check fails with {type(error).__name__}: {error}", anchor)


def own_check(factory: Any) -> Callable[..., Iterable[tuple[str, str]]] | None:
    """The `check` of a part: a function's attribute or a class's static method, from arguments to pairs of
    (argument, message). It sees the arguments that it names, and builds nothing."""
    static = inspect.getattr_static(factory, "check", None)
    is_function = isinstance(static, staticmethod) if inspect.isclass(factory) else callable(static)
    return getattr(factory, "check") if is_function else None  # noqa: B009


def component_keys(value: Mapping[str, Any]) -> list[str]:
    """The @ keys of a block; a part has one."""
    return [key for key in value if key.startswith("@")]


def _a(kind: str) -> str:
    return f"a {kind}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
