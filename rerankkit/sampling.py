"""Training groups: drawn anew from a reader's groups in every epoch.

A draw depends on the seed, the epoch and the group alone, never on what was drawn before, so that a resumed training
sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import get_args, get_type_hints

import numpy as np
import torch

from rerankkit.collection import leaves_out_own_documents
from rerankkit.errors import InputError
from rerankkit.fingerprints import Table, fingerprint
from rerankkit.protocols import Group, Loss
from rerankkit.recipe import Recipe, build
from rerankkit.settings import Sampling
from rerankkit.warnings import collecting, warn

CHOICES = {name: get_args(get_type_hints(Sampling)[name]) for name in ("learn_from", "grades")}


@dataclass(frozen=True, slots=True)
class KnownPositives:
    """What is known to be relevant for a query, as fingerprints: document ids, where there are some, and texts."""

    ids: frozenset[int]
    texts: frozenset[int]

    def covers(self, text: str, doc_id: str = "") -> bool:
        """Whether a document is known to be relevant, by its text or by its id; an empty id names nothing."""
        return fingerprint(text) in self.texts or (doc_id != "" and fingerprint(doc_id) in self.ids)


class TrainingGroups(torch.utils.data.Dataset[Group]):
    """Groups of a positive and documents with other labels; items are asked for by (epoch, number).

    A positive has a label above 0. Where there are teacher's scores in place of labels, the teacher's best document is
    the positive, whatever its score. The given groups are read once at the start and one at a time afterwards; what is
    held of them takes some hundred bytes for each positive. `alike` says that in no group two documents would have
    different labels.

    Args:
        own_ids: A document of a query's id is the query itself, so it is never taken for irrelevant to it.
    """

    def __init__(self, groups: Sequence[Group], sampling: Sampling, seed: int, own_ids: bool = False) -> None:
        _require_sensible(sampling)
        self._groups, self.sampling, self._seed = groups, sampling, seed
        self._own_ids = own_ids
        self._elsewhere = sampling.random_negatives > 0 or sampling.in_batch_negatives
        group_of, position_of, first_of = array("q"), array("q"), array("q")
        self._relevant_texts, self._relevant_ids, texts_of_ids = Table(), Table(), Table()
        differing = False
        with collecting():
            for number, group in enumerate(groups):
                positives = self._positives_to_learn(group)
                differing |= bool(positives) and self._differs(group)
                first_of.extend([len(group_of)] if positives else [])
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
                for docid in (docid for docid, grade in (group.judged or {}).items() if positives and grade > 0):
                    for query in _queries(group):
                        self._relevant_ids.add(query, fingerprint(docid))
        if not group_of:
            raise InputError("the training data has no group with a positive document (a label above 0)")
        # every positive: the number of its group and its position there; and every group's first positive
        self._group_of, self._position_of, self._first_of = map(np.array, (group_of, position_of, first_of))
        for table in (self._relevant_texts, self._relevant_ids, texts_of_ids):
            table.seal()
        self.alike = not differing and not sampling.random_negatives
        if not texts_of_ids.has_one_value_each():
            warn("document_ids_shared", "[data.train]")

    def __len__(self) -> int:
        return len(self._group_of if self.sampling.unfold_each_positive else self._first_of)

    def __getitem__(self, key: tuple[int, int]) -> Group:
        epoch, number = key
        sampling, draw = self.sampling, random.Random(f"{self._seed}/{epoch}/{number}")
        if sampling.unfold_each_positive:
            group, positive = self._groups[int(self._group_of[number])], int(self._position_of[number])
        else:
            group = self._groups[int(self._group_of[self._first_of[number]])]
            positive = draw.choice(_positives(group))
        chosen = [positive, *self._others(group, positive, draw)]
        targets = _targets(group, sampling.learn_from)
        docs = [(group.docs[position], _docid(group, position), targets[position]) for position in chosen]
        if sampling.random_negatives:  # these also make up for negatives that the query does not have
            least = min(0.0, *targets)
            docs += [(*other, least) for other in self._strangers(group, sampling.group_size - len(docs), draw)]
        draw.shuffle(docs)
        texts, ids, labels = (list(column) for column in zip(*docs, strict=True))
        return Group(group.query, texts, labels, qid=group.qid, doc_ids=ids if any(ids) else None)

    def _others(self, group: Group, positive: int, draw: random.Random) -> list[int]:
        """The query's own documents beside a positive: negatives; where it has grades, of each other in turn."""
        own, wanted = _negatives(group)[: self.sampling.hardest], self.sampling.group_size - 1
        wanted -= self.sampling.random_negatives
        if not self._has_grades(group):
            return draw.sample(own, min(wanted, len(own)))
        labels, grades = _labels(group), dict[float, list[int]]({0.0: own} if own else {})
        for position in _positives(group):
            if labels[position] != labels[positive]:
                grades.setdefault(labels[position], []).append(position)
        ranks = [draw.sample(grades[label], len(grades[label])) for label in sorted(grades)]
        draw.shuffle(ranks)
        turns = chain.from_iterable(zip_longest(*ranks))
        return [position for position in turns if position is not None][:wanted]

    def _has_grades(self, group: Group) -> bool:
        """Whether positives of different labels are to meet."""
        several = self.sampling.grades != "one" and group.labels is not None
        return several and len({label for label in group.labels or () if label > 0}) > 1

    def known_positives(self, group: Group) -> KnownPositives:
        """What any of the data says to be relevant for the query of a group, by the query's text or by its id."""
        queries = _queries(group)
        own = {fingerprint(group.qid)} if self._own_ids and group.qid else ()
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

    def _positives_to_learn(self, group: Group) -> list[int]:
        """The positives of a group that the reader gave; warns of what cannot be used, refuses what cannot be."""
        _targets(group, self.sampling.learn_from)
        positives, name = _positives(group), _name(group)
        if not positives:
            warn("groups_without_positive", name)
            return []
        taught = group.labels is None or self.sampling.learn_from == "teacher_scores"
        if taught and self._elsewhere:
            raise InputError(
                f"{name} is learned from its teacher_scores, so a document of another query would have no "
                "score to learn; set [sampling] random_negatives = 0 and in_batch_negatives = false"
            )
        if group.labels is not None and group.teacher_scores is not None and self.sampling.learn_from == "auto":
            warn("groups_labelled_twice", name)
        if not self._elsewhere and not self._differs(group):
            warn("groups_without_negative" if self._is_alone(group) else "groups_of_one_label", name)
        return positives

    def _is_alone(self, group: Group) -> bool:
        """Whether a positive has no other document of its query beside it."""
        return not _negatives(group) and not self._has_grades(group)

    def _differs(self, group: Group) -> bool:
        """Whether two documents that are drawn together can have different targets."""
        return not self._is_alone(group) and len(set(_targets(group, self.sampling.learn_from))) > 1


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


def training_groups(recipe: Recipe, groups: Sequence[Group], seed: int) -> TrainingGroups:
    """The groups that a recipe trains on, drawn from those that its reader gives by a seed."""
    sampling = recipe.settings("sampling")
    if sampling.grades == "auto":
        sampling = replace(sampling, grades="several" if _tells_grades(build(recipe, "loss")) else "one")
    return TrainingGroups(groups, sampling, seed, leaves_out_own_documents(recipe.get("data.train")))


def _tells_grades(loss: Loss) -> bool:
    """Whether a label of 2 is another than 1, which to a loss that tells 1 from 0 alone it is not."""

    def pull(labels: list[float]) -> list[float]:
        scores = torch.zeros(1, 2, requires_grad=True)
        value = loss(scores, torch.tensor([labels]), torch.ones(1, 2, dtype=torch.bool))
        gradient = torch.autograd.grad(value, scores, allow_unused=True)[0] if value.requires_grad else None
        return [0.0, 0.0] if gradient is None else gradient[0].tolist()

    # where not even 1 and 0 are told apart, the head is what looks at the labels
    return pull([2.0, 1.0])[0] != pull([2.0, 1.0])[1] or pull([1.0, 0.0])[0] == pull([1.0, 0.0])[1]


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
    for name, value in (("learn_from", sampling.learn_from), ("grades", sampling.grades)):
        if value not in CHOICES[name]:
            raise InputError(f"[sampling] {name} = {value!r} must be one of {', '.join(CHOICES[name])}")


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
