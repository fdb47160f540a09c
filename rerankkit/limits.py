"""How long a prompt may be, and which of its tokens are left out where it is longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rerankkit.errors import InputError
from rerankkit.protocols import Role


@dataclass(frozen=True, slots=True)
class Limits:
    """The document is cut first, at its end, then the query; what is fixed never.

    Args:
        max_length: Tokens of a whole prompt.
        document: Tokens of the document, where that is to be less than what fits.
        query: Tokens of the query, likewise.
        query_floor: The query is never cut below this many tokens to make room.
    """

    max_length: int
    document: int | None
    query: int | None
    query_floor: int

    def problems(self) -> Iterator[tuple[str, str]]:
        """Say which limits make no sense, by the arguments' names in a collator."""
        named = {"max_length": self.max_length, "document_max_length": self.document, "query_max_length": self.query}
        for name, limit in named.items():
            if limit is not None and limit < 1:
                yield name, f"must be at least 1, got {limit}"
        if self.query_floor < 0:
            yield "query_floor", f"must be at least 0, got {self.query_floor}"

    def kept(self, roles: Sequence[Role], part: str) -> dict[Role, int]:
        """How many tokens of the query and of the document are kept.

        Args:
            part: The collator's name, for the message where nothing fits.
        """
        query, document = roles.count("query"), roles.count("document")
        room = self.max_length - (len(roles) - query - document)
        wanted = min(query, self.query or query)
        if room < min(wanted, self.query_floor):
            raise InputError(
                f"{part}: the prompt's own text takes {self.max_length - room} of max_length = {self.max_length} "
                f"tokens and leaves {max(room, 0)} for the query; raise max_length or shorten the template"
            )
        keep: dict[Role, int] = {"query": min(wanted, room)}
        keep["document"] = min(document, self.document or document, room - keep["query"])
        return keep


def require_room(max_length: int, tokenizer_limit: float, part: str, argument: str = "max_length") -> None:
    """Refuse prompts longer than the model reads."""
    if max_length > tokenizer_limit:
        raise InputError(f"{part}: {argument} = {max_length}, but the model reads {tokenizer_limit} tokens")


def positions(roles: Sequence[Role], keep: dict[Role, int]) -> list[int]:
    """Where the tokens stand that are kept: all fixed ones and the first of the others."""
    left, kept = dict(keep), []
    for position, role in enumerate(roles):
        if role != "fixed":
            left[role] -= 1
        if role == "fixed" or left[role] >= 0:
            kept.append(position)
    return kept
