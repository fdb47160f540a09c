"""One training an output: a lock that its process holds and that ends with the process, however it ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.warnings import warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:  # anything else
    msvcrt = None  # type: ignore[assignment]

LOCK = "lock"
FAR = 1 << 20
"""The byte that Windows locks: what is locked cannot be read there, and who holds the lock stands at the start."""
_held: set[int] = set()


@contextlib.contextmanager
def locked(folder: Path, output: Path) -> Iterator[None]:
    """Hold the lock of a training folder; InputError where another training holds it.

    Args:
        output: What the training writes, for the message.
    """
    path = folder / LOCK
    try:
        descriptor = _taken(path, output)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); give another --output") from error
    try:
        yield
    finally:
        _held.discard(descriptor)
        if _is_at(path, descriptor) and msvcrt is None:  # removed while it is held, so it is nobody else's
            path.unlink()
        os.close(descriptor)
        if msvcrt is not None:  # Windows removes no open file
            path.unlink(missing_ok=True)


def _taken(path: Path, output: Path) -> int:
    """An open file that is locked and still lies at its path: whoever held it before may have removed it meanwhile."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise InputError(
                f"another training{f' ({holder})' if holder else ''} is writing to {output}; wait for it to end, or "
                "give another --output"
            ) from None
        except OSError as error:  # a file system without locks
            warn("trainings_unlocked", f"{path} ({error.strerror})")
        if _is_at(path, descriptor):
            break
        os.close(descriptor)
    os.truncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _held.add(descriptor)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)


def _let_go() -> None:
    """A data loader's forked process has the lock's file open, too, and would hold it beyond a killed training."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_let_go)
