"""All pairs: wins counted from both orders, all in one round."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from oracle import perfect
from plain import drive, moody

from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.strategies.all_pairs import AllPairs


def naive(n: int, answer, decide: str) -> list[float]:
    wins = [0.0] * n
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            (a, b), (d, c) = answer((i, j)), answer((j, i))  # i has a and c, j has b and d
            if decide == "agree":
                wins[i] += 1.0 if a > b and c > d else 0.0 if a < b and c < d else 0.5
            elif decide == "margin":
                wins[i] += 1.0 if a - b + c - d > 0 else 0.0 if a - b + c - d < 0 else 0.5
            else:
                wins[i] += (math.exp(a) / (math.exp(a) + math.exp(b)) + math.exp(c) / (math.exp(c) + math.exp(d))) / 2
    return wins


@pytest.mark.parametrize("decide", ["agree", "margin", "probability"])
def test_wins_are_those_of_a_naive_count(decide: str) -> None:
    for seed in range(6):
        order, rounds = drive(AllPairs(decide), 9, moody(seed))  # type: ignore[arg-type]
        assert len(rounds) == 1 and sorted(rounds[0]) == sorted(permutations(range(9), 2))
        wins = naive(9, moody(seed), decide)
        assert [s for _, s in order] == pytest.approx([wins[i] for i, _ in order], abs=1e-12)
        if decide != "probability":
            assert [i for i, _ in order] == sorted(range(9), key=lambda i: -wins[i])
        assert sum(score for _, score in order) == pytest.approx(36)


@pytest.mark.parametrize("decide", ["agree", "margin", "probability"])
def test_every_permutation_is_sorted(decide: str) -> None:
    for n in range(7):
        for worth in permutations(range(n)):
            order, rounds = drive(AllPairs(decide), n, perfect(worth))  # type: ignore[arg-type]
            assert [i for i, _ in order] == sorted(range(n), key=lambda i: -worth[i])
            assert len(rounds) == (n > 1)


def test_ties_are_halves_and_great_margins_do_no_harm() -> None:
    # Whoever stands first is preferred: no pair agrees, so each of 4 documents has 3 halves.
    assert drive(AllPairs(), 4, lambda docs: [1.0, 0.0])[0] == [(0, 1.5), (1, 1.5), (2, 1.5), (3, 1.5)]
    # Three documents, the first beats both, the others agree on nothing: 2, 1/2, 1/2.
    assert drive(AllPairs(), 3, lambda docs: [float(i == 0) for i in docs])[0] == [(0, 2.0), (1, 0.5), (2, 0.5)]
    assert drive(AllPairs("probability"), 2, perfect([-2e4, 2e4]))[0] == [(1, 1.0), (0, 0.0)]


def test_it_trains_on_pairs_and_refuses_what_makes_no_sense() -> None:
    assert AllPairs().training_asks(Group("q", ["a", "b"])) == [(0, 1)]
    with pytest.raises(InputError, match=r"all_pairs.v1 shows 2 documents .* have 3; set \[sampling\] group_size = 2"):
        AllPairs().training_asks(Group("q", ["a", "b", "c"]))
    with pytest.raises(InputError, match=r"all_pairs.v1, decide: must be 'agree', .*, got 'both'"):
        AllPairs("both")  # type: ignore[arg-type]


@pytest.mark.parametrize("decide", ["agree", "margin", "probability"])
def test_equal_documents_keep_their_order(decide: str) -> None:
    texts = [position % 5 for position in range(13)]
    for seed in range(20):
        answer = moody(seed)
        order, _ = drive(AllPairs(decide), 13, lambda docs, answer=answer: answer(tuple(texts[i] for i in docs)))  # type: ignore[arg-type, misc]
        for text in range(5):
            own = [(position, score) for position, score in order if texts[position] == text]
            assert [position for position, _ in own] == list(range(text, 13, 5))
            assert len({score for _, score in own}) == 1
