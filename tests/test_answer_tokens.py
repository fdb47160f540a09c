"""The tokens of an answer: each choice is one token where it stands, or the message says why it is not."""

from __future__ import annotations

import re

import pytest
import tiny

from rerankkit.answer_tokens import choice_ids, rectangle, scored_tokens
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.errors import InputError
from rerankkit.protocols import Piece, Prompt, Row

WORDS = tiny.tokenizer()


def several(documents: list[str], answer: str = "\nAnswer:", choices: tuple[str, ...] = ()) -> Prompt:
    """A prompt of several documents, whose query stands before and behind them."""
    shown = [piece for text in documents for piece in (Piece("\nDocument: ", "fixed"), Piece(text, "document"))]
    query = Piece("open a file", "query")
    return Prompt(
        (Piece("Query: ", "fixed"), query, *shown, Piece("\n", "fixed"), query, Piece(answer, "fixed")), choices=choices
    )


def encode(prompt: Prompt, **limits: int) -> Row:
    (row,) = SequenceCollator(**limits).encode([prompt], WORDS)
    return row


def text(row: Row) -> str:
    return WORDS.decode(row.ids)


def test_a_choice_is_the_token_that_follows_the_prompt() -> None:
    choices = (" yes", " no", " cat")
    row = encode(several(["a cat", "a file"], choices=choices))
    for choice, token in zip(choices, row.choices, strict=True):
        assert WORDS(text(row) + choice, add_special_tokens=False)["input_ids"] == [*row.ids, token]


def test_a_choice_of_two_tokens_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=re.escape("the answer ' zebra' is")) as refused:
        encode(several(["a"], choices=(" yes", " zebra")))
    assert "and its logit is read off one; choose other labels or answers in the formatter" in str(refused.value)


def test_a_choice_that_runs_together_with_the_prompt_is_refused() -> None:
    assert WORDS("Answer: yes")["input_ids"][:-1] == WORDS("Answer:")["input_ids"]
    with pytest.raises(InputError, match="run together into one token of this model; move the space"):
        encode(several(["a"], answer="\nAnswer: ", choices=("yes",)))


def test_choices_of_one_token_are_refused() -> None:
    with pytest.raises(InputError, match="the answers ' yes' and ' yes' are the same token"):
        choice_ids(WORDS, "Answer:", (" yes", " no", " yes"))


def test_an_empty_choice_is_refused() -> None:
    with pytest.raises(InputError, match=re.escape("the answer '' is 0 tokens")):
        choice_ids(WORDS, "Answer:", ("",))


def test_each_document_is_cut_by_itself_and_the_query_wherever_it_stands() -> None:
    long, short = tiny.sentence(1, 30), "a cat"
    whole = encode(several([long, short, long]))
    row = encode(several([long, short, long]), document_max_length=8)
    pieces = text(row).split("\nDocument: ")
    assert pieces[0] == "Query: open a file" and text(row).endswith("\nopen a file\nAnswer:")
    assert pieces[2] == short
    assert pieces[1] == pieces[3].removesuffix("\nopen a file\nAnswer:") and long.startswith(pieces[1])
    assert row.cut_document == whole.roles.count("document") - row.roles.count("document") > 0
    tight = encode(several([long, short, long]), max_length=len(whole.ids) - 11)
    assert text(tight).count(short) == 1 and tight.cut_document == 11


def test_scored_tokens_are_those_of_scored_pieces() -> None:
    prompt = Prompt(
        (
            Piece("Passage: ", "fixed"),
            Piece("a cat sat", "document"),
            Piece("\n", "fixed"),
            Piece("open a file", "query", 0),
        )
    )
    row = encode(prompt)
    assert row.scored is not None
    found = [token for token, of in zip(row.ids, row.scored, strict=True) if of == 0]
    assert WORDS.decode(found) == "open a file" and set(row.scored) == {0, -1}
    assert encode(several(["a"])).scored is None
    assert scored_tokens(prompt, [-1, 0, 3, 3]) == [-1, -1, 0, 0]


def test_a_batch_holds_what_each_row_scores_and_chooses() -> None:
    collator = SequenceCollator()
    rows = collator.encode([several(["a"] * n, choices=(" yes", " no", " cat")[:n]) for n in (1, 3)], WORDS)
    batch = collator.collate(rows, WORDS)
    assert batch.choices is not None and batch.scored is None
    assert batch.choices.tolist() == [[rows[0].choices[0], -1, -1], list(rows[1].choices)]
    assert rectangle([[1], [], [2, 3]]).tolist() == [[1, -1], [-1, -1], [2, 3]]
    plain = collator.collate(collator.encode([several(["a"])], WORDS), WORDS)
    assert plain.choices is None
