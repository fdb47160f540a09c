"""What a user should know and no score tells: counted by kind, and each kind said once.

    with collecting() as counted:              # a command, or one call of the Python API
        ...
        warn("documents_cut", "document 'd7' of query 'q1' (1,204 tokens, 64 read)")

When the outermost block ends, each kind is logged once in the life of the process, with its count, an example and what
to do. With `strict`, the first warning is an InputError where it happens.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from rerankkit.errors import InputError

logger = logging.getLogger("rerankkit")


class Kind(NamedTuple):
    """What may have to be said, as `{count} {what}, such as {example}; {remedy}`."""

    what: str
    remedy: str


KINDS = {
    "documents_cut": Kind(
        "document(s) were cut to fit", "raise [model.collator] max_length or document_max_length, or rank passages"
    ),
    "documents_unread": Kind(
        "document(s) lost all their tokens", "raise [model.collator] max_length, or cap the query by query_max_length"
    ),
    "queries_cut": Kind("query/queries were cut to fit", "raise [model.collator] max_length or query_max_length"),
}
"""Every kind there is, by the name that costs and JSON carry."""


@dataclass
class Warnings:
    """What was warned of, by kind.

    Args:
        strict: Whether a warning is an error.
    """

    strict: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    remedies: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1, remedy: str = "") -> None:
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.examples.setdefault(kind, example)
        self.remedies.setdefault(kind, remedy or KINDS[kind].remedy)

    def sentence(self, kind: str) -> str:
        return f"{self.counts[kind]:,} {KINDS[kind].what}, such as {self.examples[kind]}; {self.remedies[kind]}"


_current: ContextVar[Warnings | None] = ContextVar("warnings", default=None)
_said: set[str] = set()


def warn(kind: str, example: str, count: int = 1, remedy: str = "") -> None:
    """Count a warning; outside a collecting block it is said at once, if its kind was not yet said.

    Args:
        kind: A name of KINDS.
        example: Which one, and its numbers, as a piece of a sentence.
        remedy: What to do, where the kind's own remedy does not fit.
    """
    warnings = _current.get()
    if warnings is not None and not warnings.strict:
        warnings.add(kind, example, count, remedy)
        return
    own = Warnings()
    own.add(kind, example, count, remedy)
    if warnings is not None:
        raise InputError(own.sentence(kind))
    say(own)


@contextlib.contextmanager
def collecting(strict: bool = False) -> Iterator[Warnings]:
    """Count what is warned of inside; what an inner block counted is its outer's too.

    Args:
        strict: Raise an InputError at the first warning. An outer block's strictness holds inside, too.
    """
    outer = _current.get()
    warnings = Warnings(strict or (outer is not None and outer.strict))
    token = _current.set(warnings)
    try:
        yield warnings
    finally:
        _current.reset(token)
        if outer is None:
            say(warnings)
        else:
            for kind, count in warnings.counts.items():
                outer.add(kind, warnings.examples[kind], count, warnings.remedies[kind])


def say(warnings: Warnings) -> None:
    """Log what was counted so far, each kind that was not yet said."""
    for kind in warnings.counts:
        if kind not in _said:
            _said.add(kind)
            logger.warning(warnings.sentence(kind))
