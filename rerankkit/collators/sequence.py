"""A whole prompt as one token sequence, cut only where it may be cut: what a causal LM reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerankkit.answer_tokens import asked_ids, scored_tokens, sequences
from rerankkit.errors import InputError
from rerankkit.limits import LimitedCollator, Limits, cut_tokens, cuts, document_numbers
from rerankkit.prompt_tokens import Tokenized, tokenize
from rerankkit.protocols import Batch, Prompt, Row
from rerankkit.registry import registry


@registry.collators("sequence.v1")
class SequenceCollator(LimitedCollator):
    """Tokenizes each prompt whole, then cuts the ends of the query and of the documents, never a fixed part.

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
        truncation: What is cut to fit: the longer of query and documents first, or the documents until nothing is left.
    """

    part = "sequence.v1"

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        limits = self.limits_for(tokenizer)
        if any(prompt.second is not None for prompt in prompts):
            raise InputError(
                "sequence.v1 reads prompts of one text, and this formatter writes two, with nothing between them; use "
                "the collator pair.v1, or a formatter such as pointwise.v1"
            )
        texts = zip(prompts, tokenize(prompts, tokenizer), strict=True)
        return [_row(prompt, text, limits, tokenizer) for prompt, text in texts]

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch:
        return sequences(rows, tokenizer, shared)


def _row(prompt: Prompt, text: Tokenized, limits: Limits, tokenizer: Any) -> Row:
    """Keep all fixed tokens, then as much of the query and of the documents as there is room for."""
    kept = limits.kept(text.roles, text.pieces, "sequence.v1")
    last = prompt.pieces[-1]
    return Row(
        ids=[text.ids[i] for i in kept],
        roles=[text.roles[i] for i in kept],
        scored=scored_tokens(prompt, [text.pieces[i] for i in kept]),
        labels=prompt.labels,
        choices=asked_ids(last.text if last.role == "fixed" else "", prompt, tokenizer),
        cut_query=cut_tokens(text.roles, kept, "query"),
        cut_document=cut_tokens(text.roles, kept, "document"),
        cuts=cuts(text.roles, text.pieces, kept, limits, document_numbers(prompt)),
    )
