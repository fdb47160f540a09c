"""Training groups: drawn anew from a reader's groups in every epoch.

A draw depends on the seed, the epoch and the group alone, never on what was drawn before, so that a resumed training
sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import logging
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args, get_type_hints

import numpy as np
import torch

from rerankkit.errors import InputError
from rerankkit.fingerprints import Table, fingerprint
from rerankkit.protocols import Group
from rerankkit.settings import Sampling

logger = logging.getLogger("rerankkit")
LEARN_FROM = get_args(get_type_hints(Sampling)["learn_from"])


@dataclass(frozen=True, slots=True)
class KnownPositives:
    """What is known to be relevant for a query, as fingerprints: document ids, where there are some, and texts."""

    ids: frozenset[int]
    texts: frozenset[int]

    def covers(self, text: str, doc_id: str = "") -> bool:
        """Whether a document is known to be relevant, by its text or by its id; an empty id names nothing."""
        return fingerprint(text) in self.texts or (doc_id != "" and fingerprint(doc_id) in self.ids)


class TrainingGroups(torch.utils.data.Dataset[Group]):
    """Groups of one positive and negatives; items are asked for by (epoch, number).

    A positive has a label above 0. Where there are teacher's scores in place of labels, the teacher's best document is
    the positive, whatever its score. The given groups are read once at the start and one at a time afterwards; what is
    held of them takes some hundred bytes for each positive. `lone` says that every group would be one document.
    """

    def __init__(self, groups: Sequence[Group], sampling: Sampling, seed: int) -> None:
        _require_sensible(sampling)
        self._groups, self._sampling, self._seed = groups, sampling, seed
        group_of, position_of, first_of = array("q"), array("q"), array("q")
        self._relevant_texts, self._relevant_ids, texts_of_ids = Table(), Table(), Table()
        counts: Counter[str] = Counter()
        for number, group in enumerate(groups):
            _targets(group, sampling.learn_from)
            positives = _positives(group)
            if not positives:
                continue
            self._count(group, counts)
            first_of.append(len(group_of))
            for position in positives:
                group_of.append(number)
                position_of.append(position)
                text, docid = fingerprint(group.docs[position]), _docid(group, position)
                if docid:
                    texts_of_ids.add(fingerprint(docid), text)
                for query in _queries(group):
                    self._relevant_texts.add(query, text)
                    if docid:
                        self._relevant_ids.add(query, fingerprint(docid))
            for docid in (docid for docid, grade in (group.judged or {}).items() if grade > 0):
                for query in _queries(group):
                    self._relevant_ids.add(query, fingerprint(docid))
        if not group_of:
            raise InputError("the training data has no group with a positive document (a label above 0)")
        # every positive: the number of its group and its position there; and every group's first positive
        self._group_of, self._position_of, self._first_of = map(np.array, (group_of, position_of, first_of))
        for table in (self._relevant_texts, self._relevant_ids, texts_of_ids):
            table.seal()
        self._report(counts)
        if not texts_of_ids.has_one_value_each():
            logger.warning(
                "some document ids of the training data stand for several texts; documents of the same id count as the "
                "same, so give each document an id of its own, or leave the ids out"
            )

    def __len__(self) -> int:
        return len(self._group_of if self._sampling.unfold_each_positive else self._first_of)

    def __getitem__(self, key: tuple[int, int]) -> Group:
        epoch, number = key
        sampling, draw = self._sampling, random.Random(f"{self._seed}/{epoch}/{number}")
        if sampling.unfold_each_positive:
            group, chosen = self._groups[int(self._group_of[number])], [int(self._position_of[number])]
        else:
            group = self._groups[int(self._group_of[self._first_of[number]])]
            chosen = [draw.choice(_positives(group))]
        own = _negatives(group)[: sampling.hardest]
        wanted = sampling.group_size - 1 - sampling.random_negatives
        chosen += draw.sample(own, min(wanted, len(own)))
        targets = _targets(group, sampling.learn_from)
        docs = [(group.docs[position], _docid(group, position), targets[position]) for position in chosen]
        if sampling.random_negatives:  # these also make up for negatives that the query does not have
            least = min(0.0, *targets)
            docs += [(*other, least) for other in self._strangers(group, sampling.group_size - len(docs), draw)]
        draw.shuffle(docs)
        texts, ids, labels = (list(column) for column in zip(*docs, strict=True))
        return Group(group.query, texts, labels, qid=group.qid, doc_ids=ids if any(ids) else None)

    def known_positives(self, group: Group) -> KnownPositives:
        """What any of the data says to be relevant for the query of a group, by the query's text or by its id."""
        queries = _queries(group)
        own = {fingerprint(group.qid)} if group.qid else ()  # a document of the query's own id is the query itself
        return KnownPositives(
            frozenset(own).union(*(self._relevant_ids[query] for query in queries)),
            frozenset().union(*(self._relevant_texts[query] for query in queries)),
        )

    def _strangers(self, group: Group, wanted: int, draw: random.Random) -> list[tuple[str, str]]:
        """Text and id of other queries' positives that are not among this query's own documents."""
        known, texts, ids = self.known_positives(group), set(group.docs), set(group.doc_ids or ()) - {""}
        found: list[tuple[str, str]] = []
        for _ in range(10 * wanted):  # where other queries have too few documents, the group stays smaller
            which = draw.randrange(len(self._group_of))
            other, position = self._groups[int(self._group_of[which])], int(self._position_of[which])
            text, docid = other.docs[position], _docid(other, position)
            if text not in texts and docid not in ids and not known.covers(text, docid):
                texts.add(text)
                ids.update({docid} - {""})
                found.append((text, docid))
                if len(found) == wanted:
                    break
        return found

    def _count(self, group: Group, counts: Counter[str]) -> None:
        """Count what of the data cannot be used, and refuse what cannot be meant."""
        taught = group.labels is None or self._sampling.learn_from == "teacher_scores"
        if taught and (self._sampling.random_negatives or self._sampling.in_batch_negatives):
            raise InputError(
                f"{_name(group)} is learned from its teacher_scores, so a document of another query would have no "
                "score to learn; set [sampling] random_negatives = 0 and in_batch_negatives = false"
            )
        counts["both"] += group.labels is not None and group.teacher_scores is not None
        counts["alone"] += not _negatives(group)

    def _report(self, counts: Counter[str]) -> None:
        used = len(self._first_of)
        if left_out := len(self._groups) - used:
            logger.warning(
                "%d of %d training groups have no positive document and are left out", left_out, len(self._groups)
            )
        if counts["both"] and self._sampling.learn_from == "auto":
            logger.warning(
                "%d training groups have labels and teacher_scores; their labels are learned from, unless [sampling] "
                "learn_from says otherwise",
                counts["both"],
            )
        from_elsewhere = self._sampling.random_negatives or self._sampling.in_batch_negatives
        self.lone = counts["alone"] == used and not self._sampling.random_negatives
        if counts["alone"] and not from_elsewhere:
            logger.warning(
                "%d of %d training groups have no negative document, which teaches nothing about the order; "
                "[sampling] random_negatives draws some from other queries",
                counts["alone"],
                used,
            )


class EpochSampler(torch.utils.data.Sampler[tuple[int, int]]):
    """All groups in an order of the epoch's own; set `epoch` before iterating."""

    def __init__(self, size: int, seed: int) -> None:
        self.epoch = 0
        self._size, self._seed = size, seed

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = self.epoch, array("q", range(self._size))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        return ((epoch, number) for number in order)


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
    if sampling.learn_from not in LEARN_FROM:
        raise InputError(f"[sampling] learn_from = {sampling.learn_from!r} must be one of {', '.join(LEARN_FROM)}")


def _targets(group: Group, learn_from: str) -> list[float]:
    if learn_from == "auto":
        return _labels(group)
    values = group.labels if learn_from == "labels" else group.teacher_scores
    if values is None:
        raise InputError(f"{_name(group)} has no {learn_from}, which [sampling] learn_from says to learn from")
    return values


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


def _queries(group: Group) -> list[int]:
    """What a group's query is known by: its text and, where it has one, its id."""
    return [fingerprint(group.query), *([fingerprint(f"qid\0{group.qid}")] if group.qid else [])]


def _docid(group: Group, position: int) -> str:
    return group.doc_ids[position] if group.doc_ids is not None else ""


def _name(group: Group) -> str:
    return f"group {group.qid or group.query[:60]!r}"
