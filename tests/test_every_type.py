"""Each type of model keeps one score a document, or is refused, as docs/architectures.md says."""

from __future__ import annotations

import re

import every_type
import pytest


def rows() -> dict[str, dict[str, str]]:
    """What the page says of each type, by backbone."""
    lines = every_type.PAGE.read_text("utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: dict(zip(every_type.KINDS, row[1:], strict=True)) for row in cells[1:]}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "model_type"), every_type.cases())
def test_a_type_comes_to_what_the_page_says(kind: str, model_type: str) -> None:
    found, reason = every_type.outcome(kind, model_type)
    assert every_type.CELLS[found] == rows().get(model_type, {}).get(kind, "")
    if found == "refused":
        listed = every_type.page({(kind, model_type): (found, reason)}).rpartition(": ")[2].strip()
        assert listed in every_type.PAGE.read_text("utf-8")


def test_the_page_names_sixty_types_and_every_one_that_is_known_to_mix() -> None:
    from rerankkit import architectures

    listed = rows()
    kept = [name for name, cells in listed.items() if any(cell.startswith("yes") for cell in cells.values())]
    assert len(kept) >= 60
    for name in architectures.APART:
        assert any(cell == every_type.CELLS["one length"] for cell in listed[name].values())
    for name, reason in architectures.REFUSED.items():
        assert "no" in listed[name].values()
        assert re.search(f"{re.escape(name)}.*{re.escape(reason)}", every_type.PAGE.read_text("utf-8"))
