"""What strategies of comparisons share: asking in lock-step, remembering answers, and saying who won."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Literal, TypeVar

from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group

T = TypeVar("T")
Steps = Generator[list[Asked], list[list[float]], T]
"""Yields asks, receives their scores, and ends with a result."""
Best = Callable[[Asked], Steps[int]]
"""Finds the best of some documents; where none is better, it is the one that stands first."""
Decide = Literal["agree", "margin", "probability"]


def together(steps: Iterable[Steps[T]]) -> Steps[list[T]]:
    """Advance steps that do not wait for one another side by side, so that their asks go out at once."""
    running = list(steps)
    results: dict[int, T] = {}
    asked: dict[int, list[Asked]] = {}

    def go_on(number: int, scores: list[list[float]] | None) -> None:
        try:
            asked[number] = next(running[number]) if scores is None else running[number].send(scores)
        except StopIteration as end:
            results[number] = end.value
            asked.pop(number, None)

    for number in range(len(running)):
        go_on(number, None)
    while asked:
        scores = iter((yield [docs for asks in asked.values() for docs in asks]))
        for number, asks in list(asked.items()):
            go_on(number, list(islice(scores, len(asks))))
    return [results[number] for number in range(len(running))]


class Memo:
    """The scores of every ask so far: the same documents in the same order are not asked again."""

    def __init__(self) -> None:
        self.scores: dict[Asked, list[float]] = {}

    def ask(self, asks: Sequence[Asked]) -> Steps[list[list[float]]]:
        if new := [docs for docs in dict.fromkeys(asks) if docs not in self.scores]:
            self.scores.update(zip(new, (yield new), strict=True))
        return [self.scores[docs] for docs in asks]


class Pairs:
    """Compares two documents by two prompts, one in each order."""

    def __init__(self, decide: Decide) -> None:
        self._decide = decide
        self._memo = Memo()

    def share(self, one: int, other: int) -> Steps[float]:
        """How far `one` wins, from 0 to 1; 1/2 is a tie."""
        there, back = yield from self._memo.ask([(one, other), (other, one)])
        return _share(self._decide, there[0] - there[1], back[1] - back[0])

    def best(self, docs: Asked) -> Steps[int]:
        """The first document, unless another beats it, and so on through all of them."""
        best = docs[0]
        for challenger in docs[1:]:
            if (yield from self.share(challenger, best)) > 0.5:
                best = challenger
        return best


def _share(decide: Decide, there: float, back: float) -> float:
    """The part of a win that two margins make, both of the same document over the other."""
    if decide == "probability":
        return 0.5 + (_sigmoid(there) - _sigmoid(-back)) / 2
    if decide == "margin":
        there = back = there + back
    return 1.0 if min(there, back) > 0 else 0.0 if max(there, back) < 0 else 0.5


def _sigmoid(margin: float) -> float:
    """The softmax of two scores, given by how much the first leads."""
    small = math.exp(-abs(margin))
    return 1 / (1 + small) if margin >= 0 else small / (1 + small)


class Sets:
    """Compares several documents in one prompt, or in several that show them in different orders."""

    def __init__(self, group: Group, votes: int) -> None:
        self._query = group.query
        self._votes = votes
        self._memo = Memo()

    def read(self, docs: Asked) -> Steps[list[dict[int, float]]]:
        """The scores of the documents by position, once for each order in which they were shown."""
        orders = [docs] if self._votes == 1 else shuffled(self._query, docs, self._votes)
        found = yield from self._memo.ask(orders)
        return [dict(zip(order, scores, strict=True)) for order, scores in zip(orders, found, strict=True)]

    def best(self, docs: Asked) -> Steps[int]:
        """The document that most orders prefer; of several, the one of the higher sum, then of the first stage."""
        if len(docs) == 1:
            return docs[0]
        readings = yield from self.read(docs)
        winners = [max(docs, key=reading.__getitem__) for reading in readings]
        sums = {doc: math.fsum(reading[doc] for reading in readings) for doc in docs}
        return max(docs, key=lambda doc: (winners.count(doc), sums[doc], -doc))


def shuffled(query: str, docs: Asked, votes: int) -> list[Asked]:
    """`votes` different orders of the documents, or all that there are: the same ones for the same query and set."""
    given = sorted(docs)
    draw = Random(f"{given} {query}")
    orders: dict[Asked, None] = {}
    while len(orders) < min(votes, math.factorial(len(given))):
        orders[tuple(draw.sample(given, len(given)))] = None
    return list(orders)


def too_small(given: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Say which counts are below 1."""
    return ((name, f"must be at least 1, got {value}") for name, value in given.items() if value < 1)


def unknown_decision(decide: str) -> Iterator[tuple[str, str]]:
    """Say that there is no such way to decide a comparison."""
    if decide not in ("agree", "margin", "probability"):
        yield "decide", f"must be 'agree', 'margin' or 'probability', got {decide!r}"


def training_pair(group: Group, part: str) -> list[Asked]:
    """The one prompt of a training group of two documents, in the order given."""
    if len(group.docs) not in (0, 2):
        raise InputError(
            f"{part} shows 2 documents at a time, but the training group of query {group.qid or group.query[:40]!r} "
            f"has {len(group.docs)}; set [sampling] group_size = 2"
        )
    return training_set(group, 2, part)


def training_set(group: Group, most: int, part: str) -> list[Asked]:
    """The one prompt of a training group, in the order given.

    Args:
        most: How many documents a prompt of `part` shows.
    """
    if len(group.docs) > most:
        raise InputError(
            f"{part} shows {most} documents at a time, but the training group of query "
            f"{group.qid or group.query[:40]!r} has {len(group.docs)}; set [sampling] group_size = {most}"
        )
    return [tuple(range(len(group.docs)))] if group.docs else []
