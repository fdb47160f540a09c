"""What strategies that compare documents have in common: comparisons that are asked once, heaps, orders.

Everything that asks the model is a generator, as a strategy is: it yields asks and receives their scores.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, TypeVar

from rerankkit.errors import InputError
from rerankkit.fingerprints import fingerprint
from rerankkit.protocols import Asked, Group, Order

T = TypeVar("T")
Scores = list[list[float]]
Asking = Generator[list[Asked], Scores, T]
"""Yields asks, receives their scores, and returns what it found out."""
Decide = Literal["agree", "margin", "probability"]


def together(askings: Sequence[Asking[T]]) -> Asking[list[T]]:
    """Several askings that need not wait for one another, in lock-step: their asks go out in one list."""
    found: dict[int, T] = {}
    asks: dict[int, list[Asked]] = {}

    def go_on(number: int, step: Callable[[], list[Asked]]) -> None:
        try:
            asks[number] = step()
        except StopIteration as end:
            found[number] = end.value

    for number, asking in enumerate(askings):
        go_on(number, lambda asking=asking: next(asking))  # type: ignore[misc]
    while asks:
        under_way, asks = asks, {}
        scores = iter((yield [docs for wanted in under_way.values() for docs in wanted]))
        for number, wanted in under_way.items():
            own = list(islice(scores, len(wanted)))
            go_on(number, lambda number=number, own=own: askings[number].send(own))  # type: ignore[misc]
    return [found[number] for number in range(len(askings))]


@dataclass
class SetComparisons:
    """Which of some documents is the best: one prompt that shows them all, or several in other orders that vote."""

    group: Group
    votes: int = 1
    known: dict[Asked, int] = field(default_factory=dict)

    def best(self, docs: Asked) -> Asking[int]:
        """The best of some documents; of equal ones that which the first stage had before the others."""
        if len(docs) == 1:
            return docs[0]
        if docs not in self.known:
            orders = shuffles(self.group, docs, self.votes)
            self.known[docs] = _elected(docs, orders, (yield orders))
        return self.known[docs]


def shuffles(group: Group, docs: Asked, count: int) -> list[Asked]:
    """Some documents in so many different orders, or in all there are, the given one first; the same ones whenever the
    query is ranked."""
    draw = random.Random(fingerprint(f"{group.query}\0{docs}"))
    orders = [docs]
    while len(orders) < min(count, math.factorial(len(docs))):
        order = tuple(draw.sample(docs, len(docs)))
        if order not in orders:
            orders.append(order)
    return orders


def _elected(docs: Asked, orders: Sequence[Asked], scores: Scores) -> int:
    """The document that most orders favour; of equal ones that with the higher scores in all, then by first stage."""
    votes, total = dict.fromkeys(docs, 0), dict.fromkeys(docs, 0.0)
    for order, values in zip(orders, scores, strict=True):
        for position, value in zip(order, values, strict=True):
            votes[position] += value == max(values)
            total[position] += value
    return max(docs, key=lambda position: (votes[position], total[position], -position))


@dataclass
class PairComparisons:
    """Which of two documents is better, by two prompts that show them in both orders."""

    decide: Decide
    known: dict[Asked, float] = field(default_factory=dict)

    def lead(self, a: int, b: int) -> Asking[float]:
        """By how much a document is better than another: 1 where it surely is, -1 where the other is, 0 in a tie."""
        if (a, b) not in self.known:
            (aa, ab), (bb, ba) = yield [(a, b), (b, a)]
            self.known[a, b] = _lead(aa - ab, ba - bb, self.decide)
            self.known[b, a] = -self.known[a, b]
        return self.known[a, b]

    def beats(self, a: int, b: int) -> Asking[bool]:
        """Whether a document is better than another; in a tie, whether the first stage says so."""
        lead = yield from self.lead(a, b)
        return lead > 0 or (lead == 0 and a < b)

    def best(self, docs: Asked) -> Asking[int]:
        """The best of some documents, compared one after another."""
        best = docs[0]
        for position in docs[1:]:
            if (yield from self.beats(position, best)):
                best = position
        return best


def _lead(first: float, second: float, decide: Decide) -> float:
    """What two margins of one document over another, seen in either place, come to."""
    if decide == "agree":
        return float(first > 0 and second > 0) - float(first < 0 and second < 0)
    if decide == "margin":
        return float(first + second > 0) - float(first + second < 0)
    return math.tanh(first / 2) / 2 + math.tanh(second / 2) / 2  # 2 p - 1, p the mean of both sigmoids


def heapsort(count: int, k: int, children: int, best: Callable[[Asked], Asking[int]]) -> Asking[Order]:
    """The best k documents off a heap, then the others as they were; one level of the heap is built at a time."""
    heap = list(range(count))
    for level in reversed(list(_levels(count, children))):
        yield from together([_settle(heap, node, children, best) for node in level])
    top: list[int] = []
    while heap and len(top) < k:
        top.append(heap[0])
        last = heap.pop()
        if heap and len(top) < k:
            heap[0] = last
            yield from _settle(heap, 0, children, best)
    return whole_order(top, count)


def _levels(count: int, children: int) -> Iterator[range]:
    """The nodes of each level of a heap, from the root down."""
    start, width = 0, 1
    while start < count:
        yield range(start, min(start + width, count))
        start, width = start + width, width * children


def _settle(heap: list[int], node: int, children: int, best: Callable[[Asked], Asking[int]]) -> Asking[None]:
    """Let a node sink to where nothing below it is better."""
    while below := heap[children * node + 1 : children * node + 1 + children]:
        winner = yield from best((heap[node], *below))
        if winner == heap[node]:
            return
        place = children * node + 1 + below.index(winner)
        heap[node], heap[place] = heap[place], heap[node]
        node = place


def bubblesort(count: int, k: int, children: int, best: Callable[[Asked], Asking[int]]) -> Asking[Order]:
    """The best k documents by as many passes from the end to the front, then the others as they were.

    A window holds `children` documents and the one before them, with which the best of them changes places.
    """
    order = list(range(count))
    k = min(k, count)
    ends = [range(count, top + 1, -children) for top in range(k)]
    passes = [[(max(top, end - children - 1), end) for end in ends[top]] for top in range(k)]
    for windows in waves(passes, 2):
        winners = yield from together([best(tuple(order[start:end])) for start, end in windows])
        for (start, _), winner in zip(windows, winners, strict=True):
            place = order.index(winner)
            order[start], order[place] = order[place], order[start]
    return whole_order(order[:k], count)


def waves(passes: Sequence[Sequence[T]], gap: int) -> Iterator[list[T]]:
    """The windows of several passes over one list, side by side: each pass stays `gap` windows behind the one before,
    which is far enough for it to see nothing that is still to change."""
    last = max((number * gap + len(windows) for number, windows in enumerate(passes)), default=0)
    for tick in range(last):
        at = ((windows, tick - number * gap) for number, windows in enumerate(passes))
        yield [windows[i] for windows, i in at if 0 <= i < len(windows)]


def whole_order(top: Sequence[int], count: int) -> Order:
    """An order that begins with some documents and goes on with the others as they were; scores fall by one."""
    order = [*top, *sorted(set(range(count)) - set(top))]
    return [(position, float(count - rank)) for rank, position in enumerate(order)]


def too_small(**numbers: int) -> Iterator[tuple[str, str]]:
    """Say which arguments are below 1."""
    for name, number in numbers.items():
        if number < 1:
            yield name, f"must be at least 1, got {number}"


def unknown_decision(decide: str) -> Iterator[tuple[str, str]]:
    """Say that comparisons are not decided in this way."""
    if decide not in ("agree", "margin", "probability"):
        yield "decide", f"must be 'agree', 'margin' or 'probability', got {decide!r}"


def one_pair(group: Group, part: str) -> list[Asked]:
    """The two documents of a training group in one prompt."""
    if len(group.docs) not in (0, 2):
        raise InputError(
            f"{part} shows 2 documents in one prompt, and training groups have {len(group.docs)}; set [sampling] "
            "group_size = 2"
        )
    return one_prompt(group, 2, part)


def one_prompt(group: Group, shown: int, part: str) -> list[Asked]:
    """All documents of a training group in one prompt."""
    if len(group.docs) > shown:
        raise InputError(
            f"{part} shows {shown} documents in one prompt, and training groups have {len(group.docs)}; set [sampling] "
            f"group_size = {shown} or less, or let {part} show more"
        )
    return [tuple(range(len(group.docs)))] if group.docs else []
