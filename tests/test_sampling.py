"""Training groups: what is drawn, what is refused, and how a batch is laid out for the loss."""

import logging
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch

from rerankkit.batches import score_matrix, training_batch
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group
from rerankkit.sampling import EpochSampler, TrainingGroups
from rerankkit.settings import Sampling


def groups(count: int = 12, positives: int = 2, negatives: int = 7) -> list[Group]:
    """Queries whose documents say whose they are and whether they are relevant."""
    return [
        Group(
            f"query {i}",
            [f"{i} yes {j}" for j in range(positives)] + [f"{i} no {j}" for j in range(negatives)],
            [1.0] * positives + [0.0] * negatives,
            qid=f"q{i}",
        )
        for i in range(count)
    ]


def drawn(dataset: TrainingGroups, epochs: int = 100) -> Iterator[tuple[int, Group]]:
    for epoch in range(epochs):
        for number in range(len(dataset)):
            yield number, dataset[epoch, number]


@pytest.mark.parametrize("size", [2, 4, 8])
def test_one_positive_and_own_negatives(size: int) -> None:
    given = groups()
    seen: Counter[str] = Counter()
    for number, group in drawn(TrainingGroups(given, Sampling(group_size=size), seed=1)):
        assert group.query == given[number].query
        assert len(group.docs) == size == len(set(group.docs))
        assert [label > 0 for label in group.labels or []] == [" yes " in text for text in group.docs]
        assert sum(group.labels or []) == 1
        assert all(text.startswith(f"{number} ") for text in group.docs)
        seen.update(group.docs)
    assert set(seen) == {text for group in given for text in group.docs}  # every document has its turn
    positions = Counter(
        (group.labels or []).index(1) for _, group in drawn(TrainingGroups(given, Sampling(group_size=size), seed=1))
    )
    assert set(positions) == set(range(size))  # the place of the positive tells nothing


def test_a_draw_depends_on_seed_epoch_and_number_alone() -> None:
    sampling = Sampling(group_size=4, random_negatives=1)
    first, second = TrainingGroups(groups(), sampling, 7), TrainingGroups(groups(), sampling, 7)
    keys = [(epoch, number) for epoch in range(3) for number in range(12)]
    expected = {key: first[key] for key in keys}
    for key in random.Random(0).sample(keys, len(keys)):
        random.random()
        torch.rand(1)
        assert second[key] == expected[key]
    assert any(expected[0, i].docs != expected[1, i].docs for i in range(12))
    other = TrainingGroups(groups(), sampling, 8)
    assert any(other[0, i].docs != expected[0, i].docs for i in range(12))


def test_random_negatives_are_never_the_querys_own() -> None:
    given = groups()
    given.append(Group("query 0", ["another answer", "0 no 0"], [1.0, 0.0]))  # the same query, on another line
    others: Counter[int] = Counter()
    for number, group in drawn(TrainingGroups(given, Sampling(group_size=5, random_negatives=2), seed=3)):
        own = {text for g in given if g.query == group.query for text in g.docs}
        strange = [text for text in group.docs if text not in given[number].docs]
        assert len(group.docs) == 5 == len(set(group.docs))
        assert not own & set(strange)
        assert all(" yes " in text or text == "another answer" for text in strange)
        assert [group.labels[group.docs.index(text)] for text in strange] == [0.0] * len(strange)  # type: ignore[index]
        others[len(strange)] += 1
    assert others == Counter({2: 12 * 100, 3: 100})  # a query with one negative gets a third stranger in its place


def test_a_group_with_fewer_negatives_than_asked(caplog: pytest.LogCaptureFixture) -> None:
    given = [*groups(2), Group("few", ["few yes", "few no"], [1, 0]), Group("none", ["none yes"], [1])]
    with caplog.at_level(logging.WARNING, "rerankkit"):
        alone = TrainingGroups(given, Sampling(group_size=4), seed=0)
    assert [len(alone[0, i].docs) for i in range(4)] == [4, 4, 2, 1]
    assert "1 training group without a negative document, which teaches nothing about the order" in caplog.text
    filled = TrainingGroups(given, Sampling(group_size=4, random_negatives=1), seed=0)
    assert [len(filled[0, i].docs) for i in range(4)] == [4, 4, 4, 4]
    lonely = TrainingGroups(given[3:], Sampling(group_size=4, random_negatives=3), seed=0)
    assert lonely[0, 0].docs == ["none yes"]
    assert not (alone.alike or filled.alike) and TrainingGroups(given[3:], Sampling(group_size=4), seed=0).alike
    caplog.clear()
    with caplog.at_level(logging.WARNING, "rerankkit"):
        TrainingGroups(given, Sampling(group_size=4, in_batch_negatives=True), seed=0)
    assert caplog.text == ""  # the other queries' documents teach an order


def test_hardest_takes_the_first_negatives_only() -> None:
    dataset = TrainingGroups(groups(), Sampling(group_size=3, hardest=3), seed=0)
    found = {text.split()[-1] for _, group in drawn(dataset) for text in group.docs if " no " in text}
    assert found == {"0", "1", "2"}


def test_groups_without_a_positive_are_left_out_with_a_count(caplog: pytest.LogCaptureFixture) -> None:
    given = groups(3)
    given[1] = replace(given[1], labels=[0.0] * 9)
    given.append(Group("no documents", [], []))
    with caplog.at_level(logging.WARNING, "rerankkit"):
        dataset = TrainingGroups(given, Sampling(), seed=0)
    assert len(dataset) == 2
    assert {dataset[0, i].qid for i in range(2)} == {"q0", "q2"}
    assert "2 training groups without a positive document and left out, such as group 'q1'" in caplog.text
    with pytest.raises(InputError, match="no group with a positive document"):
        TrainingGroups(given[1:2], Sampling(), seed=0)


def test_each_positive_by_itself() -> None:
    given = groups(5, positives=3)
    given[2] = replace(given[2], labels=[0.0, 2.0, 0.0, *[0.0] * 7])
    given[3] = replace(given[3], labels=[0.0] * 10)  # no positive, so no group
    data = TrainingGroups(given, Sampling(group_size=4, unfold_each_positive=True), seed=0)
    expected = [(g.query, t) for g in given for t, label in zip(g.docs, g.labels or [], strict=True) if label > 0]
    assert len(data) == len(expected) == 10
    for epoch in range(5):
        drawn = [data[epoch, number] for number in range(len(data))]
        assert [(g.query, t) for g in drawn for t, y in zip(g.docs, g.labels or [], strict=True) if y > 0] == expected
        assert all(len(group.docs) == 4 for group in drawn)
    assert data[0, 0] != data[1, 0] == data[1, 0]
    assert len(TrainingGroups(given, Sampling(group_size=4), seed=0)) == 4
    taught = [Group("q", ["a", "b"], teacher_scores=[-1.0, -2.0])]
    alone = TrainingGroups(taught, Sampling(group_size=2, unfold_each_positive=True), seed=0)
    assert len(alone) == 1 and sorted(alone[0, 0].docs) == ["a", "b"]


def test_document_ids_come_along(caplog: pytest.LogCaptureFixture) -> None:
    given = [replace(group, doc_ids=[f"id of {text}" for text in group.docs]) for group in groups()]
    for _, group in drawn(TrainingGroups(given, Sampling(group_size=5, random_negatives=2), seed=0), 10):
        assert group.doc_ids == [f"id of {text}" for text in group.docs]
    given[1:] = groups()[1:]  # only one query's documents have ids, which strangers bring along
    seen: set[str] = set()
    for _, group in drawn(TrainingGroups(given, Sampling(group_size=5, random_negatives=2), seed=0), 10):
        ids = [f"id of {text}" if text.startswith("0 ") else "" for text in group.docs]
        assert group.doc_ids == (ids if any(ids) else None)
        seen.update(ids)
    assert "" in seen and "id of 0 yes 1" in seen
    assert "ids of several texts" not in caplog.text


def test_labels_keep_their_values() -> None:
    given = [Group("q", ["a", "b", "c", "d"], [0.25, 3.5, 0.0, -1.0])]
    dataset = TrainingGroups(given, Sampling(group_size=3, grades="one"), seed=0)
    for _, group in drawn(dataset):
        assert sorted(zip(group.docs, group.labels or [], strict=True))[-2:] == [("c", 0.0), ("d", -1.0)]
        assert sum(label > 0 for label in group.labels or []) == 1
    batch = training_batch(tiny.parts(), [dataset[0, 0]])
    assert batch.labels is not None and batch.labels.dtype == torch.float32
    # a stranger must not be worth more than what is known not to be relevant
    strange = TrainingGroups([*given, *groups(3)], Sampling(group_size=3, random_negatives=1, grades="one"), seed=0)[
        0, 0
    ]
    assert min(strange.labels or []) == -1.0
    assert all(label == -1.0 for text, label in zip(strange.docs, strange.labels or [], strict=True) if " yes " in text)


def test_teacher_scores_stand_in_for_labels(caplog: pytest.LogCaptureFixture) -> None:
    taught = [Group("q", ["a", "b", "c"], teacher_scores=[-9.0, -2.5, -4.0])]
    for _, group in drawn(TrainingGroups(taught, Sampling(group_size=2), seed=0)):
        assert (
            dict(zip(group.docs, group.labels or [], strict=True)).items() <= {"a": -9.0, "b": -2.5, "c": -4.0}.items()
        )
        assert "b" in group.docs  # the teacher's best is the positive, below zero or not
    with pytest.raises(InputError, match="random_negatives = 0"):
        TrainingGroups(taught, Sampling(random_negatives=1), seed=0)
    with caplog.at_level(logging.WARNING, "rerankkit"):
        both = TrainingGroups([replace(taught[0], labels=[1.0, 0.0, 0.0])], Sampling(group_size=3), seed=0)
    assert sorted(both[0, 0].labels or []) == [0.0, 0.0, 1.0]
    assert "1 training group with labels and teacher_scores, of which the labels are learned from" in caplog.text
    with pytest.raises(InputError, match="group 'what' has neither labels nor teacher_scores"):
        TrainingGroups([Group("what", ["a"])], Sampling(), seed=0)


@pytest.mark.parametrize("asked", [{"random_negatives": 1}, {"in_batch_negatives": True}])
def test_other_queries_documents_have_no_teachers_score(asked: dict[str, Any]) -> None:
    group = Group("q", ["a", "b"], [1.0, 0.0], teacher_scores=[1.0, 2.0])
    TrainingGroups([group], Sampling(**asked), seed=0)
    with pytest.raises(InputError, match="group 'q' is learned from its teacher_scores"):
        TrainingGroups([group], Sampling(**asked, learn_from="teacher_scores"), seed=0)
    with pytest.raises(InputError, match="group 'q' is learned from its teacher_scores"):
        TrainingGroups([replace(group, labels=None)], Sampling(**asked), seed=0)


def test_what_is_learned_can_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    both = Group("q", ["a", "b", "c"], [0.0, 1.0, 0.0], [9.0, -2.5, 4.0])
    scores, labels = Group("only scores", ["a"], teacher_scores=[1.0]), Group("only labels", ["a"], [1.0])
    with caplog.at_level(logging.WARNING, "rerankkit"):
        data = TrainingGroups([both], Sampling(group_size=2, learn_from="teacher_scores"), seed=0)
        assert "their labels are learned from" not in caplog.text
    for _, group in drawn(data, 20):
        assert "b" in group.docs  # the labels say which one is positive
        assert group.labels == [{"a": 9.0, "b": -2.5, "c": 4.0}[text] for text in group.docs]
    (group,) = (TrainingGroups([both], Sampling(group_size=3, learn_from="labels"), seed=0)[0, 0],)
    assert sorted(group.labels or []) == [0.0, 0.0, 1.0]
    with pytest.raises(InputError, match="group 'only scores' has no labels"):
        TrainingGroups([both, scores], Sampling(learn_from="labels"), seed=0)
    with pytest.raises(InputError, match="group 'only labels' has no teacher_scores"):
        TrainingGroups([both, labels], Sampling(learn_from="teacher_scores"), seed=0)
    with pytest.raises(InputError, match="'q' is learned from its teacher_scores"):
        TrainingGroups([both], Sampling(learn_from="teacher_scores", random_negatives=1), seed=0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"group_size": 1}, "group_size = 1 must be at least 2"),
        ({"group_size": 0}, "group_size = 0"),
        ({"group_size": 4, "random_negatives": 4}, "random_negatives = 4"),
        ({"random_negatives": -1}, "random_negatives = -1"),
        ({"hardest": 0}, "hardest = 0"),
        ({"hardest": -2}, "hardest = -2"),
        ({"learn_from": "scores"}, "learn_from = 'scores' must be one of auto, labels, teacher_scores"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TrainingGroups(groups(), Sampling(**wrong), seed=0)


def test_the_order_is_another_in_every_epoch() -> None:
    sampler, orders = EpochSampler(20, seed=4), []
    for epoch in (0, 1, 2):
        sampler.epoch = epoch
        order = list(sampler)
        assert order == list(sampler)
        assert sorted(order) == [(epoch, number) for number in range(20)]
        orders.append([number for _, number in order])
    assert len({tuple(order) for order in orders}) == 3
    again, other = EpochSampler(20, seed=4), EpochSampler(20, seed=5)
    again.epoch = other.epoch = 2
    assert [number for _, number in again] == orders[2] != [number for _, number in other]
    assert len(sampler) == 20


class InTwos:
    """A strategy that shows two documents at once, the last one alone where their number is odd."""

    def training_asks(self, group: Group) -> list[Asked]:
        positions = list(range(len(group.docs)))
        return [tuple(positions[i : i + 2]) for i in range(0, len(positions), 2)][::-1]


def test_every_score_finds_its_place() -> None:
    given = [tiny.group(1, 3), tiny.group(2, 5), tiny.group(3, 1)]
    given = [replace(group, labels=[float(i) for i in range(len(group.docs))]) for group in given]
    parts = tiny.parts()
    for strategy in (parts.strategy, InTwos()):
        batch = training_batch(parts, given)
        place = [(g, docs) for g, group in enumerate(given) for docs in strategy.training_asks(group)]
        width = max(len(docs) for _, docs in place)
        batch.place = torch.tensor([[5 * g + d for d in docs] + [-1] * (width - len(docs)) for g, docs in place])
        values = torch.tensor([[10.0 * g + d for d in docs] + [99.0] * (width - len(docs)) for g, docs in place])
        matrix = score_matrix(values, batch)
        assert matrix.tolist() == [[0, 1, 2, 0, 0], [10, 11, 12, 13, 14], [20, 0, 0, 0, 0]]
    batch = training_batch(parts, given)
    assert batch.place is not None and batch.labels is not None and batch.mask is not None
    assert batch.place.tolist() == [[0], [1], [2], [5], [6], [7], [8], [9], [10]]
    assert batch.mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5, [True] + [False] * 4]
    assert batch.labels.tolist() == [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]]
