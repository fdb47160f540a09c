"""Keeps pytest-benchmark's own table away: the benchmarks print the comparison that each is about."""

from collections.abc import Iterator

import pytest
from measuring import THREADS


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True


@pytest.fixture
def threads() -> Iterator[None]:
    """As many threads as the table says."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)
