"""A whole prompt as one token sequence, cut only where it may be cut: what a causal LM reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rerankkit.answer_tokens import choice_ids, rectangle, scored_tokens
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.limits import Limits, cut_tokens, require_room
from rerankkit.prompt_tokens import Tokenized, padded, tokenize
from rerankkit.protocols import Batch, Prompt, Row
from rerankkit.registry import registry


@registry.collators("sequence.v1")
@dataclass(frozen=True)
class SequenceCollator:
    """Tokenizes each prompt whole, then cuts the documents' ends, then the query's, never a fixed part.

    Text of a query or document that spells a control token (`<|im_end|>`) is tokenized as ordinary text.

    Recipe:
        [model.collator]
        @collators = "sequence.v1"
        max_length = 512

    Args:
        max_length: Tokens of a whole prompt.
        document_max_length: Tokens of each document, where that is to be less than what fits.
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
        return Limits(max_length, document_max_length, query_max_length, query_floor).problems()

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        require_room(self.max_length, tokenizer.model_max_length, "sequence.v1")
        if any(prompt.second is not None for prompt in prompts):
            raise InputError(
                "sequence.v1 reads prompts of one text, and this formatter writes two, with nothing between them; use "
                "the collator pair.v1, or a formatter such as pointwise.v1"
            )
        limits = Limits(self.max_length, self.document_max_length, self.query_max_length, self.query_floor)
        texts = zip(prompts, tokenize(prompts, tokenizer), strict=True)
        return [_row(prompt, text, limits, tokenizer) for prompt, text in texts]

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch:
        number = {ids: i for i, ids in enumerate(shared)}
        scored, choices = [row.scored or [] for row in rows], [row.choices for row in rows]
        return Batch(
            tokens=padded([row.ids for row in rows], tokenizer),
            answer=torch.tensor([len(row.ids) - 1 for row in rows]),
            shared=padded(shared, tokenizer) if shared else None,
            shared_of=torch.tensor([number[row.shared] for row in rows]) if shared else None,
            scored=rectangle(scored) if any(scored) else None,
            choices=rectangle(choices) if any(choices) else None,
        )


def _row(prompt: Prompt, text: Tokenized, limits: Limits, tokenizer: Any) -> Row:
    """Keep all fixed tokens, then as much of the query and of the documents as there is room for."""
    kept = limits.kept(text.roles, text.pieces, "sequence.v1")
    last = prompt.pieces[-1]
    return Row(
        ids=[text.ids[i] for i in kept],
        roles=[text.roles[i] for i in kept],
        scored=scored_tokens(prompt, [text.pieces[i] for i in kept]),
        labels=prompt.labels,
        choices=choice_ids(last.text if last.role == "fixed" else "", prompt.choices, tokenizer),
        cut_query=cut_tokens(text.roles, kept, "query"),
        cut_document=cut_tokens(text.roles, kept, "document"),
    )
