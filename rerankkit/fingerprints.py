"""Texts as 64-bit numbers, so that data larger than memory can be looked up in memory."""

from __future__ import annotations

import hashlib
from array import array

from rerankkit.lazy import numpy


def fingerprint(text: str) -> int:
    """The same number for the same text, in every process; two texts of ten million collide once in 400,000 times."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class Table:
    """Numbers gathered under numbers, 16 bytes each: `add` all of them, `seal`, then look up."""

    def __init__(self) -> None:
        self._added = array("Q"), array("Q")

    def add(self, key: int, value: int) -> None:
        self._added[0].append(key)
        self._added[1].append(value)

    def seal(self) -> None:
        keys, values = (numpy.array(column, dtype=numpy.uint64) for column in self._added)
        order = numpy.lexsort((values, keys))
        self._keys, self._values = keys[order], values[order]
        del self._added

    def __getitem__(self, key: int) -> frozenset[int]:
        # left a Python int, the key would turn all keys into floats
        begin, end = (self._keys.searchsorted(numpy.uint64(key), side) for side in ("left", "right"))
        return frozenset(self._values[begin:end].tolist())

    def has_one_value_each(self) -> bool:
        """Whether no key has two different values."""
        same_key, other_value = self._keys[1:] == self._keys[:-1], self._values[1:] != self._values[:-1]
        return not (same_key & other_value).any()
