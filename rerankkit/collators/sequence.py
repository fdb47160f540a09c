"""A whole prompt as one token sequence, cut only where it may be cut: what a causal LM reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.prompt_tokens import tokenize
from rerankkit.protocols import Batch, Prompt, Role, Row, Tokens
from rerankkit.registry import registry


@registry.collators("sequence.v1")
@dataclass(frozen=True)
class SequenceCollator:
    """Tokenizes each prompt whole, then cuts the document's end, then the query's, never a fixed part.

    Text of a query or document that spells a control token (`<|im_end|>`) is tokenized as ordinary text.

    Recipe:
        [model.collator]
        @collators = "sequence.v1"
        max_length = 512

    Args:
        max_length: Tokens of a whole prompt.
        document_max_length: Tokens of the document, where that is to be less than what fits.
        query_max_length: Tokens of the query, where that is to be less than what fits.
        query_floor: The query is never cut below this many tokens to make room.
    """

    max_length: int = 512
    document_max_length: int | None = None
    query_max_length: int | None = None
    query_floor: int = 16

    def __post_init__(self) -> None:
        for argument, message in self.check(**vars(self)):
            raise InputError(f"sequence.v1, {argument}: {message}")

    @staticmethod
    def check(
        max_length: int = max_length,
        document_max_length: int | None = None,
        query_max_length: int | None = None,
        query_floor: int = query_floor,
    ) -> Iterator[tuple[str, str]]:
        """Say which limits make no sense."""
        limits = {"max_length": max_length, "document_max_length": document_max_length}
        for name, limit in {**limits, "query_max_length": query_max_length}.items():
            if limit is not None and limit < 1:
                yield name, f"must be at least 1, got {limit}"
        if query_floor < 0:
            yield "query_floor", f"must be at least 0, got {query_floor}"

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        if self.max_length > tokenizer.model_max_length:
            raise InputError(
                f"sequence.v1: max_length = {self.max_length}, but the model reads {tokenizer.model_max_length} tokens"
            )
        return [self._cut(ids, roles) for ids, roles in tokenize(prompts, tokenizer)]

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        number = {ids: i for i, ids in enumerate(shared)}
        return Batch(
            tokens=_padded([row.ids for row in rows], pad),
            answer=torch.tensor([len(row.ids) - 1 for row in rows]),
            shared=_padded(shared, pad) if shared else None,
            shared_of=torch.tensor([number[row.shared] for row in rows]) if shared else None,
        )

    def _cut(self, ids: list[int], roles: list[Role]) -> Row:
        """Keep all fixed tokens, then as much of the query and of the document as there is room for."""
        query, document = roles.count("query"), roles.count("document")
        room = self.max_length - (len(ids) - query - document)
        wanted = min(query, self.query_max_length or query)
        if room < min(wanted, self.query_floor):
            raise InputError(
                f"sequence.v1: the prompt's own text takes {self.max_length - room} of max_length = {self.max_length} "
                f"tokens and leaves {max(room, 0)} for the query; raise max_length or shorten the template"
            )
        keep = {"query": min(wanted, room)}
        keep["document"] = min(document, self.document_max_length or document, room - keep["query"])
        kept, left = [], dict(keep)
        for position, role in enumerate(roles):
            if role != "fixed":
                left[role] -= 1
            if role == "fixed" or left[role] >= 0:
                kept.append(position)
        return Row(
            ids=[ids[i] for i in kept],
            roles=[roles[i] for i in kept],
            cut_query=query - keep["query"],
            cut_document=document - keep["document"],
        )


def _padded(sequences: Sequence[Sequence[int]], pad: int) -> Tokens:
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return Tokens(ids, mask)
