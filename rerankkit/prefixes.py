"""What prompts begin with alike: computed once, and kept as long as it is asked for.

All prompts of a group begin with the instruction and, where the template puts it first, the query: their stem. Those
that show the same document first have this in common too, and a strategy that compares a document with one after
another asks for it again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rerankkit.protocols import Group, Row

SHORTEST_PREFIX = 7
Shared = tuple[int, ...]


class Beginnings:
    """What the prompts of each group met so far begin with, by the group's `id`."""

    def __init__(self) -> None:
        self._stems: dict[int, Shared] = {}
        self._latest: dict[int, int] = {}

    def tokens(self, group: Group) -> int:
        """How many tokens the group's latest prompts shared, each beginning counted once; of a lone prompt, what the
        next ones may share."""
        return self._latest.get(id(group), 0)

    def share(self, groups: Sequence[Group], rows: Sequence[Row]) -> None:
        """Move what rows begin with into `shared`: the stem, up to the first token that another round may change, and
        the first of several documents.

        A lone row is only divided when its group was met before: one that never comes again would pay for passes that
        nobody goes on from.
        """
        for group_id, own in _by_group(groups, rows).items():
            before = self._stems.get(group_id)
            # before a document of a later round, whose first letters it runs into, the last token may be another one;
            # a stem that becomes shorter is read again, and no more with those of other queries
            stem = _common([*(_stem(row) for row in own), *([] if before is None else [before])])
            stem = self._stems[group_id] = stem[:-1] if before is None else stem
            if len(own) > 1 or before is not None:
                for row in own:
                    _divide(row, len(stem), _first_document(row))
            self._latest[group_id] = sum(len(shared) for shared in {row.shared for row in own}) or len(stem)


def share(groups: Sequence[Group], rows: Sequence[Row]) -> None:
    """Move what each group's rows begin with into `shared`, where these rows are all there are."""
    for own in _by_group(groups, rows).values():
        if len(own) > 1:
            stem = _common([_stem(row) for row in own])
            for row in own:
                _divide(row, len(stem), 0)


def shared_by(rows: Sequence[Row]) -> list[Shared]:
    """What some of the rows share, each once."""
    return list(dict.fromkeys(row.shared for row in rows if row.shared))


def whole(row: Row) -> Row:
    """The row as it was before its beginning was shared."""
    scored = None if row.scored is None else [-1] * len(row.shared) + row.scored
    return replace(row, ids=[*row.shared, *row.ids], shared=(), stem=0, scored=scored)


class States:
    """States of shared tokens that may be asked for again, dropped when others need the room, least recently used
    first.

    Args:
        room: How many tokens' states are kept.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._kept: dict[Shared, Any] = {}

    def __getitem__(self, shared: Shared) -> Any:
        return self._kept[shared]

    def __setitem__(self, shared: Shared, state: Any) -> None:
        self._kept[shared] = state

    def missing(self, wanted: Iterable[Shared]) -> list[Shared]:
        """Those that have to be read, for which room is made. Those at hand have been used, by this."""
        wanted = list(wanted)
        at_hand = {one: self._kept.pop(one) for one in wanted if one in self._kept}
        used, needed = sum(map(len, self._kept)), sum(map(len, wanted))
        while self._kept and used + needed > self.room:
            used -= len(oldest := next(iter(self._kept)))
            del self._kept[oldest]
        self._kept |= at_hand
        return [one for one in wanted if one not in at_hand]

    def drop_all(self) -> bool:
        """Make room; whether there was anything to drop."""
        some = bool(self._kept)
        self._kept.clear()
        return some

    def companies(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """The numbers of rows that are asked together: those whose shared tokens are at hand first, then as many as
        there is room for what they share. The last rows come last, for the next ones may go on from them."""
        sharing: dict[Shared, list[int]] = {}
        for number, row in enumerate(rows):
            sharing.setdefault(row.shared, []).append(number)
        if plain := sharing.pop((), None):
            yield plain
        company, room = list[int](), self.room
        for shared in sorted(sharing, key=lambda one: one not in self._kept):
            needed = len(shared) + rows[sharing[shared][0]].stem
            if company and needed > room:
                yield company
                company, room = [], self.room
            company, room = company + sharing[shared], room - needed
        if company:
            yield company


def _by_group(groups: Sequence[Group], rows: Sequence[Row]) -> dict[int, list[Row]]:
    """The rows of each group that share nothing yet."""
    found: dict[int, list[Row]] = {}
    for group, row in zip(groups, rows, strict=True):
        if not row.shared:
            found.setdefault(id(group), []).append(row)
    return found


def _stem(row: Row) -> Shared:
    """What may be common to all prompts of a group: none of a document."""
    document = row.roles.index("document") if "document" in row.roles else len(row.ids)
    return tuple(row.ids[: min(document, _shareable(row))])


def _first_document(row: Row) -> int:
    """Where the first of several documents ends; 0 where there is one, or none."""
    places = [place for place, role in enumerate(row.roles) if role == "document"]
    ends = next((a + 1 for a, b in zip(places, places[1:], strict=False) if b > a + 1), 0)
    return min(ends, _shareable(row))


def _shareable(row: Row) -> int:
    """How many tokens a row may share: none that is scored or tells what the first scored one is, and not the last."""
    scored = next((i for i, number in enumerate(row.scored or []) if number >= 0), len(row.ids))
    return max(min(scored - 1, len(row.ids) - 1), 0)


def _common(sequences: Sequence[Shared]) -> Shared:
    first, last = min(sequences), max(sequences)  # all others lie between these two
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _divide(row: Row, stem: int, first_document: int) -> None:
    """Share a stem and what goes on from it, each where it is long enough for a pass of its own."""
    stem = stem if stem >= SHORTEST_PREFIX else 0
    length = first_document if first_document - stem >= SHORTEST_PREFIX else stem
    row.shared, row.ids, row.stem = tuple(row.ids[:length]), row.ids[length:], stem if length > stem else 0
    row.scored = None if row.scored is None else row.scored[length:]
