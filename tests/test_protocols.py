"""Some rows of a batch, by rules written out: no padding but their own, and what they share once each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.protocols import Batch, Tokens

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def tokens(lengths: list[int], expanded: int = 0, typed: bool = True) -> Tokens:
    """Distinct ids, so that a row can be told from any other; `expanded` is compared without being attended to."""
    width = max([*lengths, expanded])
    places = torch.arange(width).repeat(len(lengths), 1)
    mask = (places < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.arange(1, len(lengths) * width + 1).view(len(lengths), width)
    compared = (mask.bool() & (ids % 3 != 0)) | (places < expanded)
    return Tokens(ids, mask, mask * (places % 2) if typed else None, compared if expanded else None)


@settings(max_examples=100)
@given(LENGTHS, st.integers(0, 7), st.booleans(), st.data())
def test_taken_tokens_are_their_rows_without_padding(
    lengths: list[int], expanded: int, typed: bool, data: st.DataObject
) -> None:
    whole = tokens(lengths, expanded, typed)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    taken = whole.take(torch.tensor(rows))
    width = max(expanded, *(lengths[row] for row in rows))
    assert taken.ids.tolist() == [whole.ids[row].tolist()[:width] for row in rows]
    assert taken.mask.tolist() == [[1] * lengths[row] + [0] * (width - lengths[row]) for row in rows]
    for name in ("type_ids", "compared"):
        before, after = getattr(whole, name), getattr(taken, name)
        assert (before is None) == (after is None)
        if before is not None:
            assert after.tolist() == [before[row].tolist()[:width] for row in rows]


def test_no_rows_at_all() -> None:
    assert tokens([2, 3]).take(torch.tensor([], dtype=torch.long)).ids.shape == (0, 0)


@pytest.mark.parametrize("all_shared", [False, True])
@settings(max_examples=100)
@given(lengths=LENGTHS, queries=LENGTHS, expanded=st.integers(0, 7), data=st.data())
def test_taken_rows_keep_what_they_share(
    all_shared: bool, lengths: list[int], queries: list[int], expanded: int, data: st.DataObject
) -> None:
    of = data.draw(st.lists(st.integers(0, len(queries) - 1), min_size=len(lengths), max_size=len(lengths)))
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    batch = Batch(
        tokens(lengths),
        answer=torch.tensor(lengths) - 1,
        shared=tokens(queries, expanded),
        shared_of=torch.tensor(of),
        place=torch.arange(len(lengths)).unsqueeze(1) + 50,
        labels=torch.zeros(1, len(lengths)),
        mask=torch.ones(1, len(lengths)),
    )
    taken = batch.take(torch.tensor(rows), all_shared)
    assert batch.shared is not None and taken.shared is not None
    assert taken.shared_of is not None and taken.place is not None
    assert taken.answer.tolist() == [lengths[row] - 1 for row in rows]
    assert taken.place.tolist() == [[50 + row] for row in rows]
    assert taken.tokens.ids.tolist() == batch.tokens.take(torch.tensor(rows)).ids.tolist()
    assert (taken.labels, taken.mask) == (None, None)
    kept = len(queries) if all_shared else len({of[row] for row in rows})
    assert len(taken.shared.ids) == kept
    for row, number in zip(rows, taken.shared_of.tolist(), strict=True):
        own = batch.shared.ids[of[row]][: max(expanded, queries[of[row]])].tolist()
        assert taken.shared.ids[number].tolist()[: len(own)] == own


def test_rows_that_share_nothing() -> None:
    taken = Batch(tokens([2, 3]), answer=torch.tensor([1, 2])).take(torch.tensor([0]))
    assert (taken.tokens.ids.tolist(), taken.answer.tolist()) == ([[1, 2]], [1])
    assert (taken.shared, taken.shared_of, taken.place) == (None, None, None)
