"""What was left out of a text that did not fit."""

from __future__ import annotations

from typing import NamedTuple


class Cut(NamedTuple):
    """A text of a prompt that lost its end.

    Args:
        document: Which of the asked documents it is, None for the query.
        tokens: How many it has.
        read: How many of them were kept.
        limit: The argument that they were cut by, such as "max_length = 512".
    """

    document: int | None
    tokens: int
    read: int
    limit: str
