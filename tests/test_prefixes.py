"""Prefixes: the same in every round, read once, and never reaching into what a round may change."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import tiny
import torch

from rerankkit import engine
from rerankkit.backbones.hf_causal import HFCausal
from rerankkit.errors import RunError
from rerankkit.prefixes import States, share, whole
from rerankkit.protocols import Asked, Group, Order, Role, Row
from rerankkit.rounds import Ranking, rounds
from rerankkit.settings import Engine


class OneByOne:
    """Asks about one document after another: as sequential as can be."""

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        order = []
        for position in range(len(group.docs)):
            ((score,),) = yield [(position,)]
            order.append((position, score))
        return sorted(order, key=lambda ranked: -ranked[1])

    def training_asks(self, group: Group) -> list[Asked]:
        return [(position,) for position in range(len(group.docs))]


def row(query: int, document: int, scored: list[int] | None = None, fixed: int = 10) -> Row:
    roles: list[Role] = [*["fixed"] * fixed, "query", "query", "document", "document", "fixed"]  # type: ignore[list-item]
    return Row([*range(fixed), query, query, document, document, 9], roles, scored=scored)


def test_no_prefix_reaches_into_a_document() -> None:
    group, rows = Group("q", ["d", "d"]), [row(50, 60), row(50, 60)]
    share([group] * 2, rows)
    assert [r.shared for r in rows] == [(*range(10), 50, 50)] * 2 and rows[0].ids == [60, 60, 9]


def test_the_token_before_the_first_scored_one_is_no_prefix() -> None:
    scored = [-1] * 11 + [0] * 4
    group, rows = Group("q", ["d", "d"]), [row(50, 60, list(scored)), row(50, 61, list(scored))]
    share([group] * 2, rows)
    assert rows[0].shared == tuple(range(10)) and rows[0].scored == [-1, 0, 0, 0, 0]
    assert whole(rows[0]).ids == row(50, 60).ids and whole(rows[0]).scored == scored


def test_a_lone_row_is_divided_from_its_second_round_on() -> None:
    group, other, known = Group("q", ["d"]), Group("r", ["d"]), dict[int, tuple[int, ...]]()
    first, second, stranger = row(50, 60), row(50, 61), row(51, 60)
    share([group], [first], known)
    share([group, other], [second, stranger], known)
    assert (first.shared, second.shared, stranger.shared) == ((), (*range(10), 50), ())


def test_a_document_that_runs_into_the_prompt_leaves_the_prefix_as_it_is() -> None:
    group, known = Group("q", ["d", "d"]), dict[int, tuple[int, ...]]()
    first, second, odd = row(50, 60), row(50, 61), row(50, 62)
    odd.ids[11], odd.roles[11] = 77, "document"  # the query's last token and the document's first letter are one token
    share([group] * 2, [first, second], known)
    share([group], [odd], known)
    assert first.shared == second.shared == odd.shared == (*range(10), 50)


def test_a_short_prefix_is_not_worth_a_pass() -> None:
    rows = [row(50, 60, fixed=4), row(50, 61, fixed=4)]
    share([Group("q", ["d", "d"])] * 2, rows)
    assert [r.shared for r in rows] == [(), ()]


def test_the_least_recently_used_makes_room() -> None:
    states, read = States(20), list[Any]()
    one, two, three = ((1,) * 8,), ((2,) * 8,), ((3,) * 9,)
    for shared in (one, two, one, three, one, two):
        states.get(shared, lambda wanted: read.append(wanted) or wanted)
    assert read == [one, two, three, two]


def test_shared_parts_of_like_length_are_read_together() -> None:
    rows = [Row([1], ["fixed"], shared=(number,) * length) for number, length in enumerate((9, 3, 8, 2, 3))]
    sets = [[len(one) for one in shared] for shared, _ in States(18).chunks(rows)]
    assert sorted(sets) == [[3, 3, 2], [9, 8]]
    assert States(18).chunks(rows)[-1][0][0] == (1,) * 3, "what the last row shares may be asked for next"
    assert States(18).chunks([]) == []


def test_a_sequential_strategy_reads_each_prefix_once_and_scores_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    read, original = list[int](), HFCausal.read_shared
    monkeypatch.setattr(
        HFCausal, "read_shared", lambda of, shared: (read.append(len(shared.ids)), original(of, shared))[1]
    )
    of = tiny.parts(strategy=OneByOne())
    groups = [tiny.group(number, docs) for number, docs in enumerate((6, 1, 3, 4, 0, 5), start=70)]
    naive = [tiny.naive_scores(of, group) for group in groups]
    for settings in (Engine(), Engine(batch_tokens=50), Engine(prefix_tokens=50), Engine(prefix_tokens=1)):
        read.clear()
        orders, bill = engine.run(of, groups, settings)
        for order, expected in zip(orders, naive, strict=True):
            assert [score for _, score in sorted(order)] == pytest.approx(expected, abs=1e-4)
        assert sum(read) == 4, "two queries end before a second round"
        assert (bill.total.depth, bill.total.prompts) == (6, 19)


def test_too_little_memory_to_read_prefixes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    most, original = [1], HFCausal.read_shared

    def tight(of: HFCausal, shared: Any) -> Any:
        if len(shared.ids) > most[0]:
            raise torch.OutOfMemoryError("no 2 GiB")
        return original(of, shared)

    monkeypatch.setattr(HFCausal, "read_shared", tight)
    of, groups = tiny.parts(), [tiny.group(number, 3) for number in range(80, 85)]
    orders, bill = engine.run(of, groups, Engine())
    for group, order in zip(groups, orders, strict=True):
        assert [score for _, score in sorted(order)] == pytest.approx(tiny.naive_scores(of, group), abs=1e-4)
    assert bill.total.passes == 10
    most[0] = 0
    with pytest.raises(RunError, match="out of memory reading .* tokens that prompts share: no 2 GiB"):
        engine.run(of, groups, Engine())


def test_queries_go_on_in_companies_that_fit() -> None:
    rankings = [Ranking(n, Group(f"q{n}", ["d"] * 3), OneByOne()) for n in range(8)]
    sizes = []
    for together in rounds(rankings, lambda group: 10, 35):
        sizes.append(sum(ranking.rounds > 0 for ranking in together))
        for ranking in together:
            ranking.answer([[0.0] for _ in ranking.asks])
    assert all(ranking.order is not None for ranking in rankings)
    assert sizes == [0, 3, 3, 3, 3, 2, 2]
