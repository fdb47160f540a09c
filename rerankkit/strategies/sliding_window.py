"""Windows of documents, each put in order, from the end of the list to its beginning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from rerankkit.comparing import Asking, Scores, one_prompt, shuffles, too_small, waves, whole_order
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry
from rerankkit.warnings import warn


@registry.strategies("sliding_window.v1")
@dataclass(frozen=True)
class SlidingWindow:
    """Puts the last documents in order, then those before them, until the window has reached the first.

    RankGPT of Sun et al. 2023, arXiv 2304.09542. Every document is shown, whatever their number: the last window begins
    at the first document, and fewer documents than a window holds are one window.

    Recipe:
        [model.strategy]
        @strategies = "sliding_window.v1"
        window = 20
        step = 10

    Args:
        window: How many documents a prompt shows.
        step: By how many documents the window moves; as many as it shows let none pass from one window to the next.
        repeats: How often it goes over the list; one time follows close behind another.
        votes: In how many orders each window is shown; documents are put in order of their mean rank (permutation
            self-consistency of Tang et al. 2024, arXiv 2310.07712).
    """

    at_once = "several"
    window: int = 20
    step: int = 10
    repeats: int = 1
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(self.window, self.step, self.repeats, self.votes):
            raise InputError(f"sliding_window.v1, {argument}: {message}")

    @staticmethod
    def check(
        window: int = window, step: int = step, repeats: int = repeats, votes: int = votes
    ) -> Iterator[tuple[str, str]]:
        """Say which numbers make no sense."""
        yield from too_small(step=step, repeats=repeats, votes=votes)
        if window < 2:
            yield "window", f"must be at least 2, got {window}"
        elif step > window:
            yield "step", f"must be at most window = {window}, or documents would be left out; got {step}"

    def rank(self, group: Group) -> Asking[Order]:
        count, known = len(group.docs), dict[Asked, list[int]]()
        order = list(range(count))
        starts = [*range(count - self.window, 0, -self.step), 0] if count > 1 else []
        if self.step == self.window < count:
            warn("windows_apart", f"query {group.qid or group.query[:60]!r} (window = step = {self.step})")
        gap = -(-self.window // self.step) + 1  # the last window may overlap with one more than the others do
        for now in waves([starts] * self.repeats, gap):
            windows = [tuple(order[start : start + self.window]) for start in now]
            orders = {docs: shuffles(group, docs, self.votes) for docs in windows if docs not in known}
            scores = iter((yield [asked for shown in orders.values() for asked in shown]) if orders else ())
            known |= {docs: _agreed(docs, shown, list(islice(scores, len(shown)))) for docs, shown in orders.items()}
            for start, docs in zip(now, windows, strict=True):
                order[start : start + self.window] = known[docs]
        return whole_order(order, count)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_prompt(group, self.window, "sliding_window.v1")


def _agreed(docs: Asked, orders: list[Asked], scores: Scores) -> list[int]:
    """The documents by the sum of their ranks in all orders; equal ones as they stand."""
    ranks = dict.fromkeys(docs, 0)
    for order, values in zip(orders, scores, strict=True):
        for position, value in zip(order, values, strict=True):
            ranks[position] += sum(other > value for other in values)
    return sorted(docs, key=lambda position: ranks[position])
