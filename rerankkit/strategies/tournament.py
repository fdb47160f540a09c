"""The best k documents of a knock-out tournament."""

from __future__ import annotations

from itertools import pairwise

from rerankkit.comparing import Asking, SetComparisons, together, whole_order
from rerankkit.protocols import Group, Order
from rerankkit.registry import registry
from rerankkit.sorts import SetwiseSort


@registry.strategies("tournament.v1")
class Tournament(SetwiseSort):
    """Lets sets of `num_child + 1` documents play, then the winners, until one is left; each further place is found by
    playing again only where the last winner had played. All sets of a round are asked at once.

    Recipe:
        [model.strategy]
        @strategies = "tournament.v1"
        k = 10
        num_child = 3

    Args:
        k: How many documents are sorted; more than there are sorts all.
        num_child: A prompt shows one document more than this.
        votes: In how many orders the documents of a comparison are shown; the majority decides.
    """

    part = "tournament.v1"

    def rank(self, group: Group) -> Asking[Order]:
        count, size, compare = len(group.docs), 1 + self.num_child, SetComparisons(group, self.votes)
        rounds = [[[position] for position in range(count)]]  # in each round, what is left of each side: one or none
        while len(rounds[-1]) > 1:
            sides = rounds[-1]
            sets = [sides[start : start + size] for start in range(0, len(sides), size)]
            rounds.append((yield from together([_winner(some, compare) for some in sets])))
        top = [position for side in rounds[-1] for position in side]
        while 0 < len(top) < min(self.k, count):
            side = top[-1]
            rounds[0][side] = []
            for before, after in pairwise(rounds):
                side //= size
                after[side] = yield from _winner(before[side * size : (side + 1) * size], compare)
            top += rounds[-1][0]
        return whole_order(top, count)


def _winner(sides: list[list[int]], compare: SetComparisons) -> Asking[list[int]]:
    """The best of those sides that are left; none of none."""
    left = tuple(position for side in sides for position in side)
    return [(yield from compare.best(left))] if left else []
