"""A query and a document as one sequence, in the pair format of the tokenizer: `[CLS] query [SEP] document [SEP]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rerankkit.errors import InputError
from rerankkit.frames import Frame, frame_of, frames_each, tokenize_texts
from rerankkit.lazy import torch
from rerankkit.limits import LimitedCollator, Limits, Truncation, cut_tokens, cuts
from rerankkit.prompt_tokens import padded
from rerankkit.protocols import Batch, Prompt, Role, Row
from rerankkit.registry import registry


@registry.collators("pair.v1")
@dataclass(frozen=True)
class PairCollator(LimitedCollator):
    """Tokenizes query and document as a cross-encoder's pair, and cuts the end of the longer one.

    The tokens, and their types where the tokenizer has types, are those of `tokenizer(query, document)`; only text that
    spells a control token (`[SEP]`) is read as ordinary text.

    Recipe:
        [model.collator]
        @collators = "pair.v1"
        max_length = 512

    Args:
        max_length: Tokens of a whole pair, those of the frame included.
        document_max_length: Tokens of the document, where that is to be less than what fits.
        query_max_length: Tokens of the query, where that is to be less than what fits.
        query_floor: The query is never cut below this many tokens to make room.
        truncation: What is cut to fit: the longer of query and document first, or the document until nothing is left.
        frame_each: Accept, under a decoder, a tokenizer that frames each text by itself, as `<s> query <s> document`.
            Nothing then says that these are a query and a document, which most decoders are told in words.
    """

    part: ClassVar[str] = "pair.v1"
    truncation: Truncation = "longest_first"
    frame_each: bool = False

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        limits = self.limits_for(tokenizer)
        if any(prompt.second is None for prompt in prompts):
            raise InputError(
                "pair.v1 needs prompts of two texts, and this formatter writes one; use pair.v1 for it too"
            )
        frame = frame_of(tokenizer, 2)
        if not frame.fixed[1]:
            raise InputError(
                "pair.v1: this model's tokenizer puts nothing between two texts; use pointwise.v1 and sequence.v1, "
                "whose template says where the query ends"
            )
        if not self.frame_each and any(prompt.decoder for prompt in prompts) and frames_each(tokenizer):
            shown = tokenizer.decode([*frame.fixed[0], *frame.fixed[1]])
            raise InputError(
                f"pair.v1: this model is a decoder, and its tokenizer frames each of two texts by itself ({shown!r}), "
                "which is hardly what it was trained on; use pointwise.v1 and sequence.v1 with its own prompt, as the "
                "recipe llm_classifier does, or frame_each = true for one that was trained on such pairs"
            )
        return [_cut(texts, frame, limits) for texts in tokenize_texts(prompts, tokenizer)]

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch:
        tokens = padded([row.ids for row in rows], tokenizer)
        if rows[0].type_ids is not None:
            types = padded([row.type_ids or [] for row in rows], tokenizer)
            tokens.type_ids = types.ids * types.mask
        return Batch(tokens, answer=torch.tensor([len(row.ids) - 1 for row in rows]))


def _cut(texts: Sequence[tuple[list[int], list[Role]]], frame: Frame, limits: Limits) -> Row:
    ids, roles, types = frame.around(texts)
    kept = limits.kept(roles, roles, "pair.v1")
    return Row(
        ids=[ids[i] for i in kept],
        roles=[roles[i] for i in kept],
        type_ids=None if types is None else [types[i] for i in kept],
        cut_query=cut_tokens(roles, kept, "query"),
        cut_document=cut_tokens(roles, kept, "document"),
        cuts=cuts(roles, roles, kept, limits, {"document": 0}),
    )
