"""A cache of folders that take long to make: each is made once, by one process, and appears whole or not at all.

A folder is written beside its final place, gets a manifest with the size and sha256 of every file, is flushed to the
disk and then renamed. A lock that the kernel releases when its holder dies keeps a second process waiting meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankkit.errors import RunError
from rerankkit.files import is_full, new_folder, write

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Product:
    """A folder to make out of one file.

    Args:
        key: The folder's name: it must change whenever its contents would.
        source: The file it is made of.
        sha256: What the source must hash to.
        size: About how many bytes the folder takes.
        make: Fills the empty folder that it is given.
        doing: What is said while it is made.
        remedy: What to do when the source is corrupt.
    """

    key: str
    source: Path
    sha256: str
    size: int
    make: Callable[[Path], None]
    doing: str
    remedy: str


def cache_folder() -> Path:
    """Where rerankkit keeps what it can make again: $RERANKKIT_CACHE, else $XDG_CACHE_HOME/rerankkit, else ~/.cache."""
    if chosen := os.environ.get("RERANKKIT_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser().absolute() if base else Path.home() / ".cache") / "rerankkit"


def place_of(key: str) -> Path:
    """The folder of a product, made or not."""
    return cache_folder() / "models" / key


def obtain(product: Product, verify: bool = False) -> Path:
    """The product's folder, made now if it is not there.

    Args:
        verify: Hash every file of a folder that is there, instead of comparing sizes alone.
    """
    folder = place_of(product.key)
    if defect(folder, verify) is None:
        _check_source_again(folder, product)
        return folder
    check_sha256(product.source, product.sha256, product.remedy)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder, product):
            _sweep(folder)
            problem = defect(folder, verify)
            if problem is not None:
                if folder.exists():
                    say(f"{folder}: {problem}; making it anew")
                _make(folder, product)
    except OSError as error:
        raise _unwritable(error, product) from error
    return folder


def defect(folder: Path, verify: bool = False) -> str | None:
    """What is wrong with a made folder, None when it is whole."""
    if not folder.is_dir():
        return "it is not there"
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        for name, known in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != known["size"]:
                return f"{name} has {path.stat().st_size:,} bytes instead of {known['size']:,}"
            if verify and sha256_of(path) != known["sha256"]:
                return f"{name} is not the file that was written (its sha256 differs)"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} is missing or broken"
    return None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Refuse a file whose sha256 is not the expected one."""
    found = sha256_of(path)
    if found != expected:
        raise RunError(f"{path} is corrupt: expected sha256 {expected}, found {found}; {remedy}")


def size_of(folder: Path) -> int:
    """How many bytes lie in a folder, 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def say(line: str) -> None:
    """Print a line for the user on stderr."""
    print(line, file=sys.stderr, flush=True)


def _check_source_again(folder: Path, product: Product) -> None:
    """Hash the source if its size or time is not what was seen last: reading 100 MB at every start would be a waste."""
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    seen = glance(product.source)
    if manifest.get("source") == seen:
        return
    check_sha256(product.source, product.sha256, product.remedy)
    with contextlib.suppress(RunError):  # a cache that this user may only read is fine, it is hashed again next time
        write(folder / MANIFEST, [json.dumps({**manifest, "source": seen}, indent=1)])


def glance(source: Path) -> dict[str, int]:
    status = source.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


@contextlib.contextmanager
def _locked(folder: Path, product: Product) -> Iterator[None]:
    import fcntl  # not on every system; needed only here

    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is {product.doing}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path) -> None:
    """Remove what a killed process left; the lock is held, so nobody is writing there."""
    for left in folder.parent.glob(f".{folder.name}.tmp-*"):
        shutil.rmtree(left)


def _make(folder: Path, product: Product) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < product.size:
        raise OSError(errno.ENOSPC, f"{free:,} bytes are free")
    try:
        with new_folder(folder, replace=True) as unfinished, _busy(product.doing):
            product.make(unfinished)
            _write_manifest(unfinished, product)
    except Exception as error:
        if is_full(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _write_manifest(folder: Path, product: Product) -> None:
    files: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = {"source": glance(product.source), "source_sha256": product.sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


@contextlib.contextmanager
def _busy(doing: str) -> Iterator[None]:
    from rich.text import Text

    from rerankkit.screen import console

    terminal = console(stderr=True)
    if terminal.is_terminal:
        with terminal.status(Text(f"{doing} (once)")):
            yield
    else:
        say(f"{doing} (once)")
        yield


def _unwritable(error: OSError, product: Product) -> RunError:
    where = cache_folder()
    elsewhere = "or set RERANKKIT_CACHE to a folder on another disk"
    if is_full(error):
        return RunError(
            f"no space left in {where}: {product.key} needs about {product.size:,} bytes ({error.strerror}); "
            f"free some, {elsewhere}"
        )
    return RunError(f"cannot write to the cache folder {where}: {error}; make it writable, {elsewhere}")
