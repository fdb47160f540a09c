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
from rerankkit.warnings import warn


@dataclass(slots=True)
class Tokenized:
    """A prompt as tokens.

    Args:
        pieces: Which of the prompt's pieces each token belongs to, -1 for those of the tokenizer's own.
        places: Which characters of the prompt each token stands for; empty once that does not matter.
    """

    ids: list[int]
    roles: list[Role]
    pieces: list[int]
    places: Sequence[tuple[int, int]] = ()


def tokenize(prompts: Sequence[Prompt], tokenizer: Any, markers: tuple[str, ...] = ()) -> list[Tokenized]:
    """The tokens of each prompt; a token belongs to the piece, and has the role, of its last character.

    A text is tokenized whole, so the tokens are those that the model was trained on. Only where a query or document
    spells a control token, such as `<|im_end|>`, is it tokenized in parts, and no part holds the control token; where a
    tokenizer makes a control token of what does not spell it, such as full-width letters, likewise. Tokens that the
    tokenizer puts at the end are left out where a language model answers: the prompt's last token is where it does.

    Args:
        markers: What else steers the model where it is an added token, such as PyLate's `[Q] `.
    """
    control = control_tokens(tokenizer, markers)
    breaks = [_breaks(prompt, control) for prompt in prompts]
    found = _tokenized(prompts, breaks, control, tokenizer)
    for number, (prompt, text) in enumerate(zip(prompts, found, strict=True)):
        while spans := control.written_by_users(text):
            more = {begin + 1 for begin, end in spans if end - begin > 1} - breaks[number]
            if not more:
                found[number] = control.without(text, prompt)
                break
            breaks[number] |= more
            (text,) = _tokenized([prompt], [breaks[number]], control, tokenizer)
            found[number] = text
    return found


def _tokenized(
    prompts: Sequence[Prompt], breaks: Sequence[set[int]], control: Control, tokenizer: Any
) -> list[Tokenized]:
    """The tokens of each prompt whose text is broken in these places."""
    parts = [_parts(prompt, places) for prompt, places in zip(prompts, breaks, strict=True)]
    tokens_of = iter(encoded([text for prompt in parts for _, text in prompt], tokenizer))
    found = []
    for prompt, split in zip(prompts, parts, strict=True):
        piece_at = _piece_lookup(prompt)
        ids = list(control.leading) if prompt.add_special_tokens else []
        pieces, places = [-1] * len(ids), [(0, 0)] * len(ids)
        for start, _ in split:
            tokens, spans = next(tokens_of)
            ids += tokens
            places += [(start + begin, start + end) for begin, end in spans]
            if len(prompt.pieces) == 1:
                pieces += [0] * len(tokens)
            else:
                pieces += [piece_at(start + max(end - 1, begin)) for begin, end in spans]
        if prompt.closed and prompt.add_special_tokens:
            ids += control.trailing
            pieces += [-1] * len(control.trailing)
            places += [(0, 0)] * len(control.trailing)
        roles: list[Role] = ["fixed" if piece < 0 else prompt.pieces[piece].role for piece in pieces]
        found.append(Tokenized(ids, roles, pieces, places))
    return found


@dataclass(frozen=True)
class Control:
    """The tokens that steer a model, and the ids that open and close every sequence."""

    pattern: re.Pattern[str] | None
    ids: frozenset[int]
    leading: tuple[int, ...]
    trailing: tuple[int, ...]

    def around(self, text: str) -> list[str]:
        """What a text holds before, between and behind these tokens."""
        found, end = [], 0
        for match in self.pattern.finditer(text) if self.pattern else ():
            if match.start(1) >= end:
                found.append(text[end : match.start(1)])
                end = match.end(1)
        return [*found, text[end:]]

    def written_by_users(self, text: Tokenized) -> list[tuple[int, int]]:
        """Where a query or document is read as one of these tokens."""
        if self.ids.isdisjoint(text.ids):
            return []
        tokens = zip(text.ids, text.roles, text.places, strict=True)
        return [place for token, role, place in tokens if role != "fixed" and token in self.ids]

    def without(self, text: Tokenized, prompt: Prompt) -> Tokenized:
        """The last line of defence: a tokenizer may make such a token of a single character, which is left out."""
        kept = [i for i, token in enumerate(text.ids) if text.roles[i] == "fixed" or token not in self.ids]
        first = prompt.pieces[text.pieces[next(i for i in range(len(text.ids)) if i not in set(kept))]]
        warn("control_characters_left_out", f"in the {first.role} {first.text[:60]!r}", len(text.ids) - len(kept))
        return Tokenized([text.ids[i] for i in kept], [text.roles[i] for i in kept], [text.pieces[i] for i in kept])


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
        trailing=tuple(ids[ids.index(plain[0]) + len(plain) :]),
    )


def _spelling(token: Any) -> str:
    """The pattern of a token. Where tokens are looked for in normalized text, capitals and kinds of spaces are one."""
    return f"(?i:{re.escape(token.content.strip())})" if token.normalized else re.escape(token.content)


def _steers(token: str, template: str) -> bool:
    """Whether a token that is not marked as special is one all the same, as are `<think>` and `<|fim_prefix|>`.

    Gemma's line breaks, runs of spaces and HTML tags are added tokens too, but they are ordinary text.
    """
    return not token.isspace() and (token in template or (token.startswith("<|") and token.endswith("|>")))


def _breaks(prompt: Prompt, control: Control) -> set[int]:
    """Where the prompt's text is to be broken: inside each control token that a user's text spells, which keeps the
    tokenizer from seeing it, and changes no character (only a tokenizer that opens every text with a space of its own
    does so at the break)."""
    breaks: set[int] = set()
    if control.pattern is not None:
        text = "".join(piece.text for piece in prompt.pieces)
        piece_at = _piece_lookup(prompt)
        for match in control.pattern.finditer(text):
            begin, end = match.span(1)
            if any(prompt.pieces[piece_at(i)].role != "fixed" for i in range(begin, end)):
                breaks.add(begin + 1)
    return breaks


def _parts(prompt: Prompt, breaks: set[int]) -> list[tuple[int, str]]:
    """The prompt's text in parts, each with its offset."""
    text = "".join(piece.text for piece in prompt.pieces)
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
