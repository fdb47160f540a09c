"""What `evaluate` reads of its options, and how it names what it compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerankkit import evaluating
from rerankkit.errors import InputError


def test_the_last_part_of_a_path_names_a_system_where_that_is_enough() -> None:
    assert evaluating.labels(["models/a", "runs/b.trec"]) == ["a", "b.trec"]
    assert evaluating.labels(["x/m", "y/m"]) == ["x/m", "y/m"]
    with pytest.raises(InputError, match="m is given twice"):
        evaluating.labels(["m", "m", "n"])


@pytest.mark.parametrize(("text", "weight"), [(None, None), ("tune", "tune"), ("0", 0.0), ("0.25", 0.25), ("1", 1.0)])
def test_weights(text: str | None, weight: float | str | None) -> None:
    assert evaluating.parse_weight(text) == weight


@pytest.mark.parametrize("text", ["-0.1", "1.1", "nan", "inf", "best", ""])
def test_what_is_no_weight(text: str) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        evaluating.parse_weight(text)


def test_measures() -> None:
    assert evaluating.parse_measures("nDCG@10  RR@5") == ["nDCG@10", "RR@5"]
    assert evaluating.parse_measures(None) is None
    with pytest.raises(InputError, match="RRR@5"):
        evaluating.parse_measures("nDCG@10 RRR@5")


def test_a_file_is_a_run_and_a_recipe_is_not(tmp_path: Path) -> None:
    for name in ("a.trec", "a.cfg"):
        (tmp_path / name).write_text("")
    assert [evaluating.is_run(str(tmp_path / name)) for name in ("a.trec", "a.cfg", "")] == [True, False, False]
