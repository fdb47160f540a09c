"""Groups on disk: the same groups, drawn the same, in any process, and in little memory."""

import errno
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rerankkit.errors import RunError
from rerankkit.protocols import Group
from rerankkit.sampling import EpochSampler, TrainingGroups
from rerankkit.settings import Sampling
from rerankkit.stored_groups import StoredGroups

GROUPS = [
    Group("plain", ["a", "b"], [1.0, 0.0]),
    Group("zwei\nZeilen \u2028 \U0001f600 \x00", ["ä", ""], [0.1 + 0.2, -1e-300], qid="2", doc_ids=["x", "y"]),
    Group("taught", ["a", "b", "c"], None, [1 / 3, math.pi, -7.0], first_scores=[3.0, 2.0, 1.0]),
    Group("judged", ["a"], [2.0], judged={"d": 1.0, "e": 0.0}),
    Group("nothing", [], []),
]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    stored = StoredGroups(iter(GROUPS), tmp_path / "groups")
    assert len(stored) == 5
    assert list(stored) == GROUPS
    assert [stored[i] for i in (3, 0, -1, 2)] == [GROUPS[i] for i in (3, 0, -1, 2)]
    assert stored[1:4] == GROUPS[1:4]
    with pytest.raises(IndexError):
        stored[5]
    assert list(pickle.loads(pickle.dumps(stored))) == GROUPS
    assert list(StoredGroups([], tmp_path / "none")) == []


def many() -> list[Group]:
    return [
        Group(f"q{i % 17}", [f"{i} yes {j}" for j in range(1 + i % 3)] + [f"{i} no {j}" for j in range(i % 6)],
              [1.0] * (1 + i % 3) + [0.0] * (i % 6), qid=str(i), doc_ids=[f"{i}/{j}" for j in range(1 + i % 3 + i % 6)])
        for i in range(40)
    ]  # fmt: skip


@pytest.mark.parametrize("unfold", [False, True])
def test_the_draws_are_those_of_a_list(tmp_path: Path, unfold: bool) -> None:
    sampling = Sampling(group_size=5, random_negatives=2, unfold_each_positive=unfold)
    stored = TrainingGroups(StoredGroups(many(), tmp_path / "groups"), sampling, 3)
    listed = TrainingGroups(many(), sampling, 3)
    keys = [(epoch, number) for epoch in range(2) for number in range(len(listed))]
    assert len(stored) == len(listed)
    assert [stored[key] for key in keys] == [listed[key] for key in keys]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_loaders_processes_draw_the_same(tmp_path: Path, context: str) -> None:
    groups = TrainingGroups(StoredGroups(many(), tmp_path / "groups"), Sampling(group_size=4, random_negatives=1), 3)
    sampler = EpochSampler(len(groups), seed=1)
    loader = torch.utils.data.DataLoader(
        groups, 4, sampler=sampler, collate_fn=list, num_workers=2, multiprocessing_context=context
    )
    assert [group for batch in loader for group in batch] == [groups[key] for key in sampler]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"could not be written to .*away.*No such file"):
        StoredGroups(GROUPS, tmp_path / "away" / "groups")

    def unreadable() -> Iterator[Group]:
        yield GROUPS[0]
        raise OSError(errno.EIO, os.strerror(errno.EIO), "data.jsonl")

    with pytest.raises(OSError, match=r"data\.jsonl") as caught:
        StoredGroups(unreadable(), tmp_path / "groups")
    assert not isinstance(caught.value, RunError)


MEASURED = """
import resource, sys, tempfile
from pathlib import Path
from rerankkit.readers.jsonl import Jsonl
from rerankkit.sampling import EpochSampler, TrainingGroups
from rerankkit.settings import Sampling
from rerankkit.stored_groups import StoredGroups

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
    stored = StoredGroups(Jsonl(sys.argv[1]), Path(folder) / "groups")
    groups = TrainingGroups(stored, Sampling(group_size=4, random_negatives=1), 0)
    for key in list(EpochSampler(len(groups), 0))[:2000]:
        assert len(groups[key].docs) == 4
print(len(groups), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rows", "flat", "array"])
def test_data_of_300_mb_takes_little_memory(tmp_path: Path, form: str) -> None:
    path, filler, queries = tmp_path / "train.json", "some words of a document, " * 40, 36_000
    with path.open("w") as file:
        for i in range(queries):
            docs = [f"{i}/{j} {filler}" for j in range(8)]
            if form == "flat":
                file.writelines(
                    f'{{"query": "query {i}", "text": "{doc}", "label": {int(j < 1)}}}\n' for j, doc in enumerate(docs)
                )
            else:
                negatives = ", ".join(f'"{doc}"' for doc in docs[1:])
                row = f'{{"query": "query {i}", "positive": "{docs[0]}", "negative": [{negatives}]}}'
                file.write(("[" if i == 0 else ",\n") + row if form == "array" else row + "\n")
        file.write("]" if form == "array" else "")
    size = path.stat().st_size
    assert size > 300e6
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path), str(tmp_path)], capture_output=True, text=True, check=True
    )
    count, memory = map(int, run.stdout.split())
    path.unlink()
    assert count == queries
    assert memory < size / 4
