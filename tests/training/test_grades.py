"""Groups of several grades: which documents meet, and what is learned of them."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import tiny_training as run

from rerankkit.protocols import Group
from rerankkit.sampling import TrainingGroups
from rerankkit.settings import Sampling
from rerankkit.training import train

SHORT: dict[str, Any] = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def graded(labels: list[float], count: int = 4) -> list[Group]:
    return [Group(f"query {i}", [f"{i} {j}" for j in range(len(labels))], labels) for i in range(count)]


def meetings(labels: list[float], sampling: Sampling, epochs: int = 60) -> Counter[tuple[float, float]]:
    """How often two labels stand in one group, out of how many groups there are."""
    data, found = TrainingGroups(graded(labels), sampling, seed=3), Counter[tuple[float, float]]()
    for epoch in range(epochs):
        for number in range(len(data)):
            group = data[epoch, number]
            assert len(set(group.docs)) == len(group.docs) <= sampling.group_size
            own = dict(zip((f"{group.query.split()[1]} {j}" for j in range(len(labels))), labels, strict=True))
            assert [own[text] for text in group.docs] == group.labels
            found.update(combinations(sorted(set(group.labels or [])), 2))
    return found


@pytest.mark.regression
@pytest.mark.parametrize("labels", [[3, 2, 1, 0, 0], [0.9, 0.5, 0.1, 0], [0, 0, 1, 2, 3, 3, 2, 1], [7, 5, -1, -2, 3]])
@pytest.mark.parametrize("unfold", [False, True])
def test_every_two_grades_meet(labels: list[float], unfold: bool) -> None:
    found = meetings(labels, Sampling(group_size=4, unfold_each_positive=unfold))
    grades = sorted({label for label in labels if label > 0})
    assert len(grades) > 1
    groups = 60 * 4 * (sum(label > 0 for label in labels) if unfold else 1)
    for lower, higher in combinations(grades, 2):  # four places are enough for these grades and a negative
        assert found[lower, higher] == groups, (lower, higher)
    assert sum(count for (lower, higher), count in found.items() if lower <= 0 < higher) >= groups


@pytest.mark.regression
def test_many_negatives_do_not_crowd_out_a_grade() -> None:
    assert meetings([2, 1, *[0] * 50], Sampling(group_size=3))[1, 2] == 240


@pytest.mark.regression
def test_pairs_are_of_any_two_grades() -> None:
    found = meetings([3, 2, 1, 0, 0], Sampling(group_size=2), epochs=200)
    assert set(found) == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


@pytest.mark.regression
def test_two_grades_without_an_irrelevant_document() -> None:
    assert meetings([3, 1, 1], Sampling(group_size=3))[1, 3] == 240


@pytest.mark.parametrize("labels", [[1, 1, 0, 0, 0, 0], [2, 0, 0, 0], [1, 0, -1, 0]])
@pytest.mark.parametrize("size", [2, 4])
def test_one_grade_is_drawn_as_ever(labels: list[float], size: int) -> None:
    """The naive draw: a positive, then some of what is irrelevant, shuffled."""
    import random

    data = TrainingGroups(graded(labels), Sampling(group_size=size), seed=5)
    for epoch in range(20):
        for number in range(4):
            draw = random.Random(f"5/{epoch}/{number}")
            chosen = [draw.choice([i for i, label in enumerate(labels) if label > 0])]
            others = [i for i, label in enumerate(labels) if label <= 0]
            chosen += draw.sample(others, min(size - 1, len(others)))
            draw.shuffle(chosen)
            assert data[epoch, number].docs == [f"{number} {i}" for i in chosen]


def test_one_positive_where_that_is_asked_for() -> None:
    found = meetings([3, 2, 1, 0, 0], Sampling(group_size=4, grades="one"))
    assert set(found) == {(0, 1), (0, 2), (0, 3)}


@pytest.mark.parametrize(
    ("loss", "grades"),
    [(name, "several") for name in ("lambda_loss.v1", "listnet.v1", "ranknet.v1", "softmax_cross_entropy.v1")]
    + [("binary_cross_entropy.v1", "one"), ("negative_log_likelihood.v1", "several")],
)
def test_which_losses_tell_grades_apart(tmp_path: Path, loss: str, grades: str) -> None:
    from rerankkit.recipe import load_recipe
    from rerankkit.sampling import training_groups

    recipe = load_recipe(run.recipe(tmp_path, SHORT, loss=loss, dev=0))
    assert training_groups(recipe, graded([3, 2, 1, 0]), 0).sampling.grades == grades
    asked = load_recipe(recipe.path, {"sampling.grades": "one"})
    assert training_groups(asked, graded([3, 2, 1, 0]), 0).sampling.grades == "one"


@pytest.mark.regression
def test_grades_three_and_one_train(tmp_path: Path) -> None:
    recipe = run.recipe(tmp_path / "recipe", SHORT, loss="ranknet.v1", dev=0)
    rows = [{"query": f"query {i}", "docs": [f"red {i}", f"blue {i}"], "labels": [3, 1]} for i in range(8)]
    (tmp_path / "recipe" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not train(recipe, tmp_path / "out").untrained


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["lambda_loss.v1", "listnet.v1"])
def test_two_is_learned_to_be_above_one(tmp_path: Path, loss: str) -> None:
    # those of 1 are like those of 3, and those of 2 like irrelevant ones: only a comparison tells their order
    words = {3: "open file python", 2: "quiet hills mat", 1: "open file text", 0: "quiet hills rain"}
    rows = [
        {"query": f"query {i}", "docs": [f"{words[g]} {i} {j}" for j, g in enumerate(grades)], "labels": grades}
        for i, grades in enumerate([[3, 2, 1, 0, 0]] * 24)
    ]
    settings = {**SHORT, "max_steps": 36, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "logging_steps": 99}
    recipe = run.recipe(tmp_path / "recipe", settings, loss=loss, dev=0, sampling={"group_size": 4})
    (tmp_path / "recipe" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reranker = train(recipe, tmp_path / "out")
    scores = reranker.compute_score(
        [[f"query {i}", f"{words[g]} {i} {j}"] for i in range(100, 140) for j, g in ((1, 2), (2, 1))]
    )
    above = sum(higher > lower for higher, lower in zip(scores[::2], scores[1::2], strict=True))
    assert above >= 38, above
