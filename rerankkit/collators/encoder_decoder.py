"""A prompt in two parts: what an encoder reads, and what its decoder goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerankkit.answer_tokens import asked_ids, scored_tokens, sequences
from rerankkit.errors import InputError
from rerankkit.frames import frame_of
from rerankkit.limits import LimitedCollator, Limits, cut_tokens, cuts, document_numbers
from rerankkit.prompt_tokens import Tokenized, tokenize
from rerankkit.protocols import Batch, Prompt, Row
from rerankkit.registry import registry
from rerankkit.seq2seq import decoder_start


@registry.collators("encoder_decoder.v1")
class EncoderDecoderCollator(LimitedCollator):
    """Gives the encoder the prompt, closed as its tokenizer closes a text (`</s>`), and the decoder its start token
    with what the prompt takes to be the model's own: an answer begun, or the text whose likelihood is asked.

    The ends of the query and of the documents are cut, never a fixed part, in each of the two by itself. Text of a
    query or document that spells a control token (`<extra_id_0>`) is tokenized as ordinary text.

    Recipe:
        [model.collator]
        @collators = "encoder_decoder.v1"
        max_length = 512

    Args:
        max_length: Tokens of what the encoder reads, and of what the decoder is given.
        document_max_length: Tokens of each document, where that is to be less than what fits.
        query_max_length: Tokens of the query, where that is to be less than what fits.
        query_floor: The query is never cut below this many tokens to make room.
        truncation: What is cut to fit: the longer of query and documents first, or the documents until nothing is left.
    """

    part = "encoder_decoder.v1"

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        limits = self.limits_for(tokenizer)
        if any(prompt.second is not None for prompt in prompts):
            raise InputError(
                "encoder_decoder.v1 reads prompts of one text, and this formatter writes two, with nothing between "
                "them; use a formatter such as pointwise.v1"
            )
        opening, closing = [decoder_start(tokenizer)], frame_of(tokenizer, 1).fixed[1]
        parts = [_two_parts(prompt) for prompt in prompts]
        read = tokenize([read for read, _ in parts], tokenizer)
        own = tokenize([own for _, own in parts], tokenizer)
        found = []
        for prompt, to_read, to_write in zip(prompts, read, own, strict=True):
            to_read = _around((), to_read, closing if prompt.add_special_tokens else ())
            found.append(_row(prompt, to_read, _around(opening, to_write, ()), limits, tokenizer))
        return found

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch:
        return sequences(rows, tokenizer, shared)


def _two_parts(prompt: Prompt) -> tuple[Prompt, Prompt]:
    """What the encoder reads, and what the decoder is taken to have written."""
    read, own = prompt.pieces[: prompt.answer], () if prompt.answer is None else prompt.pieces[prompt.answer :]
    if any(piece.scored is not None for piece in read):
        raise InputError(
            "encoder_decoder.v1: the prompt asks for the likelihood of text that the encoder reads, and only a decoder "
            "knows likelihoods; the formatter has to begin the model's own text (Prompt.answer) there"
        )
    return Prompt(read, prompt.add_special_tokens), Prompt(own, add_special_tokens=False)


def _around(before: Sequence[int], text: Tokenized, behind: Sequence[int]) -> Tokenized:
    return Tokenized(
        [*before, *text.ids, *behind],
        [*["fixed"] * len(before), *text.roles, *["fixed"] * len(behind)],  # type: ignore[list-item]
        [*[-1] * len(before), *text.pieces, *[-1] * len(behind)],
    )


def _row(prompt: Prompt, read: Tokenized, own: Tokenized, limits: Limits, tokenizer: Any) -> Row:
    """Of each part all fixed tokens, then as much of the query and of the documents as there is room for."""
    kept = [limits.kept(part.roles, part.pieces, "encoder_decoder.v1") for part in (read, own)]
    first, documents = prompt.answer or 0, document_numbers(prompt)
    written = prompt.pieces[len(prompt.pieces) if prompt.answer is None else first :]
    before = written[-1].text if written and written[-1].role == "fixed" else ""
    return Row(
        ids=[own.ids[i] for i in kept[1]],
        roles=[read.roles[i] for i in kept[0]] + [own.roles[i] for i in kept[1]],
        shared=tuple(read.ids[i] for i in kept[0]),
        scored=scored_tokens(prompt, [own.pieces[i] + first if own.pieces[i] >= 0 else -1 for i in kept[1]]),
        labels=prompt.labels,
        choices=asked_ids(before, prompt, tokenizer),
        cut_query=cut_tokens(read.roles, kept[0], "query") + cut_tokens(own.roles, kept[1], "query"),
        cut_document=cut_tokens(read.roles, kept[0], "document") + cut_tokens(own.roles, kept[1], "document"),
        cuts=cuts(read.roles, read.pieces, kept[0], limits, documents)
        + cuts(own.roles, [piece + first for piece in own.pieces], kept[1], limits, documents),
    )
