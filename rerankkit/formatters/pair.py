"""A query and a document as two texts: the prompt of a cross-encoder, and of late interaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rerankkit import templates
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Piece, Prompt
from rerankkit.registry import registry


@registry.formatters("pair.v1")
@dataclass(frozen=True)
class Pair:
    """Gives the query as the first text and one document as the second, each perhaps with an instruction around it.

    Recipe:
        [model.formatter]
        @formatters = "pair.v1"
        query = "query: {query}"
        document = "passage: {document}"

    Args:
        query: The first text. `{{` and `}}` are literal braces.
        document: The second text, likewise.
    """

    at_once = "one"
    query: str = "{query}"
    document: str = "{document}"

    def __post_init__(self) -> None:
        for argument, message in self.check(self.query, self.document):
            raise InputError(f"pair.v1, {argument}: {message}")

    @staticmethod
    def check(query: str = query, document: str = document) -> Iterator[tuple[str, str]]:
        """Say what is wrong with the two texts."""
        yield from (("query", message) for message in templates.problems(query, ("query",)))
        yield from (("document", message) for message in templates.problems(document, ("document",)))

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        if len(ask.docs) != 1:
            raise InputError(f"pair.v1 shows one document at a time, but the strategy asks for {len(ask.docs)}")
        first = templates.fill(self.query, {"query": [Piece(ask.group.query, "query")]})
        second = templates.fill(self.document, {"document": [Piece(ask.group.docs[ask.docs[0]], "document")]})
        return Prompt((*first, *second), second=len(first))
