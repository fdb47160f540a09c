"""Documents longer than a model reads: cut into passages, of which the best one speaks for its document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerankkit.errors import InputError
from rerankkit.prompt_tokens import encoded
from rerankkit.protocols import Group, Order
from rerankkit.warnings import warn


@dataclass(frozen=True)
class Passages:
    """How documents are cut; one that is no longer than a passage stays as it is.

    MaxP of Dai and Callan 2019, arXiv 1905.09217.

    Args:
        tokens: Tokens of a passage.
        overlap: Tokens that a passage has in common with the one before it.
        most: How many passages of a document are read; what comes after them is left out.
    """

    tokens: int = 200
    overlap: int = 50
    most: int = 100

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if not isinstance(number, int) or isinstance(number, bool):
                raise InputError(f"passages: {name} = {number!r:.120} must be a whole number")
        if self.tokens < 1:
            raise InputError(f"passages: tokens = {self.tokens} must be at least 1")
        if not 0 <= self.overlap < self.tokens:
            raise InputError(
                f"passages: overlap = {self.overlap} must be at least 0 and less than tokens = {self.tokens}"
            )
        if self.most < 1:
            raise InputError(f"passages: most = {self.most} must be at least 1")

    def of(self, text: str, tokenizer: Any) -> list[str]:
        """The passages of a document, from its beginning."""
        ((_, spans),) = encoded([text], tokenizer)
        return self._between(text, spans)

    def cut(self, group: Group, tokenizer: Any) -> tuple[Group, list[int]]:
        """A group of passages in place of documents, and which document each of them is of."""
        found = []
        for position, (text, (_, spans)) in enumerate(zip(group.docs, encoded(group.docs, tokenizer), strict=True)):
            found.append(self._between(text, spans))
            if (count := len(self._starts(spans))) > self.most:
                name = repr(group.doc_ids[position]) if group.doc_ids else position
                query = repr(group.qid or group.query[:60])
                warn("documents_beyond_passages", f"document {name} of query {query} ({self.most} of {count})")
        owners = [position for position, passages in enumerate(found) for _ in passages]
        return Group(group.query, [text for passages in found for text in passages], qid=group.qid), owners

    def _starts(self, spans: Sequence[tuple[int, int]]) -> range:
        """The token that each passage begins with, those beyond the last one that is read included."""
        return range(0, max(len(spans) - self.overlap, 1), self.tokens - self.overlap)

    def _between(self, text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
        """The passages of a text whose tokens stand for these characters."""
        if len(spans) <= self.tokens:
            return [text]
        starts = self._starts(spans)[: self.most]
        ends = [min(start + self.tokens, len(spans)) - 1 for start in starts]
        return [text[spans[start][0] : spans[end][1]] for start, end in zip(starts, ends, strict=True)]


def by_best_passage(order: Order, owners: Sequence[int]) -> Order:
    """The documents in the order of their best passages, with the scores of these."""
    best: dict[int, float] = {}
    for position, score in order:
        best.setdefault(owners[position], score)
    return list(best.items())
