"""Data that is in no file: tuples and `datasets` objects in memory, through a reader of one's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import catalogue
import datasets
import pytest
import tiny
import tiny_training as run

from rerankkit import Group, Reranker, registry, train
from rerankkit.errors import InputError

TUPLES = [
    (tiny.sentence(i, 4), f"{words} {tiny.sentence(50 + i, 2)}", label)
    for i in range(6)
    for words, label in ((run.GOOD, 1.0), (run.BAD, 0.0), (f"{run.BAD} too", 0.0), (f"{run.GOOD} a little", 0.5))
]
DATASET = datasets.Dataset.from_list([dict(zip(("query", "document", "label"), row, strict=True)) for row in TUPLES])


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for name in [name for name in registry.readers.names() if name.startswith("mine.")]:
        forget(name)


def forget(name: str) -> None:
    for key in [key for key in catalogue.REGISTRY if key[-1] == name]:
        del catalogue.REGISTRY[key]


def gathered(rows: Iterable[tuple[str, str, float]]) -> list[Group]:
    groups: dict[str, Group] = {}
    for query, document, label in rows:
        group = groups.setdefault(query, Group(query, [], []))
        assert group.labels is not None
        group.docs.append(document)
        group.labels.append(label)
    return list(groups.values())


def test_what_is_in_memory_trains_as_what_is_in_files(tmp_path: Path) -> None:
    """The same weights from tuples, from a `datasets` object, from the folder that it saves, and from JSON Lines."""
    registry.readers("mine.tuples.v1")(lambda: gathered(TUPLES))
    registry.readers("mine.dataset.v1")(lambda: gathered((r["query"], r["document"], r["label"]) for r in DATASET))
    DATASET.save_to_disk(tmp_path / "saved")
    DATASET.to_json(tmp_path / "rows.jsonl")
    sources = {
        "tuples": {"@readers": "mine.tuples.v1"},
        "dataset": {"@readers": "mine.dataset.v1"},
        "saved": {"@readers": "hf_dataset.v1", "path": str(tmp_path / "saved")},
        "lines": {"@readers": "jsonl.v1", "path": str(tmp_path / "rows.jsonl")},
    }
    recipe = run.recipe(tmp_path, {"max_steps": 2, "eval_steps": 2, "save_steps": 2})
    for name, reader in sources.items():
        train(recipe, tmp_path / f"out-{name}", {"data.train": reader, "sampling.group_size": 3})
    assert len({run.weights(tmp_path / f"out-{name}") for name in sources}) == 1
    train(recipe, tmp_path / "other")
    assert run.weights(tmp_path / "other") != run.weights(tmp_path / "out-lines")


def test_a_model_needs_no_reader_of_ones_own_to_rank(tmp_path: Path) -> None:
    registry.readers("mine.gone.v1")(lambda: gathered(TUPLES))
    recipe = run.recipe(tmp_path, {"max_steps": 1, "warmup_steps": 0, "eval_steps": 1, "save_steps": 1})
    trained = train(recipe, tmp_path / "out", {"data.train": {"@readers": "mine.gone.v1"}})
    forget("mine.gone.v1")
    with pytest.raises(InputError, match="mine.gone.v1"):
        registry.readers.get("mine.gone.v1")
    pairs = [list(row[:2]) for row in TUPLES]
    assert Reranker.from_pretrained(tmp_path / "out").compute_score(pairs) == trained.compute_score(pairs)
