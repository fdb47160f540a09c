"""What a tokenizer's chat template writes around the turns of a conversation."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from rerankkit.caches import per_tokenizer
from rerankkit.chat_markers import disarmed
from rerankkit.errors import InputError
from rerankkit.prompt_tokens import control_tokens
from rerankkit.protocols import Piece

_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
_ROLES = (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",))


def asked(
    pieces: list[Piece], chat: bool, system: str, answer_prefix: str, tokenizer: Any, part: str
) -> tuple[list[Piece], int | None]:
    """A question as a chat's turn or as plain text, the beginning of its answer behind it, and the position of that.

    Args:
        part: The formatter's name, for messages.
    """
    if chat:
        pieces = conversation([("user", pieces)], tokenizer, part, system)
    return begun(pieces, answer_prefix)


def begun(pieces: list[Piece], answer_prefix: str) -> tuple[list[Piece], int | None]:
    """A prompt with the beginning of its answer behind it, and the position of that; None where there is none."""
    if not answer_prefix:
        return pieces, None
    return [*pieces, Piece(answer_prefix, "fixed")], len(pieces)


def conversation(
    turns: Sequence[tuple[str, Sequence[Piece]]], tokenizer: Any, part: str, system: str = ""
) -> list[Piece]:
    """A chat with these turns, and the model's turn opened. No query or document writes what opens or closes one.

    Args:
        turns: Who speaks, "user" or "assistant", and what.
        part: The formatter's name, for messages.
        system: The system turn; empty leaves the choice to the chat template.
    """
    before, *after = frame(tokenizer, tuple(role for role, _ in turns), system, part)
    pieces = [Piece(before, "fixed")]
    for (_, said), text in zip(turns, after, strict=True):
        pieces += [*disarmed(said, plain_text_between(tokenizer)), Piece(text, "fixed")]
    return [piece for piece in pieces if piece.text or piece.role != "fixed"]


@per_tokenizer
def plain_text_between(tokenizer: Any) -> tuple[str, ...]:
    """What the chat template writes around turns besides control tokens. Of what comes before the first turn it is the
    last line: the others are a system turn that the template brings along."""
    texts = []
    for roles in _ROLES:
        with contextlib.suppress(InputError):  # many templates refuse a system turn
            before, *after = frame(tokenizer, roles, "", "chat")
            texts += [before.rstrip().rpartition("\n")[2], *after]
    control = control_tokens(tokenizer)
    return tuple(dict.fromkeys(plain for text in texts for plain in control.around(text) if plain.strip()))


@per_tokenizer
def frame(tokenizer: Any, roles: tuple[str, ...], system: str, part: str) -> tuple[str, ...]:
    """The fixed text before, between and after turns of these roles: one more than there are turns.

    Each turn is a mark that no chat template trims or reads, so what is said in it stays to the letter.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        plain = "" if part == "conversation.v1" else "; set chat = false"
        raise InputError(f"{part}: a chat is to be written, but this model's tokenizer has no chat template{plain}")
    marks = [f"{_MARK}turn {number}{_MARK}" for number in range(len(roles))]
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InputError(f"{part}: the model's chat template refuses these turns: {error}") from error
    found = []
    for mark, role in zip(marks, roles, strict=True):
        before, shown, text = text.partition(mark)
        if not shown or mark in text:
            raise InputError(f"{part}: the chat template does not show the {role}'s turn exactly once")
        found.append(before)
    return (*found, text)
