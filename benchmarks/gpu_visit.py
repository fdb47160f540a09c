"""The steps of a visit to a GPU machine, each under a time limit of its own; `gpu_visit.sh` starts it.

`visit.json` in the folder of results says what became of each step, and is written before and after it: whatever ends
the visit, what was measured stays, and the next visit repeats only what failed, was cut or never began.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
SECONDS = 570
"""Of a whole visit, the installation included; where a command may take ten minutes, that is within them."""
DRY_SECONDS = 3000
"""Of a dry run, which may share its two cores with other work."""
LEAST = 10
"""Seconds under which no step is begun."""
TAIL = 40
"""Lines of a step's output that are shown when it is over; `visit.log` has all."""
DRY_SLOWER = 8
"""Times the limit of a step: an interpreter on two cores is no GPU, nor a machine of sixteen."""
Status = Literal["passed", "failed", "cut", "no time", "left out"]


@dataclass(frozen=True)
class Step:
    """One process.

    Args:
        limit: Seconds.
        missing: What the machine lacks for it; then it is left out.
    """

    name: str
    command: Sequence[str]
    limit: int
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass
class Outcome:
    """What became of a step, and where.

    Args:
        source: A hash of the code that ran.
    """

    status: Status
    seconds: float
    exit: int | None
    why: str
    device: str
    source: str
    began: str


def steps(out: Path, dry: bool) -> list[Step]:
    """In the order of what matters most, should the visit be cut short."""
    python = sys.executable
    pytest = [python, *["-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "gpu"]]
    processes = ["-n", "2" if dry else "8"]  # compiling is most of it
    kernels, rerankers = "tests/kernels/test_gpu.py", "tests/test_gpu_rerankers.py"
    checker = ["compute-sanitizer", "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "9"]
    can_check, ptxas = shutil.which(checker[0]) is not None, newest_ptxas()
    cache = Path(tempfile.gettempdir()) / "rerankkit-triton-ptxas"  # what the other assembler made stays apart
    measure = ["--out", str(out), *(["--dry-run"] if dry else [])]
    return [
        Step("doctor", [python, "-m", "rerankkit", "doctor"], 60),
        Step(
            "memory checker",
            [*checker, *pytest, f"{kernels}::test_each_kernel_once"],
            100,
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # each tensor is memory of its own, or the checker sees one block
            "" if can_check and not dry else "no compute-sanitizer here",
        ),
        Step("kernel tests", [*pytest, *processes, kernels], 150),
        Step("reranker tests", [*pytest, *processes, rerankers], 120),
        Step("kernels", [python, "benchmarks/gpu_kernels.py", *measure], 120),
        Step("engine", [python, "benchmarks/gpu_engine.py", "ranking", *measure], 150),
        Step("training", [python, "benchmarks/gpu_engine.py", "training", *measure], 90),
        Step(
            "kernel tests, CUDA's ptxas",
            [*pytest, *processes, kernels],
            120,
            {"TRITON_PTXAS_PATH": ptxas, "TRITON_CACHE_DIR": str(cache)},
            "" if ptxas and not dry else "no ptxas of CUDA 13 here",
        ),
    ]


def rehearsal() -> list[Step]:
    """What a dry run has besides: a step that fails and one that takes too long, each at the first visit only."""
    first = "import os, sys, time; first = os.environ['GPU_VISIT'] == '1'; "
    return [
        Step("rehearsal: fails", [sys.executable, "-c", first + "print('failing:', first); sys.exit(3 * first)"], 60),
        Step("rehearsal: too slow", [sys.executable, "-c", first + "time.sleep(600 * first)"], 5),
    ]


def newest_ptxas() -> str:
    """CUDA 13's assembler, which is newer than the one that Triton brings; empty where there is none."""
    places = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), *map(str, sorted(Path("/usr/local").glob("cuda-13*")))]
    found = [Path(place) / "bin" / "ptxas" for place in places] + [Path(shutil.which("ptxas") or "/nowhere")]
    found += [Path(place) / "nvidia" / "cu13" / "bin" / "ptxas" for place in sys.path]
    for path in found:
        if path.is_file():
            says = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if "release 13" in says:
                return str(path)
    return ""


class Visit:
    """The state in `visit.json`, and one step after another."""

    def __init__(self, out: Path, device: str, source: str, deadline: float) -> None:
        self.out, self.device, self.source, self.deadline = out, device, source, deadline
        self.file = out / "visit.json"
        self.state: dict[str, Any] = {"visits": [], "steps": {}}
        if self.file.exists():
            self.state = json.loads(self.file.read_text("utf-8"))

    def begin(self, about: Mapping[str, Any]) -> None:
        self.state["visits"].append({"began": now(), "device": self.device, "source": self.source, **about})
        self._write()

    def is_done(self, step: Step) -> bool:
        """Whether it passed on such a device; the code may have changed since, which the table says."""
        before = self.state["steps"].get(step.name)
        return before is not None and before["status"] == "passed" and before["device"] == self.device

    def run(self, step: Step) -> Outcome:
        outcome = Outcome("left out", 0.0, None, step.missing, self.device, self.source, now())
        limit = min(step.limit, self.deadline - time.time() - 3)
        if not step.missing and limit < LEAST and limit < step.limit:
            outcome.status, outcome.why = "no time", f"{limit:.0f} s were left"
        elif not step.missing:
            outcome.status, outcome.why = "cut", "the visit ended"
            self._keep(step, outcome)  # so it reads if this process is ended meanwhile
            start = time.perf_counter()
            outcome.exit = self._process(step, limit)
            outcome.seconds = round(time.perf_counter() - start, 1)
            if outcome.exit is None:
                outcome.why = f"after {limit:.0f} s"
            else:
                outcome.status = "failed" if outcome.exit else "passed"
                outcome.why = f"exit code {outcome.exit}" if outcome.exit else ""
        self._keep(step, outcome)
        return outcome

    def _process(self, step: Step, limit: float) -> int | None:
        """The exit code, None where the time was up."""
        with (self.out / "visit.log").open("a", encoding="utf-8") as log:
            print(f"\n===== {step.name}: {' '.join(step.command)}", file=log, flush=True)
            begins = log.tell()
            environment = {**os.environ, **step.environment, "GPU_VISIT": str(len(self.state["visits"]))}
            process = subprocess.Popen(
                step.command, cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
        with (self.out / "visit.log").open(encoding="utf-8", errors="replace") as log:
            log.seek(begins)
            print("".join(log.readlines()[-TAIL:]), end="", flush=True)
        return code

    def _keep(self, step: Step, outcome: Outcome) -> None:
        self.state["steps"][step.name] = asdict(outcome)
        self._write()

    def _write(self) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.state, indent=1), encoding="utf-8")
        new.replace(self.file)

    def table(self, all_steps: Sequence[Step]) -> str:
        lines = ["| step | | seconds | |", "| --- | --- | --- | --- |"]
        for step in all_steps:
            kept = self.state["steps"][step.name]
            why = kept["why"] or ("" if kept["source"] == self.source else "of other code")
            lines.append(f"| {step.name} | {kept['status']} | {kept['seconds']:.0f} | {why} |")
        return "\n".join(lines)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a step and the processes that it began: politely, so that it can write what it has, then not."""
    for politely, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, politely)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def source_hash() -> str:
    """Of the code that is measured: kernels, rerankkit and the benchmarks."""
    found = hashlib.sha256()
    for folder in ("kernels", "rerankkit", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()[:12]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--started", type=float, default=time.time(), help="when the visit began, in Unix time")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU: small sizes, and two steps that go wrong")
    parser.add_argument("--again", default="", help="steps to repeat though they passed, with commas between")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a step does not outlive the visit
    from gpu_measuring import about  # torch takes seconds to import, and --help none

    machine = about(arguments.dry_run)
    out = arguments.out.resolve()
    visit = Visit(
        out, machine["device"], source_hash(), arguments.started + (DRY_SECONDS if arguments.dry_run else SECONDS)
    )
    visit.begin({**machine, "python": platform.python_version()})
    print(f"visit {len(visit.state['visits'])}: {machine['device']}, {machine['versions']}", flush=True)
    all_steps = steps(out, arguments.dry_run)
    if arguments.dry_run:
        all_steps = rehearsal() + [replace(step, limit=DRY_SLOWER * step.limit) for step in all_steps]
    for step in all_steps:
        if visit.is_done(step) and step.name not in arguments.again.split(","):
            print(f"--- {step.name}: passed before", flush=True)
            continue
        print(f"--- {step.name}, at most {step.limit} s", flush=True)
        outcome = visit.run(step)
        print(f"--- {step.name}: {outcome.status} {outcome.why}, {outcome.seconds:.0f} s", flush=True)
    print("\n" + visit.table(all_steps), flush=True)
    fine = {"passed", "left out"}
    return int(any(visit.state["steps"][step.name]["status"] not in fine for step in all_steps))


if __name__ == "__main__":
    sys.exit(main())
