"""Sliding windows: repeats sort everything, and passes that run side by side change nothing."""

from __future__ import annotations

import random
from itertools import chain, permutations

import pytest
from oracle import perfect
from plain import Plain, drive, moody

from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.strategies.sliding_window import SlidingWindow


def test_passes_side_by_side_ask_what_passes_in_turn_ask() -> None:
    draw = random.Random(5)
    for n in (1, 2, 5, 12, 23, 30):
        for window in (2, 3, 4, 7, 20):
            for step in range(1, window + 1):
                for answer in (perfect(draw.sample(range(n), n)), moody(n)):
                    for repeats in (1, 2, 4):
                        plain = Plain(answer)
                        expected = plain.windows(n, window, step, repeats)
                        order, rounds = drive(SlidingWindow(window, step, repeats), n, answer)
                        asked = list(chain.from_iterable(rounds))
                        assert [i for i, _ in order] == expected
                        assert len(asked) == len(set(asked)) and set(asked) == set(plain.asked)


def test_enough_repeats_sort_everything() -> None:
    # A pass lifts the best window - step documents that are not yet in place to where they belong.
    for worth in permutations(range(6)):
        order, _ = drive(SlidingWindow(3, 2, repeats=6), 6, perfect(worth))
        assert order == [(i, 6.0 - rank) for rank, i in enumerate(sorted(range(6), key=lambda i: -worth[i]))]
    worth = random.Random(0).sample(range(100), 100)
    order, rounds = drive(SlidingWindow(20, 10, repeats=10), 100, perfect(worth))
    assert [i for i, _ in order] == sorted(range(100), key=lambda i: -worth[i])
    # 9 windows a pass, each pass 3 behind the one before: 9 + 9 * 3 rounds at most, not 90.
    assert len(rounds) <= 36


def test_small_lists_worked_out_by_hand() -> None:
    # Five documents, windows of three that move by two: (2, 3, 4), then (0, 1, best of these).
    order, rounds = drive(SlidingWindow(3, 2), 5, perfect([0, 1, 2, 3, 4]))
    assert rounds == [[(2, 3, 4)], [(0, 1, 4)]] and [i for i, _ in order] == [4, 1, 0, 3, 2]
    # Four documents, windows of three: the second can only move by one to stand at the front.
    assert drive(SlidingWindow(3, 2), 4, perfect([3, 2, 1, 0]))[1] == [[(1, 2, 3)], [(0, 1, 2)]]
    assert drive(SlidingWindow(), 2, perfect([0, 1])) == ([(1, 2.0), (0, 1.0)], [[(0, 1)]])
    assert drive(SlidingWindow(), 1, perfect([0])) == ([(0, 1.0)], []) and drive(SlidingWindow(), 0, perfect([])) == (
        [],
        [],
    )


def test_votes_sort_by_the_mean_rank() -> None:
    for seed in range(8):
        order, ((*asks,),) = drive(SlidingWindow(5, 1, votes=4), 5, moody(seed))
        assert len(set(asks)) == 4 and all(sorted(docs) == list(range(5)) for docs in asks)
        ranks = [0] * 5
        for docs in asks:
            scores = dict(zip(docs, moody(seed)(docs), strict=True))
            for doc in docs:
                ranks[doc] += sum(scores[o] > scores[doc] for o in docs)
        assert [i for i, _ in order] == sorted(range(5), key=lambda i: ranks[i])


@pytest.mark.parametrize("answer", [lambda docs: [0.0] * len(docs), lambda docs: [float(-i) for i in range(len(docs))]])
def test_answers_that_prefer_nothing_change_nothing(answer) -> None:
    assert [i for i, _ in drive(SlidingWindow(4, 2, repeats=3), 11, answer)[0]] == list(range(11))


def test_a_training_group_is_one_window() -> None:
    assert SlidingWindow(3, 1).training_asks(Group("q", ["a", "b", "c"])) == [(0, 1, 2)]
    with pytest.raises(InputError, match=r"sliding_window.v1 shows 3 .* have 4; set \[sampling\] group_size = 3"):
        SlidingWindow(3, 1).training_asks(Group("q", ["d"] * 4))


@pytest.mark.parametrize(
    ("argument", "value"), [("window", 1), ("step", 0), ("step", 21), ("repeats", 0), ("votes", 0)]
)
def test_arguments_that_make_no_sense_are_refused(argument: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"^sliding_window.v1, {argument}: must be .* got {value}$"):
        SlidingWindow(**{argument: value})
    assert [found for found, _ in SlidingWindow.check(**{argument: value})] == [argument]
