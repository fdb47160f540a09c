"""A window of documents that is sorted, moved towards the front, and sorted again."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from rerankkit.comparing import Sets, Steps, together, too_small, training_set
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry
from rerankkit.sorting import waves, whole_order


@registry.strategies("sliding_window.v1")
@dataclass(frozen=True)
class SlidingWindow:
    """Sorts windows from the end to the front, which the last one reaches exactly; repeats run side by side.

    Source: Sun et al., "Is ChatGPT Good at Search?", 2023, arXiv:2304.09542; the votes: Tang et al., "Found in the
    Middle: Permutation Self-Consistency", 2023, arXiv:2310.07712.

    Recipe:
        [model.strategy]
        @strategies = "sliding_window.v1"
        window = 20
        step = 10

    Args:
        window: Documents of a prompt; all of them where there are fewer.
        step: How far a window moves, at most its size. What overlaps can move on: window - step documents a pass.
        repeats: How many times the whole list is passed.
        votes: How many orders a window is shown in; documents are sorted by their mean rank.
    """

    window: int = 20
    step: int = 10
    repeats: int = 1
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(**vars(self)):
            raise InputError(f"sliding_window.v1, {argument}: {message}")

    @staticmethod
    def check(
        window: int = window, step: int = step, repeats: int = repeats, votes: int = votes
    ) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        if window < 2:
            yield "window", f"must be at least 2, got {window}"
        elif not 1 <= step <= window:
            yield "step", f"must be from 1 to window = {window}, got {step}"
        yield from too_small({"repeats": repeats, "votes": votes})

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        n, sets = len(group.docs), Sets(group, self.votes)
        order = list(range(n))
        starts = [*range(n - self.window, 0, -self.step), 0] if n > 1 else []
        gap = -(-self.window // self.step) + 1  # the last window may overlap with one more than the others do
        for now in waves([starts] * self.repeats, gap):
            windows = [tuple(order[start : start + self.window]) for start in now]
            found = yield from together([_sorted(docs, sets) for docs in windows])
            for start, docs in zip(now, found, strict=True):
                order[start : start + self.window] = docs
        return whole_order(order, n)

    def training_asks(self, group: Group) -> list[Asked]:
        return training_set(group, self.window, "sliding_window.v1")


def _sorted(docs: Asked, sets: Sets) -> Steps[list[int]]:
    """The documents of a window by their mean rank; equal ones stay as they stand."""
    ranks = dict.fromkeys(docs, 0)
    for reading in (yield from sets.read(docs)):
        for rank, doc in enumerate(sorted(docs, key=lambda doc: -reading[doc])):
            ranks[doc] += rank
    return sorted(docs, key=ranks.__getitem__)
