"""Bounds of numbers that a recipe gives, in the form that a part's `check` reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping


def above_zero(values: Mapping[str, float | None]) -> Iterator[tuple[str, str]]:
    """Say which arguments are not positive, finite numbers; None is an argument that was left out."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            yield name, f"must be above 0, got {value}"
