"""What strategies of comparisons share: lock-step, votes over orders, and who wins a tie."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

from plain import drive, moody

from rerankkit.comparing import Asking, shuffles, together
from rerankkit.protocols import Asked, Group
from rerankkit.strategies.setwise_heapsort import SetwiseHeapsort


def test_steps_advance_side_by_side_and_results_keep_their_order() -> None:
    def asking(number: int, rounds: int) -> Asking[list[float]]:
        got = []
        for step in range(rounds):
            for scores in (yield [(number, step, i) for i in range(number + 1)]):
                got += scores
        return got

    steps = together([asking(0, 2), asking(1, 0), asking(2, 3), asking(3, 1)])
    seen: list[list[Asked]] = []
    try:
        asks = next(steps)
        while True:
            seen.append(asks)
            asks = steps.send([[100.0 * a + 10 * b + c] for a, b, c in asks])
    except StopIteration as end:
        results = end.value
    assert [[ask[0] for ask in asks] for asks in seen] == [[0, 2, 2, 2, 3, 3, 3, 3], [0, 2, 2, 2], [2, 2, 2]]
    assert results == [
        [0.0, 10.0], [], [200.0, 201, 202, 210, 211, 212, 220, 221, 222], [300.0, 301, 302, 303],
    ]  # fmt: skip


def test_orders_are_different_and_the_same_on_every_run() -> None:
    q, r = Group("q", []), Group("r", [])
    assert sorted(shuffles(q, (4, 2, 7), 100)) == sorted(permutations((2, 4, 7)))
    five = shuffles(q, (3, 1, 0, 4, 2), 7)
    assert five[0] == (3, 1, 0, 4, 2) and len(set(five)) == 7 == len(five)
    assert five == shuffles(Group("q", []), (3, 1, 0, 4, 2), 7) != shuffles(r, (3, 1, 0, 4, 2), 7)


def test_the_majority_wins_then_the_sum_then_the_first_stage() -> None:
    for seed in range(40):
        order, ((*asks,),) = drive(SetwiseHeapsort(k=1, num_child=3, votes=5), 4, moody(seed))
        assert len(set(asks)) == 5 == len(asks)
        votes, sums = Counter[int](), Counter[int]()
        for docs in asks:
            scores = dict(zip(docs, moody(seed)(docs), strict=True))
            votes.update(i for i in docs if scores[i] == max(scores.values()))
            sums.update(scores)
        assert order[0][0] == min(range(4), key=lambda i: (-votes[i], -sums[i], i))
    # Whoever stands first wins in both orders of two documents: one vote and an equal sum each.
    order, rounds = drive(SetwiseHeapsort(num_child=1, votes=9), 2, lambda docs: [1.0, 0.0])
    assert [sorted(asks) for asks in rounds] == [[(0, 1), (1, 0)]] and order == [(0, 2.0), (1, 1.0)]
