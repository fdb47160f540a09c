"""Scoring every document alone: one round, a stable order, every document of a training group once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rerankkit.protocols import Group, Order
from rerankkit.strategies.pointwise import Pointwise
from rerankkit.testing import check_strategy


def order(scores: list[float]) -> Order:
    steps = Pointwise().rank(Group("q", ["d"] * len(scores)))
    assert next(steps) == [(i,) for i in range(len(scores))]
    try:
        steps.send([[score] for score in scores])
    except StopIteration as end:
        return end.value
    raise AssertionError("a second round")


@given(st.lists(st.sampled_from([-1.5, 0.0, -0.0, 2.0, 7.25]), max_size=12))
def test_the_best_come_first_and_equal_ones_as_given(scores: list[float]) -> None:
    naive: Order = []
    left = list(enumerate(scores))
    while left:
        first = next(pair for pair in left if pair[1] == max(score for _, score in left))
        naive.append(first)
        left.remove(first)
    assert order(scores) == naive


def test_it_keeps_the_protocol() -> None:
    check_strategy(Pointwise)
    assert Pointwise().training_asks(Group("q", ["a", "b", "c"])) == [(0,), (1,), (2,)]
