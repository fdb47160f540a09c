"""The score cache: nothing is asked twice, nothing is mixed up, nothing is lost when a run ends early."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from rerankkit import Reranker, engine
from rerankkit.errors import InputError, RunError
from rerankkit.protocols import Batch, Reading, Row
from rerankkit.score_cache import ScoreCache
from rerankkit.settings import Engine

GROUPS = [tiny.group(number, 4) for number in range(60, 64)]
SMALL = Engine(batch_tokens=120)


def reranker(folder: Path, extra: str = "", overrides: dict[str, Any] | None = None) -> Reranker:
    return Reranker.from_recipe(tiny.recipe(folder / "a.cfg", extra=extra), overrides)


def test_answers_come_back_as_they_were_given(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    row = Row([1, 2, 3], ["fixed"] * 3)
    key, other = cache.of("a").key(row), cache.of("a").key(replace(row, ids=[1, 2]))
    given = Reading([0.1, -1e-30, 3.0], {"missing": 2})
    cache.keep([key], [given])
    again = ScoreCache(tmp_path / "scores.sqlite")
    assert again.find([other, key]) == [None, given] and len(again) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [1, 2, 4]}, {"shared": (1,), "ids": [2, 3]}, {"type_ids": [0, 0, 1]}, {"scored": [-1, -1, 0]},
        {"labels": ("A",)}, {"choices": (7,)},
    ],
)  # fmt: skip
def test_whatever_a_model_is_shown_is_part_of_the_key(tmp_path: Path, change: dict[str, Any]) -> None:
    answers = ScoreCache(tmp_path / "scores.sqlite").of("a")
    row = Row([1, 2, 3], ["fixed"] * 3)
    assert answers.key(replace(row, **change)) != answers.key(row)
    assert answers.key(replace(row, roles=["query"] * 3, cut_query=1)) == answers.key(row)
    assert ScoreCache(tmp_path / "scores.sqlite").of("b").key(row) != answers.key(row)


def test_a_second_run_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of, cache = reranker(tmp_path), ScoreCache(tmp_path / "scores.sqlite")
    first = of.rank_groups(GROUPS, cache=cache)
    assert (of.costs.prompts, of.costs.cached) == (16, 0)
    assert first == of.rank_groups(GROUPS), "a cache changes no score"
    monkeypatch.setattr(engine, "forward", lambda *_: pytest.fail("asked again"))
    assert of.rank_groups(GROUPS, cache=cache) == first
    assert (of.costs.prompts, of.costs.cached, of.costs.passes, of.costs.tokens) == (0, 16, 0, 0)
    assert [costs.cached for costs in of.bill.queries] == [4, 4, 4, 4]


def test_another_model_or_prompt_is_asked_anew(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    reranker(tmp_path).rank_groups(GROUPS, cache=cache)

    def cached(of: Reranker, groups: Any = GROUPS) -> int:
        of.rank_groups(groups, cache=cache)
        return of.costs.cached

    assert cached(reranker(tmp_path)) == 16
    for override in (
        {"model.head.positive": " Yes"},
        {"model.formatter.template": "Q: {query} D: {document}"},
        {"model.backbone.name": str(tiny.folder("qwen3"))},
        {"model.backbone.dtype": "bf16"},
    ):
        assert cached(reranker(tmp_path, overrides=override)) == 0, override
    trained = reranker(tmp_path)
    with torch.no_grad():
        next(trained.parts.backbone.module.parameters()).view(-1)[5] += 1e-3
    assert cached(trained) == 0
    other = [replace(GROUPS[0], docs=[*GROUPS[0].docs[:3], "another"])]
    assert cached(reranker(tmp_path), other) == 3
    assert cached(reranker(tmp_path, extra="[engine]\nbatch_tokens = 7\n")) == 16, "batches change no score"


def test_an_adapter_counts_once_it_is_trained(tmp_path: Path) -> None:
    adapter = {"model.backbone.lora": {"r": 2, "merge": False}}
    one, other = reranker(tmp_path, overrides=adapter), reranker(tmp_path, overrides=adapter)
    weights = [dict(of.parts.backbone.module.named_parameters()) for of in (one, other)]
    first = next(name for name in weights[0] if "lora_A" in name)
    second = first.replace("lora_A", "lora_B")
    assert not weights[0][first].equal(weights[1][first]) and one.fingerprint() == other.fingerprint()
    with torch.no_grad():
        for own in weights:
            own[second].fill_(0.1)
    assert one.fingerprint() != other.fingerprint(), "now the random halves change answers"
    with torch.no_grad():
        weights[1][first].copy_(weights[0][first])
    assert one.fingerprint() == other.fingerprint() != reranker(tmp_path, overrides=adapter).fingerprint()


def test_a_reranker_without_a_recipe_cannot_be_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="put together without a recipe; build it with"):
        Reranker(tiny.parts()).rank_groups(GROUPS, cache=ScoreCache(tmp_path / "scores.sqlite"))


def test_an_interrupted_run_loses_at_most_the_batch_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = reranker(tmp_path)
    of.settings = SMALL
    whole, forward = of.rank_groups(GROUPS), engine.forward
    answered: list[int] = []

    def counted(parts: Any, batch: Batch, state: object = None) -> torch.Tensor:
        found = forward(parts, batch, state)
        answered.append(len(batch.answer))
        return found

    def interrupted(parts: Any, batch: Batch, state: object = None) -> torch.Tensor:
        if len(answered) == 5:
            raise KeyboardInterrupt
        return counted(parts, batch, state)

    monkeypatch.setattr(engine, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        of.rank_groups(GROUPS, cache=ScoreCache(tmp_path / "scores.sqlite"))
    before = sum(answered)
    assert 0 < before < 16 and len(ScoreCache(tmp_path / "scores.sqlite")) == before

    monkeypatch.setattr(engine, "forward", counted)
    resumed = of.rank_groups(GROUPS, cache=ScoreCache(tmp_path / "scores.sqlite"))
    assert sum(answered) == 16 and of.costs.cached == before, "nothing is asked twice"
    assert [[entry.index for entry in one] for one in resumed] == [[entry.index for entry in one] for one in whole]
    pairs = [(a.score, b.score) for one, other in zip(resumed, whole, strict=True) for a, b in zip(one, other)]  # noqa: B905
    assert max(abs(a - b) for a, b in pairs) < 1e-5


WRITING = """
import sys
from rerankkit.protocols import Reading
from rerankkit.score_cache import ScoreCache
cache, name = ScoreCache(sys.argv[1]), sys.argv[2]
for number in range(int(sys.argv[3])):
    cache.keep([f"{name}-{number}-{i}".encode() for i in range(20)], [Reading([float(i)], {}) for i in range(20)])
    print(number, flush=True)
"""


def writing(file: Path, name: str, batches: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITING, str(file), name, str(batches)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})


def test_a_killed_process_leaves_whole_batches(tmp_path: Path) -> None:
    file = tmp_path / "scores.sqlite"
    process = writing(file, "a", 100_000)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20:
        time.sleep(0)
    process.send_signal(signal.SIGKILL)
    said = [int(line) for line in process.communicate()[0].split("\n") if line.isdigit()]
    count = len(ScoreCache(file))
    assert count % 20 == 0 and count >= 20 * (max(said, default=20) + 1)


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "scores.sqlite"
    processes = [writing(file, name, 50) for name in ("a", "b")]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    cache = ScoreCache(file)
    assert len(cache) == 2 * 50 * 20
    assert cache.find([b"a-49-3", b"b-0-19"]) == [Reading([3.0], {}), Reading([19.0], {})]


def test_a_damaged_file_says_which_and_that_it_may_go(tmp_path: Path) -> None:
    file = tmp_path / "scores.sqlite"
    file.write_bytes(b"something else altogether" * 100)
    with pytest.raises(
        InputError, match=r"scores.sqlite is damaged or no score cache \(.*\); if it was one, delete it"
    ):
        ScoreCache(file)
    file.unlink()
    cache = ScoreCache(file)
    cache.keep([bytes([i, j]) for i in range(200) for j in range(20)], [Reading([1.0], {})] * 4000)
    cache.close()
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"scores.sqlite is damaged .* delete it"):
        ScoreCache(file).find([bytes([5, 5])])


@pytest.mark.parametrize("answer", ["0.25", '[["x"], {}]', "{}", b"\xff", "undecodable", None])
def test_an_answer_that_has_changed_in_the_file_is_none(tmp_path: Path, answer: object) -> None:
    file, keys = tmp_path / "scores.sqlite", [b"one", b"other"]
    ScoreCache(file).keep(keys, [Reading([0.5], {})] * 2)
    changed = sqlite3.connect(file)
    if answer == "0.25":
        changed.execute("UPDATE answers SET answer = replace(answer, '0.5', '0.25') WHERE key = ?", keys[:1])
    elif answer == "undecodable":
        changed.execute("UPDATE answers SET answer = CAST(x'ff2030' AS TEXT) WHERE key = ?", keys[:1])
    elif answer is None:
        changed.execute("UPDATE answers SET answer = (SELECT replace(answer, '0.5', '1.5') FROM answers LIMIT 1)")
    else:
        changed.execute("UPDATE answers SET answer = ? WHERE key = ?", (answer, keys[0]))
    changed.commit()
    with pytest.raises(InputError, match=r"scores.sqlite is damaged or no score cache \(.*\); .* delete it"):
        ScoreCache(file).find(keys)
    if answer is not None:
        assert ScoreCache(file).find(keys[1:]) == [Reading([0.5], {})]


def test_a_full_disk_is_called_so(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    cache.keep([b"first"], [Reading([1.0], {})])
    cache._file.execute("PRAGMA max_page_count = 4")  # sqlite's own way to say so
    many = [bytes([i, j]) for i in range(100) for j in range(20)]
    with pytest.raises(RunError, match="cannot be used .database or disk is full.; is the disk full"):
        cache.keep(many, [Reading([1.0], {})] * len(many))
    assert cache.find([b"first", many[0]]) == [Reading([1.0], {}), None], "what was kept stays, whole batches alone"
    with pytest.raises(OSError, match="the disk is full"), cache._transaction():
        cache._file.execute("ROLLBACK")  # as sqlite does by itself where it cannot write
        raise OSError("the disk is full")


def test_other_files_and_folders_are_refused(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    with pytest.raises(InputError, match="other.sqlite is a database of something else; name another") as refused:
        ScoreCache(tmp_path / "other.sqlite")
    assert "delete" not in str(refused.value)
    with pytest.raises(InputError, match="there is no folder .*nowhere to keep a score cache in"):
        ScoreCache(tmp_path / "nowhere" / "scores.sqlite")


@pytest.mark.regression
def test_a_cache_that_another_process_removed_is_said_to_be_gone(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "c")
    (tmp_path / "c").unlink()
    with pytest.raises(RunError, match="was removed while it was used, as by another process that wrote the same"):
        cache.keep([b"key"], [Reading([1.0], {})])
    cache.close()
