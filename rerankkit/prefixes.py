"""The tokens that a query's prompts begin with: computed once, and kept as long as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rerankkit.protocols import Group, Row

SHORTEST_PREFIX = 7
Shared = tuple[int, ...]
SharedSet = tuple[Shared, ...]
"""Shared tokens whose state was read at once, so that one batch can go on from any of them."""


def share(groups: Sequence[Group], rows: Sequence[Row], known: dict[int, Shared] | None = None) -> None:
    """Move what each group's rows begin with into `shared`, up to the first token that another round may change.

    Args:
        groups: The group of each row.
        known: The prefixes of groups met before, by their `id`; those of these groups are put in. A lone row is only
            divided when its group was met before: one that never comes again would pay for two passes. None where
            these rows are all there are.
    """
    by_group: dict[int, list[Row]] = {}
    for group, row in zip(groups, rows, strict=True):
        if not row.shared:
            by_group.setdefault(id(group), []).append(row)
    for group_id, own in by_group.items():
        before = None if known is None else known.get(group_id)
        beginnings = [tuple(row.ids[: _shareable(row)]) for row in own]
        prefix = _common(beginnings if before is None else [before, *beginnings])
        if known is not None:
            # before a document of a later round, whose first letters it runs into, the last token may be another one;
            # a prefix that becomes shorter is read again, and no more with those of other queries
            prefix = known[group_id] = prefix[:-1] if before is None else prefix
        if len(prefix) >= SHORTEST_PREFIX and (len(own) > 1 or before is not None):
            for row in own:
                _divide(row, len(prefix))


def whole(row: Row) -> Row:
    """The row as it was before its beginning was shared."""
    scored = None if row.scored is None else [-1] * len(row.shared) + row.scored
    return replace(row, ids=[*row.shared, *row.ids], shared=(), scored=scored)


class States:
    """States of shared tokens that may be asked for again, dropped when others need the room, least recently used
    first.

    Args:
        room: How many tokens' states are kept, padding included.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[SharedSet, object] = {}

    def __contains__(self, shared: SharedSet) -> bool:
        return shared in self._kept

    def get(self, shared: SharedSet, read: Callable[[SharedSet], object]) -> object:
        """The state of what rows share; it is read unless it is at hand."""
        if shared in self._kept:
            self._kept[shared] = self._kept.pop(shared)
            return self._kept[shared]
        while self._kept and sum(map(_size, self._kept)) + _size(shared) > self.room:
            del self._kept[next(iter(self._kept))]
        state = self._kept[shared] = read(shared)
        return state

    def drop_all(self) -> bool:
        """Make room; whether there was anything to drop."""
        some = bool(self._kept)
        self._kept.clear()
        return some

    def chunks(self, rows: Sequence[Row]) -> list[tuple[SharedSet, list[int]]]:
        """The numbers of rows that go together: what they share is at hand; they share nothing; or there is room for
        what they share, which is read with others of like length."""
        sharing: dict[Shared, list[int]] = {}
        for number, row in enumerate(rows):
            sharing.setdefault(row.shared, []).append(number)
        kept = [(shared, [n for one in shared for n in sharing.pop(one, [])]) for shared in self._kept]
        found: list[tuple[SharedSet, list[int]]] = [(shared, numbers) for shared, numbers in kept if numbers]
        if plain := sharing.pop((), None):
            found.append(((), plain))
        sets: list[list[Shared]] = []
        for one in sorted(sharing, key=len, reverse=True):
            if not sets or len(sets[-1][0]) * (len(sets[-1]) + 1) > self.room:
                sets.append([])
            sets[-1].append(one)
        if rows:
            sets.sort(key=lambda together: rows[-1].shared in together)  # the rows that come next may go on from it
        return [*found, *((tuple(together), [n for one in together for n in sharing[one]]) for together in sets)]


def _shareable(row: Row) -> int:
    """How many tokens a row may share: none of a document, none that is scored or tells what the first scored one is,
    and not the last."""
    document = row.roles.index("document") if "document" in row.roles else len(row.ids)
    scored = next((i for i, number in enumerate(row.scored or []) if number >= 0), len(row.ids))
    return max(min(document, scored - 1, len(row.ids) - 1), 0)


def _common(sequences: Sequence[Shared]) -> Shared:
    first, last = min(sequences), max(sequences)  # all others lie between these two
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _divide(row: Row, length: int) -> None:
    row.shared, row.ids = tuple(row.ids[:length]), row.ids[length:]
    row.scored = None if row.scored is None else row.scored[length:]


def _size(shared: SharedSet) -> int:
    return len(shared) * max(map(len, shared), default=0)
