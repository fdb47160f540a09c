"""A file of answers, so that an interrupted run goes on without asking anything twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from rerankkit.errors import InputError, RunError
from rerankkit.files import is_stream
from rerankkit.protocols import Reading, Row

_OURS = 0x72726B31
"""What sqlite knows the file by."""
_PATIENCE = 60.0
"""How many seconds another process may hold the file."""


class ScoreCache:
    """Answers by model and prompt, in one sqlite file that several processes may use at once.

    What was kept survives the end of the process, however it ends.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path}: there is no folder {self.path.parent} to keep a score cache in; create it")
        if is_stream(self.path):
            raise InputError(f"{self.path} is no regular file, so no score cache can be kept in it; name another")
        with self._explained():
            # without isolation_level each statement is its own transaction, unless one is begun
            self._file = sqlite3.connect(self.path, _PATIENCE, isolation_level=None, check_same_thread=False)
            self._file.text_factory = lambda text: text.decode(errors="replace")  # what is damaged is seen later
            self._file.execute("PRAGMA synchronous = NORMAL")
            with self._transaction():
                (mark,) = self._file.execute("PRAGMA application_id").fetchone()
                (tables,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
                if mark != _OURS and tables:
                    raise InputError(f"{self.path} is a database of something else; name another file as score cache")
                self._file.execute(f"PRAGMA application_id = {_OURS}")
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID"
                )

    def __len__(self) -> int:
        with self._explained():
            return self._file.execute("SELECT count(*) FROM answers").fetchone()[0]

    def of(self, fingerprint: str) -> Answers:
        """The answers of one model, as `Reranker.fingerprint` names it."""
        return Answers(self, fingerprint)

    def find(self, keys: Sequence[bytes]) -> list[Reading | None]:
        with self._explained():
            rows = [self._file.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone() for key in keys]
            return [None if row is None else _unsealed(key, row[0]) for key, row in zip(keys, rows, strict=True)]

    def keep(self, keys: Sequence[bytes], readings: Sequence[Reading]) -> None:
        """Write answers down for good."""
        values = [
            (key, _sealed(key, json.dumps([reading.scores, reading.faults])))
            for key, reading in zip(keys, readings, strict=True)
        ]
        with self._explained(), self._transaction():
            self._file.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", values)

    def close(self) -> None:
        self._file.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._file.in_transaction:  # a full disk has ended it already
                self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except sqlite3.OperationalError as error:
            if not self.path.exists():
                raise RunError(
                    f"the score cache {self.path} was removed while it was used, as by another process that wrote the "
                    "same output; give each process an output of its own, or one cache that stays (--cache)"
                ) from error
            raise RunError(
                f"the score cache {self.path} cannot be used ({error}); is the disk full, the file read-only, or held "
                "by another process?"
            ) from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise InputError(
                f"{self.path} is damaged or no score cache ({error}); if it was one, delete it: everything is asked "
                "again then"
            ) from error


def _sealed(key: bytes, answer: str) -> str:
    """An answer with a digest: sqlite does not see when what it holds has changed on a disk."""
    return f"{hashlib.blake2b(key + answer.encode(), digest_size=8).hexdigest()} {answer}"


def _unsealed(key: bytes, text: str) -> Reading:
    answer = text.partition(" ")[2]
    if text != _sealed(key, answer):
        raise ValueError("an answer in it has changed")
    return Reading(*json.loads(answer))


class Answers:
    """The answers that one model gave.

    Args:
        fingerprint: Says what the model is. Answers of another model are never found.
    """

    def __init__(self, cache: ScoreCache, fingerprint: str) -> None:
        self.find, self.keep = cache.find, cache.keep
        self._fingerprint = fingerprint

    def key(self, row: Row) -> bytes:
        """What a prompt is known by, before its beginning is shared."""
        said = self._fingerprint, row.as_read()
        return hashlib.blake2b(repr(said).encode("utf-8", "surrogatepass"), digest_size=16).digest()
