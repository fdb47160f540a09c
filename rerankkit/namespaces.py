"""A namespace of parts: what a recipe's `@heads = "yes_no.v1"` means.

A name is looked for in this order: among what decorators have registered (`--code parts.py` runs those of a file),
in the file of `rerankkit/<namespace>/` that bears it, and among the entry points of installed packages. Listing and
suggesting names imports nothing.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

import catalogue

from rerankkit.errors import InputError
from rerankkit.problems import Place, did_you_mean

Factory = TypeVar("Factory", bound=Callable[..., Any])
PACKAGE = Path(__file__).parent


class RegistryError(InputError):
    """A part that does not exist, exists twice, or cannot be imported."""


class Catalogue(catalogue.Registry):
    """A namespace of parts, all of one kind.

    Args:
        name: The word of the recipe's `@` key, of the folder and of the entry-point group, such as "heads".
        kind: One of them: "head".
        protocol: What its products satisfy.
    """

    def __init__(self, name: str, kind: str, protocol: type) -> None:
        super().__init__(("rerankkit", name), entry_points=True)
        self.name, self.kind, self.protocol = name, kind, protocol
        self._loaded: dict[str, Any] = {}

    @overload
    def __call__(self, name: str, func: None = None) -> Callable[[Factory], Factory]: ...
    @overload
    def __call__(self, name: str, func: Factory) -> Factory: ...
    def __call__(self, name: str, func: Any = None) -> Any:
        """Register a function or class under a name: `@registry.heads("acme.cosine.v1")`."""
        return self.register(name, func=func)

    def register(self, name: str, *, func: Any = None) -> Any:
        """Register a function or class; another one under the same name is refused."""
        if not isinstance(name, str) or not re.fullmatch(r"[^\s\"'$#;=\[\]{}]+", name):
            raise RegistryError(f"{name!r} cannot name a part; write a word such as 'acme.cosine.v1'")

        def add(factory: Factory) -> Factory:
            if not callable(factory):
                raise RegistryError(f"{self.name} {name!r}: {factory!r} is no function or class")
            present = self._local(name)
            if present is None and (file := self._built_in_file(name)) and source_file(factory) != file:
                present = self._import_built_in(name)
            if present is not None and identity(present) != identity(factory):
                raise RegistryError(
                    f"{self.name} {name!r} is already registered by {described(present)}; "
                    f"pick another name or raise the version suffix"
                )
            catalogue.REGISTRY[(*self.namespace, name)] = factory
            return factory

        return add if func is None else add(func)

    def get(self, name: str) -> Any:
        """Return what is registered under a name, importing no more than the file or the plug-in that holds it."""
        for look_up in (self._local, self._import_built_in, self._load_plugin):
            factory = look_up(name)
            if factory is not None:
                return factory
        raise RegistryError(self.unknown(name))

    def unknown(self, name: object) -> str:
        """Say that a name is unknown, with the nearest one; imports nothing."""
        names = self.names()
        return f"no {self.name} named {name!r}{did_you_mean(name, names)}" + (
            f" (known: {', '.join(names)})" if names else " (none are known)"
        )

    def names(self) -> list[str]:
        """All known names, sorted; imports nothing."""
        local = (keys[-1] for keys in catalogue.REGISTRY if keys[:-1] == self.namespace)
        return sorted({*local, *self._built_ins(), *self.plugins()})

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def get_all(self) -> dict[str, Any]:
        """Every part, imported; one that cannot be imported raises."""
        return {name: self.get(name) for name in self.names()}

    def find(self, name: str) -> Place:
        """The file and line where a part is written."""
        factory = unwrapped(self.get(name))
        try:
            return Place(inspect.getsourcefile(factory) or inspect.getfile(factory), inspect.getsourcelines(factory)[1])
        except (TypeError, OSError):
            raise RegistryError(f"{self.name} {name!r} is {described(factory)}, which has no Python source") from None

    def _local(self, name: str) -> Any:
        return catalogue.REGISTRY.get((*self.namespace, name))

    def _built_in_file(self, name: str) -> Path | None:
        stem = name.rsplit(".v", 1)[0] if isinstance(name, str) else ""
        file = PACKAGE / self.name / f"{stem}.py"
        return file if stem.isidentifier() and file.is_file() and name in _names_in(file, self.name) else None

    def _built_ins(self) -> set[str]:
        return {name for file in (PACKAGE / self.name).glob("*.py") for name in _names_in(file, self.name)}

    def _import_built_in(self, name: str) -> Any:
        file = self._built_in_file(name)
        if file is None:
            return None
        try:
            importlib.import_module(f"rerankkit.{self.name}.{file.stem}")
        except ImportError as error:
            raise RegistryError(f"{self.name} {name!r}: {file} fails to import: {reason(error)}") from error
        return self._local(name)

    def plugins(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """Entry points by name, read anew: a package may have been installed since, or a folder put on the path."""
        found: dict[str, dict[tuple[str, str], importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.entry_point_namespace):
            found.setdefault(point.name, {}).setdefault((package(point), point.value), point)
        return {name: list(points.values()) for name, points in found.items()}

    def _load_plugin(self, name: str) -> Any:
        if name in self._loaded:
            return self._loaded[name]
        points = self.plugins().get(name, [])
        if not points:
            return None
        if len(points) > 1:
            packages = " and ".join(package(point) for point in points)
            raise RegistryError(f"{self.name} {name!r} comes from {packages}; uninstall one of them")
        where = f"{self.name} {name!r} comes from the package {package(points[0])} ({points[0].value})"
        try:
            loaded = points[0].load()
        except (Exception, SystemExit) as error:  # a stranger's module may do anything when imported
            raise RegistryError(f"{where}, which fails to import: {reason(error)}") from error
        factory = self._local(name) or loaded  # its module may register the name itself
        if isinstance(factory, ModuleType) or not callable(factory):
            raise RegistryError(f"{where}, which is no function or class and registers no {name!r}")
        self._loaded[name] = factory
        return factory


def _names_in(file: Path, namespace: str) -> list[str]:
    status = file.stat()
    return _registered_names(file, namespace, status.st_mtime_ns, status.st_size)


@cache
def _registered_names(file: Path, namespace: str, modified: int, size: int) -> list[str]:
    """The names that a file of built-ins registers, read off its text: importing it might take seconds."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return []
    return [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == namespace
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "registry"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]


def unwrapped(factory: Any) -> Any:
    factory = inspect.unwrap(factory)
    while isinstance(factory, functools.partial):
        factory = inspect.unwrap(factory.func)
    is_code = inspect.isroutine(factory) or inspect.isclass(factory)
    return factory if is_code else type(factory)


def source_file(factory: Any) -> Path | None:
    try:
        return Path(inspect.getfile(unwrapped(factory))).resolve()
    except (TypeError, OSError):
        return None


def identity(factory: Any) -> tuple[Any, ...]:
    """What stays the same when a module is imported again."""
    if not (inspect.isroutine(factory) or inspect.isclass(factory)) or "<" in factory.__qualname__:
        return (id(factory),)  # partials, lambdas and functions made inside functions share their names
    file = (
        None if factory.__module__ == "__main__" else source_file(factory)
    )  # a notebook's cell has a file for each run
    return (factory.__module__, factory.__qualname__, file)


def described(factory: Any) -> str:
    factory = unwrapped(factory)
    return f"{factory.__module__}.{factory.__qualname__}"


def package(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
