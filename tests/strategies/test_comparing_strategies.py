"""Strategies that compare documents: exact with a perfect judge, and no prompt more than the algorithm needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest
from oracle import best_first, drive, perfect

from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group, Strategy
from rerankkit.registry import registry

get = registry.strategies.get
PAIRWISE = ["pairwise_heapsort.v1", "pairwise_bubblesort.v1"]
SETWISE = ["setwise_heapsort.v1", "setwise_bubblesort.v1", "setwise_insertion.v1", "tournament.v1"]


def top_k_strategies(k: int) -> Iterator[Strategy]:
    yield from (get(name)(k=k) for name in PAIRWISE)
    yield from (get(name)(k=k, num_child=children) for name in SETWISE for children in (1, 2, 3, 5))


def everything() -> list[Strategy]:
    return [
        *top_k_strategies(10),
        *(get(name)(num_child=3, votes=3) for name in SETWISE),
        *(get("all_pairs.v1")(decide) for decide in ("agree", "margin", "probability")),
        *(get("sliding_window.v1")(*sizes) for sizes in ((2, 1), (4, 2), (20, 10), (5, 5), (4, 2, 3), (4, 2, 2, 3))),
    ]


def check_top(strategy: Strategy, grades: list[float], k: int) -> None:
    """The best k in their order, then the others as they stood; every document once, scores falling by one."""
    count = len(grades)
    found = drive(strategy, count, perfect(grades))
    top = best_first(grades)[:k]
    rest = [position for position in range(count) if position not in top]
    assert found.order == [(position, float(count - rank)) for rank, position in enumerate([*top, *rest])]


@pytest.mark.parametrize("count", range(7))
def test_every_order_of_a_few_documents(count: int) -> None:
    for k in sorted({1, 2, 3, max(count, 1), count + 3}):
        for strategy in top_k_strategies(k):
            for grades in permutations(range(count)):
                check_top(strategy, [float(g) for g in grades], k)


@pytest.mark.parametrize("count", [7, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [*PAIRWISE, *SETWISE])
def test_every_order_of_seven_and_eight_documents(name: str, count: int) -> None:
    for k, more in ((3, {"num_child": 3}), (count, {"num_child": 2})):
        strategy = get(name)(k=k, **({} if name in PAIRWISE else more))
        for grades in permutations(range(count)):
            check_top(strategy, [float(g) for g in grades], k)


@pytest.mark.parametrize("count", [8, 19, 20, 21, 50, 100])
def test_random_orders_of_many_documents(count: int) -> None:
    draw = random.Random(count)
    for k in (1, 10, count):
        for strategy in top_k_strategies(k):
            for _ in range(2):
                check_top(strategy, [float(g) for g in draw.sample(range(count), count)], k)


@pytest.mark.parametrize("decide", ["agree", "margin", "probability"])
def test_all_pairs_order_every_document(decide: Any) -> None:
    for count in (0, 1, 2, 5, 30):
        grades = [float(g) for g in random.Random(count).sample(range(count), count)]
        found = drive(get("all_pairs.v1")(decide), count, perfect(grades))
        assert found.positions == best_first(grades)
        assert sorted(found.asked) == [(a, b) for a in range(count) for b in range(count) if a != b]
        assert len(found.rounds) == (count > 1)
        if decide != "probability":
            assert [score for _, score in found.order] == [count - 1.0 - rank for rank in range(count)]


# ---- how many prompts: counted by plain textbook versions ----


def count_heapsort(grades: list[float], k: int, children: int, cost: Callable[[int], int]) -> int:
    """Prompts of a heap of so many children; `cost` says what a node with its children costs."""
    heap, prompts = list(grades), 0

    def settle(node: int) -> None:
        nonlocal prompts
        below = [i for i in range(children * node + 1, children * node + 1 + children) if i < len(heap)]
        if not below:
            return
        prompts += cost(len(below))
        largest = max([node, *below], key=lambda i: heap[i])
        if largest != node:
            heap[node], heap[largest] = heap[largest], heap[node]
            settle(largest)

    for node in range(len(heap) - 1, -1, -1):
        settle(node)
    for extracted in range(1, min(k, len(heap)) + 1):
        heap[0], heap[-1] = heap[-1], heap[0]
        heap.pop()
        if heap and extracted < k:
            settle(0)
    return prompts


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 10, 40, 100])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_a_heapsort_asks_as_often_as_the_textbook(count: int, k: int) -> None:
    for seed in range(5):
        grades = [float(g) for g in random.Random(seed).sample(range(count), count)]
        for children in (1, 2, 3, 5):
            # a set that was compared before is not asked again, so remembered ones are counted apart
            asked = drive(get("setwise_heapsort.v1")(k, children), count, perfect(grades)).asked
            assert len(asked) == len(set(asked)) <= count_heapsort(grades, k, children, lambda below: 1)
            if k == 1:
                assert len(asked) == count_heapsort(grades, k, children, lambda below: 1)
        pairs = drive(get("pairwise_heapsort.v1")(k), count, perfect(grades)).asked
        assert len(pairs) == len(set(pairs)) <= count_heapsort(grades, k, 2, lambda below: 2 * below)


def test_small_counts_by_hand() -> None:
    def asked(name: str, grades: list[float], **arguments: Any) -> list[Asked]:
        return drive(get(name)(**arguments), len(grades), perfect(grades)).asked

    # three documents are one node with two children: one prompt finds the best
    assert asked("setwise_heapsort.v1", [1, 2, 3], k=1, num_child=2) == [(0, 1, 2)]
    # 2 rises and 0 sinks; 0 replaces what was taken and meets 1: a second prompt finds the second
    assert asked("setwise_heapsort.v1", [1, 2, 3], k=2, num_child=2) == [(0, 1, 2), (0, 1)]
    # five documents, two children: nodes 1 and 0 have children, in that order; 4 rises to 1, then to 0, and 1, which
    # it left behind, meets 3 and nothing else is left below
    assert asked("setwise_heapsort.v1", [0, 1, 2, 3, 4], k=1, num_child=2) == [(1, 3, 4), (0, 4, 2), (0, 3, 1)]
    # a window of three over five documents: 2 3 4, then 0 1 and the winner
    assert asked("setwise_bubblesort.v1", [0, 1, 2, 3, 4], k=1, num_child=2) == [(2, 3, 4), (0, 1, 4)]
    # the second pass begins at the end anew: 4 left its place to 2, and 2 to 0
    assert asked("setwise_bubblesort.v1", [0, 1, 2, 3, 4], k=2, num_child=2)[2:] == [(0, 3, 2), (1, 3)]
    # a first stage that is right: the first two are sorted by one prompt, the other four asked about two at a time
    assert asked("setwise_insertion.v1", [6, 5, 4, 3, 2, 1], k=2, num_child=2) == [(0, 1), (1, 2, 3), (1, 4, 5)]
    # four documents in sets of two: both halves at once, then the final; the second is who lost to the winner
    found = drive(get("tournament.v1")(k=2, num_child=1), 4, perfect([1, 4, 2, 3]))
    assert found.rounds == [[(0, 1), (2, 3)], [(1, 3)], [(0, 3)]]
    # two prompts for each of two comparisons
    assert asked("pairwise_heapsort.v1", [1, 2, 3], k=1) == [(1, 0), (0, 1), (2, 1), (1, 2)]
    # the second pass compares only what is new: 0 with 1 was never asked, 1 with 2 was
    assert asked("pairwise_bubblesort.v1", [3, 2, 1], k=2) == [(2, 1), (1, 2), (1, 0), (0, 1)]
    # one window of all, then nothing; then windows of two from the end
    assert asked("sliding_window.v1", [1, 2, 3], window=20, step=10) == [(0, 1, 2)]
    assert asked("sliding_window.v1", [1, 2, 3], window=2, step=1) == [(1, 2), (0, 2)]


def test_heaps_of_independent_nodes_are_built_together() -> None:
    found = drive(get("setwise_heapsort.v1")(k=1, num_child=2), 7, perfect([float(i) for i in range(7)]))
    assert found.rounds[0] == [(1, 3, 4), (2, 5, 6)]
    depth = len(drive(get("setwise_heapsort.v1")(k=10, num_child=3), 100, perfect(list(range(100)))).rounds)
    assert depth < 45  # of about 70 prompts


# ---- windows ----


def test_windows_show_every_document_and_the_last_begins_with_the_first() -> None:
    for count in range(2, 31):
        for window in range(2, 12):
            for step in range(1, window + 1):
                asked = drive(get("sliding_window.v1")(window, step), count, perfect([0.0] * count)).asked
                assert {position for docs in asked for position in docs} == set(range(count))
                assert asked[-1] == tuple(range(min(window, count)))
                assert all(len(docs) == min(window, count) for docs in asked)
                assert len(asked) == 1 + max(0, -(-(count - window) // step))


def test_windows_put_the_best_first_whatever_the_numbers() -> None:
    for count in (1, 2, 5, 19, 20, 21, 23, 95):
        grades = [float(g) for g in random.Random(count).sample(range(count), count)]
        for window, step in ((20, 10), (4, 2), (2, 1), (7, 3)):
            best = window - step  # so many are carried along to the top
            found = drive(get("sliding_window.v1")(window, step), count, perfect(grades)).positions
            assert found[:best] == best_first(grades)[:best]
            often = drive(get("sliding_window.v1")(window, step, repeats=count), count, perfect(grades)).positions
            assert often == best_first(grades)


# ---- comparisons that vote, tie and contradict ----


def test_what_two_prompts_decide() -> None:
    def wins(decide: Any, first: list[float], second: list[float]) -> dict[int, float]:
        judge = {(0, 1): first, (1, 0): second}
        return dict(drive(get("all_pairs.v1")(decide), 2, judge.__getitem__).order)

    assert wins("agree", [2, 1], [1, 2]) == {0: 1.0, 1: 0.0}
    assert wins("agree", [1, 2], [2, 1]) == {0: 0.0, 1: 1.0}
    assert wins("agree", [9, 1], [2, 1]) == {0: 0.5, 1: 0.5}  # the first place wins both times
    assert wins("margin", [9, 1], [2, 1]) == {0: 1.0, 1: 0.0}  # by 8 against 1
    assert wins("margin", [2, 1], [2, 1]) == {0: 0.5, 1: 0.5}
    sure = wins("probability", [0, 0], [0, 3])
    assert sure[0] == pytest.approx((0.5 + 1 / (1 + 2.718281828459045**-3)) / 2) and sum(sure.values()) == 1.0


def test_a_tie_keeps_the_order_of_the_first_stage() -> None:
    for strategy in everything():
        for count in (2, 5, 23):
            assert drive(strategy, count, lambda docs: [0.0] * len(docs)).positions == list(range(count))


@pytest.mark.parametrize("name", ["all_pairs.v1", *PAIRWISE])
def test_a_place_that_always_wins_is_a_tie(name: str) -> None:
    for place in (0, 1):
        found = drive(get(name)(), 23, lambda docs, place=place: [1.0 - place, float(place)])
        assert found.positions == list(range(23))


def test_votes_outweigh_a_place_that_always_wins() -> None:
    """A judge who favours the first place by a little and knows the best document, which is not there."""

    def judge(docs: Asked) -> list[float]:
        return [(2.0 if position == 3 else 0.0) + (3.0 if place == 0 else 0.0) for place, position in enumerate(docs)]

    assert drive(get("setwise_heapsort.v1")(k=1, num_child=3), 4, judge).positions[0] == 0
    found = drive(get("setwise_heapsort.v1")(k=1, num_child=3, votes=9), 4, judge)
    assert found.positions[0] == 3 and len(found.rounds) == 1 and len(found.asked) == 9
    assert {tuple(sorted(docs)) for docs in found.asked} == {(0, 1, 2, 3)} and found.asked[0] == (0, 1, 2, 3)
    window = drive(get("sliding_window.v1")(4, 2, votes=9), 4, judge)
    assert window.positions[0] == 3 and len(window.asked) == 9


def test_the_same_orders_are_shown_on_every_run() -> None:
    for name in SETWISE:
        runs = [drive(get(name)(votes=4), 30, perfect(list(range(30)))).asked for _ in range(2)]
        assert runs[0] == runs[1]


def test_a_judge_who_contradicts_himself_is_survived() -> None:
    for strategy in everything():
        for count in (0, 1, 2, 3, 10, 41):
            for seed in range(3):
                draw = random.Random(seed)
                for judge in (
                    lambda docs, draw=draw: [draw.random() for _ in docs],
                    lambda docs: [-float(place) for place in range(len(docs))],
                    lambda docs: [float(place) for place in range(len(docs))],
                ):
                    found = drive(strategy, count, judge)
                    assert sorted(found.positions) == list(range(count))
                    assert (not found.asked) == (count < 2)
                    scores = [score for _, score in found.order]
                    assert scores == sorted(scores, reverse=True)


# ---- arguments and training ----


@pytest.mark.parametrize("name", [*PAIRWISE, *SETWISE, "sliding_window.v1"])
def test_numbers_that_make_no_sense_are_refused(name: str) -> None:
    small = {"k": 0, "num_child": 0, "votes": 0, "window": 1, "step": 0, "repeats": 0}
    known = get(name).__dataclass_fields__
    for argument in known.keys() & small.keys():
        with pytest.raises(InputError, match=f"{name}, {argument}: must be at least"):
            get(name)(**{argument: small[argument]})
        assert [found for found, _ in get(name).check(**{argument: small[argument]})] == [argument]
    if "step" in known:
        with pytest.raises(InputError, match="step: must be at most window = 4, or documents would be left out; got 5"):
            get(name)(window=4, step=5)


def test_a_training_group_is_one_prompt() -> None:
    group = Group("query", ["a", "b", "c", "d"])
    for strategy in everything():
        name = next(name for name in registry.strategies.names() if isinstance(strategy, get(name)))
        shown = (
            2 if name in [*PAIRWISE, "all_pairs.v1"] else getattr(strategy, "window", None) or 1 + strategy.num_child
        )  # type: ignore[attr-defined]
        if shown >= 4:
            assert strategy.training_asks(group) == [(0, 1, 2, 3)]
        else:
            with pytest.raises(
                InputError, match=rf"{name} shows {shown} documents .* have 4; set \[sampling\] group_size"
            ):
                strategy.training_asks(group)
        assert strategy.training_asks(Group("query", [])) == []
