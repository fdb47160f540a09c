"""The first k sorted, then the others in sets against the worst of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from rerankkit.comparing import Best, Sets, Steps, too_small, training_set
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry
from rerankkit.sorting import bubblesort, whole_order


@registry.strategies("setwise_insertion.v1")
@dataclass(frozen=True)
class SetwiseInsertion:
    """Sorts the first stage's k best, then shows the others num_child at a time with the k-th: only a winner moves in.

    A good first stage has most windows lost at once. A winner's place is found by halving, two documents a prompt.

    Source: Podolak et al., "Beyond Reproducibility: Advancing Zero-shot LLM Reranking Efficiency with Setwise
    Insertion", 2025, arXiv:2504.10509.

    Recipe:
        [model.strategy]
        @strategies = "setwise_insertion.v1"
        k = 10
        num_child = 3

    Args:
        k: How many of the best are found; the others follow in first-stage order.
        num_child: A prompt shows up to 1 + num_child documents. Of equal ones the first keeps its place.
        votes: How many orders a set is shown in; what most of them prefer wins.
    """

    k: int = 10
    num_child: int = 3
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(**vars(self)):
            raise InputError(f"setwise_insertion.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, num_child: int = num_child, votes: int = votes) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        return too_small({"k": k, "num_child": num_child, "votes": votes})

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        n, best = len(group.docs), Sets(group, self.votes).best
        top = yield from bubblesort(min(self.k, n), self.k, self.num_child, best)
        others = list(range(len(top), n))
        while others:
            window = others[: self.num_child]
            winner = yield from best((top[-1], *window))
            if winner == top[-1]:
                del others[: len(window)]
                continue
            others.remove(winner)
            top.pop()
            top.insert((yield from _place(top, winner, best)), winner)
        return whole_order(top, n)

    def training_asks(self, group: Group) -> list[Asked]:
        return training_set(group, 1 + self.num_child, "setwise_insertion.v1")


def _place(top: list[int], new: int, best: Best) -> Steps[int]:
    """How many of the sorted documents are no worse than a new one."""
    low, high = 0, len(top)
    while low < high:
        middle = (low + high) // 2
        if (yield from best((top[middle], new))) == new:
            high = middle
        else:
            low = middle + 1
    return low
