"""The engine: the scores of a naive forward, whatever the batches, and exactly counted costs."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from os.path import commonprefix
from typing import Any

import pytest
import tiny
import torch

from rerankkit import engine, prefixes, rows_ahead
from rerankkit.backbones.hf_causal import HFCausal
from rerankkit.bill import Costs
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.heads.generated_order import GeneratedOrder
from rerankkit.protocols import Ask, Batch, Group, Row
from rerankkit.registry import registry
from rerankkit.settings import Engine

GROUPS = [tiny.group(number, docs) for number, docs in enumerate((5, 1, 0, 3, 4), start=1)]
GROUPS[3].query += " " + tiny.sentence(99, 12)  # so that prefixes differ in length
WANTED = 1e-4


@cache
def parts(architecture: str = "llama", share_prefix: bool = True) -> Parts:
    return tiny.parts(architecture, share_prefix)


@cache
def naive(architecture: str) -> list[list[float]]:
    return [tiny.naive_scores(parts(architecture), group) for group in GROUPS]


def scores(of: Parts, groups: Sequence[Group], settings: Engine | None = None) -> tuple[list[list[float]], Costs]:
    """Scores in the documents' order, and what they cost."""
    orders, bill = engine.run(of, groups, settings or Engine())
    return [[score for _, score in sorted(order)] for order in orders], bill.total


def worst(left: list[list[float]], right: list[list[float]]) -> float:
    pairs = [(a, b) for row in zip(left, right, strict=True) for a, b in zip(*row, strict=True)]
    return max(abs(a - b) for a, b in pairs)


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_scores_are_those_of_a_naive_forward(architecture: str, share_prefix: bool, batch_tokens: int) -> None:
    of = parts(architecture, share_prefix)
    found, costs = scores(of, GROUPS, Engine(batch_tokens))
    assert worst(found, naive(architecture)) < WANTED
    assert (costs.prefix_saved > 0) == (share_prefix and architecture != "gemma2")


class OneTooEarly(SequenceCollator):
    """Reads the token before the answer, as a padded batch read at its end would."""

    def collate(self, rows: Sequence[Row], tokenizer: Any, prefixes: Sequence[tuple[int, ...]] = ()) -> Batch:
        batch = super().collate(rows, tokenizer, prefixes)
        return replace(batch, answer=(batch.answer - 1).clamp(min=0))


class Forgetful(SequenceCollator):
    """Lets the model see padding, by putting it on the left."""

    def collate(self, rows: Sequence[Row], tokenizer: Any, prefixes: Sequence[tuple[int, ...]] = ()) -> Batch:
        width = max(len(row.ids) for row in rows)
        return super().collate(
            [replace(row, ids=[0] * (width - len(row.ids)) + row.ids) for row in rows], tokenizer, prefixes
        )


@pytest.mark.parametrize("wrong", [OneTooEarly, Forgetful])
@pytest.mark.parametrize("share_prefix", [True, False])
def test_the_comparison_can_fail(wrong: type[SequenceCollator], share_prefix: bool) -> None:
    of = replace(parts("llama", share_prefix), collator=wrong(512))
    assert worst(scores(of, GROUPS)[0], naive("llama")) > 100 * WANTED


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_batch_mates_order_and_padding_change_nothing(architecture: str) -> None:
    of, group = parts(architecture), tiny.group(7, 12)
    alone = [scores(of, [Group(group.query, [doc])])[0][0][0] for doc in group.docs]
    expected = sorted(range(12), key=lambda i: -alone[i])
    shuffle = random.Random(1)
    for budget in (1, 100, 300, 5000):
        places = shuffle.sample(range(12), 12)
        mates = [tiny.group(8, 3), Group(group.query, [group.docs[i] for i in places]), tiny.group(9, 6, longest=90)]
        orders, _ = engine.run(of, mates, Engine(budget))
        assert [places[i] for i, _ in orders[1]] == expected
        assert max(abs(score - alone[places[i]]) for i, score in orders[1]) < 1e-5


def test_prefix_memory_changes_nothing_and_each_prefix_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    of, seen = parts(), []
    read = HFCausal.read_shared

    def spy(self: HFCausal, prefix: Any, before: Any) -> Any:
        seen.append([ids[mask.bool()].tolist() for ids, mask in zip(prefix.ids, prefix.mask, strict=True)])
        return read(self, prefix, before)

    monkeypatch.setattr(HFCausal, "read_shared", spy)
    groups = [tiny.group(number, 4) for number in range(20, 29)]
    expected = [tiny.naive_scores(of, group) for group in groups]
    for prefix_tokens in (1, 60, 10_000):
        for batch_tokens in (1, 200, 10_000):
            seen.clear()
            assert worst(scores(of, groups, Engine(batch_tokens, prefix_tokens))[0], expected) < WANTED
            prefixes = [tuple(prefix) for call in seen for prefix in call]
            assert len(prefixes) == len(set(prefixes)) == 9
            assert all(len(call) == 1 or sum(map(len, call)) <= prefix_tokens for call in seen)
            assert all(len(call) == 1 or len(call) * max(map(len, call)) <= batch_tokens for call in seen)


def test_two_groups_of_the_same_query_share_one_prefix() -> None:
    group = tiny.group(30, 3)
    twin = Group(group.query, list(group.docs))
    found, costs = scores(parts(), [group, twin])
    assert found[0] == pytest.approx(found[1], abs=1e-5) and costs.passes == 2


def test_costs_are_what_one_can_count_by_hand() -> None:
    words = tiny.tokenizer()
    group = Group("how do I open a file", ["the open function", "a cat sat on the mat", "a hill"])
    texts = [tiny.TEMPLATE.replace("{query}", group.query).replace("{document}", doc) for doc in group.docs]
    ids = [words(text)["input_ids"] for text in texts]
    prefix = len(commonprefix(ids)) - 1  # its last token may be another one before a document of a later round
    own = [len(row) - prefix for row in ids]
    assert prefix >= prefixes.SHORTEST_PREFIX

    costs = scores(parts(), [group])[1]
    assert (costs.prompts, costs.passes, costs.depth) == (3, 2, 1)
    assert costs.tokens == prefix + sum(own)
    assert costs.padding == 3 * max(own) - sum(own)
    assert costs.prefix_saved == 2 * prefix
    assert costs.tokens + costs.prefix_saved == sum(map(len, ids))
    assert costs.seconds > 0 and costs.as_dict()["prompts"] == 3

    plain = scores(parts(share_prefix=False), [group])[1]
    assert (plain.passes, plain.tokens, plain.prefix_saved) == (1, sum(map(len, ids)), 0)
    assert plain.padding == 3 * max(map(len, ids)) - sum(map(len, ids))

    one_by_one = scores(parts(), [group], Engine(batch_tokens=1))[1]
    assert (one_by_one.passes, one_by_one.padding, one_by_one.tokens) == (4, 0, costs.tokens)


def test_cuts_are_counted() -> None:
    docs = [tiny.sentence(1, 90), "a cat", tiny.sentence(2, 90), ""]
    groups = [Group("a cat", docs), Group(tiny.sentence(3, 90), docs[:3])]
    costs = scores(replace(parts(), collator=SequenceCollator(64)), groups)[1]
    # "a cat" is read whole, beside a query that fills the model too
    assert (costs.cut_documents, costs.cut_queries, costs.prompts + costs.cached) == (4, 3, 7)


def test_no_one_and_equal_documents() -> None:
    assert engine.run(parts(), [], Engine())[0] == []
    orders, bill = engine.run(parts(), [Group("a cat", []), Group("a cat", ["on the mat"])], Engine())
    assert orders[0] == [] and [position for position, _ in orders[1]] == [0]
    assert bill.total.prompts == 1 and bill.total.prefix_saved == 0
    assert engine.run(parts(), [Group("a cat", [])], Engine())[1].total.depth == 0
    (same,), bill = engine.run(parts(), [Group("a cat", ["on the mat"] * 5)], Engine())
    assert (bill.total.prompts, bill.total.cached) == (1, 4)
    assert [position for position, _ in same] == [0, 1, 2, 3, 4] and len({score for _, score in same}) == 1


def test_a_training_batch_has_the_scores_and_gradients_of_whole_prompts() -> None:
    """Both ways go through `encode` and `collate`; the shared prefix is part of the graph."""
    asks = [Ask(group, (i,)) for group in GROUPS if len(group.docs) > 1 for i in range(len(group.docs))]
    gradients, values = [], []
    for share_prefix in (True, False):
        of = parts("llama", share_prefix)
        batch = engine.collate(of, engine.encode(of, asks))
        assert (batch.shared is not None) == share_prefix
        found = engine.forward(of, batch)
        of.backbone.module.zero_grad()
        found.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in of.backbone.module.named_parameters()})
        values.append(found.detach())
    assert values[0].dtype == torch.float32 and torch.allclose(values[0], values[1], atol=1e-5)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-4 * gradient.abs().max().item()), name
        assert gradient.any(), name


def test_rows_with_and_without_a_prefix_make_one_batch() -> None:
    of = parts()
    asks = [Ask(group, (i,)) for group in GROUPS for i in range(len(group.docs))]
    batch = engine.collate(of, engine.encode(of, asks))  # the group of one document shares nothing
    assert batch.shared is None
    with torch.no_grad():
        found = engine.forward(of, batch).squeeze(1).tolist()
    assert worst([found], [[score for group in naive("llama") for score in group]]) < WANTED


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_names_query_and_document(bad: float, monkeypatch: pytest.MonkeyPatch) -> None:
    of, forward = parts(), engine.forward

    def poisoned(of: Parts, batch: Batch, state: object = None) -> torch.Tensor:
        found = forward(of, batch, state)
        return torch.where(found == found.max(), bad, found)

    monkeypatch.setattr(engine, "forward", poisoned)
    best = max(range(5), key=lambda i: naive("llama")[0][i])
    with pytest.raises(RunError) as refused:
        engine.run(of, GROUPS[:1], Engine())
    assert f"[{bad}] to query 'q1', document ['q1d{best}']" in str(refused.value)
    with pytest.raises(RunError) as refused:
        engine.run(of, [Group("a cat", ["on the mat"])], Engine())
    assert "to query 'a cat', document ['on the mat']" in str(refused.value)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    of, forward = parts(), engine.forward
    done: list[int] = []
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def tight(of: Parts, batch: Batch, state: object = None) -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in held))
        activations = torch.ones(3)
        held.append(weakref.ref(activations))
        if len(batch.answer) > 2:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")
        done.append(len(batch.answer))
        return forward(of, batch, state)

    monkeypatch.setattr(engine, "forward", tight)
    found, costs = scores(of, GROUPS)
    assert worst(found, naive("llama")) < WANTED
    assert sum(done) == costs.prompts == 13 and max(done) <= 2
    assert set(alive) == {0}, "a failed attempt keeps its memory while the halves are tried"

    monkeypatch.setattr(engine, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no 2 GiB")))
    with pytest.raises(RunError, match="out of memory with a single prompt of .* tokens: no 2 GiB"):
        engine.run(of, GROUPS, Engine())


def test_scores_of_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "forward", lambda of, batch, state=None: torch.zeros(len(batch.answer), 2))
    with pytest.raises(InputError, match="2 scores to a prompt of 1 documents: yes_no.v1 does not go with"):
        engine.run(parts(), GROUPS, Engine())


def test_every_batch_is_told_of() -> None:
    told: list[int] = []
    _, bill = engine.run(parts(), GROUPS, Engine(batch_tokens=100), answered=told.append)
    assert sum(told) == bill.total.prompts and len(told) > 2


def test_a_formatter_without_labels_is_told_of_one_that_has_some() -> None:
    of, head = tiny.parts(), GeneratedOrder()
    head.bind(of.backbone)
    with pytest.raises(InputError, match="gives them none; use one that does, such as ") as refused:
        engine.run(replace(of, head=head), GROUPS, Engine())
    assert str(refused.value).rpartition(" ")[2] in registry.formatters.names()


@pytest.mark.parametrize("at_once", [1, 5, 16, 40, 1024])
def test_asks_of_a_group_are_made_rows_together(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_ahead, "ENCODED_AT_ONCE", at_once)
    groups = [tiny.group(number, docs) for number, docs in enumerate((5, 1, 12, 3, 16, 16, 2, 0, 7), start=20)]
    asks = [Ask(group, (position,)) for group in groups for position in range(len(group.docs))]
    pieces = list(rows_ahead._pieces(asks))
    assert [ask for piece in pieces for ask in piece] == asks
    assert all(0 < len(piece) <= at_once for piece in pieces)
    for group in groups:
        over = sum(any(ask.group is group for ask in piece) for piece in pieces)
        assert over <= 1 or len(group.docs) > at_once
    assert list(rows_ahead._pieces([])) == []


def test_equal_documents_of_many_queries_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_ahead, "ENCODED_AT_ONCE", 50)
    texts = [tiny.sentence(number, 3 + number) for number in range(15)]
    groups = [Group(f"query {number} how do I open", texts * 2) for number in range(12)]
    orders, bill = engine.run(parts(), groups, Engine())
    assert bill.total.prompts == bill.total.cached == 15 * 12
    for order in orders:
        found = {position: (score, -place) for place, (position, score) in enumerate(order)}
        for position in range(15):
            assert found[position][0] == found[position + 15][0] and found[position] > found[position + 15]


@pytest.mark.parametrize("wrong", [{"batch_tokens": 0}, {"batch_tokens": -5}, {"prefix_tokens": -1}])
def test_budgets_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=rf"\[engine\] {name}: must be at least .*, got -?\d"):
        Engine(**wrong)
    found, _ = scores(parts(), GROUPS, Engine(prefix_tokens=0))
    assert worst(found, naive("llama")) < WANTED
