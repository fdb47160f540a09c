"""Groups on disk, so that training data may be larger than memory."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from rerankkit.errors import RunError
from rerankkit.protocols import Group

FIELDS = tuple(Group.__dataclass_fields__)


class StoredGroups(Sequence[Group]):
    """A reader's groups, written to a file once and read from it one at a time; memory holds where each begins.

    Nothing stays open, so a DataLoader's processes can share it, forked or started anew.

    Args:
        path: The file to write; whoever gives it removes it.

    `digest` is the same for the same groups in the same order.
    """

    def __init__(self, groups: Iterable[Group], path: Path) -> None:
        self._path = path
        ends, digest = array("q", [0]), hashlib.sha256()
        try:
            with path.open("wb") as file:
                for group in groups:
                    # JSON gives back the same texts and the same numbers, digit for digit
                    line = json.dumps([getattr(group, name) for name in FIELDS]).encode() + b"\n"
                    file.write(line)
                    digest.update(line)
                    ends.append(ends[-1] + len(line))
        except OSError as error:
            if error.filename not in (None, str(path)):  # the reader's, of a file of its own
                raise
            raise RunError(
                f"the training groups could not be written to {path} ({error.strerror}); free some space, or give an "
                "--output on another disk"
            ) from error
        self._ends = np.array(ends)  # [groups + 1]
        self.digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Group: ...

    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...

    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        with self._path.open("rb") as file:
            file.seek(self._ends[number])
            return Group(*json.loads(file.read(self._ends[number + 1] - self._ends[number])))
