"""The k best by a knock-out, and by replaying what its winners leave."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise

from rerankkit.comparing import Best, Sets, Steps, together, too_small, training_set
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Order
from rerankkit.registry import registry
from rerankkit.sorting import whole_order


@registry.strategies("tournament.v1")
@dataclass(frozen=True)
class Tournament:
    """Knocks out in sets of 1 + num_child, a round at once; for the next best only the last one's path is played again.

    Source: tournament sort, Knuth, "The Art of Computer Programming", vol. 3, 5.2.3, with sets in place of pairs.

    Recipe:
        [model.strategy]
        @strategies = "tournament.v1"
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
            raise InputError(f"tournament.v1, {argument}: {message}")

    @staticmethod
    def check(k: int = k, num_child: int = num_child, votes: int = votes) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        return too_small({"k": k, "num_child": num_child, "votes": votes})

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        n = len(group.docs)
        top = yield from _knock_out(n, min(self.k, n), 1 + self.num_child, Sets(group, self.votes).best)
        return whole_order(top, n)

    def training_asks(self, group: Group) -> list[Asked]:
        return training_set(group, 1 + self.num_child, "tournament.v1")


def _knock_out(n: int, k: int, size: int, best: Best) -> Steps[list[int]]:
    rounds: list[list[int | None]] = [list(range(n))]  # the documents, then the winner of each set, round after round
    while len(rounds[-1]) > 1:
        sets = [_left(rounds[-1], number, size) for number in range(-(-len(rounds[-1]) // size))]
        rounds.append([*(yield from together([best(docs) for docs in sets]))])
    top: list[int] = []
    for _ in range(k):
        if top:
            number = top[-1]
            rounds[0][number] = None
            for below, above in pairwise(rounds):
                number //= size
                docs = _left(below, number, size)
                above[number] = (yield from best(docs)) if docs else None
        (winner,) = _left(rounds[-1], 0, 1)
        top.append(winner)
    return top


def _left(entries: list[int | None], number: int, size: int) -> Asked:
    """Who is left in one set of a round."""
    return tuple(doc for doc in entries[number * size : (number + 1) * size] if doc is not None)
