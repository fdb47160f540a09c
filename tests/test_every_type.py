"""Each type of model keeps one score a document, or is refused, as docs/architectures.md says."""

from __future__ import annotations

import re

import every_type
import pytest

from rerankkit import architectures

ROWS = {
    cells[0]: dict(zip(every_type.KINDS, cells[1:], strict=True))
    for line in every_type.PAGE.read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| type")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


@pytest.mark.slow
@pytest.mark.regression
@pytest.mark.parametrize(("kind", "model_type"), every_type.cases())
def test_a_type_comes_to_what_the_page_says(kind: str, model_type: str) -> None:
    found, reason = every_type.outcome(kind, model_type)
    assert every_type.CELLS[found] == ROWS.get(model_type, {}).get(kind, "")
    if found == "refused":
        listed = every_type.page({(kind, model_type): (found, reason)}).rpartition(": ")[2].strip()
        assert listed in every_type.PAGE.read_text("utf-8")


def test_the_page_names_sixty_types_and_every_one_that_is_known_to_mix() -> None:
    kept = [name for name, cells in ROWS.items() if any(cell.startswith("yes") for cell in cells.values())]
    assert len(kept) >= 60
    for name in architectures.APART:
        assert any(cell == every_type.CELLS["one length"] for cell in ROWS[name].values())
    for name, reason in architectures.REFUSED.items():
        assert "no" in ROWS[name].values()
        assert re.search(f"{re.escape(name)}.*{re.escape(reason)}", every_type.PAGE.read_text("utf-8"))
