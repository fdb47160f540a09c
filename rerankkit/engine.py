"""Many asks of many queries -> token-budget batches -> scores.

The engine advances the strategies of many queries together and fills its batches across them, so that every strategy
is batched without knowing it. What the work cost is counted here and nowhere else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from rerankkit.answer_tokens import written_text
from rerankkit.bill import Bill
from rerankkit.errors import InputError, RunError
from rerankkit.evaluation_mode import evaluation_mode
from rerankkit.parts import Parts as Parts
from rerankkit.parts import rows_of
from rerankkit.prefixes import Beginnings, Shared, States, share, shared_by, whole
from rerankkit.protocols import (
    AnswerReader,
    Ask,
    Batch,
    Group,
    LateInteraction,
    Order,
    Reading,
    Row,
    Tokens,
    Writer,
)
from rerankkit.registry import registry
from rerankkit.rounds import Ranking, rounds
from rerankkit.rows_ahead import rows_ahead
from rerankkit.score_cache import Answers
from rerankkit.settings import Engine
from rerankkit.token_budget import batches
from rerankkit.truncation import TruncationWarnings
from rerankkit.warnings import warn


def encode(parts: Parts, asks: Sequence[Ask]) -> list[Row]:
    """The tokens of each ask, with the beginning that a group's prompts have in common set apart.

    Training and ranking make the same rows, so a prompt cannot differ between them.
    """
    rows = rows_of(parts, asks)
    if _shares(parts):
        share([ask.group for ask in asks], rows)
    return rows


def collate(parts: Parts, rows: Sequence[Row]) -> Batch:
    """One batch of rows with what they share."""
    shared = shared_by(rows)
    if shared and not all(row.shared for row in rows):
        rows, shared = [whole(row) for row in rows], []
    return parts.collator.collate(rows, parts.backbone.tokenizer, shared)


def forward(parts: Parts, batch: Batch, states: Sequence[Any] | None = None) -> torch.Tensor:
    """Scores [rows, docs asked], float32.

    Args:
        states: Of what the batch shares, where it was read before.
    """
    if batch.tokens.compared is not None and not isinstance(parts.head, LateInteraction):
        raise InputError(
            "the collator tokenizes query and document apart, and this head would read the document alone; give it "
            "maxsim.v1, or the collator pair.v1 or sequence.v1"
        )
    return parts.head.score(parts.backbone.hidden(batch, states), batch).float()


def forward_all(parts: Parts, batch: Batch) -> torch.Tensor:
    """Scores of every query of the batch with every row, [queries, rows], float32; for heads of late interaction."""
    assert isinstance(parts.head, LateInteraction)
    return parts.head.score_all(parts.backbone.hidden(batch), batch).float()


def run(
    parts: Parts,
    groups: Sequence[Group],
    settings: Engine,
    finished: Callable[[], None] = lambda: None,
    answers: Answers | None = None,
    answered: Callable[[int], None] = lambda prompts: None,
    of_passages: bool = False,
) -> tuple[list[Order], Bill]:
    """Rank every group, in the order given; `finished` is called as each one is done.

    Args:
        answers: What the model has answered before; what it answers now is added batch by batch.
        answered: Is told after each batch how many prompts it had.
        of_passages: Whether the documents are passages of others, for what is warned of.
    """
    start = time.perf_counter()
    scoring = Scoring(parts, settings, Bill.blank(len(groups)), answers, answered, of_passages)
    rankings = [Ranking(number, group, parts.strategy) for number, group in enumerate(groups)]
    for together in rounds(rankings, scoring.shared_tokens, settings.prefix_tokens):
        asking = [ranking for ranking in together if ranking.order is None]
        asks = [(Ask(ranking.group, docs), ranking.number) for ranking in asking for docs in ranking.asks]
        scores = iter(scoring.score([ask for ask, _ in asks], [number for _, number in asks]))
        for ranking in asking:
            ranking.answer([next(scores) for _ in ranking.asks])
        for ranking in together:
            if ranking.order is not None:
                for costs in scoring.bill.of(ranking.number):
                    costs.depth = max(costs.depth, ranking.rounds)
                finished()
    scoring.bill.total.seconds = time.perf_counter() - start
    return [ranking.order or [] for ranking in rankings], scoring.bill


@dataclass(slots=True)
class _Question:
    """An ask on its way to its answer.

    Args:
        query: Which of the bill's queries pays for it.
        key: What the cache knows it by.
    """

    ask: Ask
    query: int
    row: Row
    key: bytes = b""
    reading: Reading | None = None


class Scoring:
    """Asks a model what strategies want to know, in batches of like length, and counts what that costs.

    Args:
        bill: Costs are added to it.
        answers: What the model has answered before.
        answered: Is told after each batch how many prompts it had.
        of_passages: Whether the documents are passages of others.
    """

    def __init__(
        self,
        parts: Parts,
        settings: Engine,
        bill: Bill,
        answers: Answers | None = None,
        answered: Callable[[int], None] = lambda prompts: None,
        of_passages: bool = False,
    ) -> None:
        self.parts, self.settings, self.bill, self.answers, self._answered = parts, settings, bill, answers, answered
        self._beginnings = Beginnings()
        self._states = States(settings.prefix_tokens)
        self._truncation = TruncationWarnings(of_passages)
        if isinstance(parts.head, AnswerReader) and not isinstance(parts.backbone, Writer):
            raise InputError(
                f"the head {_name(parts.head)} reads what the model writes, and the backbone {_name(parts.backbone)} "
                "writes nothing; use one that does, such as hf_causal.v1, or a head that needs no answer in words"
            )

    def shared_tokens(self, group: Group) -> int:
        """How many tokens the group's latest prompts shared, each beginning counted once."""
        return self._beginnings.tokens(group)

    def score(self, asks: Sequence[Ask], queries: Sequence[int]) -> list[list[float]]:
        """Scores of each ask, in the order given: one for each of its documents.

        Args:
            queries: Which of the bill's queries each ask belongs to.
        """
        first = {id(ask.group): number for number, ask in reversed(list(enumerate(asks)))}
        order = sorted(range(len(asks)), key=lambda number: first[id(asks[number].group)])
        scores: list[list[float]] = [[] for _ in asks]
        numbers = iter(order)
        for rows in rows_ahead([asks[number] for number in order], partial(rows_of, self.parts)):
            some = [next(numbers) for _ in rows]
            questions = [_Question(asks[n], queries[n], row) for n, row in zip(some, rows, strict=True)]
            self._answer(questions)
            for number, question in zip(some, questions, strict=True):
                assert question.reading is not None
                scores[number] = question.reading.scores
        return scores

    def _answer(self, questions: list[_Question]) -> None:
        if self.answers is not None:
            for question in questions:
                question.key = self.answers.key(question.row)
            for question, known in zip(questions, self.answers.find([q.key for q in questions]), strict=True):
                question.reading = known
        # equal prompts are asked once, for in another place of a batch the last bits of a score may differ
        prompts = [question.row.as_read() for question in questions]
        firsts: dict[Hashable, _Question] = {}
        for question, prompt in zip(questions, prompts, strict=True):
            asked = question.reading is None and firsts.setdefault(prompt, question) is question
            for costs in self.bill.of(question.query):
                costs.prompts += asked
                costs.cached += not asked
                costs.cut_documents += question.row.cut_document > 0
                costs.cut_queries += question.row.cut_query > 0
        self._truncation.tell([question.ask for question in questions], [question.row for question in questions])
        new = list(firsts.values())
        if _shares(self.parts):
            self._beginnings.share([question.ask.group for question in new], [question.row for question in new])
        with torch.inference_mode(), evaluation_mode(self.parts.backbone.module, self.parts.head.module):
            if isinstance(self.parts.head, AnswerReader):
                self._ask_all(new)
            else:
                for numbers in self._states.companies([question.row for question in new]):
                    self._ask_sharing([new[number] for number in numbers])
        for question, prompt in zip(questions, prompts, strict=True):
            question.reading = question.reading or firsts[prompt].reading
            assert question.reading is not None
            for costs in self.bill.of(question.query):
                costs.add_faults(question.reading.faults)
            if faults := ", ".join(f"{fault} {count}" for fault, count in question.reading.faults.items() if count):
                group = question.ask.group
                warn("answers_odd", f"one about query {group.qid or group.query[:60]!r} ({faults})")

    def _ask_sharing(self, questions: list[_Question]) -> None:
        """Ask what begins alike; where too little memory is left to read the beginnings, those of some at a time."""
        shared = shared_by([question.row for question in questions])
        try:
            self._read_shared(questions)
        except torch.OutOfMemoryError as error:
            if not self._states.drop_all() and len(shared) == 1:
                raise RunError(f"out of memory reading {len(shared[0])} tokens that prompts share: {error}") from error
        else:
            for question in questions:
                for costs in self.bill.of(question.query):
                    costs.prefix_saved += len(question.row.shared)
            self._ask_all(questions)
            return
        # only here is the error gone, and with it what its traceback kept in memory
        torch.cuda.empty_cache()
        half = (len(shared) + 1) // 2
        for part in (shared[:half], shared[half:]):
            if own := [question for question in questions if question.row.shared in part]:
                self._ask_sharing(own)

    def _read_shared(self, questions: list[_Question]) -> None:
        """Read what is not at hand of what prompts share: the stems, and then what goes on from them."""
        rows = [question.row for question in questions]
        stem_of = {row.shared: row.shared[: row.stem] for row in rows} | {row.shared[: row.stem]: () for row in rows}
        stem_of.pop((), None)
        missing = self._states.missing(stem_of)
        for some in ([one for one in missing if not stem_of[one]], [one for one in missing if stem_of[one]]):
            lengths = [len(one) - len(stem_of[one]) for one in some]
            for numbers in batches(lengths, self.settings.batch_tokens):
                self._read([some[number] for number in numbers], stem_of, questions)

    def _read(self, wanted: list[Shared], stem_of: dict[Shared, Shared], questions: list[_Question]) -> None:
        """Read some of what prompts share; of each the first query that shares it pays."""
        start, tokenizer = time.perf_counter(), self.parts.backbone.tokenizer
        read = [one[len(stem_of[one]) :] for one in wanted]
        tokens = self.parts.collator.collate([replace(questions[0].row, shared=read[0])], tokenizer, read).shared
        assert tokens is not None
        before = [self._states[stem_of[one]] for one in wanted if stem_of[one]]
        states = self.parts.backbone.read_shared(tokens.to(device(self.parts)), before)
        for one, state in zip(wanted, states, strict=True):
            self._states[one] = state
        self._bill_shared(wanted, [len(ids) for ids in read], tokens, questions, time.perf_counter() - start)

    def _bill_shared(
        self, shared: list[Shared], read: list[int], tokens: Tokens, questions: list[_Question], seconds: float
    ) -> None:
        """Bill a pass over what prompts share.

        Args:
            read: How many tokens of each were read in it.
        """
        payer: dict[Shared, int] = {}
        for question in reversed(questions):
            row = question.row
            payer |= {row.shared: question.query, row.shared[: row.stem]: question.query}
        self.bill.add_passes([payer[one] for one in shared], tokens, seconds)
        for one, length in zip(shared, read, strict=True):
            for costs in self.bill.of(payer[one]):
                costs.prefix_saved -= length

    def _ask_all(self, questions: list[_Question]) -> None:
        lengths = [len(question.row.ids) for question in questions]
        if isinstance(self.parts.head, AnswerReader):  # what an encoder reads is in no state that is at hand
            lengths = [length + len(q.row.shared) for length, q in zip(lengths, questions, strict=True)]
        for numbers in batches(lengths, self.settings.batch_tokens):
            batch = [questions[number] for number in numbers]
            self._ask_batch(batch)
            if self.answers is not None:
                self.answers.keep([q.key for q in batch], [q.reading for q in batch if q.reading is not None])
            self._answered(len(batch))

    def _ask_batch(self, questions: list[_Question]) -> None:
        """Answer one batch; a batch that does not fit into memory is halved."""
        ask = self._read_answers if isinstance(self.parts.head, AnswerReader) else self._read_scores
        try:
            for question, reading in zip(questions, ask(questions), strict=True):
                self._check(question.ask, reading)
                question.reading = reading
            return
        except torch.OutOfMemoryError as error:
            if len(questions) == 1:
                length = len(questions[0].row.ids)
                raise RunError(f"out of memory with a single prompt of {length} tokens: {error}") from error
        # only here is the error gone, and with it what its traceback kept in memory
        torch.cuda.empty_cache()
        half = len(questions) // 2
        for part in (questions[:half], questions[half:]):
            self._ask_batch(part)

    def _read_scores(self, questions: list[_Question]) -> list[Reading]:
        """Read the scores of each row off the head's rectangle of them."""
        start, rows = time.perf_counter(), [question.row for question in questions]
        batch, states = collate(self.parts, rows), [self._states[one] for one in shared_by(rows)]
        scores = forward(self.parts, batch.to(device(self.parts)), states).tolist()
        self.bill.add_passes([question.query for question in questions], batch.tokens, time.perf_counter() - start)
        asked = [len(row.labels) or len(row.choices) or None for row in rows]
        return [Reading(values[:count], {}) for values, count in zip(scores, asked, strict=True)]

    def _read_answers(self, questions: list[_Question]) -> list[Reading]:
        """Let the model write, and the head read it."""
        head, backbone = self.parts.head, self.parts.backbone
        assert isinstance(head, AnswerReader) and isinstance(backbone, Writer)
        start, rows = time.perf_counter(), [question.row for question in questions]
        if any(not row.labels for row in rows):
            raise InputError(
                f"the head {_name(head)} reads the names of documents in what the model writes, and the formatter "
                f"{_name(self.parts.formatter)} gives them none; use one that does, such as documents.v1"
            )
        batch = collate(self.parts, rows)
        written = backbone.write(batch.to(device(self.parts)), head.max_new_tokens)
        # the last step of a shorter answer is the token that ends it
        steps = max(min(len(tokens) + 1, head.max_new_tokens) for tokens in written)
        self.bill.add_passes([q.query for q in questions], batch.tokens, time.perf_counter() - start, steps)
        if batch.shared is not None:
            shared = shared_by(rows)
            self._bill_shared(shared, [len(one) for one in shared], batch.shared, questions, 0.0)
        for question, tokens in zip(questions, written, strict=True):
            for costs in self.bill.of(question.query):
                costs.prefix_saved += len(question.row.shared)
                costs.generated += len(tokens)
        texts = [written_text(tokens, backbone.tokenizer) for tokens in written]
        return [head.read(text, row.labels) for text, row in zip(texts, rows, strict=True)]

    def _check(self, ask: Ask, reading: Reading) -> None:
        scores = reading.scores
        if len(scores) != len(ask.docs):
            head, formatter, strategy = map(_name, (self.parts.head, self.parts.formatter, self.parts.strategy))
            raise InputError(
                f"the head gave {len(scores)} scores to a prompt of {len(ask.docs)} documents: {head} does not go with "
                f"prompts of {formatter} and what {strategy} asks; use a head that scores each document of a prompt, "
                "such as choice.v1, or a strategy that asks for one document at a time, such as pointwise.v1"
            )
        if not all(map(math.isfinite, scores)):
            names = [(ask.group.doc_ids or ask.group.docs)[position][:60] for position in ask.docs]
            raise RunError(
                f"the model gave the score {scores} to query {ask.group.qid or ask.group.query[:60]!r}, document "
                f"{names}; a score that is not finite cannot be ranked (fp16 overflows easily: try bf16 or fp32)"
            )


def _shares(parts: Parts) -> bool:
    """Whether the beginning of prompts is read apart; a model writes after whole ones."""
    return parts.backbone.shares_prefix and not isinstance(parts.head, AnswerReader)


def device(parts: Parts) -> torch.device:
    return next(parts.backbone.module.parameters()).device


def _name(part: object) -> str:
    return registry.name_of(part)
