"""Prompts are made tokens while the model works on those before them."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from rerankkit.protocols import Ask, Row

ENCODED_AT_ONCE = 1024
"""How many asks are tokenized at once."""


def rows_ahead(asks: Sequence[Ask], encode: Callable[[Sequence[Ask]], list[Row]]) -> Iterator[list[Row]]:
    """The rows of the asks, some at a time; the next ones are made while the caller works on these."""
    pieces = list(_pieces(asks))
    if len(pieces) < 2:
        yield from map(encode, pieces)
        return
    context = contextvars.copy_context()  # what is warned of there is this call's
    with ThreadPoolExecutor(max_workers=1) as tokenizing:
        ahead = tokenizing.submit(context.run, encode, pieces[0])
        for piece in pieces[1:]:
            rows, ahead = ahead.result(), tokenizing.submit(context.run, encode, piece)
            yield rows
        yield ahead.result()


def _pieces(asks: Sequence[Ask]) -> Iterator[Sequence[Ask]]:
    """Some asks at a time, those of a group together unless they alone are too many: equal prompts are asked once among
    those of one time, and equal documents then have equal scores."""
    start = end = 0
    for _, own in groupby(asks, lambda ask: id(ask.group)):
        begin, end = end, end + len(list(own))
        if begin > start and end - start > ENCODED_AT_ONCE:
            yield asks[start:begin]
            start = begin
        while end - start > ENCODED_AT_ONCE:
            yield asks[start : start + ENCODED_AT_ONCE]
            start += ENCODED_AT_ONCE
    if end > start:
        yield asks[start:end]
