"""Keeps pytest-benchmark's own table away: the benchmarks print the comparison that each is about."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.option.benchmark_quiet = True
