"""The sequence collator: what is cut, what never is, what is counted, and how rows are padded."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.collators.sequence import SequenceCollator
from rerankkit.errors import InputError
from rerankkit.prompt_tokens import tokenize
from rerankkit.protocols import Piece, Prompt, Role, Row

MAX = 64
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=4 * MAX),
    st.integers(0, 4 * MAX).map(lambda words: tiny.sentence(words, words)),
)
FIXED = ("Query: ", "\nDocument: ", "\nDoes the document answer the query? Answer:")


def prompt(query: str, document: str, document_first: bool = False) -> Prompt:
    users: list[tuple[str, Role]] = [(query, "query"), (document, "document")]
    if document_first:
        users.reverse()
    (one, first), (two, second) = users
    made = [(FIXED[0], "fixed"), (one, first), (FIXED[1], "fixed"), (two, second), (FIXED[2], "fixed")]
    return Prompt(tuple(Piece(text, role) for text, role in made))  # type: ignore[arg-type]


def encode(collator: SequenceCollator, of: Prompt, words: Any = None) -> Row:
    (row,) = collator.encode([of], words or tiny.tokenizer())
    return row


def naive(ids: list[int], roles: list[Role], query: int, document: int) -> list[int]:
    """The ids without the ends of query and document, taken away one token at a time."""
    kept = list(zip(ids, roles, strict=True))
    for role, count in (("query", query), ("document", document)):
        for _ in range(count):
            kept.pop(max(i for i, (_, r) in enumerate(kept) if r == role))
    return [token for token, _ in kept]


@settings(max_examples=150)
@given(TEXTS, TEXTS, st.booleans(), st.sampled_from([None, 1, 8, 40]), st.sampled_from([None, 1, 4, 20]))
def test_what_is_cut(
    query: str, document: str, document_first: bool, document_limit: int | None, query_limit: int | None
) -> None:
    of = prompt(query, document, document_first)
    row = encode(SequenceCollator(MAX, document_limit, query_limit, query_floor=8), of)
    whole = tokenize([of], tiny.tokenizer())[0]
    ids, roles = whole.ids, whole.roles
    fixed = [token for token, role in zip(ids, roles, strict=True) if role == "fixed"]
    lengths = {"query": roles.count("query"), "document": roles.count("document")}

    assert len(row.ids) == len(row.roles) <= MAX
    assert [token for token, role in zip(row.ids, row.roles, strict=True) if role == "fixed"] == fixed
    assert row.ids[-5:] == ids[-5:] == tiny.tokenizer()(FIXED[2])["input_ids"][-5:]
    assert row.ids == naive(ids, roles, row.cut_query, row.cut_document)
    assert row.cut_query == lengths["query"] - row.roles.count("query")
    assert row.cut_document == lengths["document"] - row.roles.count("document")

    room = MAX - len(fixed)
    wanted = min(lengths["query"], query_limit or MAX), min(lengths["document"], document_limit or MAX)
    of_equal = wanted[0] <= wanted[1]  # of two as long, not the one that was longer before
    while sum(wanted) > room:
        cut_query = wanted[0] > wanted[1] or (wanted[0] == wanted[1] and of_equal)
        wanted = (wanted[0] - 1, wanted[1]) if cut_query else (wanted[0], wanted[1] - 1)
    assert (row.roles.count("query"), row.roles.count("document")) == wanted


@pytest.mark.parametrize("leading", [False, True])
def test_what_fits_is_the_tokenizers_own(leading: bool) -> None:
    row = encode(SequenceCollator(256), prompt("how do I open a file", "the open function"), tiny.tokenizer(leading))
    text = FIXED[0] + "how do I open a file" + FIXED[1] + "the open function" + FIXED[2]
    assert row.ids == tiny.tokenizer(leading)(text)["input_ids"]
    assert (row.cut_query, row.cut_document, row.shared) == (0, 0, ())


@pytest.mark.parametrize("words", range(0, 4 * MAX, 7))
def test_the_answers_anchor_survives_any_document(words: int) -> None:
    row = encode(SequenceCollator(MAX), prompt("a cat", tiny.sentence(5, words)))
    assert tiny.tokenizer().decode(row.ids).endswith(FIXED[2])
    assert tiny.tokenizer().decode(row.ids).startswith("Query: a cat\nDocument:")
    assert row.roles[-3:] == ["fixed"] * 3


def test_an_empty_document_is_a_prompt_like_any_other() -> None:
    row = encode(SequenceCollator(MAX), prompt("a cat", ""))
    assert tiny.tokenizer().decode(row.ids) == FIXED[0] + "a cat" + FIXED[1] + FIXED[2]
    assert row.cut_document == 0


def test_a_template_that_leaves_no_room_is_refused() -> None:
    query = tiny.sentence(1, 20)
    roles = tokenize([prompt(query, "text")], tiny.tokenizer())[0].roles
    taken = roles.count("fixed")
    assert encode(SequenceCollator(taken + 8, query_floor=8), prompt(query, "text")).roles.count("query") == 8
    with pytest.raises(InputError) as refused:
        encode(SequenceCollator(taken + 7, query_floor=8), prompt(query, "text"))
    assert f"the prompt's own text takes {taken} of max_length = {taken + 7} tokens and leaves 7" in str(refused.value)
    assert "raise max_length or shorten the template" in str(refused.value)
    with pytest.raises(InputError, match="leaves 0 for the query"):
        encode(SequenceCollator(taken - 5), prompt("a cat", "text"))


def test_a_query_shorter_than_the_floor_needs_no_more_room_than_itself() -> None:
    roles = tokenize([prompt("a", tiny.sentence(1, 50))], tiny.tokenizer())[0].roles
    room = roles.count("query")
    row = encode(SequenceCollator(roles.count("fixed") + room, query_floor=16), prompt("a", tiny.sentence(1, 50)))
    assert row.roles.count("query") == room and row.roles.count("document") == 0
    assert row.cut_document == roles.count("document")


def test_two_texts_are_not_glued_together() -> None:
    with pytest.raises(InputError, match="reads prompts of one text, and this formatter writes two"):
        encode(SequenceCollator(), Prompt((Piece("a cat", "query"), Piece("a mat", "document")), second=1))


def test_more_than_the_model_reads_is_refused() -> None:
    words = tiny.tokenizer(limit=128)
    assert encode(SequenceCollator(128), prompt("a", "b"), words).ids
    with pytest.raises(InputError, match="max_length = 129, but the model reads 128 tokens"):
        encode(SequenceCollator(129), prompt("a", "b"), words)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_length": 0}, "sequence.v1, max_length: must be at least 1, got 0"),
        ({"document_max_length": 0}, "document_max_length: must be at least 1, got 0"),
        ({"query_max_length": -3}, "query_max_length: must be at least 1, got -3"),
        ({"query_floor": -1}, "query_floor: must be at least 0, got -1"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(InputError) as refused:
        SequenceCollator(**limits)
    assert message in str(refused.value)


def test_a_tokenizers_stored_truncation_and_padding_do_not_count() -> None:
    words = tiny.tokenizer.__wrapped__()
    words.backend_tokenizer.enable_truncation(5)
    words.backend_tokenizer.enable_padding(length=300)
    of = prompt("a cat", tiny.sentence(3, 30))
    assert encode(SequenceCollator(MAX), of, words) == encode(SequenceCollator(MAX), of)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_are_padded_on_the_right_and_answered_at_their_last_token(side: str) -> None:
    words = tiny.tokenizer.__wrapped__()
    words.padding_side = side
    prefixes = [(5, 6, 7), (8,)]
    rows = [Row([1, 2], [], (8,)), Row([3], [], (5, 6, 7)), Row([4, 4, 4], [], (8,))]
    batch = SequenceCollator().collate(rows, words, prefixes)
    assert batch.tokens.ids.tolist() == [[1, 2, 0], [3, 0, 0], [4, 4, 4]]
    assert batch.tokens.mask.tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert batch.answer.tolist() == [1, 0, 2]
    assert batch.shared is not None and batch.shared_of is not None
    assert batch.shared.ids.tolist() == [[5, 6, 7], [8, 0, 0]] and batch.shared.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.shared_of.tolist() == [1, 0, 1]
    alone = SequenceCollator().collate([Row([1, 2], [])], words)
    assert alone.shared is None and alone.shared_of is None
