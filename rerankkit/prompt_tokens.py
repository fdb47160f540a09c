"""Prompts as tokens: the tokenizer's own reading of the whole text, in which no user's text can steer the model."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from rerankkit.caches import per_tokenizer
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Prompt, Role, Tokens


@dataclass(slots=True)
class Tokenized:
    """A prompt as tokens.

    Args:
        pieces: Which of the prompt's pieces each token belongs to, -1 for those of the tokenizer's own.
    """

    ids: list[int]
    roles: list[Role]
    pieces: list[int]


def tokenize(prompts: Sequence[Prompt], tokenizer: Any, markers: tuple[str, ...] = ()) -> list[Tokenized]:
    """The tokens of each prompt; a token belongs to the piece, and has the role, of its last character.

    A text is tokenized whole, so the tokens are those that the model was trained on. Only where a query or document
    spells a control token, such as `<|im_end|>`, is it tokenized in parts, and no part holds the control token. Tokens
    that the tokenizer puts at the end are left out: the prompt's last token is where a model answers.

    Args:
        markers: What else steers the model where it is an added token, such as PyLate's `[Q] `.
    """
    control = control_tokens(tokenizer, markers)
    parts = [_parts(prompt, control) for prompt in prompts]
    tokens_of = iter(encoded([text for prompt in parts for _, text in prompt], tokenizer))
    found = []
    for prompt, split in zip(prompts, parts, strict=True):
        piece_at = _piece_lookup(prompt)
        ids = list(control.leading) if prompt.add_special_tokens else []
        pieces = [-1] * len(ids)
        for start, _ in split:
            tokens, spans = next(tokens_of)
            ids += tokens
            if len(prompt.pieces) == 1:
                pieces += [0] * len(tokens)
            else:
                pieces += [piece_at(start + max(end - 1, begin)) for begin, end in spans]
        roles: list[Role] = ["fixed" if piece < 0 else prompt.pieces[piece].role for piece in pieces]
        control.refuse(ids, roles)
        found.append(Tokenized(ids, roles, pieces))
    return found


@dataclass(frozen=True)
class Control:
    """The tokens that steer a model, and the ids that open every sequence."""

    pattern: re.Pattern[str] | None
    ids: frozenset[int]
    leading: tuple[int, ...]

    def around(self, text: str) -> list[str]:
        """What a text holds before, between and behind these tokens."""
        found, end = [], 0
        for match in self.pattern.finditer(text) if self.pattern else ():
            if match.start(1) >= end:
                found.append(text[end : match.start(1)])
                end = match.end(1)
        return [*found, text[end:]]

    def refuse(self, ids: list[int], roles: list[Role]) -> None:
        """The last line of defence: a tokenizer that normalizes text could still spell a control token."""
        if self.ids.isdisjoint(ids):
            return
        for token, role in zip(ids, roles, strict=True):
            if role != "fixed" and token in self.ids:
                raise InputError(f"the {role} holds text that this tokenizer turns into control token {token}")


@per_tokenizer
def control_tokens(tokenizer: Any, markers: tuple[str, ...] = ()) -> Control:
    template = str(tokenizer.chat_template or "")
    added = {
        number: token
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or token.content in markers or _steers(token.content, template)
    }
    # longest first, so that a match is never a shorter token's; one character cannot be broken in two
    longest_first = sorted(added.values(), key=lambda token: -len(token.content))
    texts = [_spelling(token) for token in longest_first if len(token.content.strip()) > 1]
    ids = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return Control(
        pattern=re.compile("(?=(" + "|".join(texts) + "))") if texts else None,
        ids=frozenset(added) - {tokenizer.unk_token_id},
        leading=tuple(ids[: ids.index(plain[0])]),
    )


def _spelling(token: Any) -> str:
    """The pattern of a token. Where tokens are looked for in normalized text, capitals and kinds of spaces are one."""
    return f"(?i:{re.escape(token.content.strip())})" if token.normalized else re.escape(token.content)


def _steers(token: str, template: str) -> bool:
    """Whether a token that is not marked as special is one all the same, as are `<think>` and `<|fim_prefix|>`.

    Gemma's line breaks, runs of spaces and HTML tags are added tokens too, but they are ordinary text.
    """
    return not token.isspace() and (token in template or (token.startswith("<|") and token.endswith("|>")))


def _parts(prompt: Prompt, control: Control) -> list[tuple[int, str]]:
    """The prompt's text with its offset, in one part; more where a user's text spells a control token: a break
    inside each such token keeps the tokenizer from seeing it, and changes no character (only a tokenizer that opens
    every text with a space of its own does so at the break)."""
    text = "".join(piece.text for piece in prompt.pieces)
    breaks = set()
    if control.pattern is not None:
        piece_at = _piece_lookup(prompt)
        for match in control.pattern.finditer(text):
            begin, end = match.span(1)
            if any(prompt.pieces[piece_at(i)].role != "fixed" for i in range(begin, end)):
                breaks.add(begin + 1)
    return [(begin, text[begin:end]) for begin, end in pairwise([0, *sorted(breaks), len(text)])]


def _piece_lookup(prompt: Prompt) -> Callable[[int], int]:
    """A function from a character's position to the piece that it stands in."""
    ends = list(accumulate(len(piece.text) for piece in prompt.pieces))
    return lambda position: min(bisect_right(ends, position), len(ends) - 1)


def padded(sequences: Sequence[Sequence[int]], tokenizer: Any) -> Tokens:
    """Token sequences as tensors, padded on the right."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence, dtype=ids.dtype)
        mask[row, : len(sequence)] = 1
    return Tokens(ids, mask)


def encoded(texts: list[str], tokenizer: Any) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The tokens of each text alone, and which characters each of them stands for."""
    if not texts:
        return []
    try:
        found = tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
    except TypeError as error:
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise InputError(f"text with half a surrogate pair cannot be tokenized: {text[:60]!r}") from error
        raise
    return list(zip(found["input_ids"], found["offset_mapping"], strict=True))
