"""The tokens that a tokenizer puts around one text, or around and between two: `[CLS] … [SEP] … [SEP]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerankkit.caches import per_tokenizer
from rerankkit.errors import InputError
from rerankkit.prompt_tokens import tokenize
from rerankkit.protocols import Prompt, Role


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands before, between and behind texts, and the type of each token where the tokenizer has types.

    Args:
        fixed: The tokens before the first text, behind it, and behind the second where there is one.
        types: The type of each of these tokens.
        text_types: The type of each text's own tokens; empty where the tokenizer has none.
    """

    fixed: tuple[tuple[int, ...], ...]
    types: tuple[tuple[int, ...], ...]
    text_types: tuple[int, ...]

    def around(self, texts: Sequence[tuple[list[int], list[Role]]]) -> tuple[list[int], list[Role], list[int] | None]:
        """Token ids, roles and types of framed texts."""
        ids, roles, types = list(self.fixed[0]), ["fixed"] * len(self.fixed[0]), list(self.types[0])
        for number, (own, own_roles) in enumerate(texts):
            behind = self.fixed[number + 1]
            ids += [*own, *behind]
            roles += [*own_roles, *["fixed"] * len(behind)]
            if self.text_types:
                types += [*[self.text_types[number]] * len(own), *self.types[number + 1]]
        return ids, roles, types if self.text_types else None  # type: ignore[return-value]


@per_tokenizer
def frame_of(tokenizer: Any, texts: int) -> Frame:
    """How a tokenizer frames one text, or a pair."""
    encoded = tokenizer(*["a"] * texts, return_token_type_ids=True)
    ids, types, owner = encoded["input_ids"], encoded["token_type_ids"], encoded.sequence_ids(0)
    first = [owner.index(text) for text in range(texts)]
    last = [len(owner) - 1 - owner[::-1].index(text) for text in range(texts)]
    begins, ends = [0, *(end + 1 for end in last)], [*first, len(ids)]
    has_types = "token_type_ids" in tokenizer.model_input_names
    return Frame(
        fixed=tuple(tuple(ids[b:e]) for b, e in zip(begins, ends, strict=True)),
        types=tuple(tuple(types[b:e]) for b, e in zip(begins, ends, strict=True)),
        text_types=tuple(types[position] for position in first) if has_types else (),
    )


def frames_each(tokenizer: Any) -> bool:
    """Whether a tokenizer frames each text of a pair as it would frame it alone: `<s> query <s> document`."""
    (before, behind), pair = frame_of(tokenizer, 1).fixed, frame_of(tokenizer, 2).fixed
    return bool(before or behind) and pair == (before, (*behind, *before), behind)


def tokenize_texts(
    prompts: Sequence[Prompt], tokenizer: Any, markers: tuple[str, ...] = ()
) -> list[list[tuple[list[int], list[Role]]]]:
    """The tokens of each prompt's two texts, none added; a text that several prompts share is tokenized once."""
    halves = [(prompt.pieces[: prompt.second], prompt.pieces[prompt.second :]) for prompt in prompts]
    distinct = list(dict.fromkeys(half for pair in halves for half in pair))
    tokens = tokenize([Prompt(half, add_special_tokens=False) for half in distinct], tokenizer, markers)
    found = {half: (text.ids, text.roles) for half, text in zip(distinct, tokens, strict=True)}
    return [[found[half] for half in pair] for pair in halves]


def marker_ids(text: str, tokenizer: Any) -> list[int]:
    """A marker's tokens: one where the vocabulary has it, else those of its text."""
    if not text:
        return []
    entry = vocabulary_id(text, tokenizer)
    ids = [entry] if entry is not None else tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids or tokenizer.unk_token_id in ids:
        raise InputError(f"this model's vocabulary cannot write the marker {text!r}; choose another, or none")
    return ids


def vocabulary_id(text: str, tokenizer: Any) -> int | None:
    """The id of a vocabulary's entry, if it has it."""
    number = tokenizer.convert_tokens_to_ids(text)
    return None if number == tokenizer.unk_token_id and text != tokenizer.unk_token else number


def framed(
    text: tuple[list[int], list[Role]], marker: list[int], length: int, tokenizer: Any
) -> tuple[list[int], list[Role], int]:
    """A text with marker and frame, its end cut to fit, and how many tokens were cut."""
    before, behind = frame_of(tokenizer, 1).fixed
    ids, roles = text
    if not (before or marker or ids or behind):
        raise InputError("an empty text has no token to compare here: this tokenizer adds none, so choose a marker")
    own = len(roles) - roles.count("fixed")
    room = length - len(before) - len(marker) - len(behind) - (len(ids) - own)
    if room < min(own, 1):
        raise InputError(f"marker, frame and instruction leave no room in {length} tokens; allow more")
    cut = max(own - room, 0)
    if cut:
        left_out = set([i for i, role in enumerate(roles) if role != "fixed"][room:])
        kept = [i for i in range(len(ids)) if i not in left_out]
        ids, roles = [ids[i] for i in kept], [roles[i] for i in kept]
    opening: list[Role] = ["fixed"] * (len(before) + len(marker))
    closing: list[Role] = ["fixed"] * len(behind)
    return [*before, *marker, *ids, *behind], [*opening, *roles, *closing], cut
