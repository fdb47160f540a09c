"""Files as the user names them: opened once to be read, written whole or not at all.

A file is replaced by one that is written beside it, flushed to the disk and renamed, so that nobody sees half of it and
the old one stays where writing fails. Links are followed first. What is no regular file, such as a pipe, is written
straight into. `-` is standard input where a file is read, standard output where one is written.
"""

from __future__ import annotations

import bz2
import contextlib
import difflib
import errno
import gzip
import io
import lzma
import os
import re
import secrets
import shutil
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rerankkit.errors import InputError, RunError

STANDARD = "-"
PACKED = (".gz", ".bz2", ".xz")
"""How the names of packed files end; what a file is, its first bytes say."""
_HEAD = 16
_LINE = 1 << 16
_BUFFER = 1 << 16
_BOM = b"\xef\xbb\xbf"
_OPENERS = (
    (re.compile(rb"\x1f\x8b"), "gzip", gzip.open),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", bz2.open),
    (re.compile(rb"\xfd7zXZ\x00"), "xz", lzma.open),
)
_OTHERS = (
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a zip archive"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "packed by zstd"),
    (re.compile(rb"\x04\x22\x4d\x18"), "packed by lz4"),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), "a 7z archive"),
    (re.compile(rb"PAR1[^\t\n\r -~]"), "a parquet file (which hf_dataset.v1 reads)"),
)
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/\d+(/task/\d+)?/fd")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def open_file(path: str | Path) -> BinaryIO:
    """The bytes of a file, of a pipe, or of standard input (`-`); what gzip, bzip2 or xz packed is unpacked.

    The file is opened once, and its first bytes say how it is packed, so that a pipe loses none of them.
    """
    path = Path(path)
    try:
        named = str(path) != STANDARD
        below: BinaryIO = path.open("rb") if named else open(0, "rb", closefd=False)  # noqa: SIM115  the caller's
        head = below.read(_HEAD)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}{_nearest(path)}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; expected a file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not head and is_stream(path):
        raise InputError(f"{path}: nothing came; a pipe can be read once, so give a file where it is read again")
    if kind := next((kind for mark, kind in _OTHERS if mark.match(head)), None):
        below.close()
        raise InputError(f"{path} is {kind}; unpack it: text is read, plain or packed by gzip, bzip2 or xz")
    file = io.BufferedReader(_Joined(head, below), _BUFFER)
    for mark, packing, opener in _OPENERS:
        if mark.match(head):
            unpacked: Any = opener(file, "rb")
            return io.BufferedReader(_Joined(b"", unpacked, file, packing), _BUFFER)
    return file


def read_bytes(path: Path) -> bytes:
    """All of a file as it is, of a pipe, or of standard input (`-`); what cannot be read is an OSError."""
    if str(path) != STANDARD:
        return path.read_bytes()
    with open(0, "rb", closefd=False) as file:
        return file.read()


def begun(file: BinaryIO) -> tuple[bytes, BinaryIO]:
    """The bytes up to the end of the first line that is not blank (of a long one, its beginning), without a byte-order
    mark; and the file that still has them."""
    parts: list[bytes] = []
    while part := file.readline(_LINE):
        parts.append(part)
        if part.removeprefix(_BOM).strip():
            break
    head = b"".join(parts)
    return head.removeprefix(_BOM), io.BufferedReader(_Joined(head, file), _BUFFER)


class _Damage(OSError):
    """Packed data that breaks off or is damaged."""

    def __init__(self, packing: str, error: BaseException) -> None:
        super().__init__(str(error))
        self.packing = packing


class _Joined(io.RawIOBase):
    """Some first bytes, then the rest of a file.

    Args:
        below: What is to be closed too, as unpacking leaves it open.
        packing: What the rest is unpacked from.
    """

    def __init__(self, head: bytes, rest: Any, below: BinaryIO | None = None, packing: str = "") -> None:
        self._head, self._rest, self._below, self._packing = memoryview(head), rest, below, packing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            return self._read(buffer)
        count = min(len(buffer), len(self._head))
        buffer[:count], self._head = self._head[:count], self._head[count:]
        return count

    def _read(self, buffer: Any) -> int:
        try:
            return int(self._rest.readinto1(buffer))  # what is there: a pipe's writer may be slow
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and (error.errno is not None or not self._packing):
                raise
            raise _Damage(self._packing, error) from error

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._rest.close()
            if self._below is not None:
                self._below.close()


def unreadable(path: Path, number: int, error: OSError) -> InputError:
    """The error to raise where a file cannot be read on after a line."""
    if isinstance(error, _Damage):
        what = f"the {error.packing} data breaks off or is damaged after line {number} ({error})"
        return InputError(f"{path}: {what}; get the file again")
    return InputError(f"{path}: cannot be read after line {number}: {error.strerror}")


def _nearest(path: Path) -> str:
    names = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f'; did you mean "{close[0]}"?' if close else ""


def without_packing(name: str) -> str:
    """A file's name without the ending that says how it is packed."""
    return name.removesuffix(next((ending for ending in PACKED if name.endswith(ending)), ""))


def packed_or_plain(path: Path) -> Path | None:
    """The file of this name, or of this name with an ending that says how it is packed; None where there is none."""
    return next((file for file in (path, *(path.with_name(path.name + e) for e in PACKED)) if file.exists()), None)


def is_stream(path: str | Path) -> bool:
    """Whether a name stands for no regular file, nor a folder: a pipe, a device, standard input or output."""
    if str(path) == STANDARD or _descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _descriptor(path: str | Path) -> int | None:
    """The open descriptor that a name such as /dev/stdout stands for, or a link to it."""
    name = os.fspath(path)
    for _ in range(40):  # as many links as the kernel follows
        folder, last = os.path.realpath(os.path.dirname(name)), os.path.basename(name)
        if _DESCRIPTORS.fullmatch(folder) and last.isdecimal():
            return int(last)
        if not os.path.islink(name):
            return None
        name = os.path.join(folder, os.readlink(name))
    return None


def same_place(path: str | Path, written: bool) -> str:
    """What is the same for two names of one file, pipe or descriptor.

    Args:
        written: Whether `-` is standard output, not standard input.
    """
    if str(path) == STANDARD:
        return f"descriptor {int(written)}"
    descriptor = _descriptor(path)
    return os.path.realpath(path) if descriptor is None else f"descriptor {descriptor}"


def is_standard_output(path: str | Path | None) -> bool:
    """Whether a name stands for standard output, where other things are printed."""
    return path is not None and same_place(path, written=True) == "descriptor 1"


def require_place(path: str | Path | None) -> None:
    """Refuse a file that could not be written, before the work; its folder is made."""
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")
    try:
        if (place := _stream(path)) is not None:
            if isinstance(place, int):
                os.write(place, b"")  # refused where it is open for reading alone
            elif not os.access(place, os.W_OK):
                raise RunError(f"{path}: cannot be written to; name another file")
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: its folder cannot be made: {error.strerror}") from error
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise RunError(f"{path} is a link to {target}, whose folder does not exist; make it, or name another file")
        if not os.access(target.parent, os.W_OK):
            raise RunError(
                f"{path}: nothing can be written to its folder, which is read-only or not yours; name another"
            )
        if target.exists() and not os.access(target, os.W_OK):
            raise RunError(f"{path} is read-only or not yours; name another file, or make it writable")
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def _stream(path: Path) -> int | Path | None:
    """What is written straight into: a descriptor, or what is no regular file; None for a regular one."""
    if str(path) == STANDARD:
        return 1
    descriptor = _descriptor(path)
    return descriptor if descriptor is not None else path if is_stream(path) else None


def write(path: str | Path, lines: Iterable[str]) -> None:
    """Write a text file in UTF-8: whole or not at all, or straight into what is no regular file.

    An existing file's permissions are kept. The last of several writers wins.
    """
    path = Path(path)
    place = _stream(path)
    try:
        if place is None:
            _replace(Path(os.path.realpath(path)), lines)
            return
        sys.stdout.flush()
        with open(place, "w", encoding="utf-8", newline="\n", closefd=not isinstance(place, int)) as file:
            file.writelines(lines)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and place == 1:
            raise  # whoever reads our output has enough of it
        raise RunError(f"{path}: cannot be written: {error.strerror}") from error


def _replace(target: Path, lines: Iterable[str]) -> None:
    before = target.stat() if target.exists() else None
    beside = target.with_name(f".{target.name[:60]}.{secrets.token_hex(4)}")
    try:
        with beside.open("x", encoding="utf-8", newline="\n") as file:
            if before is not None:
                with contextlib.suppress(PermissionError):  # only root gives files away
                    os.chown(beside, before.st_uid, before.st_gid)
                os.chmod(beside, stat.S_IMODE(before.st_mode))
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.replace(beside, target)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            shutil.copyfile(beside, target)  # mounted by itself, as containers do, it cannot be renamed over
        _flush(target.parent)
    finally:
        beside.unlink(missing_ok=True)


def require_free(folder: Path) -> None:
    """Refuse a place for a folder that already holds something."""
    if (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder} already exists and is not empty; give another --output, or remove it first")


@contextlib.contextmanager
def new_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A folder beside its place to write into, which takes its place, flushed to the disk, once it is complete.

    Args:
        replace: Whether a folder that is there gives way; else its place must be free.
    """
    folder = folder.resolve()
    if not replace:
        require_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside, old = (folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}") for _ in range(2))
    beside.mkdir()
    try:
        yield beside
        for path in (*beside.rglob("*"), beside):
            _flush(path)
        if folder.exists():
            os.replace(folder, old)
        os.replace(beside, folder)
        _flush(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for left in (beside, old):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def explaining(folder: Path) -> Iterator[None]:
    """Say which folder could not be written, and why; safetensors and tokenizers hide the system's error in text."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise RunError(f"the disk of {folder.parent} is full; free some space and save again") from error
        if isinstance(error, OSError) or "os error" in str(error):
            raise RunError(f"{folder} cannot be written: {error}") from error
        raise


def is_full(error: Exception) -> bool:
    """Whether something could not be written for want of space, which some libraries say in their text alone."""
    number = error.errno if isinstance(error, OSError) else None
    return number in _NO_SPACE or any(re.search(rf"(os error|Errno) {code}\b", str(error)) for code in _NO_SPACE)


def _flush(path: Path) -> None:
    """See to it that a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
