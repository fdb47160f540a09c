"""What every benchmark shares: interleaved rounds, a table to paste, and a line about the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rerankkit

ROOT = Path(__file__).parents[1]
SMALL = os.environ.get("RERANKKIT_BENCH_SMALL") == "1"
"""Tiny sizes and random models, to see that a benchmark runs; its figures mean nothing and are not asserted."""
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
LOAD = os.getloadavg()[0]  # before this process adds to it
# A bare checkout measures itself in the processes that it starts, too.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]),
    "OMP_NUM_THREADS": str(THREADS),
}


def interleaved(
    benchmark: Any,
    contestants: Mapping[str, Callable[[], Any]],
    rounds: int,
    check: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, float]:
    """The median seconds of each contestant.

    A round runs every contestant once, and each round begins with another one, so that a machine that becomes slower
    meanwhile is slower for all of them.

    Args:
        benchmark: pytest-benchmark's fixture; it stores the seconds of each contestant with its own figures.
        check: Sees what the contestants returned in the first round, before any time is believed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)

    def one_round() -> None:
        done = len(seconds[names[0]])
        results = {}
        for name in names[done % len(names) :] + names[: done % len(names)]:
            start = time.perf_counter()
            results[name] = contestants[name]()
            seconds[name].append(time.perf_counter() - start)
        if not done:
            check(results)

    benchmark.pedantic(one_round, rounds=1 if SMALL else rounds, iterations=1)
    benchmark.extra_info["seconds"] = seconds
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = "") -> None:
    """A Markdown table with what it was measured on."""
    lines = [f"\n\n### {title}\n", machine()]
    lines += [f"\n{note}"] * bool(note)
    lines += ["", *(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)), ""]
    print("\n".join(lines), flush=True)


def in_a_process(file: str, *arguments: str) -> dict[str, float]:
    """What a benchmark's file prints as JSON when it is run by itself, with large tensors mapped one by one."""
    environment = ENVIRONMENT | {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run([sys.executable, file, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class PeakMemory:
    """Samples this process's resident memory every millisecond."""

    def __enter__(self) -> PeakMemory:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._done.wait(0.001):
            self.peak = max(self.peak, process.memory_info().rss)


def matrix_product_rate(dtype: Any) -> float:
    """GFLOP/s of a product such as those of a model's layers."""
    import torch  # slow to import, and not every benchmark needs it

    size = 256 if SMALL else 1024
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times) / 1e9


def machine() -> str:
    """Date, CPU, threads, load and versions, in one line."""
    packages = ("torch", "transformers", "peft")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    load = f"{os.cpu_count()} cores with load {LOAD:.1f} before"
    python = f"Python {platform.python_version()}"
    small = ["SMALL SIZES, NO MEASUREMENT"] if SMALL else []
    own = [f"rerankkit {rerankkit.__version__}", python, *versions]
    return " · ".join([*small, f"{datetime.date.today()}", _cpu(), f"{THREADS} threads", load, ", ".join(own)])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or f"{platform.machine()} {sys.platform}"
