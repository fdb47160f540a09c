"""How long a prompt may be, and which of its tokens are left out where it is longer."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rerankkit.cuts import Cut
from rerankkit.errors import InputError
from rerankkit.protocols import Prompt, Role

Truncation = Literal["longest_first", "documents_first"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is fixed is never cut. Where the rest does not fit, either the longer of query and documents is cut to the
    length of the other, and then both alike, as by transformers' `longest_first`; or the documents are cut, and the
    query once nothing is left of them. Several documents share what they are left equally. Ends are cut.

    Args:
        max_length: Tokens of a whole prompt.
        document: Tokens of each document, where that is to be less than what fits.
        query: Tokens of the query, likewise.
        query_floor: The query is never cut below this many tokens to make room.
        truncation: Which of the two rules.
    """

    max_length: int
    document: int | None
    query: int | None
    query_floor: int
    truncation: Truncation = "longest_first"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Say which limits make no sense, by the arguments' names in a collator."""
        named = {"max_length": self.max_length, "document_max_length": self.document, "query_max_length": self.query}
        for name, limit in named.items():
            if limit is not None and limit < 1:
                yield name, f"must be at least 1, got {limit}"
        if self.query_floor < 0:
            yield "query_floor", f"must be at least 0, got {self.query_floor}"

    def kept(self, roles: Sequence[Role], pieces: Sequence[Hashable], part: str) -> list[int]:
        """Where the tokens stand that are kept: all fixed ones and the first of each other piece.

        Args:
            pieces: What each token is a piece of: one of the documents, one of the places where the query stands.
            part: The collator's name, for the message where nothing fits.
        """
        own: dict[Role, Counter[Hashable]] = {"query": Counter(), "document": Counter()}
        for role, piece in zip(roles, pieces, strict=True):
            if role != "fixed":
                own[role][piece] += 1
        room = self.max_length - (len(roles) - own["query"].total() - own["document"].total())
        query = {piece: min(length, self.query or length) for piece, length in own["query"].items()}
        documents = {piece: min(length, self.document or length) for piece, length in own["document"].items()}
        floor = sum(min(length, self.query_floor) for length in query.values())
        if room < floor:
            raise InputError(
                f"{part}: the prompt's own text takes {self.max_length - room} of max_length = {self.max_length} "
                f"tokens and leaves {max(room, 0)} for the query; raise max_length or shorten the template"
            )
        share = max(self._query_share(sum(query.values()), sum(documents.values()), room), floor)
        left = _evenly(query, share)
        left += _evenly(documents, room - left.total())
        if left == own["query"] + own["document"]:
            return list(range(len(roles)))
        kept = []
        for position, (role, piece) in enumerate(zip(roles, pieces, strict=True)):
            if role != "fixed":
                left[piece] -= 1
            if role == "fixed" or left[piece] >= 0:
                kept.append(position)
        return kept

    def reason(self, query: bool, read: int) -> str:
        """The argument that a text was cut by, of which so many tokens were kept."""
        own, name = (self.query, "query_max_length") if query else (self.document, "document_max_length")
        return f"{name} = {own}" if own is not None and read >= own else f"max_length = {self.max_length}"

    def _query_share(self, query: int, documents: int, room: int) -> int:
        """How many tokens the query may have, given how many both have and may have together."""
        if self.truncation == "documents_first":
            return min(query, room)
        if query + documents <= room:
            return query
        half = room // 2 if query <= documents else room - room // 2  # an odd token is the longer one's
        return min(query, max(half, room - documents))


@dataclass(frozen=True)
class LimitedCollator:
    """The arguments of a collator that cuts whole prompts; `part` is the collator's name, for messages."""

    part: ClassVar[str]
    max_length: int = 512
    document_max_length: int | None = None
    query_max_length: int | None = None
    query_floor: int = 1
    truncation: Truncation = "longest_first"

    def __post_init__(self) -> None:
        for argument, message in self.check(
            self.max_length, self.document_max_length, self.query_max_length, self.query_floor
        ):
            raise InputError(f"{self.part}, {argument}: {message}")

    @staticmethod
    def check(
        max_length: int = max_length,
        document_max_length: int | None = None,
        query_max_length: int | None = None,
        query_floor: int = query_floor,
    ) -> Iterator[tuple[str, str]]:
        """Say which limits make no sense."""
        return Limits(max_length, document_max_length, query_max_length, query_floor).problems()

    def limits_for(self, tokenizer: Any) -> Limits:
        """The limits, which must not exceed what the model reads."""
        require_room(self.max_length, tokenizer.model_max_length, self.part)
        return Limits(
            self.max_length, self.document_max_length, self.query_max_length, self.query_floor, self.truncation
        )


def require_room(max_length: int, tokenizer_limit: float, part: str, argument: str = "max_length") -> None:
    """Refuse prompts longer than the model reads."""
    if max_length > tokenizer_limit:
        raise InputError(f"{part}: {argument} = {max_length}, but the model reads {tokenizer_limit} tokens")


def cut_tokens(roles: Sequence[Role], kept: Sequence[int], role: Role) -> int:
    """How many tokens of a role are not kept."""
    return roles.count(role) - sum(roles[position] == role for position in kept)


def cuts(
    roles: Sequence[Role],
    pieces: Sequence[Hashable],
    kept: Sequence[int],
    limits: Limits,
    documents: Mapping[Hashable, int],
) -> tuple[Cut, ...]:
    """The query and the documents that lost tokens.

    Args:
        pieces: What each token is a piece of.
        documents: Which of the asked documents a piece is; other pieces are the query's.
    """
    if len(kept) == len(roles):
        return ()
    whole, read = Counter[int | None](), Counter[int | None]()
    for position in range(len(roles)):
        if roles[position] != "fixed":
            whole[documents.get(pieces[position])] += 1
    for position in kept:
        if roles[position] != "fixed":
            read[documents.get(pieces[position])] += 1
    return tuple(
        Cut(text, whole[text], read[text], limits.reason(text is None, read[text]))
        for text in whole
        if read[text] < whole[text]
    )


def document_numbers(prompt: Prompt) -> dict[Hashable, int]:
    """Which of the asked documents each piece of a prompt is that is one."""
    places = [place for place, piece in enumerate(prompt.pieces) if piece.role == "document"]
    return {place: number for number, place in enumerate(places)}


def _evenly(lengths: Mapping[Hashable, int], room: int) -> Counter[Hashable]:
    """How much of each length there is room for, when all are cut to one length; the first are given what is over."""
    every = range(max(lengths.values(), default=0) + 1)
    longest = bisect_right(every, room, key=lambda cut: sum(min(length, cut) for length in lengths.values())) - 1
    found = Counter({piece: min(length, longest) for piece, length in lengths.items()})
    for piece, length in lengths.items():
        if found.total() < room and found[piece] < length:
            found[piece] += 1
    return found
