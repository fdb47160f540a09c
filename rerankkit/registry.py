"""The catalogue of parts: what a recipe's `@heads = "yes_no.v1"` means.

A name is looked for in this order: among what decorators have registered (`--code parts.py` runs those of a file),
in the file of `rerankkit/<namespace>/` that bears it, and among the entry points of installed packages. Listing and
suggesting names imports nothing.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import keyword
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeVar, overload

import catalogue

from rerankkit import protocols
from rerankkit.errors import InputError

Factory = TypeVar("Factory", bound=Callable[..., Any])
PACKAGE = Path(__file__).parent


class RegistryError(InputError):
    """A part that does not exist, exists twice, or cannot be imported."""


class Place(NamedTuple):
    """Where a part is written."""

    file: str
    line: int


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
            if present is None and (file := self._built_in_file(name)) and _source_file(factory) != file:
                present = self._import_built_in(name)
            if present is not None and _identity(present) != _identity(factory):
                raise RegistryError(
                    f"{self.name} {name!r} is already registered by {_described(present)}; "
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
        return sorted({*local, *self._built_ins(), *self._entry_points()})

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def get_all(self) -> dict[str, Any]:
        """Every part, imported; one that cannot be imported raises."""
        return {name: self.get(name) for name in self.names()}

    def find(self, name: str) -> Place:
        """The file and line where a part is written."""
        factory = _unwrapped(self.get(name))
        try:
            return Place(inspect.getsourcefile(factory) or inspect.getfile(factory), inspect.getsourcelines(factory)[1])
        except (TypeError, OSError):
            raise RegistryError(f"{self.name} {name!r} is {_described(factory)}, which has no Python source") from None

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
            raise RegistryError(f"{self.name} {name!r}: {file} fails to import: {_reason(error)}") from error
        return self._local(name)

    def _entry_points(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """The plug-ins' names, read anew: a package may have been installed, or a folder put on the path."""
        found: dict[str, dict[tuple[str, str], importlib.metadata.EntryPoint]] = {}
        for point in importlib.metadata.entry_points(group=self.entry_point_namespace):
            found.setdefault(point.name, {}).setdefault((_package(point), point.value), point)
        return {name: list(points.values()) for name, points in found.items()}

    def _load_plugin(self, name: str) -> Any:
        if name in self._loaded:
            return self._loaded[name]
        points = self._entry_points().get(name, [])
        if not points:
            return None
        if len(points) > 1:
            packages = " and ".join(_package(point) for point in points)
            raise RegistryError(f"{self.name} {name!r} comes from {packages}; uninstall one of them")
        where = f"{self.name} {name!r} comes from the package {_package(points[0])} ({points[0].value})"
        try:
            loaded = points[0].load()
        except (Exception, SystemExit) as error:  # a stranger's module may do anything when imported
            raise RegistryError(f"{where}, which fails to import: {_reason(error)}") from error
        factory = self._local(name) or loaded  # its module may register the name itself
        if isinstance(factory, ModuleType) or not callable(factory):
            raise RegistryError(f"{where}, which is no function or class and registers no {name!r}")
        self._loaded[name] = factory
        return factory


@dataclass(frozen=True)
class Origin:
    """Where a part came from, as a saved model records it.

    Args:
        kind: "package": an installed package; "code": a file given with `--code`; "program": the running program.
        package: The package to install, for "package".
        version: Its version, for "package".
        file: The file's absolute path, for "code" and "program".
        sha256: The digest of the file's bytes as they were run, for "code".
    """

    kind: Literal["package", "code", "program"]
    package: str = ""
    version: str = ""
    file: str = ""
    sha256: str = ""

    @property
    def requirement(self) -> str:
        """What to give to `pip install`; empty where no package holds the part."""
        return f"{self.package}=={self.version}" if self.kind == "package" else ""


@dataclass(frozen=True)
class CodeFile:
    """A file of parts that was loaded with `--code`."""

    path: Path
    sha256: str
    names: tuple[tuple[str, str], ...]  # (namespace, name) of each part that it registered


class Registry:
    """The namespaces of parts, one attribute each."""

    def __init__(self) -> None:
        self.readers = Catalogue("readers", "reader", protocols.Reader)
        self.formatters = Catalogue("formatters", "formatter", protocols.Formatter)
        self.collators = Catalogue("collators", "collator", protocols.Collator)
        self.backbones = Catalogue("backbones", "backbone", protocols.Backbone)
        self.heads = Catalogue("heads", "head", protocols.Head)
        self.losses = Catalogue("losses", "loss", protocols.Loss)
        self.strategies = Catalogue("strategies", "strategy", protocols.Strategy)

        self._code: dict[Path, CodeFile] = {}

    @property
    def code_files(self) -> list[CodeFile]:
        """The files loaded with `--code`, in their order."""
        return list(self._code.values())

    def namespaces(self) -> dict[str, Catalogue]:
        """Every namespace by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Catalogue)}

    def origin(self, namespace: str, name: str) -> Origin:
        """Which package or file a part came from."""
        factory = _unwrapped(self.namespace(namespace).get(name))
        for code in self._code.values():
            if (namespace, name) in code.names:
                return Origin("code", file=str(code.path), sha256=code.sha256)
        module, _, _ = factory.__module__.partition(".")
        if module == "rerankkit":
            return Origin("package", "rerankkit", _version("rerankkit"))
        for point in self.namespace(namespace)._entry_points().get(name, []):
            if point.dist and point.module.partition(".")[0] == module:
                return Origin("package", point.dist.name, point.dist.version)
        for package in importlib.metadata.packages_distributions().get(module, []):
            return Origin("package", package, _version(package))
        return Origin("program", file=str(_source_file(factory) or ""))

    def namespace(self, name: str) -> Catalogue:
        """One namespace by name; an unknown one is refused with the nearest."""
        known = self.namespaces()
        if name not in known:
            raise RegistryError(f"no registry named {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
        return known[name]


def load_code(path: str | Path) -> CodeFile:
    """Run a Python file whose decorators register parts.

    It is imported under its own name with its folder on `sys.path`: worker processes that are spawned can then import
    it too, and find the functions and classes that it defines.
    """
    path = Path(path).resolve()
    if path in registry._code:
        return registry._code[path]
    source = _read_code(path)
    module = ModuleType(path.stem)
    module.__file__, module.__spec__ = str(path), importlib.util.spec_from_file_location(path.stem, path)
    before = dict(catalogue.REGISTRY)
    sys.modules[path.stem] = module
    if new_folder := str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        catalogue.REGISTRY.clear()
        catalogue.REGISTRY.update(before)  # half a file of parts is worse than none
        del sys.modules[path.stem]
        if new_folder:
            sys.path.remove(str(path.parent))
        if isinstance(error, Exception | SystemExit):
            raise InputError(f"{path}:{_line_in(path, error)}: {_reason(error)}") from error
        raise
    new = (keys for keys, factory in catalogue.REGISTRY.items() if before.get(keys) is not factory)
    names = tuple(keys[1:] for keys in new if keys[0] == "rerankkit" and _is_beside(path, catalogue.REGISTRY[keys]))
    code = CodeFile(path, hashlib.sha256(source).hexdigest(), names)
    registry._code[path] = code
    return code


def _read_code(path: Path) -> bytes:
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise InputError(f"{path} is no Python module; give a file such as parts.py (letters, digits and _)")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):  # a module in sys.modules without a spec, such as __main__
        spec = None
    elsewhere = spec.origin if spec else getattr(sys.modules.get(path.stem), "__file__", None)
    is_taken = path.stem in sys.modules or spec is not None
    if is_taken and (elsewhere is None or Path(elsewhere).resolve() != path):
        raise InputError(
            f"{path}: a module named {path.stem!r} already exists ({elsewhere or 'built in'}); rename the file"
        )
    return source


def _line_in(path: Path, error: BaseException) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return lines[-1] if lines else 1


def _is_beside(path: Path, factory: Any) -> bool:
    """Whether a part is written in a file of parts or in a helper beside it, and not in a package that it imports."""
    file = _source_file(factory)
    return file is None or file.parent == path.parent


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"  # a checkout that is run without being installed


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is near."""
    known = list(known)
    stems: dict[str, str] = {}
    for candidate in known:
        stems.setdefault(candidate.rsplit(".v", 1)[0], candidate)
    text = str(name)
    near = difflib.get_close_matches(text, known, n=1) or [
        stems[stem] for stem in difflib.get_close_matches(text.rsplit(".v", 1)[0], stems, n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else ""


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


def _unwrapped(factory: Any) -> Any:
    factory = inspect.unwrap(factory)
    while isinstance(factory, functools.partial):
        factory = inspect.unwrap(factory.func)
    is_code = inspect.isroutine(factory) or inspect.isclass(factory)
    return factory if is_code else type(factory)


def _source_file(factory: Any) -> Path | None:
    try:
        return Path(inspect.getfile(_unwrapped(factory))).resolve()
    except (TypeError, OSError):
        return None


def _identity(factory: Any) -> tuple[Any, ...]:
    """What stays the same when a module is imported again."""
    if not (inspect.isroutine(factory) or inspect.isclass(factory)) or "<" in factory.__qualname__:
        return (id(factory),)  # partials, lambdas and functions made inside functions share their names
    file = (
        None if factory.__module__ == "__main__" else _source_file(factory)
    )  # a notebook's cell has a file for each run
    return (factory.__module__, factory.__qualname__, file)


def _described(factory: Any) -> str:
    factory = _unwrapped(factory)
    return f"{factory.__module__}.{factory.__qualname__}"


def _package(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


registry = Registry()
