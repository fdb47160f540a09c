"""The algorithms written plainly, one comparison after another and none remembered, and a judge without a mind."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import oracle
from oracle import Judge

from rerankkit.protocols import Asked, Order


def drive(strategy: Any, n: int, answer: Judge) -> tuple[Order, list[list[Asked]]]:
    """The order, and the asks of every round; no ask shows fewer than two documents or one of them twice."""
    found = oracle.drive(strategy, n, answer)
    assert all(len(docs) > 1 and len(set(docs)) == len(docs) for docs in found.asked)
    return found.order, found.rounds


def moody(seed: int) -> Judge:
    """Contradicts itself all the time, but says the same when asked the same."""
    return lambda docs: [random.Random(f"{seed} {docs} {i}").choice([0.0, 0.5, 1.0, 2.0]) for i in docs]


class Plain:
    """Each algorithm as a textbook has it; `asked` is every prompt, repeated ones included."""

    def __init__(self, answer: Judge, decide: str = "agree") -> None:
        self.answer, self.decide = answer, decide
        self.asked: list[Asked] = []

    def scores(self, docs: Asked) -> list[float]:
        self.asked.append(docs)
        return self.answer(docs)

    def most_relevant(self, docs: Sequence[int]) -> int:
        scores = dict(zip(docs, self.scores(tuple(docs)), strict=True))
        return max(docs, key=lambda doc: (scores[doc], -doc))

    def greater(self, i: int, j: int) -> bool:
        there, back = self.scores((i, j)), self.scores((j, i))
        first, second = there[0] - there[1], back[1] - back[0]
        if self.decide == "agree":
            wins, loses = first > 0 and second > 0, first < 0 and second < 0
        else:
            wins, loses = first + second > 0, first + second < 0
        return wins or (not loses and i < j)

    def set_heap(self, n: int, k: int, c: int) -> list[int]:
        a, top = list(range(n)), []

        def heapify(size: int, i: int) -> None:
            children = list(range(c * i + 1, min(c * i + c + 1, size)))
            if children:
                nodes = [i, *children]
                docs = [a[node] for node in nodes]
                largest = nodes[docs.index(self.most_relevant(docs))]
                if largest != i:
                    a[i], a[largest] = a[largest], a[i]
                    heapify(size, largest)

        for i in range(n - 1, -1, -1):
            heapify(n, i)
        for last in range(n - 1, -1, -1):
            a[0], a[last] = a[last], a[0]
            top.append(a[last])
            if len(top) == k:
                break
            heapify(last, 0)
        return top

    def pair_heap(self, n: int, k: int, _: int = 0) -> list[int]:
        a, top = list(range(n)), []

        def heapify(size: int, i: int) -> None:
            largest = i
            for child in (2 * i + 1, 2 * i + 2):
                if child < size and self.greater(a[child], a[largest]):
                    largest = child
            if largest != i:
                a[i], a[largest] = a[largest], a[i]
                heapify(size, largest)

        for i in range(n - 1, -1, -1):
            heapify(n, i)
        for last in range(n - 1, -1, -1):
            a[0], a[last] = a[last], a[0]
            top.append(a[last])
            if len(top) == k:
                break
            heapify(last, 0)
        return top

    def pair_bubble(self, n: int, k: int, _: int = 0) -> list[int]:
        a = list(range(n))
        for front in range(min(k, n)):
            for j in range(n - 1, front, -1):
                if self.greater(a[j], a[j - 1]):
                    a[j], a[j - 1] = a[j - 1], a[j]
        return a[:k]

    def set_bubble(self, n: int, k: int, c: int) -> list[int]:
        a = list(range(n))
        for front in range(min(k, n)):
            end = n
            while end - front > 1:
                start = max(front, end - (c + 1))
                place = a.index(self.most_relevant(a[start:end]))
                a[start], a[place] = a[place], a[start]
                end = start + 1
        return a[:k]

    def insertion(self, n: int, k: int, c: int) -> list[int]:
        top, rest = self.set_heap(min(n, k), k, c), list(range(min(n, k), n))
        while rest:
            winner = self.most_relevant([top[-1], *rest[:c]])
            if winner == top[-1]:
                rest = rest[c:]
                continue
            rest.remove(winner)
            top = top[:-1]
            low, high = 0, len(top)
            while low < high:
                middle = (low + high) // 2
                if self.most_relevant([top[middle], winner]) == winner:
                    high = middle
                else:
                    low = middle + 1
            top = [*top[:low], winner, *top[low:]]
        return top

    def knock_out(self, n: int, k: int, c: int) -> list[int]:
        """The whole tournament again for each of the best, without those found."""
        top: list[int] = []
        while len(top) < min(k, n):
            level: list[Any] = [None if i in top else i for i in range(n)]
            while len(level) > 1:
                sets = [[d for d in level[s : s + c + 1] if d is not None] for s in range(0, len(level), c + 1)]
                level = [self.most_relevant(s) if len(s) > 1 else s[0] if s else None for s in sets]
            top.append(level[0])
        return top

    def windows(self, n: int, window: int, step: int, repeats: int) -> list[int]:
        a = list(range(n))
        for _ in range(repeats if n > 1 else 0):
            start = max(n - window, 0)
            while True:
                docs = a[start : start + window]
                scores = dict(zip(docs, self.scores(tuple(docs)), strict=True))
                a[start : start + window] = sorted(docs, key=lambda doc: -scores[doc])
                if start == 0:
                    break
                start = max(start - step, 0)
        return a
