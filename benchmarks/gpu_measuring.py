"""What the benchmarks on a GPU share: times between events, peak memory, and results that a second run goes on from."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import path
from typing import Any

import torch

path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "kernels")]

PACKAGES = ("torch", "triton", "transformers", "sentence-transformers", "late-interaction-kernels", "flash-maxsim")
REPEATS = 7
SECONDS = 0.1
"""That a repeat may take on the GPU."""
CLOCK = 2e9
"""Cycles of a GPU in a second, at most: a sleep of this many is never too short."""


def about(dry: bool) -> dict[str, str]:
    """Device and versions."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    device = "a CPU, DRY RUN, NO MEASUREMENT" if dry else torch.cuda.get_device_name()
    return {"device": device, "versions": ", ".join(versions), "date": str(datetime.date.today())}


@dataclass(frozen=True)
class Timed:
    """Seconds of a call between events on the GPU, seconds until Python may go on, bytes it had at its peak."""

    gpu: float
    python: float
    memory: int


class Results:
    """Rows in a JSON file, written as they come; a row that this code measured on this device is not measured again.

    Args:
        file: Made where it is not there.
        source: What tells one version of the code from another.
    """

    def __init__(self, file: Path, machine: Mapping[str, str], source: str) -> None:
        self.file, self.machine, self.source = file, machine, source
        self.rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["rows"] if file.exists() else []

    def row(self, title: str, way: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The row of this title and way: what `measure` returns, or the error that it ends with."""
        key = {"title": title, "way": way, "device": self.machine["device"], "source": self.source}
        for row in self.rows:
            if key.items() <= row.items() and "error" not in row:
                return row
        self.rows = [row for row in self.rows if not key.items() <= row.items()]
        try:
            row = {**key, **measure()}
        except Exception as error:  # the next row may be fine, and the visit is short
            row = {**key, "error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            torch.cuda.empty_cache()
        self.rows.append(row)
        self._write()
        print(f"{title} | {way} | " + ", ".join(f"{k} {_short(v)}" for k, v in row.items() if k not in key), flush=True)
        return row

    def failed(self) -> list[dict[str, Any]]:
        """Rows of this code and device that ended with an error, or whose values are wrong."""
        here = {"device": self.machine["device"], "source": self.source}
        rows = [row for row in self.rows if here.items() <= row.items()]
        return [row for row in rows if "error" in row or row.get("parity") == "FAILED"]

    def _write(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({**self.machine, "rows": self.rows}, indent=1), encoding="utf-8")
        new.replace(self.file)

    def table(self, columns: Sequence[str]) -> str:
        """Markdown."""
        lines = [
            f"\n### {self.file.stem}, {self.machine['date']}\n",
            f"{self.machine['device']}; {self.machine['versions']}",
        ]
        header = ["what", "way", *columns]
        lines += ["", *(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header)))]
        here = {"device": self.machine["device"], "source": self.source}
        for row in self.rows:
            if here.items() <= row.items():
                cells = [row["title"], row["way"], *(_short(row.get(column, "")) for column in columns)]
                cells[-1] = row.get("error", cells[-1])
                lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def warm_up(seconds: float = 0.5) -> None:
    """Lets the clocks rise to where they stay."""
    if torch.cuda.is_available():
        a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(20):
                a @ a
            torch.cuda.synchronize()


def timed(calls: Sequence[Callable[[], Any]], number: int = 60) -> Timed:
    """The median time of calls that take turns, so that what one left in the cache does not flatter the next.

    The GPU sleeps until all are enqueued, longer than Python was seen to need for that: else Python is measured.
    """
    for call in calls:
        call()
    if not torch.cuda.is_available():
        start = time.perf_counter()
        calls[0]()
        return Timed(time.perf_counter() - start, time.perf_counter() - start, 0)
    memory, start = _peak(calls[0]), time.perf_counter()
    calls[0]()
    torch.cuda.synchronize()
    each = time.perf_counter() - start
    rounds = max(1, min(number, int(SECONDS / each)) // len(calls))  # of a slow call fewer are enough

    def enqueue() -> float:
        start = time.perf_counter()
        for _ in range(rounds):
            for call in calls:
                call()
        return time.perf_counter() - start

    python = enqueue()
    torch.cuda.synchronize()
    if python > 1.0:  # a slow call hides Python behind itself
        python = 0.0
    found = []
    for _ in range(REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(1.5 * python * CLOCK) + 1_000_000)
        begin.record()
        took = enqueue()
        end.record()
        torch.cuda.synchronize()
        count = rounds * len(calls)
        found.append((begin.elapsed_time(end) / 1e3 / count, took / count))
    return Timed(statistics.median(a for a, _ in found), statistics.median(b for _, b in found), memory)


def waited(call: Callable[[], Any], repeats: int) -> Timed:
    """The median time of a call that was made before and waits for the device itself, such as a ranking."""
    memory, found = 0, []
    for number in range(repeats):
        if torch.cuda.is_available() and not number:
            memory = _peak(call)
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return Timed(statistics.median(found), statistics.median(found), memory)


def _peak(call: Callable[[], Any]) -> int:
    """Bytes that a call had at its peak, over what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def arguments(description: str | None, choices: Sequence[str] = ()) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if choices:
        parser.add_argument("what", choices=choices)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the JSON files")
    parser.add_argument("--dry-run", action="store_true", help="small sizes on a CPU, to see that it runs")
    return parser.parse_args()
