"""Sorting by comparisons that are asked for: the k best of n documents, which are numbered in first-stage order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rerankkit.comparing import Best, Steps, together
from rerankkit.protocols import Order

T = TypeVar("T")


def heapsort(n: int, k: int, num_child: int, best: Best) -> Steps[list[int]]:
    """The k best documents by a heap of `num_child` children a node, which is not restored after the last of them."""
    heap = list(range(n))
    levels = [0] if n else []
    while levels and num_child * levels[-1] + 1 < n:
        levels.append(num_child * levels[-1] + 1)
    for first in reversed(levels):
        # No two nodes of a level have a child in common.
        nodes = range(first, min(num_child * first + 1, n))
        yield from together([_sink(heap, node, n, num_child, best) for node in nodes])
    top: list[int] = []
    for end in range(n, n - min(k, n), -1):
        if top:
            heap[0] = heap[end]
            yield from _sink(heap, 0, end, num_child, best)
        top.append(heap[0])
    return top


def _sink(heap: list[int], node: int, end: int, num_child: int, best: Best) -> Steps[None]:
    """Exchange a document with the best of its children for as long as that one is better."""
    while (first := num_child * node + 1) < end:
        children = heap[first : min(first + num_child, end)]
        winner = yield from best((heap[node], *children))
        if winner == heap[node]:
            return
        child = first + children.index(winner)
        heap[node], heap[child] = heap[child], heap[node]
        node = child


def bubblesort(n: int, k: int, num_child: int, best: Best) -> Steps[list[int]]:
    """The k best documents by k passes from the end to the front, each of which lifts the best of what is left.

    A window holds `num_child` documents and the one before them, with which its winner changes places.
    """
    order = list(range(n))
    k = min(k, n)
    ends = [range(n, front + 1, -num_child) for front in range(k)]
    passes = [[(max(front, end - num_child - 1), end) for end in ends[front]] for front in range(k)]
    for windows in waves(passes, 2):
        winners = yield from together([best(tuple(order[start:end])) for start, end in windows])
        for (start, _), winner in zip(windows, winners, strict=True):
            place = order.index(winner)
            order[start], order[place] = order[place], order[start]
    return order[:k]


def waves(passes: Sequence[Sequence[T]], gap: int) -> Iterator[list[T]]:
    """The windows of several passes over one list, side by side: each pass stays `gap` windows behind the one before,
    which is far enough for it to see nothing that is still to change."""
    last = max((number * gap + len(windows) for number, windows in enumerate(passes)), default=0)
    for tick in range(last):
        at = ((windows, tick - number * gap) for number, windows in enumerate(passes))
        yield [windows[i] for windows, i in at if 0 <= i < len(windows)]


def whole_order(top: Sequence[int], n: int) -> Order:
    """The best documents, then the others as the first stage had them; scores fall by one from n."""
    chosen = set(top)
    order = [*top, *(position for position in range(n) if position not in chosen)]
    return [(position, float(n - rank)) for rank, position in enumerate(order)]
