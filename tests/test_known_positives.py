"""What is known to be relevant to a query, anywhere in the training data, is never taken for irrelevant."""

import logging
from pathlib import Path

import pytest

from rerankkit.protocols import Group
from rerankkit.recipe import load_recipe
from rerankkit.sampling import TrainingGroups, training_groups
from rerankkit.settings import Sampling


def test_what_is_known_to_be_relevant_is_known_for_all_groups_of_a_query() -> None:
    given = [
        Group("q", ["a", "b", "c"], [1, 0, 2], doc_ids=["1", "2", "3"], judged={"1": 1.0, "9": 1.0, "8": 0.0}),
        Group("q", ["d", "e"], [1, 0]),
        Group("other", ["b", "f"], [1, 0], doc_ids=["2", "5"]),
        Group("taught", ["g", "h"], teacher_scores=[-2, -1]),
    ]
    data = TrainingGroups(given, Sampling(group_size=2), seed=0)
    for asked in (given[0], given[1], data[0, 1], Group("q", [])):
        known = data.known_positives(asked)
        assert [text for text in "abcdefgh" if known.covers(text)] == ["a", "c", "d"]
        assert [docid for docid in "123456789" if known.covers("?", docid)] == ["1", "3", "9"]
        assert not known.covers("?") and not known.covers("?", "")
    assert [text for text in "abcdefgh" if data.known_positives(given[2]).covers(text)] == ["b"]
    assert [text for text in "abcdefgh" if data.known_positives(given[3]).covers(text)] == ["h"]
    nothing = data.known_positives(Group("never seen", []))
    assert not nothing.texts and not nothing.ids


def test_a_stranger_is_not_a_known_document_under_another_text() -> None:
    given = [
        Group("q", ["a", "b"], [1, 0], doc_ids=["1", "2"], judged={"3": 1.0}),
        Group("r", ["B", "x"], [1, 0], doc_ids=["2", "7"]),  # q's own negative, cut otherwise
        Group("s", ["C", "y"], [1, 0], doc_ids=["3", "8"]),  # judged relevant to q, though not among its documents
        Group("t", ["z", "w"], [1, 0], doc_ids=["4", "9"]),
    ]
    data = TrainingGroups(given, Sampling(group_size=4, random_negatives=2), seed=0)
    strange = {text for epoch in range(50) for text in data[epoch, 0].docs} - {"a", "b"}
    assert strange == {"z"}


def test_ids_that_stand_for_several_texts_are_said(caplog: pytest.LogCaptureFixture) -> None:
    given = [Group(f"query {i}", [f"{i} yes", f"{i} no"], [1, 0], doc_ids=["0", "1"]) for i in range(6)]
    with caplog.at_level(logging.WARNING, "rerankkit"):
        data = TrainingGroups(given, Sampling(group_size=4), seed=0)
    assert "with document ids of several texts" in caplog.text
    assert data.known_positives(given[0]).covers("?", "0")


def test_rows_of_one_query_id_know_of_each_other() -> None:
    given = [Group("q", ["a", "n"], [1, 0], qid="1"), Group("Q?", ["b", "n"], [1, 0], qid="1")]
    data = TrainingGroups(given, Sampling(group_size=2), seed=0)
    for group in given:
        assert [text for text in "abn" if data.known_positives(group).covers(text)] == ["a", "b"]


def test_a_document_of_the_querys_id_is_the_query_only_where_the_reader_says_so(tmp_path: Path) -> None:
    given = [
        Group(f"query {i}", [f"yes {i}", f"no {i}"], [1, 0], qid=str(i), doc_ids=[f"{1 - i}", "9"]) for i in (0, 1)
    ]
    sampling = Sampling(group_size=3, random_negatives=1)
    apart, same = TrainingGroups(given, sampling, 0), TrainingGroups(given, sampling, 0, own_ids=True)
    assert "yes 1" in apart[0, 0].docs and "yes 1" not in same[0, 0].docs
    recipe = tmp_path / "recipe.cfg"
    for reader, own in (
        ('"jsonl.v1"\npath = "x"', False),
        ('"beir.v1"\npath = "x"', True),
        ('"beir.v1"\npath = "x"\nignore_identical_ids = false', False),
    ):
        recipe.write_text(
            f'[recipe]\nextends = "colbert"\n[data.train]\n@readers = {reader}\n'
            "[sampling]\nrandom_negatives = 1\nin_batch_negatives = false\n"
        )
        known = training_groups(load_recipe(recipe), given, 0).known_positives(given[0])
        assert known.covers("?", "0") is own
