"""How long before rerankkit answers: to be imported, to show its help, to check a recipe?"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from typing import Any

from measuring import ENVIRONMENT, ROOT, interleaved, print_table

ROUNDS = 21
BARE = "python -c pass"
GOALS = {
    'python -c "import rerankkit"': (["-c", "import rerankkit"], 0.150),
    "rerankkit --help": (["-m", "rerankkit", "--help"], 0.400),
    "rerankkit check llm_pointwise": (["-m", "rerankkit", "check", "llm_pointwise"], 1.0),
}
HEAVY = re.compile(r"\| +(torch|transformers|peft|numpy)$", re.MULTILINE)


def test_startup(benchmark: Any) -> None:
    for name, (arguments, _) in GOALS.items():
        imported = HEAVY.findall(python(["-X", "importtime", *arguments]))
        assert not imported, f"{name} imports {imported}"
    commands = {BARE: ["-c", "pass"]} | {name: arguments for name, (arguments, _) in GOALS.items()}
    seconds = interleaved(benchmark, {name: partial(python, given) for name, given in commands.items()}, ROUNDS)
    rows = [[BARE, f"{seconds[BARE] * 1000:.0f}", "", ""]]
    for name, (_, goal) in GOALS.items():
        more = seconds[name] - seconds[BARE]
        rows.append([name, *(f"{value * 1000:.0f}" for value in (seconds[name], more, goal))])
    print_table(
        "Startup",
        ["command", "milliseconds", "over a bare python", "goal"],
        rows,
        f"Medians of {ROUNDS} interleaved processes each. None of them imports torch.",
    )
    for name, (_, goal) in GOALS.items():
        assert seconds[name] < 2 * goal, f"{name} took {seconds[name]:.2f} s"  # twice: the machine may be busy


def python(arguments: list[str]) -> str:
    """Run Python in a process of its own; what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()
