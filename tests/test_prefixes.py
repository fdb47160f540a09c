"""Prefixes: the same in every round, read once, and never reaching into what a round may change."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import tiny
import torch

from rerankkit import engine
from rerankkit.backbones.hf_causal import HFCausal
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.errors import RunError
from rerankkit.formatters.documents import Documents
from rerankkit.heads.choice import Choice
from rerankkit.prefixes import Beginnings, States, share, whole
from rerankkit.protocols import Ask, Asked, Group, Order, Role, Row
from rerankkit.rounds import Ranking, rounds
from rerankkit.settings import Engine
from rerankkit.strategies.all_pairs import AllPairs
from rerankkit.strategies.pairwise_heapsort import PairwiseHeapsort
from rerankkit.strategies.setwise_heapsort import SetwiseHeapsort


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
    group, other, known = Group("q", ["d"]), Group("r", ["d"]), Beginnings()
    first, second, stranger = row(50, 60), row(50, 61), row(51, 60)
    known.share([group], [first])
    assert known.tokens(group) == 11
    known.share([group, other], [second, stranger])
    assert (known.tokens(group), known.tokens(other)) == (11, 11)
    assert (first.shared, second.shared, stranger.shared) == ((), (*range(10), 50), ())


def test_a_document_that_runs_into_the_prompt_leaves_the_prefix_as_it_is() -> None:
    group, known = Group("q", ["d", "d"]), Beginnings()
    first, second, odd = row(50, 60), row(50, 61), row(50, 62)
    odd.ids[11], odd.roles[11] = 77, "document"  # the query's last token and the document's first letter are one token
    known.share([group] * 2, [first, second])
    known.share([group], [odd])
    assert first.shared == second.shared == odd.shared == (*range(10), 50)


def test_a_short_prefix_is_not_worth_a_pass() -> None:
    rows = [row(50, 60, fixed=4), row(50, 61, fixed=4)]
    share([Group("q", ["d", "d"])] * 2, rows)
    assert [r.shared for r in rows] == [(), ()]


def of_two(first: int, second: int, fixed: int = 10) -> Row:
    roles: list[Role] = [*["fixed"] * fixed, *["document"] * 9, "fixed", *["document"] * 9, "fixed"]  # type: ignore[list-item]
    return Row([*range(fixed), *[first] * 9, 7, *[second] * 9, 8], roles)


def test_the_first_of_several_documents_is_shared_after_the_stem() -> None:
    rows = [of_two(50, 60), of_two(50, 61), of_two(60, 50)]
    Beginnings().share([Group("q", ["d", "d"])] * 3, rows)
    stem = tuple(range(9))  # without its last token, which another round's document may run into
    assert [r.shared for r in rows] == [(*stem, 9, *[first] * 9) for first in (50, 50, 60)]
    assert [r.stem for r in rows] == [9] * 3
    assert rows[1].ids == [7, *[61] * 9, 8] and whole(rows[1]) == of_two(50, 61)


def test_a_stem_too_short_for_a_pass_is_read_with_the_document() -> None:
    rows = [of_two(50, 60, fixed=2), of_two(60, 50, fixed=2)]
    Beginnings().share([Group("q", ["d", "d"])] * 2, rows)
    assert [(len(r.shared), r.stem) for r in rows] == [(11, 0)] * 2


def test_rows_of_a_training_batch_share_their_stem_alone() -> None:
    rows = [of_two(50, 60), of_two(50, 61)]
    share([Group("q", ["d", "d"])] * 2, rows)
    assert [(len(r.shared), r.stem) for r in rows] == [(10, 0)] * 2


def test_the_least_recently_used_makes_room() -> None:
    states, read = States(20), list[Any]()
    one, two, three = (1,) * 8, (2,) * 8, (3,) * 9
    for shared in (one, two, one, three, one, two):
        for missing in states.missing([shared]):
            states[missing] = read.append(missing)
    assert read == [one, two, three, two]


def test_what_is_wanted_together_stays_though_it_be_more_than_there_is_room_for() -> None:
    states = States(5)
    states[(1,) * 8] = "one"
    assert states.missing([(1,) * 8, (2,) * 9]) == [(2,) * 9]
    assert states[(1,) * 8] == "one"
    assert states.missing([(3,)]) == [(3,)]
    assert states.missing([(1,) * 8]) == [(1,) * 8], "it has made room"


def test_rows_are_asked_together_as_there_is_room_for_what_they_share() -> None:
    rows = [Row([1], ["fixed"], shared=(number,) * length) for number, length in enumerate((9, 3, 8, 0, 2, 3))]
    rows += [rows[0]]
    assert list(States(12).companies(rows)) == [[3], [0, 6, 1], [2, 4], [5]]
    assert list(States(1).companies(rows)) == [[3], [0, 6], [1], [2], [4], [5]]
    kept = States(12)
    kept[rows[2].shared] = "at hand"
    assert list(kept.companies(rows)) == [[3], [2], [0, 6, 1], [4, 5]]
    assert list(States(18).companies([])) == []


class Reads:
    """What a model is given to read of prompts' beginnings: how many tokens of each, and after how many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read: list[tuple[int, int]] = []
        original = HFCausal.read_shared

        def spy(of: HFCausal, shared: Any, before: Any = ()) -> Any:
            lengths = shared.mask.sum(1).tolist()
            self.read += zip(lengths, map(len, before) if before else [0] * len(lengths), strict=True)
            return original(of, shared, before)

        monkeypatch.setattr(HFCausal, "read_shared", spy)


def comparing(strategy: Any) -> engine.Parts:
    """Parts that ask about several documents of which the tiny model names one."""
    model = tiny.backbone()
    template = "Which document of these is the one to answer the query {query} best?\n\n{documents}\n\nAnswer:\n"
    documents = Documents(template, "{label}: {document}", labels=["A", "B", "C", "D"], answers="{label}")
    head = Choice()
    head.bind(model)
    return engine.Parts(documents, SequenceCollator(512), model, head, strategy)


@pytest.mark.parametrize("strategy", [AllPairs(), PairwiseHeapsort(k=3), SetwiseHeapsort(k=3, num_child=3)])
def test_no_document_is_read_twice_in_first_place(strategy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [tiny.group(number, docs, longest=40) for number, docs in enumerate((6, 1, 3, 9), start=70)]
    alone = comparing(strategy)
    alone.backbone.shares_prefix = False
    expected, naive = engine.run(alone, groups, Engine())
    reads = Reads(monkeypatch)
    for settings in (Engine(), Engine(batch_tokens=50), Engine(batch_tokens=300, prefix_tokens=150)):
        reads.read.clear()
        orders, bill = engine.run(comparing(strategy), groups, settings)
        for found, wanted in zip(orders, expected, strict=True):
            assert [position for position, _ in found] == [position for position, _ in wanted]
            assert [score for _, score in found] == pytest.approx([score for _, score in wanted], abs=1e-4)
        assert bill.total.tokens + bill.total.prefix_saved == naive.total.tokens
        if settings == Engine():
            stems = [length for length, before in reads.read if not before]
            assert len(stems) <= 3 and len(reads.read) <= len(stems) + 6 + 3 + 9
            assert {before for _, before in reads.read if before} == set(stems)
            assert bill.total.prefix_saved > 0.2 * naive.total.tokens


def test_all_pairs_cost_each_document_once_in_first_place(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, group = Reads(monkeypatch), tiny.group(75, 4, longest=40)
    of = comparing(AllPairs())
    _, bill = engine.run(of, [group], Engine())
    (stem, _), *firsts = reads.read
    rows = engine.rows_of(of, [Ask(group, (a, b)) for a in range(4) for b in range(4) if a != b])
    assert len(firsts) == 4 and {before for _, before in firsts} == {stem}
    whole_prompts, shared = sum(len(row.ids) for row in rows), sum(length + stem for length, _ in firsts)
    assert (bill.total.prompts, bill.total.passes) == (12, 3)
    assert bill.total.tokens == stem + sum(length for length, _ in firsts) + whole_prompts - 3 * shared


def test_a_sequential_strategy_reads_each_prefix_once_and_scores_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    of = tiny.parts(strategy=OneByOne())
    groups = [tiny.group(number, docs) for number, docs in enumerate((6, 1, 3, 4, 0, 5), start=70)]
    naive = [tiny.naive_scores(of, group) for group in groups]
    for settings in (Engine(), Engine(batch_tokens=50), Engine(prefix_tokens=50), Engine(prefix_tokens=1)):
        reads.read.clear()
        orders, bill = engine.run(of, groups, settings)
        for order, expected in zip(orders, naive, strict=True):
            assert [score for _, score in sorted(order)] == pytest.approx(expected, abs=1e-4)
        assert len(reads.read) == 4, "two queries end before a second round"
        assert (bill.total.depth, bill.total.prompts) == (6, 19)


def test_too_little_memory_to_read_prefixes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    most, original = [1], HFCausal.read_shared

    def tight(of: HFCausal, shared: Any, before: Any = ()) -> Any:
        if len(shared.ids) > most[0]:
            raise torch.OutOfMemoryError("no 2 GiB")
        return original(of, shared, before)

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
