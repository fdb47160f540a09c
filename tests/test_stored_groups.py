"""Groups come back from disk as they were, and training on them takes little memory."""

import errno
import json
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_training as run
import torch

from rerankkit.errors import InputError, RunError
from rerankkit.protocols import Group
from rerankkit.sampling import EpochSampler, TrainingGroups
from rerankkit.settings import Sampling
from rerankkit.stored_groups import StoredGroups
from rerankkit.training import train
from rerankkit.training.trainer import GroupTrainer

GIVEN = [
    Group("q", ["a\n", "b\u2028", "\ud800 half"], [1, 0, 0.1 + 0.2], [1e-300, -2.5, 3], "1", ["x", "y", "z"]),
    Group("", [], [], qid="none"),
    *(
        Group(f"query {i}", [f"{i} yes {j}" for j in range(1 + i % 3)] + [f"{i} no {j}" for j in range(4)],
              [1.0] * (1 + i % 3) + [0.0] * 4, doc_ids=[f"d{i}.{j}" for j in range(5 + i % 3)],
              first_scores=[float(j) for j in range(5 + i % 3)], judged={f"d{i}.0": 2.0, "elsewhere": 1.0})
        for i in range(20)
    ),
]  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> StoredGroups:
    return StoredGroups(iter(GIVEN), tmp_path / "groups.jsonl")


def test_groups_come_back_as_they_were(stored: StoredGroups) -> None:
    assert list(stored) == GIVEN
    assert len(stored) == len(GIVEN)
    assert [stored[-1], stored[3], *stored[5:1:-2]] == [GIVEN[-1], GIVEN[3], *GIVEN[5:1:-2]]
    with pytest.raises(IndexError):
        stored[len(GIVEN)]
    assert list(pickle.loads(pickle.dumps(stored))) == GIVEN


@pytest.mark.parametrize(
    "sampling", [Sampling(group_size=4), Sampling(5, 2), Sampling(5, 2, unfold_each_positive=True)]
)
def test_what_is_drawn_is_what_a_list_gives(stored: StoredGroups, sampling: Sampling) -> None:
    held, kept = TrainingGroups(GIVEN, sampling, 3), TrainingGroups(stored, sampling, 3)
    keys = [(epoch, number) for epoch in range(4) for number in range(len(held))]
    assert [kept[key] for key in keys] == [held[key] for key in keys]
    assert all(kept.known_positives(group) == held.known_positives(group) for group in GIVEN)


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_a_data_loaders_processes_draw_the_same(stored: StoredGroups, start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    data = TrainingGroups(stored, Sampling(group_size=4, random_negatives=1), 3)
    sampler = EpochSampler(len(data), 3)
    loader = torch.utils.data.DataLoader(
        data, batch_size=4, sampler=sampler, collate_fn=list, num_workers=2, multiprocessing_context=start
    )
    assert [group for batch in loader for group in batch] == [data[key] for key in sampler]


def test_a_full_disk_is_said_and_a_readers_own_error_is_not_taken_for_one(tmp_path: Path) -> None:
    def broken() -> Iterator[Group]:
        yield GIVEN[0]
        raise OSError(errno.ENOSPC, "No space left on device")

    def lost() -> Iterator[Group]:
        yield from ()
        open(tmp_path / "not there").close()

    with pytest.raises(RunError, match=r"could not be written to .*groups \(No space left on device\)"):
        StoredGroups(broken(), tmp_path / "groups")
    with pytest.raises(RunError, match="could not be written"):
        StoredGroups(GIVEN, tmp_path / "no folder" / "groups")
    with pytest.raises(FileNotFoundError, match="not there"):
        StoredGroups(lost(), tmp_path / "groups")


def test_groups_lie_on_disk_while_they_are_trained_on(tmp_path: Path) -> None:
    work = tmp_path / "out.training"
    (work / "groups-of-a-killed-training").mkdir(parents=True)
    looked: list[list[str]] = []
    seen: list[GroupTrainer] = []
    original = GroupTrainer.train

    def look(self: GroupTrainer, *args: Any, **options: Any) -> Any:
        seen.append(self)
        looked.append(sorted(str(path.relative_to(work)) for path in work.glob("groups-*/*")))
        return original(self, *args, **options)

    settings = {
        "max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
        "dataloader_num_workers": 2,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GroupTrainer, "train", look)
        train(run.recipe(tmp_path / "recipe", settings, {"unfold_each_positive": True}), tmp_path / "out")
    ((found,),) = looked
    assert found.endswith("/train.jsonl") and "killed" not in found
    assert isinstance(seen[0].train_dataset._groups, StoredGroups)
    assert not work.exists() and (tmp_path / "out").is_dir()
    broken = run.recipe(tmp_path / "broken", settings, {"learn_from": "teacher_scores"})
    with pytest.raises(InputError, match="has no teacher_scores, which"):
        train(broken, tmp_path / "other")
    assert not (tmp_path / "other.training").exists()


MEASURE = """
import re, sys
from pathlib import Path
from rerankkit.readers.jsonl import Jsonl
from rerankkit.sampling import EpochSampler, TrainingGroups
from rerankkit.settings import Sampling
from rerankkit.stored_groups import StoredGroups
from rerankkit.training.trainer import GroupTrainer
from rerankkit.training import train

def draw(path, folder):
    groups = StoredGroups(Jsonl(path), Path(folder))
    data = TrainingGroups(groups, Sampling(group_size=4, random_negatives=1), seed=0)
    for key, _ in zip(EpochSampler(len(data), 0), range(5000)):
        data.known_positives(data[key])
    return len(data)

def peak():  # of this process alone; getrusage's would begin with that of the one that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

small, big, scratch = sys.argv[1:]
draw(small, scratch)
before = peak()
print(draw(big, scratch), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("form", ["contrastive", "flat", "array"])
def test_training_data_of_300_megabytes_takes_little_memory(tmp_path: Path, form: str) -> None:
    text = "words of a document that is as long as documents are " * 10

    def write(path: Path, count: int) -> Path:
        with path.open("w") as file:
            file.write("[" if form == "array" else "")
            for i in range(count):
                docs = [f"{i} {j} {text}" for j in range(5)]
                rows = [{"query": f"query {i}", "document": doc, "label": int(doc is docs[0])} for doc in docs]
                if form != "flat":
                    rows = [{"query": f"query {i}", "positive": docs[0], "negative": docs[1:], "qid": f"q{i}"}]
                end = "," if form == "array" and i < count - 1 else "\n"
                file.write("".join(json.dumps(row) + end for row in rows))
            file.write("]" if form == "array" else "")
        return path

    small, big = write(tmp_path / "small.json", 500), write(tmp_path / "big.json", 110_000)
    size = big.stat().st_size
    assert size > 300e6
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, small, big, tmp_path / "scratch"], capture_output=True, text=True, check=True
    )
    count, grown = map(int, done.stdout.split())
    assert count == 110_000
    print(f"{form}: {size / 1e6:.0f} MB of data, {grown / 1e6:.0f} MB more memory")
    assert grown < 0.4 * size
