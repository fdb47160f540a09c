"""Training groups: drawn anew from a reader's groups in every epoch.

A draw depends on the seed, the epoch and the group alone, never on what was drawn before, so that a resumed training
sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence

import torch

from rerankkit.errors import InputError
from rerankkit.protocols import Group
from rerankkit.settings import Sampling

logger = logging.getLogger("rerankkit")


class TrainingGroups(torch.utils.data.Dataset[Group]):
    """Groups of one positive and negatives; items are asked for by (epoch, number).

    A positive has a label above 0. Where there are teacher's scores in place of labels, the teacher's best document is
    the positive, whatever its score.
    """

    def __init__(self, groups: Sequence[Group], sampling: Sampling, seed: int) -> None:
        _require_sensible(sampling)
        self._groups = [group for group in groups if _positives(group)]
        if not self._groups:
            raise InputError("the training data has no group with a positive document (a label above 0)")
        if left_out := len(groups) - len(self._groups):
            logger.warning("%d of %d training groups have no positive document and are left out", left_out, len(groups))
        self._sampling = sampling
        self._seed = seed
        self._pool = [group.docs[position] for group in self._groups for position in _positives(group)]
        self._relevant: dict[str, set[str]] = {}
        for group in self._groups:
            self._relevant.setdefault(group.query, set()).update(group.docs[i] for i in _positives(group))
        self._report()

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, key: tuple[int, int]) -> Group:
        epoch, number = key
        group, sampling = self._groups[number], self._sampling
        draw = random.Random(f"{self._seed}/{epoch}/{number}")
        labels = _labels(group)
        chosen = [draw.choice(_positives(group))]
        own = _negatives(group)[: sampling.hardest]
        wanted = sampling.group_size - 1 - sampling.random_negatives
        chosen += draw.sample(own, min(wanted, len(own)))
        docs = [(group.docs[position], labels[position]) for position in chosen]
        if sampling.random_negatives:  # these also make up for negatives that the query does not have
            least = min(0.0, *labels)
            docs += [(text, least) for text in self._strangers(group, sampling.group_size - len(docs), draw)]
        draw.shuffle(docs)
        return Group(group.query, [text for text, _ in docs], [label for _, label in docs], qid=group.qid)

    def _strangers(self, group: Group, wanted: int, draw: random.Random) -> list[str]:
        """Other queries' positives that are not among this query's own documents."""
        known = {*group.docs, *self._relevant[group.query]}
        found: list[str] = []
        for _ in range(10 * wanted):  # where other queries have too few documents, the group stays smaller
            text = draw.choice(self._pool)
            if text not in known:
                known.add(text)
                found.append(text)
                if len(found) == wanted:
                    break
        return found

    def _report(self) -> None:
        """Say what of the data cannot be used, and refuse what cannot be meant."""
        taught = [group for group in self._groups if group.labels is None]
        if taught and self._sampling.random_negatives:
            raise InputError(
                f"{_name(taught[0])} has teacher_scores and no labels, so a random negative would have no score to "
                "learn; set [sampling] random_negatives = 0"
            )
        if both := sum(group.labels is not None and group.teacher_scores is not None for group in self._groups):
            logger.warning("%d training groups have labels and teacher_scores; their labels are learned from", both)
        alone = sum(not _negatives(group) for group in self._groups)
        if alone and not self._sampling.random_negatives:
            logger.warning(
                "%d of %d training groups have no negative document, which teaches nothing about the order; "
                "[sampling] random_negatives draws some from other queries",
                alone,
                len(self._groups),
            )


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


def _require_sensible(sampling: Sampling) -> None:
    if sampling.group_size < 2:
        raise InputError(f"[sampling] group_size = {sampling.group_size} must be at least 2: a positive and a negative")
    if not 0 <= sampling.random_negatives < sampling.group_size:
        raise InputError(
            f"[sampling] random_negatives = {sampling.random_negatives} must be at least 0 and less than "
            f"group_size = {sampling.group_size}"
        )
    if sampling.hardest is not None and sampling.hardest < 1:
        raise InputError(f"[sampling] hardest = {sampling.hardest} must be at least 1; leave it out to take all")


def _labels(group: Group) -> list[float]:
    labels = group.labels if group.labels is not None else group.teacher_scores
    if labels is None:
        raise InputError(f"{_name(group)} has neither labels nor teacher_scores to learn from")
    return labels


def _positives(group: Group) -> list[int]:
    labels = _labels(group)
    if group.labels is None:
        return [labels.index(max(labels))] if labels else []
    return [position for position, label in enumerate(labels) if label > 0]


def _negatives(group: Group) -> list[int]:
    if group.labels is None:
        (best,) = _positives(group)
        return [position for position in range(len(group.docs)) if position != best]
    return [position for position, label in enumerate(_labels(group)) if label <= 0]


def _name(group: Group) -> str:
    return f"group {group.qid or group.query[:60]!r}"
