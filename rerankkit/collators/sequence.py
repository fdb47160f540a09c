"""A whole prompt as one token sequence, cut only where it may be cut: what a causal LM reads."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from rerankkit.errors import InputError
from rerankkit.lazy import torch
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

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        if self.max_length > tokenizer.model_max_length:
            raise InputError(
                f"sequence.v1: max_length = {self.max_length}, but the model reads {tokenizer.model_max_length} tokens"
            )
        control = _control(tokenizer)
        parts = [_parts(prompt, control) for prompt in prompts]
        encoded = iter(_tokenize([text for prompt in parts for _, text in prompt], tokenizer))
        rows = []
        for prompt, split in zip(prompts, parts, strict=True):
            role_at = _role_lookup(prompt)
            ids = list(control.leading) if prompt.add_special_tokens else []
            roles: list[Role] = ["fixed"] * len(ids)
            for start, _ in split:
                tokens, spans = next(encoded)
                ids += tokens
                roles += [role_at(start + max(end - 1, begin)) for begin, end in spans]
            control.refuse(ids, roles)
            rows.append(self._cut(ids, roles))
        return rows

    def collate(self, rows: Sequence[Row], tokenizer: Any, prefixes: Sequence[tuple[int, ...]] = ()) -> Batch:
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        number = {prefix: i for i, prefix in enumerate(prefixes)}
        return Batch(
            tokens=_padded([row.ids for row in rows], pad),
            answer=torch.tensor([len(row.ids) - 1 for row in rows]),
            prefix=_padded(prefixes, pad) if prefixes else None,
            prefix_of=torch.tensor([number[row.prefix] for row in rows]) if prefixes else None,
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


@dataclass(frozen=True)
class _Control:
    """The tokens that steer a model, and the ids that open every sequence."""

    pattern: re.Pattern[str] | None
    ids: frozenset[int]
    leading: tuple[int, ...]

    def refuse(self, ids: list[int], roles: list[Role]) -> None:
        """The last line of defence: a tokenizer that normalizes text could still spell a control token."""
        if self.ids.isdisjoint(ids):
            return
        for token, role in zip(ids, roles, strict=True):
            if role != "fixed" and token in self.ids:
                raise InputError(f"sequence.v1: the {role} holds text that this tokenizer turns into control token {token}")


@lru_cache(maxsize=8)
def _control(tokenizer: Any) -> _Control:
    template = tokenizer.chat_template or ""
    added = {i: t for i, t in tokenizer.added_tokens_decoder.items() if t.special or t.content in str(template)}
    # longest first, so that a match is never a shorter token's; one character cannot be broken in two
    texts = sorted((t.content for t in added.values() if len(t.content) > 1), key=len, reverse=True)
    ids = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return _Control(
        pattern=re.compile("(?=(" + "|".join(map(re.escape, texts)) + "))") if texts else None,
        ids=frozenset(added) - {tokenizer.unk_token_id},
        leading=tuple(ids[: ids.index(plain[0])]),
    )


def _parts(prompt: Prompt, control: _Control) -> list[tuple[int, str]]:
    """The prompt's text with its offset, in one part; more where a user's text spells a control token: a break
    inside each such token keeps the tokenizer from seeing it, and changes no character."""
    text = "".join(piece.text for piece in prompt.pieces)
    breaks = set()
    if control.pattern is not None:
        role_at = _role_lookup(prompt)
        for match in control.pattern.finditer(text):
            begin, end = match.span(1)
            if any(role_at(i) != "fixed" for i in range(begin, end)):
                breaks.add(begin + 1)
    return [(begin, text[begin:end]) for begin, end in pairwise([0, *sorted(breaks), len(text)])]


def _role_lookup(prompt: Prompt) -> Any:
    """A function from a character's position to its role."""
    ends, roles, end = [], [], 0
    for piece in prompt.pieces:
        end += len(piece.text)
        ends.append(end)
        roles.append(piece.role)
    return lambda position: roles[min(bisect_right(ends, position), len(roles) - 1)]


def _tokenize(texts: list[str], tokenizer: Any) -> list[tuple[list[int], list[tuple[int, int]]]]:
    try:
        encoded = tokenizer(
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
    return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))


def _padded(sequences: Sequence[Sequence[int]], pad: int) -> Tokens:
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    return Tokens(ids, mask)
