"""Strategies of third parties, which ask in rounds: batched across queries without knowing it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import tiny
import torch

from rerankkit import engine, rounds
from rerankkit.bill import Costs
from rerankkit.causal_lm import token_logits
from rerankkit.engine import Parts
from rerankkit.errors import RunError
from rerankkit.protocols import Ask, Asked, Backbone, Batch, Group, Hidden, Order, Piece, Prompt
from rerankkit.registry import registry
from rerankkit.settings import Engine

GROUPS = [tiny.group(number, docs, longest=12) for number, docs in enumerate((5, 0, 1, 7, 2, 4), start=40)]
Steps = Generator[list[Asked], list[list[float]], Order]


@cache
def parts() -> Parts:
    return tiny.parts("qwen3")


class Heapsort:
    """Compares two documents at a time, each by its score alone; the order is that of a heap."""

    def rank(self, group: Group) -> Steps:
        heap = list(range(len(group.docs)))
        for start in reversed(range(len(heap) // 2)):
            yield from self._sink(heap, start, len(heap))
        for end in range(len(heap) - 1, 0, -1):
            heap[0], heap[end] = heap[end], heap[0]
            yield from self._sink(heap, 0, end)
        return [(position, float(-rank)) for rank, position in enumerate(heap)]

    def _sink(self, heap: list[int], node: int, end: int) -> Generator[list[Asked], list[list[float]], None]:
        """The least relevant rises, so that it is taken off first and ends up last."""
        while 2 * node + 1 < end:
            child = 2 * node + 1
            if child + 1 < end and (yield from self._worse(heap[child + 1], heap[child])):
                child += 1
            if not (yield from self._worse(heap[child], heap[node])):
                return
            heap[child], heap[node] = heap[node], heap[child]
            node = child

    def _worse(self, one: int, other: int) -> Generator[list[Asked], list[list[float]], bool]:
        (first,), (second,) = yield [(one,), (other,)]
        return first > second

    def training_asks(self, group: Group) -> list[Asked]:
        return [(position,) for position in range(len(group.docs))]


def test_a_heapsort_is_batched_across_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    of = replace(parts(), strategy=Heapsort())
    alone = [engine.run(of, [group], Engine()) for group in GROUPS]
    together, bill = engine.run(of, GROUPS, Engine())
    costs = bill.total
    assert together == [orders[0] for orders, _ in alone]
    for group, order in zip(GROUPS, together, strict=True):
        naive = tiny.naive_scores(parts(), group)
        worst_first = sorted(range(len(naive)), key=lambda i: naive[i])
        assert [position for position, _ in order] == worst_first
    each = [alone_bill.total for _, alone_bill in alone]
    assert costs.prompts == sum(cost.prompts for cost in each)
    assert costs.depth == max(cost.depth for cost in each) > 10
    assert costs.passes <= 3 * costs.depth  # in a round: prefixes, what follows them, prompts without one
    assert costs.passes < 0.6 * sum(cost.passes for cost in each)

    finished: list[int] = []
    monkeypatch.setattr(rounds, "ACTIVE_GROUPS", 2)
    few, bill = engine.run(of, GROUPS, Engine(), lambda: finished.append(1))
    less_batched = bill.total
    assert few == together and len(finished) == len(GROUPS)
    assert (less_batched.prompts, less_batched.depth) == (costs.prompts, costs.depth)


def test_no_more_queries_are_under_way_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "ACTIVE_GROUPS", 3)
    under_way: list[str] = []
    most: list[int] = []

    class Watched(Heapsort):
        def rank(self, group: Group) -> Steps:
            under_way.append(group.qid)
            most.append(len(under_way))
            order = yield from super().rank(group)
            under_way.remove(group.qid)
            return order

    engine.run(replace(parts(), strategy=Watched()), GROUPS * 2, Engine())
    assert max(most) <= 3 and under_way == [] and len(most) == 2 * len(GROUPS)


@dataclass(frozen=True)
class Pair:
    """Shows two documents."""

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        first, second = (ask.group.docs[position] for position in ask.docs)
        return Prompt(
            (
                Piece("Query: ", "fixed"), Piece(ask.group.query, "query"), Piece("\nDocument: ", "fixed"),
                Piece(first, "document"), Piece("\nDocument: ", "fixed"), Piece(second, "document"),
                Piece("\nAnswer:", "fixed"),
            )
        )  # fmt: skip


@dataclass
class FirstOrSecond:
    """The logits of " yes" and " no" as the scores of the first and the second document."""

    module: Any = None

    def bind(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.ids = backbone.tokenizer(" yes no")["input_ids"]

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        answer = hidden.states[torch.arange(len(batch.answer)), batch.answer]
        return token_logits(answer, self.backbone.vocabulary(self.ids))  # [rows, 2]


@dataclass
class RoundRobin:
    """Every pair in both orders, in two rounds; a document's score is the sum of its differences."""

    def rank(self, group: Group) -> Steps:
        n = len(group.docs)
        total = [0.0] * n
        for forward in (True, False):
            asks = [(i, j) for i in range(n) for j in range(n) if (i < j) == forward and i != j]
            for (i, j), (first, second) in zip(asks, (yield list(asks)), strict=True):
                total[i] += first - second
                total[j] += second - first
        return sorted(enumerate(total), key=lambda ranked: -ranked[1])

    def training_asks(self, group: Group) -> list[Asked]:
        return [(i, i + 1) for i in range(0, len(group.docs) - 1, 2)]


def test_two_documents_in_one_prompt() -> None:
    head = FirstOrSecond()
    head.bind(parts().backbone)
    of = Parts(Pair(), parts().collator, parts().backbone, head, RoundRobin())
    group = tiny.group(3, 4, longest=9)
    (order,), bill = engine.run(of, [group], Engine(batch_tokens=150))

    words, model = of.backbone.tokenizer, of.backbone.module
    total = [0.0] * 4
    for i in range(4):
        for j in range(4):
            text = f"Query: {group.query}\nDocument: {group.docs[i]}\nDocument: {group.docs[j]}\nAnswer:"
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([words(text)["input_ids"]])).logits[0, -1, head.ids]
            total[i] += (logits[0] - logits[1]).item() * (i != j)
            total[j] -= (logits[0] - logits[1]).item() * (i != j)
    assert [position for position, _ in order] == sorted(range(4), key=lambda i: -total[i])
    assert max(abs(score - total[position]) for position, score in order) < 1e-4
    assert (bill.total.prompts, bill.total.depth) == (12, 2)


TWO_AT_A_TIME: dict[str, dict[str, int]] = {
    "all_pairs.v1": {}, "pairwise_heapsort.v1": {"k": 3}, "pairwise_bubblesort.v1": {"k": 3},
    "setwise_heapsort.v1": {"num_child": 1}, "setwise_bubblesort.v1": {"num_child": 1, "votes": 2},
    "setwise_insertion.v1": {"k": 2, "num_child": 1}, "tournament.v1": {"k": 3, "num_child": 1},
    "sliding_window.v1": {"window": 2, "step": 1, "repeats": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", TWO_AT_A_TIME)
def test_our_strategies_are_batched_across_queries(name: str) -> None:
    head = FirstOrSecond()
    head.bind(parts().backbone)
    strategy = registry.strategies.get(name)(**TWO_AT_A_TIME[name])
    of = Parts(Pair(), parts().collator, parts().backbone, head, strategy)
    alone = [engine.run(of, [group], Engine()) for group in GROUPS]
    together, bill = engine.run(of, GROUPS, Engine())
    costs = bill.total
    assert [[position for position, _ in order] for order in together] == [
        [position for position, _ in order] for (order,), _ in alone
    ]
    assert costs.prompts == sum(cost.total.prompts for _, cost in alone) > 0
    assert costs.depth == max(cost.total.depth for _, cost in alone) > 0
    assert costs.passes < sum(cost.total.passes for _, cost in alone)


def stating(*rounds: list[Asked], end: Any) -> Any:
    """A strategy that asks what is listed and returns `end`."""

    class Stating(Heapsort):
        def rank(self, group: Group) -> Steps:
            for asks in rounds:
                _ = yield asks
            return end

    return Stating()


def run(strategy: Any, docs: Sequence[str] = ("on", "the mat")) -> tuple[list[Order], Costs]:
    orders, bill = engine.run(replace(parts(), strategy=strategy), [Group("a cat", list(docs))], Engine())
    return orders, bill.total


def test_a_strategy_may_return_at_once_or_ask_for_nothing() -> None:
    given = [(1, 2.0), (0, 1.0)]
    assert run(stating(end=given))[0] == [given]
    orders, costs = run(stating([], [(0,)], [], end=given))
    assert orders == [given] and (costs.prompts, costs.depth) == (1, 1)


@pytest.mark.parametrize("end", [None, [], [(0, 1.0)], [(0, 1.0), (0, 2.0)], [(0, 1.0), (2, 2.0)], [0, 1], 7])
def test_an_order_that_is_none_is_refused(end: Any) -> None:
    with pytest.raises(RunError, match=r"the strategy returned .*; it must return \(position, score\) of each of 2 "):
        run(stating([(0,), (1,)], end=end))


@pytest.mark.parametrize("asked", [(2,), (-1,), (), (0, 5)])
def test_documents_that_do_not_exist_are_refused(asked: Asked) -> None:
    with pytest.raises(RunError, match=r"the strategy asks for documents \(.*\) of a query that has 2, counted from 0"):
        run(stating([(0,)], [(1,), asked], end=[(0, 1.0), (1, 0.0)]))
