"""The registry of parts, their origins, and `--code`: the file of a user's own parts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import keyword
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import catalogue

from rerankkit import __version__, protocols
from rerankkit.errors import InputError
from rerankkit.namespaces import Catalogue, RegistryError, reason, source_file, unwrapped
from rerankkit.problems import did_you_mean


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
        factory = unwrapped(self.namespace(namespace).get(name))
        for code in self._code.values():
            if (namespace, name) in code.names:
                return Origin("code", file=str(code.path), sha256=code.sha256)
        module, _, _ = factory.__module__.partition(".")
        if module == "rerankkit":
            return Origin("package", "rerankkit", __version__)
        for point in self.namespace(namespace).plugins().get(name, []):
            if point.dist and point.module.partition(".")[0] == module:
                return Origin("package", point.dist.name, point.dist.version)
        for package in importlib.metadata.packages_distributions().get(module, []):
            return Origin("package", package, importlib.metadata.version(package))
        return Origin("program", file=str(source_file(factory) or ""))

    def name_of(self, part: object) -> str:
        """The name that a part was built under, as far as its class or the function that makes it tells; else its
        class's."""
        cls = type(part)
        registered = [(keys[-1], factory) for keys, factory in catalogue.REGISTRY.items() if keys[0] == "rerankkit"]
        for name, factory in registered + [
            loaded for ns in self.namespaces().values() for loaded in ns._loaded.items()
        ]:
            made = factory if inspect.isclass(factory) else getattr(factory, "__annotations__", {}).get("return")
            if made is cls or (made == cls.__name__ and factory.__module__ == cls.__module__):
                return name
        return cls.__name__

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
    digest = hashlib.sha256(source).hexdigest()
    for loaded in registry.code_files:
        if (loaded.path.stem, loaded.sha256) == (path.stem, digest):
            return loaded  # the copy in a model that was saved by this very program
    _refuse_taken(path)
    module, previous = ModuleType(path.stem), sys.modules.get(path.stem)
    module.__file__, module.__spec__ = str(path), importlib.util.spec_from_file_location(path.stem, path)
    before = dict(catalogue.REGISTRY)
    sys.modules[path.stem] = module
    if new_folder := str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        for keys in [k for k, new in catalogue.REGISTRY.items() if before.get(k) is not new and _is_beside(path, new)]:
            del catalogue.REGISTRY[keys]  # half a file of parts is worse than none
        sys.modules.pop(path.stem)
        if previous is not None:
            sys.modules[path.stem] = previous
        if new_folder:
            sys.path.remove(str(path.parent))
        if isinstance(error, Exception | SystemExit):
            raise InputError(f"{path}:{_line_in(path, error)}: {reason(error)}") from error
        raise
    new = (keys for keys, factory in catalogue.REGISTRY.items() if before.get(keys) is not factory)
    names = tuple(keys[1:] for keys in new if keys[0] == "rerankkit" and _is_beside(path, catalogue.REGISTRY[keys]))
    code = CodeFile(path, digest, names)
    registry._code[path] = code
    return code


def _read_code(path: Path) -> bytes:
    if path.suffix != ".py" or not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise InputError(f"{path} is no Python module; give a file such as parts.py (letters, digits and _)")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _refuse_taken(path: Path) -> None:
    """Refuse a name that already means another module: a worker process would import that one."""
    present = sys.modules.get(path.stem)
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        spec = None
    is_folder = spec is not None and spec.origin is None and spec.submodule_search_locations is not None
    elsewhere = getattr(present, "__file__", None) or (spec.origin if spec else None)
    if (present is None and spec is None) or is_folder or (elsewhere and Path(elsewhere).resolve() == path):
        return
    raise InputError(
        f"{path}: a module named {path.stem!r} already exists ({elsewhere or 'built in'}); rename the file"
    )


def _line_in(path: Path, error: BaseException) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    return lines[-1] if lines else 1


def _is_beside(path: Path, factory: Any) -> bool:
    """Whether a part is written in a file of parts or in a helper beside it, and not in a package that it imports."""
    file = source_file(factory)
    return file is None or file.parent == path.parent


registry = Registry()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """`from rerankkit import registry` gives this module once it has been imported, the object before: both do."""
        return getattr(registry, name)
