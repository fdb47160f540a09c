"""Training groups: drawn anew from a reader's groups in every epoch, and laid out as one batch.

A draw depends on the seed, the epoch and the group alone, never on what was drawn before, so that a resumed training
sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence

import torch

from rerankkit.engine import Parts, collate, encode
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Batch, Group
from rerankkit.settings import Sampling

logger = logging.getLogger("rerankkit")


class TrainingGroups(torch.utils.data.Dataset[Group]):
    """Groups of one positive and negatives; items are asked for by (epoch, number)."""

    def __init__(self, groups: Sequence[Group], sampling: Sampling, seed: int) -> None:
        if not 0 <= sampling.random_negatives < sampling.group_size:
            raise InputError(
                f"[sampling] random_negatives = {sampling.random_negatives} must be at least 0 and less than "
                f"group_size = {sampling.group_size}"
            )
        self._groups = [group for group in groups if _positives(group)]
        if not self._groups:
            raise InputError("the training data has no group with a positive document (a label above 0)")
        if left_out := len(groups) - len(self._groups):
            logger.warning("%d of %d training groups have no positive document and are left out", left_out, len(groups))
        self._sampling = sampling
        self._seed = seed
        self._pool = [group.docs[position] for group in self._groups for position in _positives(group)]

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, key: tuple[int, int]) -> Group:
        epoch, number = key
        group, sampling = self._groups[number], self._sampling
        draw = random.Random(f"{self._seed}/{epoch}/{number}")
        labels = _labels(group)
        chosen = [draw.choice(_positives(group))]
        own = [position for position, label in enumerate(labels) if label <= 0][: sampling.hardest]
        wanted = sampling.group_size - 1 - sampling.random_negatives
        chosen += draw.sample(own, min(wanted, len(own)))
        docs = [(group.docs[position], labels[position]) for position in chosen]
        if sampling.random_negatives:  # these also make up for negatives that the query does not have
            docs += [(text, 0.0) for text in self._strangers(group, sampling.group_size - len(docs), draw)]
        draw.shuffle(docs)
        return Group(group.query, [text for text, _ in docs], [label for _, label in docs], qid=group.qid)

    def _strangers(self, group: Group, wanted: int, draw: random.Random) -> list[str]:
        """Other queries' positives that are not among this query's own documents."""
        known = set(group.docs)
        found: list[str] = []
        for _ in range(10 * wanted):
            text = draw.choice(self._pool)
            if len(found) < wanted and text not in known:
                known.add(text)
                found.append(text)
        return found


class EpochSampler(torch.utils.data.Sampler[tuple[int, int]]):
    """All groups in an order of the epoch's own; set `epoch` before iterating."""

    def __init__(self, size: int, seed: int) -> None:
        self.epoch = 0
        self._size, self._seed = size, seed

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self._size))
        random.Random(f"{self._seed}/{self.epoch}").shuffle(order)
        return iter([(self.epoch, number) for number in order])


def training_batch(parts: Parts, groups: Sequence[Group]) -> Batch:
    """The asks of some training groups with their labels, as the loss will see them: [groups, docs]."""
    width = max(len(group.docs) for group in groups)
    asks, place = [], []
    for number, group in enumerate(groups):
        for docs in parts.strategy.training_asks(group):
            asks.append(Ask(group, docs))
            place.append([number * width + position for position in docs])
    batch = collate(parts, encode(parts, asks))
    batch.place = _rectangle(place, -1)
    batch.labels = _rectangle([_labels(group) for group in groups], 0.0)
    batch.mask = torch.arange(width) < torch.tensor([len(group.docs) for group in groups]).unsqueeze(1)
    return batch


def score_matrix(scores: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Scores [rows, docs asked] where they belong: [groups, docs], zero where there is none."""
    assert batch.place is not None and batch.mask is not None
    real = batch.place >= 0
    flat = scores.new_zeros(batch.mask.numel()).index_copy(0, batch.place[real], scores[real])
    return flat.view_as(batch.mask)


def _labels(group: Group) -> list[float]:
    labels = group.labels if group.labels is not None else group.teacher_scores
    if labels is None:
        raise InputError(f"group {group.qid or group.query[:60]!r} has neither labels nor teacher_scores to learn from")
    return labels


def _positives(group: Group) -> list[int]:
    return [position for position, label in enumerate(_labels(group)) if label > 0]


def _rectangle(rows: Sequence[Sequence[float]], fill: float) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
