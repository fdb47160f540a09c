"""Warnings of texts that did not fit, each document and each query once."""

from __future__ import annotations

from collections.abc import Sequence

from rerankkit.cuts import Cut
from rerankkit.protocols import Ask, Group, Row
from rerankkit.warnings import warn


class TruncationWarnings:
    """Warns of what rows lost, as long as it lives of each text once: sorts ask for a document again and again.

    Args:
        of_passages: Whether the documents are passages that somebody cut, and may cut shorter.
    """

    def __init__(self, of_passages: bool = False) -> None:
        self._noun = "passage" if of_passages else "document"
        self._kinds = ("passages_cut", "passages_cut") if of_passages else ("documents_unread", "documents_cut")
        self._told: set[tuple[int, int | None, str]] = set()

    def tell(self, asks: Sequence[Ask], rows: Sequence[Row]) -> None:
        """Warn of texts that were cut in these rows of these asks."""
        for ask, row in zip(asks, rows, strict=True):
            for cut in row.cuts:
                self.tell_of(ask, cut)

    def tell_of(self, ask: Ask, cut: Cut) -> None:
        """Warn of one text."""
        position = None if cut.document is None else ask.docs[min(cut.document, len(ask.docs) - 1)]
        kind = "queries_cut" if position is None else self._kinds[cut.read > 0]
        if (text := (id(ask.group), position, kind)) not in self._told:
            self._told.add(text)
            lengths = f"({cut.tokens:,} tokens, {cut.read:,} read: {cut.limit})"
            warn(kind, f"{self._named(ask.group, position)} {lengths}")

    def _named(self, group: Group, position: int | None) -> str:
        query = f"query {group.qid or group.query[:60]!r}"
        if position is None:
            return query
        return f"{self._noun} {repr(group.doc_ids[position]) if group.doc_ids else position} of {query}"
