"""What every test shares: fixed seeds, and a closing line that names the tests that were left out."""

import random
import sys
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

from rerankkit.registry import registry

# Examples that are the same on every run, and no deadline: a shared machine may be slow at any moment.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

LEFT_OUT = pytest.StashKey[Counter[str]]()
RUN_THEM = {
    "slow": "make slow",
    "gpu": "make gpu, on a machine with a CUDA device",
    "visit": "make visit, which rehearses a visit to a GPU machine",
    "interpreted": "TRITON_INTERPRET=1 pytest tests/kernels -m interpreted, which make test does",
    "compiled": "pytest tests/kernels -m compiled, which make test does",
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Gives every test the same random numbers, in whatever order the tests run."""
    random.seed(0)
    if "torch" in sys.modules:  # not imported for the sake of the tests that do without it
        sys.modules["torch"].manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    yield


@pytest.fixture(autouse=True)
def code_of_one_test() -> Iterator[None]:
    """Files loaded with `--code` in one test are not there for the next."""
    before = dict(registry._code)
    yield
    registry._code.clear()
    registry._code.update(before)


@pytest.fixture(autouse=True)
def nothing_said_yet() -> Iterator[None]:
    """What one test was warned of is said anew in the next."""
    if "rerankkit.warnings" in sys.modules:
        sys.modules["rerankkit.warnings"].forget()
    yield


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        left_out = item.config.stash.setdefault(LEFT_OUT, Counter())
        left_out.update(marker for marker in RUN_THEM if item.get_closest_marker(marker))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for marker, count in config.stash.get(LEFT_OUT, Counter()).items():
        terminalreporter.write_line(f"left out: {count} marked '{marker}' (run with: {RUN_THEM[marker]})")
