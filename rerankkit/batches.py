"""Training batches: groups as rows of tokens with their labels, and the rows' scores as the matrix that a loss sees."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rerankkit import engine
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Backbone, Batch, Formatter, Group, Loss, Prompt, Row, Taught
from rerankkit.sampling import KnownPositives

Known = Callable[[Group], KnownPositives]
"""What is known to be relevant to a group's query."""


def training_batch(parts: Parts, groups: Sequence[Group], known: Known | None = None) -> Batch:
    """The asks of some training groups with their labels, as the loss will see them: [groups, docs].

    Args:
        known: Given for in-batch negatives: every group's documents stand in every row, [groups, groups * docs], and
            those that are relevant to a row's query, or among its own documents, are masked in it.
    """
    width = max(len(group.docs) for group in groups)
    asks, place = list[Ask](), []
    for number, group in enumerate(groups):
        for docs in parts.strategy.training_asks(group):
            asks.append(Ask(group, docs))
            place.append([number * width + position for position in docs])
    batch = engine.collate(parts, _rows(parts, asks))
    batch.place = torch.tensor(_rectangle(place, -1))
    batch.labels, batch.mask = targets(groups, known)
    return batch


def training_rows(parts: Parts, group: Group) -> tuple[list[Ask], list[Row]]:
    """The asks of a training group, and the tokens of each."""
    asks = [Ask(group, docs) for docs in parts.strategy.training_asks(group)]
    return asks, _rows(parts, asks)


def targets(groups: Sequence[Group], known: Known | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and mask of some training groups, as the loss will see them: [groups, docs].

    Args:
        known: As for `training_batch`.
    """
    labels = torch.tensor(_rectangle([_targets(group) for group in groups], 0.0), dtype=torch.float32)
    mask = torch.arange(labels.shape[1]) < torch.tensor([len(group.docs) for group in groups]).unsqueeze(1)
    return (labels, mask) if known is None else _with_others(groups, labels, mask, known)


def score_matrix(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Scores [rows, docs asked] where they belong: [groups, docs], zero where there is none."""
    assert batch.place is not None and batch.mask is not None
    real = batch.place >= 0
    flat = scores.new_zeros(batch.mask.numel()).index_copy(0, batch.place[real], scores[real])
    return flat.view_as(batch.mask)


def wide_score_matrix(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Scores of every query with every row, [queries, rows], where they belong: [groups, groups * docs]."""
    assert batch.place is not None and batch.mask is not None and batch.shared_of is not None
    groups, columns = batch.mask.shape
    column = batch.place[:, 0]  # [rows]
    query = torch.zeros(groups, dtype=torch.long, device=column.device)
    query[column // (columns // groups)] = batch.shared_of
    return scores.new_zeros(groups, columns).index_copy(1, column, scores[query])


def chunks_of_rows(batch: Batch, size: int) -> Iterator[torch.Tensor]:
    """The rows' numbers, those of like length together."""
    yield from batch.answer.argsort(descending=True, stable=True).split(size)


def _rows(parts: Parts, asks: Sequence[Ask]) -> list[Row]:
    """The asks' tokens, with the right answer where the head learns to write it."""
    if isinstance(parts.head, Taught):
        parts = replace(parts, formatter=_WithAnswers(parts.formatter, parts.head))
    return engine.encode(parts, asks)


def _with_others(
    groups: Sequence[Group], labels: torch.Tensor, mask: torch.Tensor, known: Known
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and mask [groups, docs] with the other groups' documents beside them: [groups, groups * docs]."""
    count, width = labels.shape
    wide = labels.clamp(max=0).amin(1, keepdim=True).repeat(1, count * width)  # what is irrelevant to each query
    usable = mask.view(1, -1).repeat(count, 1)
    for number, group in enumerate(groups):
        own = slice(number * width, (number + 1) * width)
        wide[number, own], usable[number, own] = labels[number], mask[number]
        texts, relevant = set(group.docs), known(group)
        for other, strangers in enumerate(groups):
            if other == number:
                continue
            for position, text in enumerate(strangers.docs):
                docid = strangers.doc_ids[position] if strangers.doc_ids else ""
                if text in texts or relevant.covers(text, docid):
                    usable[number, other * width + position] = False
    return wide, usable


@dataclass(frozen=True)
class Step:
    """The place of a batch in an optimizer's step of several batches: labels and mask of all groups of the step.

    A loss is a mean, over groups, documents or pairs, and the mean of the batches' means is not that of the step where
    batches have unequal numbers of them. So each batch's scores stand in the matrix of the whole step, with 0
    for the others': a group's gradient depends on no other's scores, only on how many groups, documents or pairs are.

    Args:
        labels: [groups of the step, docs]
        mask: [groups of the step, docs]
        first: The batch's first group in these.
        batches: How many there are; what the Trainer and the processes' mean divide by.
    """

    labels: torch.Tensor
    mask: torch.Tensor
    first: int
    batches: int

    @classmethod
    def of_batches(cls, batches: Sequence[Batch], world: int = 1) -> list[Step]:
        """The place of each of this process's batches.

        Args:
            world: How many processes take the step together; all must call this.
        """
        own = [(batch.labels, batch.mask) for batch in batches if batch.labels is not None and batch.mask is not None]
        parts, before = own, 0
        if world > 1:
            gathered: list[Any] = [None] * world
            torch.distributed.all_gather_object(gathered, [(labels.cpu(), mask.cpu()) for labels, mask in own])
            parts = [part for process in gathered for part in process]
            before = sum(len(labels) for process in gathered[: torch.distributed.get_rank()] for labels, _ in process)
        width = max(mask.shape[1] for _, mask in parts)
        pad, device = torch.nn.functional.pad, own[0][0].device
        labels, mask = (
            torch.cat([pad(part[which], (0, width - part[which].shape[1])) for part in parts]).to(device)
            for which in (0, 1)
        )
        firsts = itertools.accumulate((len(labels) for labels, _ in own), initial=before)
        return [cls(labels, mask, first, len(parts)) for first, _ in zip(firsts, own, strict=False)]

    def share(self, loss: Loss, scores: torch.Tensor) -> torch.Tensor:
        """The loss whose mean over the batches is that of the step, in value and in gradient.

        Args:
            scores: Those of the batch. [groups, docs]
        """
        none = scores.new_zeros(self.mask.shape)
        rows = torch.arange(self.first, self.first + len(scores), device=scores.device)
        padded = torch.nn.functional.pad(scores, (0, self.mask.shape[1] - scores.shape[1]))
        whole = loss(none.index_copy(0, rows, padded), self.labels, self.mask)
        with torch.no_grad():
            rest = loss(none, self.labels, self.mask)
        return self.batches * (whole - rest) + rest


class TrainingCollator:
    """`training_batch` as a data loader's processes take it, started anew ones too: without the model's weights.

    Args:
        known: As for `training_batch`.
    """

    def __init__(self, parts: Parts, known: Known | None = None) -> None:
        self._parts, self._known = parts, known

    def __call__(self, groups: Sequence[Group]) -> dict[str, Batch]:
        return {"batch": training_batch(self._parts, groups, self._known)}

    def __reduce__(self) -> tuple[Any, ...]:
        written = io.BytesIO()
        _WithoutWeights(written, self._parts.backbone).dump(self._parts)
        return _collator, (written.getvalue(), self._known)


def _collator(parts: bytes, known: Known | None) -> TrainingCollator:
    return TrainingCollator(pickle.loads(parts), known)


class _WithoutWeights(pickle.Pickler):
    """Leaves out modules, and of the backbone all but what texts become tokens with."""

    def __init__(self, file: io.BytesIO, backbone: Backbone) -> None:
        super().__init__(file)
        self._backbone = backbone

    def reducer_override(self, value: Any) -> Any:
        if value is self._backbone:
            return _Texts, (value.tokenizer, value.shares_prefix)
        return (_nothing, ()) if isinstance(value, torch.nn.Module) else NotImplemented


@dataclass(frozen=True)
class _Texts:
    """What a data loader's process needs of a backbone."""

    tokenizer: Any
    shares_prefix: bool


def _nothing() -> None:
    """In place of a module."""


@dataclass(frozen=True)
class _WithAnswers:
    """A formatter that puts the right answer behind every prompt, for a head that learns to write it."""

    formatter: Formatter
    head: Taught

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        if not tokenizer.eos_token:
            raise InputError("this model's tokenizer has no token that ends a text, so no answer can be taught to end")
        prompt, targets = self.formatter.format(ask, tokenizer), _targets(ask.group)
        answer = self.head.target(prompt.labels, [targets[position] for position in ask.docs], tokenizer.eos_token)
        begins = len(prompt.pieces) if prompt.answer is None else prompt.answer
        return replace(prompt, pieces=(*prompt.pieces, *answer), answer=begins, choices=())


def _targets(group: Group) -> list[float]:
    targets = group.labels if group.labels is not None else group.teacher_scores
    assert targets is not None  # TrainingGroups gives every group labels
    return targets


def _rectangle(rows: Sequence[Sequence[Any]], fill: Any) -> list[list[Any]]:
    width = max(len(row) for row in rows)
    return [[*row, *[fill] * (width - len(row))] for row in rows]
