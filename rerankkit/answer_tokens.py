"""The tokens of an answer: those whose likelihood is asked, and those that would name each document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rerankkit.caches import per_tokenizer
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.prompt_tokens import padded
from rerankkit.protocols import Batch, Prompt, Row
from rerankkit.written_orders import marks_thought


def scored_tokens(prompt: Prompt, pieces: Sequence[int]) -> list[int] | None:
    """For each token, given its piece, which document its likelihood speaks for, -1 for none; None where all are -1."""
    if all(piece.scored is None for piece in prompt.pieces):
        return None
    of_piece = [-1 if piece.scored is None else piece.scored for piece in prompt.pieces]
    return [of_piece[piece] if piece >= 0 else -1 for piece in pieces]


def asked_ids(before: str, prompt: Prompt, tokenizer: Any) -> tuple[int, ...]:
    """The one token that each choice of a prompt, or each answer that its head reads, is behind the text before it.

    Args:
        before: What stands at the end of the prompt, all of it the prompt's own.
    """
    return answer_ids(tokenizer, before, prompt.answers) or choice_ids(tokenizer, before, prompt.choices)


@per_tokenizer
def answer_ids(tokenizer: Any, before: str, answers: tuple[str, ...]) -> tuple[int, ...]:
    """The token of each answer where it follows a text: the one that goes on from it or, where no single one does, the
    one that the answer is by itself.

    Raises:
        InputError: An answer is not one token, or two answers are the same one.
    """
    found: list[int] = []
    for answer in answers:
        texts = (before, before + answer, answer)
        ahead, after, alone = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        tokens = after[len(ahead) :] if after[:-1] == ahead else alone
        if len(tokens) != 1:
            pieces = ", ".join(tokenizer.convert_ids_to_tokens(tokens))
            raise InputError(
                f"the answer {answer!r} is {len(tokens)} tokens of this model ({pieces}) after {before[-20:]!r}, and "
                "its logit is read off one; choose a word that is one token there, with its leading space or without"
            )
        if tokens[0] in found:
            raise InputError(f"the answers {answers[found.index(tokens[0])]!r} and {answer!r} are the same token")
        found.append(tokens[0])
    return tuple(found)


@per_tokenizer
def choice_ids(tokenizer: Any, before: str, choices: tuple[str, ...]) -> tuple[int, ...]:
    """The one token that each choice is where it follows the text before it.

    Args:
        before: What stands at the end of the prompt, all of it the prompt's own.
    """
    found = tuple(_single_token(before, choice, tokenizer) for choice in choices)
    for number, token in enumerate(found):
        if token in found[:number]:
            raise InputError(
                f"the answers {choices[found.index(token)]!r} and {choices[number]!r} are the same token of this "
                "model; choose others"
            )
    return found


def _single_token(before: str, choice: str, tokenizer: Any) -> int:
    alone, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, before + choice))
    if after[:-1] == alone:
        return after[-1]
    if after[: len(alone)] != alone:
        raise InputError(
            f"the answer {choice!r} and the prompt's end {before[-20:]!r} run together into one token of this model; "
            "move the space between them from the one to the other"
        )
    pieces = ", ".join(tokenizer.convert_ids_to_tokens(after[len(alone) :])) or "none"
    raise InputError(
        f"the answer {choice!r} is {len(after) - len(alone)} tokens of this model ({pieces}) after "
        f"{before[-20:]!r}, and its logit is read off one; choose other labels or answers in the formatter"
    )


def written_text(tokens: Sequence[int], tokenizer: Any) -> str:
    """What a model wrote, without tokens that steer; those around its thinking are kept."""
    steering = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and not marks_thought(token.content)
    }
    return tokenizer.decode([token for token in tokens if token not in steering], skip_special_tokens=False)


def sequences(rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]]) -> Batch:
    """Rows that end where the answer begins, each with what it shares, if anything."""
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


def rectangle(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Numbers of some rows as one tensor, -1 where a row ends early. [rows, longest]"""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
