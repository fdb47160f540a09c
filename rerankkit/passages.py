"""Documents longer than a model reads: cut into passages, of which the best one speaks for its document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerankkit.errors import InputError
from rerankkit.prompt_tokens import encoded
from rerankkit.protocols import Group, Order


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
        return self._of_each([text], tokenizer)[0]

    def cut(self, group: Group, tokenizer: Any) -> tuple[Group, list[int]]:
        """A group of passages in place of documents, and which document each of them is of."""
        pieces = self._of_each(group.docs, tokenizer)
        owners = [position for position, found in enumerate(pieces) for _ in found]
        return Group(group.query, [text for found in pieces for text in found], qid=group.qid), owners

    def _of_each(self, texts: list[str], tokenizer: Any) -> list[list[str]]:
        return [self._between(text, spans) for text, (_, spans) in zip(texts, encoded(texts, tokenizer), strict=True)]

    def _between(self, text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
        """The passages of a text whose tokens stand for these characters."""
        if len(spans) <= self.tokens:
            return [text]
        starts = range(0, len(spans) - self.overlap, self.tokens - self.overlap)[: self.most]
        ends = [min(start + self.tokens, len(spans)) - 1 for start in starts]
        return [text[spans[start][0] : spans[end][1]] for start, end in zip(starts, ends, strict=True)]


def by_best_passage(order: Order, owners: Sequence[int]) -> Order:
    """The documents in the order of their best passages, with the scores of these."""
    best: dict[int, float] = {}
    for position, score in order:
        best.setdefault(owners[position], score)
    return list(best.items())
