"""The bill: counts that can be made by hand, of each query and in total."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console
from test_prefixes import OneByOne

from rerankkit import engine
from rerankkit.bill import Bill, Costs
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.errors import InputError
from rerankkit.formatters.documents import Documents
from rerankkit.heads.choice import Choice
from rerankkit.protocols import Ask, Batch, Group, Hidden, Piece, Prompt, Reading, Strategy
from rerankkit.settings import Engine
from rerankkit.strategies.setwise_heapsort import SetwiseHeapsort
from rerankkit.strategies.setwise_insertion import SetwiseInsertion
from rerankkit.strategies.sliding_window import SlidingWindow

ANSWERS = ("yes", "no", "cat", "file")
ADDITIVE = ("prompts", "tokens", "padding", "prefix_saved", "generated", "cut_documents", "cut_queries", "cached")


def lengths(group: Group) -> list[int]:
    texts = [tiny.TEMPLATE.replace("{query}", group.query).replace("{document}", doc) for doc in group.docs]
    return [len(tiny.tokenizer()(text)["input_ids"]) for text in texts]


def prefix(group: Group) -> int:
    """What every round shares: all before the document but the last token, which a document may run into."""
    return len(tiny.tokenizer()(f"Query: {group.query}\nDocument:")["input_ids"]) - 1


def test_each_query_pays_for_its_own_rows() -> None:
    of, groups = tiny.parts(), [tiny.group(1, 3), tiny.group(2, 1), tiny.group(3, 0)]
    _, bill = engine.run(of, groups, Engine(batch_tokens=10_000))
    three, one, none = bill.queries
    (shared,), own = {prefix(groups[0])}, lengths(groups[0])
    assert (three.prompts, three.passes, three.depth) == (3, 2, 1)  # the prefix, then what follows it
    assert three.tokens == sum(own) - 2 * shared and three.prefix_saved == 2 * shared
    assert three.padding == 3 * max(own) - sum(own)
    assert (one.prompts, one.passes, one.tokens, one.padding) == (1, 1, lengths(groups[1])[0], 0)
    assert none == Costs()
    assert bill.total.passes == 3 and bill.total.depth == 1
    for name in ADDITIVE:
        assert getattr(bill.total, name) == sum(getattr(costs, name) for costs in bill.queries), name
    assert 0 < three.seconds + one.seconds < bill.total.seconds


def test_a_pass_counts_once_for_each_query_in_it() -> None:
    of, groups = tiny.parts(share_prefix=False), [tiny.group(1, 3), tiny.group(2, 2)]
    _, bill = engine.run(of, groups, Engine(batch_tokens=10_000))
    assert (bill.total.passes, [costs.passes for costs in bill.queries]) == (1, [1, 1])
    longest = max(lengths(groups[0]) + lengths(groups[1]))
    assert [c.padding for c in bill.queries] == [len(g.docs) * longest - sum(lengths(g)) for g in groups]


def test_a_sequential_strategy_saves_its_prefix_from_the_third_round_on() -> None:
    group = tiny.group(1, 4)
    _, bill = engine.run(tiny.parts(strategy=OneByOne()), [group], Engine())
    (own,) = bill.queries
    # round 1 whole; round 2 reads the prefix and goes on from it; rounds 3 and 4 have it at hand
    assert (own.passes, own.depth, own.prompts, own.padding) == (5, 4, 4, 0)
    assert own.prefix_saved == 2 * prefix(group) and own.tokens == sum(lengths(group)) - 2 * prefix(group)


def asked_one_by_one(of: engine.Parts, group: Group) -> Iterator[list[int]]:
    """The lengths of each round's prompts, each asked by itself, with texts that are joined and tokenized here."""
    words, rounds = of.backbone.tokenizer, of.strategy.rank(group)
    letters = [words(f" {word}", add_special_tokens=False)["input_ids"][0] for word in ANSWERS]
    try:
        asks = next(rounds)
        while True:
            lengths, scores = [], []
            for docs in asks:
                listed = "\n".join(f"[{name}] {group.docs[at]}" for name, at in zip("ABCD", docs, strict=False))
                ids = words(f"{group.query}\n{listed}\nBest:")["input_ids"]
                with torch.no_grad():
                    logits = of.backbone.module(input_ids=torch.tensor([ids])).logits[0, -1]
                lengths.append(len(ids))
                scores.append([logits[token].item() for token in letters[: len(docs)]])
            yield lengths
            asks = rounds.send(scores)
    except StopIteration:
        pass


@pytest.mark.parametrize("strategy", [SetwiseHeapsort(k=3), SetwiseInsertion(k=2), SlidingWindow(window=4, step=2)])
def test_what_a_sort_asks_is_counted_prompt_by_prompt(strategy: Strategy) -> None:
    of = tiny.parts(share_prefix=False)
    template, letters = "{query}\n{documents}\nBest:", ["A", "B", "C", "D"]
    answers = [f" {word}" for word in ANSWERS]
    formatter = Documents(template, "[{label}] {document}", "\n", labels=letters, answers=answers)
    of, groups = (
        replace(of, formatter=formatter, head=Choice(), strategy=strategy),
        [tiny.group(1, 9), tiny.group(2, 6)],
    )
    of.head.bind(of.backbone)
    naive = [list(asked_one_by_one(of, group)) for group in groups]
    for group, rounds in zip(groups, naive, strict=True):
        _, bill = engine.run(of, [group], Engine(batch_tokens=100_000))
        for costs in (bill.total, *bill.queries):
            assert (costs.prompts, costs.depth, costs.cached) == (sum(map(len, rounds)), len(rounds), 0)
            assert costs.tokens == sum(map(sum, rounds))
            assert costs.padding == sum(len(one) * max(one) - sum(one) for one in rounds)
    assert len(naive[0]) > 2
    _, together = engine.run(of, groups, Engine())
    for costs, rounds in zip(together.queries, naive, strict=True):
        assert (costs.prompts, costs.tokens) == (sum(map(len, rounds)), sum(map(sum, rounds)))


@dataclass(frozen=True)
class Listed:
    """Shows all documents at once, by numbers."""

    labelled: bool = True

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        pieces = [Piece(f"Query: {ask.group.query}", "query")]
        for number, position in enumerate(ask.docs, start=1):
            pieces += [Piece(f"\n[{number}] ", "fixed"), Piece(ask.group.docs[position], "document")]
        labels = tuple(f"[{number + 1}]" for number in range(len(ask.docs)))
        return Prompt((*pieces, Piece("\nAnswer:", "fixed")), labels=labels if self.labelled else ())


class AllAtOnce(OneByOne):
    def rank(self, group: Group) -> Any:
        (scores,) = yield [tuple(range(len(group.docs)))]
        return sorted(enumerate(scores), key=lambda ranked: -ranked[1])


@dataclass
class Reads:
    """Counts how often the model wrote " yes" for all documents; a fault where it wrote anything else."""

    max_new_tokens: int = 4
    module: Any = None

    def bind(self, backbone: Any) -> None: ...

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        raise AssertionError("only in training")

    def read(self, answer: str, labels: Any) -> Reading:
        faults = {"odd": answer.count("no"), "never": 0} if "no" in answer else {}
        return Reading([float(answer.count("yes"))] * len(labels), faults)


class Silent:
    def __init__(self) -> None:
        inner = tiny.backbone()
        self.tokenizer, self.module, self.shares_prefix = inner.tokenizer, inner.module, True

    def read_shared(self, shared: Any, before: Any = ()) -> Any: ...

    def hidden(self, batch: Batch, states: Any = None) -> Any: ...

    def save(self, folder: Any) -> None: ...


class Writes(Silent):
    """Writes " yes" once more than a prompt has documents, or " no no"; rows must be whole."""

    def write(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        assert batch.shared is None and max_new_tokens == 4
        yes, no = (self.tokenizer(text)["input_ids"][0] for text in (" yes", " no"))
        texts = [self.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(batch.tokens.ids, batch.tokens.mask)]  # noqa: B905
        return [[no, no] if "rain" in text else [yes] * (text.count("\n[") + 1) for text in texts]


def test_answers_in_words_are_read_and_their_faults_counted() -> None:
    of = engine.Parts(Listed(), SequenceCollator(512), Writes(), Reads(), AllAtOnce())
    groups = [Group("a cat sat on the mat", ["on", "the mat"]), Group("a cat sat on the mat", ["rain", "a hill"])]
    orders, bill = engine.run(of, groups, Engine())
    assert orders == [[(0, 3.0), (1, 3.0)], [(0, 0.0), (1, 0.0)]]
    right, wrong = bill.queries
    assert (right.generated, right.parse_failures, right.faults) == (3, 0, {})
    assert (wrong.generated, wrong.parse_failures, wrong.faults) == (2, 1, {"odd": 2})
    # three tokens and the one that ends the answer
    assert (bill.total.passes, right.passes, wrong.passes, bill.total.generated) == (4, 4, 4, 5)
    assert bill.total.faults == {"odd": 2} and bill.total.prefix_saved == 0
    assert right.tokens == len(
        tiny.tokenizer()("Query: a cat sat on the mat\n[1] on\n[2] the mat\nAnswer:")["input_ids"]
    )


def test_what_an_encoder_reads_counts_in_a_batch_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as an encoder-decoder has them: the prompt in `shared`, hardly anything of their own."""

    class Apart(SequenceCollator):
        def encode(self, prompts: Any, tokenizer: Any) -> Any:
            return [replace(row, shared=tuple(row.ids), ids=[0]) for row in super().encode(prompts, tokenizer)]

    class Sized(Writes):
        def write(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
            assert batch.shared is not None
            rows.append(len(batch.shared.ids))
            return [[1, 2]] * len(batch.answer)

    rows: list[int] = []
    of = engine.Parts(Listed(), Apart(512), Sized(), Reads(), AllAtOnce())
    groups = [Group(f"a cat {word}", ["on", "the mat"]) for word in tiny.WORDS[:6]]
    _, bill = engine.run(of, groups, Engine(batch_tokens=60))
    assert sum(rows) == 6 and len(rows) > 1
    lengths = [
        len(row.shared)
        for row in of.collator.encode([Listed().format(Ask(g, (0, 1)), None) for g in groups], of.backbone.tokenizer)
    ]
    assert bill.total.tokens == sum(lengths) + 6 and bill.total.prefix_saved == 0
    # of each batch the encoder's pass, and three of the decoder's: two tokens and the one that ends them
    assert bill.total.passes == 4 * len(rows) and bill.total.generated == 12


def test_parts_that_do_not_go_together_say_what_to_do() -> None:
    of = engine.Parts(Listed(), SequenceCollator(512), Writes(), Reads(), AllAtOnce())
    group = Group("a cat", ["on", "the mat"])
    with pytest.raises(InputError, match="the head Reads reads what .* the backbone Silent writes nothing; use one"):
        engine.run(replace(of, backbone=Silent()), [group], Engine())
    with pytest.raises(InputError, match="the formatter Listed gives them none; use one that does"):
        engine.run(replace(of, formatter=Listed(labelled=False)), [group], Engine())
    logits = tiny.parts()
    with pytest.raises(
        InputError, match=r"gave 1 scores to a prompt of 2 documents: yes_no.v1 .* Listed .* AllAtOnce asks; use"
    ):
        engine.run(replace(logits, formatter=Listed(), strategy=AllAtOnce()), [group], Engine())


def test_rows_of_fewer_documents_give_fewer_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    of = replace(tiny.parts(), formatter=Listed(), strategy=AllAtOnce())
    grid = lambda of, batch, state=None: torch.arange(3.0).repeat(len(batch.answer), 1)  # noqa: E731
    monkeypatch.setattr(engine, "forward", grid)
    orders, _ = engine.run(of, [Group("a cat", ["on", "the mat"]), Group("a cat", ["a", "b", "c"])], Engine())
    assert orders == [[(1, 1.0), (0, 0.0)], [(2, 2.0), (1, 1.0), (0, 0.0)]]


def test_table_and_json() -> None:
    bill = Bill(Costs(prompts=5, depth=3, faults={"missing": 2}, seconds=1.5), [Costs(prompts=1), Costs(prompts=4)])
    bill.queries[1].faults = {"missing": 2}
    bill.total.warnings = {"documents_cut": 3}
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(bill.table())
    lines = {
        line.split("│")[1].strip(): line.split("│")[2:5] for line in console.export_text().split("\n") if "│" in line
    }
    assert [cell.strip() for cell in lines["prompts"]] == ["5", "2.50", "4"]
    assert [cell.strip() for cell in lines["fault: missing"]] == ["2", "1", "2"]
    assert [cell.strip() for cell in lines["warning: documents cut"]] == ["3", "0", "0"]
    assert len(lines) == len(fields(Costs))
    said = bill.as_dict(["q1", "q2"], {"queries_left_out": 1})
    assert said["warnings"] == {"queries_left_out": 1} and said["total"]["warnings"] == {"documents_cut": 3}
    assert said["total"]["faults"] == {"missing": 2} and said["queries"]["q2"]["prompts"] == 4
