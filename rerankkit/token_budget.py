"""Rows in batches of a number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of rows of like length, longest first, each batch within the budget with its padding; a batch that has a
    fourth of the budget takes no row that a tenth of would be padding."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else 0
        full = longest * (len(batch) + 1) > batch_tokens
        uneven = longest * len(batch) > batch_tokens // 4 and lengths[number] < 0.9 * longest
        if batch and (full or uneven):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
