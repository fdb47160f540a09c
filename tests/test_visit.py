"""A visit to a GPU machine: its steps under their limits and what a second visit repeats; and all of it, rehearsed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import gpu_visit  # noqa: E402  a script beside the benchmarks
from gpu_visit import Step, Visit  # noqa: E402


def step(name: str, code: str, limit: int = 60, missing: str = "") -> Step:
    return Step(name, [sys.executable, "-S", "-c", code], limit, missing=missing)


def visit(at: Path, device: str = "a GPU", source: str = "a", seconds: float = 100.0) -> Visit:
    found = Visit(at, device, source, time.time() + seconds)
    found.begin({})
    return found


def test_a_step_passes_fails_is_cut_or_left_out(tmp_path: Path) -> None:
    of = visit(tmp_path)
    steps = [
        step("fine", "print('all', 'is well')"),
        step("wrong", "import sys; print('oh no'); sys.exit(3)"),
        step("slow", "import time; print('begun', flush=True); time.sleep(60)", limit=1),
        step("absent", "", missing="no tool here"),
    ]
    found = [of.run(one) for one in steps]
    assert [one.status for one in found] == ["passed", "failed", "cut", "left out"]
    assert [one.exit for one in found] == [0, 3, None, None]
    assert [one.why for one in found] == ["", "exit code 3", "after 1 s", "no tool here"]
    kept = json.loads((tmp_path / "visit.json").read_text())
    assert [kept["steps"][one.name]["status"] for one in steps] == ["passed", "failed", "cut", "left out"]
    log = (tmp_path / "visit.log").read_text()
    assert "all is well" in log and "oh no" in log and "begun" in log


def test_what_passed_is_done_on_the_same_device_alone(tmp_path: Path) -> None:
    of, fine, wrong = visit(tmp_path), step("fine", ""), step("wrong", "raise SystemExit(1)")
    of.run(fine), of.run(wrong)
    again = visit(tmp_path, source="b")
    assert again.is_done(fine) and not again.is_done(wrong) and not again.is_done(step("new", ""))
    assert not visit(tmp_path, device="another GPU").is_done(fine)
    assert "of other code" in again.table([fine, wrong]).splitlines()[2]
    assert len(again.state["visits"]) == 2


def test_a_visit_that_is_ended_leaves_its_step_as_cut(tmp_path: Path) -> None:
    state = tmp_path / "visit.json"
    seen = step("itself", f"import pathlib, sys; sys.exit('\"cut\"' not in pathlib.Path({str(state)!r}).read_text())")
    assert visit(tmp_path).run(seen).status == "passed"  # while it ran, it stood there as cut


def test_no_step_is_begun_when_the_time_is_up(tmp_path: Path) -> None:
    of = visit(tmp_path, seconds=5.0)
    found = of.run(step("late", ""))
    assert found.status == "no time" and found.exit is None
    assert not of.is_done(step("late", ""))


def test_a_cut_step_takes_its_processes_along(tmp_path: Path) -> None:
    child = f"import time, pathlib; time.sleep(4); pathlib.Path({str(tmp_path / 'alive')!r}).touch()"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {child!r}]); time.sleep(60)"
    start = time.monotonic()
    assert visit(tmp_path).run(step("parent", code, limit=2)).status == "cut"
    time.sleep(max(0.0, 5 - (time.monotonic() - start)))
    assert not (tmp_path / "alive").exists()


def test_every_step_names_a_file_that_is_there(tmp_path: Path) -> None:
    for dry in (False, True):
        names = [name for one in gpu_visit.steps(tmp_path, dry) for name in one.command]
        files = [name.partition("::")[0] for name in names if ".py" in name]
        assert len(files) >= 6 and all((ROOT / name).is_file() for name in files)
    assert sum(one.limit for one in gpu_visit.steps(tmp_path, False)[:4]) < gpu_visit.SECONDS


@pytest.mark.visit
def test_a_dry_run_and_a_second_visit(tmp_path: Path) -> None:
    """The script itself on a CPU; then once more, as on a fresh machine, from the first visit's results."""
    environment = os.environ | {"OUT": str(tmp_path / "first")}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_visit.sh"), "--dry-run"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    state = json.loads((tmp_path / "first" / "visit.json").read_text())
    statuses = {name: one["status"] for name, one in state["steps"].items()}
    wrong = {"rehearsal: fails": "failed", "rehearsal: too slow": "cut"}
    left_out = dict.fromkeys(("memory checker", "kernel tests, CUDA's ptxas"), "left out")
    assert statuses == {**dict.fromkeys(statuses, "passed"), **left_out, **wrong}, first.stdout[-6000:]
    assert first.returncode == 1
    files = [path for path in (tmp_path / "first").iterdir() if path.is_file()]
    assert len(files) <= 8 and all(path.stat().st_size < 2**24 for path in files)
    for name in ("gpu-kernels", "gpu-ranking", "gpu-training"):
        rows = json.loads((tmp_path / "first" / f"{name}.json").read_text())["rows"]
        assert len(rows) > 4 and not [row for row in rows if "error" in row or row.get("parity") == "FAILED"]

    results = ROOT / "benchmarks" / "pack" / "results"
    assert not results.exists(), f"{results} has the results of a visit; take them away for a rehearsal"
    (tmp_path / "first").rename(results)
    try:
        environment["OUT"] = str(tmp_path / "second")
        second = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        results.rename(tmp_path / "first")
    assert second.returncode == 0, second.stdout[-6000:]
    again = json.loads((tmp_path / "second" / "visit.json").read_text())
    assert {name for name, one in again["steps"].items() if one != state["steps"][name]} >= set(wrong)
    assert [again["steps"][name] for name in ("kernel tests", "engine")] == [
        state["steps"][name] for name in ("kernel tests", "engine")
    ]
    assert {one["status"] for one in again["steps"].values()} == {"passed", "left out"}
