"""Sorting strategies ask the prompts of the textbook's algorithm, each once, and together what need not wait."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain
from typing import Any

import pytest
from oracle import perfect
from plain import Plain, drive, moody

from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.registry import registry
from rerankkit.testing import check_strategy

PLAIN = {
    "setwise_heapsort.v1": Plain.set_heap,
    "setwise_bubblesort.v1": Plain.set_bubble,
    "setwise_insertion.v1": Plain.insertion,
    "tournament.v1": Plain.knock_out,
    "pairwise_heapsort.v1": Plain.pair_heap,
    "pairwise_bubblesort.v1": Plain.pair_bubble,
}
SETS = [name for name in PLAIN if not name.startswith("pairwise")]
PAIRS = [name for name in PLAIN if name.startswith("pairwise")]
CASES = [(name, c) for name in SETS for c in (1, 2, 3, 5)] + [(name, 0) for name in PAIRS]


def make(name: str, k: int, c: int, **more: Any) -> Any:
    return registry.strategies.get(name)(k=k, **({"num_child": c} if name in SETS else {}), **more)


def exact(worth: Sequence[float], k: int) -> list[tuple[int, float]]:
    top = sorted(range(len(worth)), key=lambda i: -worth[i])[:k]
    rest = [i for i in range(len(worth)) if i not in top]
    return [(i, float(len(worth) - rank)) for rank, i in enumerate(top + rest)]


@pytest.mark.parametrize(("name", "c"), CASES)
@pytest.mark.parametrize("mood", [False, True], ids=["perfect", "moody"])
def test_the_prompts_are_those_of_the_plain_algorithm_each_once(name: str, c: int, mood: bool) -> None:
    draw = random.Random(7)
    for n in [0, 1, 2, 3, 4, 9, 10, 11, 14, 23, 40, 100]:
        worth = draw.sample(range(n), n)
        for k in (1, 3, 10):
            answer = moody(n) if mood else perfect(worth)
            plain = Plain(answer)
            top = PLAIN[name](plain, n, k, c)
            order, rounds = drive(make(name, k, c), n, answer)
            asked = list(chain.from_iterable(rounds))
            assert len(asked) == len(set(asked)) and set(asked) == set(plain.asked)
            assert [i for i, _ in order] == top + [i for i in range(n) if i not in top]
            assert [score for _, score in order] == [float(n - rank) for rank in range(n)]
            assert mood or order == exact(worth, k)


@pytest.mark.parametrize("name", PAIRS)
def test_margins_decide_as_in_the_plain_algorithm(name: str) -> None:
    for seed in range(5):
        plain = Plain(moody(seed), "margin")
        top = PLAIN[name](plain, 17, 5, 0)
        order, rounds = drive(make(name, 5, 0, decide="margin"), 17, moody(seed))
        assert [i for i, _ in order[:5]] == top and set(chain.from_iterable(rounds)) == set(plain.asked)


def counts(name: str, k: int, c: int, worth: Sequence[int]) -> tuple[int, int]:
    """Prompts and rounds."""
    _, rounds = drive(make(name, k, c), len(worth), perfect(worth))
    return sum(map(len, rounds)), len(rounds)


def test_counts_that_a_reader_can_derive() -> None:
    # A root with two children: one prompt shows all three, and its winner is the best.
    assert counts("setwise_heapsort.v1", 1, 2, [0, 2, 1]) == (1, 1)
    # The best stands at the root: one prompt. The last, 1, takes its place: one prompt, (1, 2) of two. The last then
    # stands alone.
    assert counts("setwise_heapsort.v1", 3, 2, [2, 1, 0]) == (2, 2)
    # Seven documents, two children: the inner nodes 1 and 2 in one round, the root in another; already a heap.
    assert counts("setwise_heapsort.v1", 1, 2, [6, 5, 4, 3, 2, 1, 0]) == (3, 2)
    # (0, 1) and (1, 0), then (2, 0) and (0, 2): two comparisons of a root with its children.
    assert counts("pairwise_heapsort.v1", 1, 0, [2, 1, 0]) == (4, 2)
    # The first pass compares 2 with 1, then 1 with 0; the second 2 with 1 again, which is remembered.
    assert counts("pairwise_bubblesort.v1", 2, 0, [2, 1, 0]) == (4, 2)
    # The reverse: 2 with 1, 2 with 0 in the first pass, 1 with 0 in the second: all three pairs are needed.
    assert counts("pairwise_bubblesort.v1", 2, 0, [0, 1, 2]) == (6, 3)
    # Five documents, windows of three: (2, 3, 4) and (0, 1, 2), whose best is then 0.
    assert counts("setwise_bubblesort.v1", 1, 2, [4, 3, 2, 1, 0]) == (2, 2)
    # The first two are sorted by one prompt; (1, 2, 3) and (1, 4, 5) change nothing.
    assert counts("setwise_insertion.v1", 2, 2, [5, 4, 3, 2, 1, 0]) == (3, 3)
    # k = 1: the first stands alone. (0, 1, 2) is won by 2, which needs no place among none; then (2, 1) is lost.
    assert counts("setwise_insertion.v1", 1, 2, [0, 1, 2]) == (2, 2)
    # Nine in sets of three: three sets in the first round, their winners in the second. The next best: the two that
    # are left of the winner's set, then its new winner with the other two.
    assert counts("tournament.v1", 1, 2, list(range(9))) == (4, 2)
    assert counts("tournament.v1", 2, 2, list(range(9))) == (6, 4)


def test_what_need_not_wait_goes_out_together() -> None:
    worth = random.Random(3).sample(range(100), 100)
    # 33 windows a pass; the tenth starts 18 rounds after the first, with 30 windows: 9 documents fewer, 3 windows.
    prompts, rounds = counts("setwise_bubblesort.v1", 10, 3, worth)
    assert rounds <= 48 < 200 < prompts
    # 33 nodes have children: 20, 9, 3 and 1 in their levels. What sinks from a level may sink through those below it.
    prompts, rounds = counts("setwise_heapsort.v1", 1, 3, worth)
    assert rounds <= 1 + 2 + 3 + 4 < 33 <= prompts
    # 25 sets of four, six of their winners and one alone, two sets of these seven, one.
    assert counts("tournament.v1", 1, 3, worth) == (25 + 6 + 2 + 1, 4)


@pytest.mark.parametrize("name", PLAIN)
def test_training_shows_all_documents_in_the_order_given(name: str) -> None:
    check_strategy(lambda: make(name, 10, 6))
    strategy = make(name, 10, 3)
    assert strategy.training_asks(Group("q", [])) == []
    assert strategy.training_asks(Group("q", ["a", "b"])) == [(0, 1)]
    with pytest.raises(InputError, match=rf"{name} shows {2 if name in PAIRS else 4} doc.*\[sampling\] group_size = "):
        strategy.training_asks(Group("q", ["d"] * 5))
    if name in PAIRS:
        with pytest.raises(InputError, match="have 1; set"):
            strategy.training_asks(Group("q", ["d"]))


@pytest.mark.parametrize("name", PLAIN)
def test_arguments_that_make_no_sense_are_refused(name: str) -> None:
    wrong: dict[str, Any] = {"k": 0, "num_child": 0, "votes": 0} if name in SETS else {"k": 0, "decide": "loudest"}
    factory = registry.strategies.get(name)
    for argument, value in wrong.items():
        with pytest.raises(InputError, match=rf"^{name}, {argument}: must be .*, got "):
            factory(**{argument: value})
        assert [found for found, _ in factory.check(**{argument: value})] == [argument]
    assert list(factory.check()) == []
