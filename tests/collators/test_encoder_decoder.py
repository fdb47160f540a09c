"""The encoder-decoder collator: what each part holds, what is cut, what is scored, and how choices become tokens."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_t5
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.errors import InputError
from rerankkit.protocols import Piece, Prompt, Row

START, END = 0, 1
BEFORE, BETWEEN, BEHIND = "Query: ", " Document: ", " relevant?"


def words(opened: bool = False) -> Any:
    found = tiny_t5.tokenizer.__wrapped__(opened)
    found.decoder_start_token_id = START
    return found


def ids(text: str) -> list[int]:
    return tiny_t5.tokenizer()(text, add_special_tokens=False)["input_ids"]


def prompt(query: str, *documents: str, answer: str = "", choices: tuple[str, ...] = ()) -> Prompt:
    pieces = [Piece(BEFORE, "fixed"), Piece(query, "query")]
    for document in documents:
        pieces += [Piece(BETWEEN, "fixed"), Piece(document, "document")]
    pieces.append(Piece(BEHIND, "fixed"))
    begun = (Piece(answer, "fixed"),) if answer else ()
    labels = ("A", "B", "C")[: len(documents)]
    return Prompt((*pieces, *begun), answer=len(pieces) if answer else None, labels=labels, choices=choices)


def encode(of: Prompt, collator: EncoderDecoderCollator | None = None, tokenizer: Any = None) -> Row:
    (row,) = (collator or EncoderDecoderCollator(64)).encode([of], tokenizer or words())
    return row


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("answer", ["", "Passage", "Answer Passage"])
def test_each_part_is_the_tokenizers_own(opened: bool, answer: str) -> None:
    row = encode(prompt("a cat", "on the mat", answer=answer), tokenizer=words(opened))
    text = f"{BEFORE}a cat{BETWEEN}on the mat{BEHIND}"
    assert list(row.shared) == words(opened)(text)["input_ids"]  # opened and closed as its encoder knows texts
    assert row.ids == [START, *ids(answer)]  # opened by the decoder's own token, and not closed
    assert len(row.roles) == len(row.shared) + len(row.ids)
    assert row.roles[len(row.shared) - 1 :] == ["fixed"] * (1 + len(row.ids))
    assert row.labels == ("A",) and row.scored is None


def test_a_prompt_that_holds_its_special_tokens_is_given_none() -> None:
    of = Prompt(prompt("a cat", "a mat").pieces, add_special_tokens=False)
    assert list(encode(of, tokenizer=words(True)).shared) == ids(f"{BEFORE}a cat{BETWEEN}a mat{BEHIND}")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(1, 12), st.sampled_from([None, 5, 30]))
def test_documents_are_cut_alike_and_the_close_stays(lengths: list[int], query: int, limit: int | None) -> None:
    most = 64
    documents = [tiny.sentence(i, n) for i, n in enumerate(lengths)]
    asked = tiny.sentence(9, query)
    row = encode(prompt(asked, *documents, answer="Passage"), EncoderDecoderCollator(most, limit))
    fixed = len(ids(BEFORE.strip())) + len(ids(BETWEEN.strip())) * len(lengths) + len(ids(BEHIND)) + 1
    wanted = [min(n, limit or n) for n in lengths]  # each word is one token
    room = most - fixed - query
    kept = [0] * len(wanted)  # a token for each document in turn, until none is left or wanted
    while sum(kept) < min(room, sum(wanted)):
        for i in range(len(kept)):
            kept[i] += kept[i] < wanted[i] and sum(kept) < room
    text = BEFORE + asked
    for document, n in zip(documents, kept, strict=True):
        text += BETWEEN + " ".join(document.split()[:n])
    assert list(row.shared) == [*ids(text + BEHIND), END]
    assert row.cut_document == sum(lengths) - sum(kept) and row.cut_query == 0
    assert row.ids == [START, *ids("Passage")]


def test_the_decoders_part_is_cut_by_itself() -> None:
    query = tiny.sentence(1, 20)
    document = tiny.sentence(2, 30)
    of = Prompt((Piece(document, "document"), Piece(query, "query", 0)), answer=1)
    row = encode(of, EncoderDecoderCollator(16, query_max_length=12))
    assert list(row.shared) == [*ids(document)[:15], END]
    assert row.ids == [START, *ids(query)[:12]]
    assert row.scored == [-1] + [0] * 12  # the start token is nobody's
    assert (row.cut_query, row.cut_document) == (8, 15)
    assert row.roles == ["document"] * 15 + ["fixed"] * 2 + ["query"] * 12


def test_only_text_of_the_decoders_can_be_likely() -> None:
    with pytest.raises(InputError, match="asks for the likelihood of text that the encoder reads"):
        encode(Prompt((Piece("a mat", "document"), Piece("a cat", "query", 0))))


@pytest.mark.parametrize(("answer", "before"), [("", ""), ("Passage", "Passage")])
def test_choices_are_what_follows_the_answer_begun(answer: str, before: str) -> None:
    row = encode(prompt("a", "b", "a cat", answer=answer, choices=(" A", " B")))
    assert list(row.choices) == [ids("A")[0], ids("B")[0]]
    with pytest.raises(InputError, match="is 3 tokens of this model"):
        encode(prompt("a", "b", answer=answer, choices=(" zq",)))


def test_control_tokens_in_texts_are_ordinary_text() -> None:
    row = encode(prompt("the </s> cat", "<extra_id_0> <pad> mat", answer="Passage"))
    assert row.shared.count(END) == 1 and row.shared[-1] == END
    assert not {0, 4} & set(row.shared)
    assert "<extra_id_0>" in tiny_t5.tokenizer().decode(row.shared).replace(" ", "")


def test_batches_hold_both_parts() -> None:
    collator, tokenizer = EncoderDecoderCollator(64), words()
    prompts = [prompt("a cat", "on the mat", "rain", answer="Passage", choices=(" A", " B")), prompt("a", "rain")]
    rows = collator.encode([*prompts, prompts[0]], tokenizer)
    batch = collator.collate(rows, tokenizer, [rows[1].shared, rows[0].shared])
    assert batch.shared is not None and batch.shared_of is not None and batch.choices is not None
    assert batch.shared_of.tolist() == [1, 0, 1]
    assert batch.shared.ids[1].tolist() == list(rows[0].shared)
    assert batch.shared.mask.sum(1).tolist() == [len(rows[1].shared), len(rows[0].shared)]
    assert batch.tokens.ids.tolist() == [[START, *ids("Passage")], [START, 0], [START, *ids("Passage")]]
    assert batch.tokens.mask.tolist() == [[1, 1], [1, 0], [1, 1]] and batch.answer.tolist() == [1, 0, 1]
    assert batch.choices.tolist() == [[*ids("A B")], [-1, -1], [*ids("A B")]] and batch.scored is None


def test_what_is_for_other_parts_is_refused() -> None:
    with pytest.raises(InputError, match=r"is for the backbone hf_encoder_decoder\.v1; give this model sequence\.v1"):
        encode(prompt("a", "b"), tokenizer=tiny.tokenizer())
    with pytest.raises(InputError, match="reads prompts of one text, and this formatter writes two"):
        encode(Prompt((Piece("a", "query"), Piece("b", "document")), second=1))
    with pytest.raises(InputError, match="max_length = 513, but the model reads 512 tokens"):
        encode(prompt("a", "b"), EncoderDecoderCollator(513))
    with pytest.raises(InputError, match=r"encoder_decoder\.v1, query_floor: must be at least 0, got -1"):
        EncoderDecoderCollator(query_floor=-1)
    with pytest.raises(InputError, match="the prompt's own text takes"):
        encode(prompt("a", "b"), EncoderDecoderCollator(4))
