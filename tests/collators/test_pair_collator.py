from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_encoders
import torch
import transformers
from golden.texts import DOCUMENTS, QUERIES
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit import Group
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.batches import training_batch
from rerankkit.collators.pair import PairCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.heads.logit import Logit
from rerankkit.pretrained import load_tokenizer
from rerankkit.protocols import Ask, Piece, Prompt, Row
from rerankkit.strategies.pointwise import Pointwise
from rerankkit.weights import resolve_model

KINDS = ["wordpiece", "untyped", "bytes", "unigram"]
TEXTS = [
    (tiny.sentence(1, 5), tiny.sentence(2, 30)), ("one", ""), (" spaces  in\tthem ", "\n a\r\nb \n"),
    ("Caf\u00e9 \u6771\u4eac?", "emoji \U0001f642\u200d\U0001f525, \u05e9\u05dc\u05d5\u05dd \u0000 \u0007 end"),
]  # fmt: skip


def rows(collator: PairCollator, tokenizer: Any, pairs: Any, formatter: Pair | None = None) -> list[Row]:
    asks = [Ask(Group(query, [document]), (0,)) for query, document in pairs]
    return collator.encode([(formatter or Pair()).format(ask, tokenizer) for ask in asks], tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_types_are_those_of_the_tokenizers_own_pairs(kind: str) -> None:
    words = tiny_encoders.tokenizer(kind)
    for row, (query, document) in zip(rows(PairCollator(), words, TEXTS), TEXTS, strict=True):
        whole = words([query], [document])  # in lists: alone, "" would be no second text
        assert [row.ids] == whole["input_ids"]
        assert [row.type_ids] == whole.get("token_type_ids", [None])
        assert len(row.roles) == len(row.ids)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limits", [(20, None, None, 3), (512, 5, 4, 2), (12, 7, None, 8), (9, None, 6, 0)])
def test_on_request_the_document_is_cut_first_then_the_query_to_its_floor(kind: str, limits: Any) -> None:
    words = tiny_encoders.tokenizer(kind)
    longest, document_limit, query_limit, floor = limits
    frame = words.num_special_tokens_to_add(pair=True)
    pairs = [(tiny.sentence(i, 1 + i), tiny.sentence(90 + i, 3 * i)) for i in range(9)]
    for row, (query, document) in zip(rows(PairCollator(*limits, "documents_first"), words, pairs), pairs, strict=True):
        first, second = (words(text, add_special_tokens=False)["input_ids"] for text in (query, document))
        kept = first[:query_limit] if query_limit else first
        kept = kept[: longest - frame]
        rest = second[: min(longest - frame - len(kept), document_limit or len(second))]
        assert [i for i, role in zip(row.ids, row.roles, strict=True) if role == "query"] == kept
        assert [i for i, role in zip(row.ids, row.roles, strict=True) if role == "document"] == rest
        assert (row.cut_query, row.cut_document) == (len(first) - len(kept), len(second) - len(rest))
        assert len(row.ids) == frame + len(kept) + len(rest) <= longest
        uncut = words([query], [document])
        fixed = [i for i, text in zip(uncut["input_ids"][0], uncut.sequence_ids(0), strict=True) if text is None]
        assert [i for i, role in zip(row.ids, row.roles, strict=True) if role == "fixed"] == fixed
        if row.type_ids is not None:
            assert row.type_ids == [0] * (len(kept) + 2) + [1] * (len(rest) + 1)


@pytest.mark.regression
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(8, 60))
def test_what_is_cut_is_what_the_tokenizer_cuts(kind: str, query: int, document: int, length: int) -> None:
    words = tiny_encoders.tokenizer(kind)
    pair = tiny.sentence(query, query + 1), tiny.sentence(document + 50, document)
    (row,) = rows(PairCollator(length), words, [pair])
    own = words([pair[0]], [pair[1]], truncation="longest_first", max_length=length)
    assert [row.ids] == own["input_ids"]
    assert [row.type_ids] == own.get("token_type_ids", [None])


@pytest.mark.regression
@pytest.mark.parametrize("caps", [(12, 5), (None, 7), (30, None)])
def test_caps_come_before_the_longer_text_is_cut(caps: tuple[int | None, int | None]) -> None:
    words = tiny_encoders.tokenizer("wordpiece")
    pairs = [(tiny.sentence(i, 1 + 3 * i), tiny.sentence(90 + i, 40 - 3 * i)) for i in range(12)]
    for row, texts in zip(rows(PairCollator(24, *caps), words, pairs), pairs, strict=True):
        document_cap, query_cap = caps
        short = [
            words.decode(words(text, add_special_tokens=False)["input_ids"][:cap])
            for text, cap in zip(texts, (query_cap, document_cap), strict=True)
        ]
        assert row.ids == words(*short, truncation="longest_first", max_length=24)["input_ids"]


ANY_TEXT = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=60),
    st.integers(0, 60).map(lambda words: tiny.sentence(words, words)),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(pairs=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=4))
def test_ragged_batches_of_any_text(kind: str, pairs: list[tuple[str, str]]) -> None:
    words = tiny_encoders.tokenizer(kind)
    collator = PairCollator(512)
    queries, documents = zip(*pairs, strict=True)
    whole = words(list(queries), list(documents), padding=True, return_tensors="pt")
    batch = collator.collate(rows(collator, words, pairs), words)
    assert torch.equal(batch.tokens.ids, whole["input_ids"])
    assert torch.equal(batch.tokens.mask, whole["attention_mask"])
    assert (batch.tokens.type_ids is None) == ("token_type_ids" not in whole)
    if batch.tokens.type_ids is not None:
        assert torch.equal(batch.tokens.type_ids, whole["token_type_ids"])
    for number in range(len(pairs)):
        alone = batch.take(torch.tensor([number]))
        (row,) = rows(collator, words, [pairs[number]])
        assert alone.tokens.ids.tolist() == [row.ids]
        assert alone.answer.tolist() == [len(row.ids) - 1]


@pytest.mark.parametrize("length", [512, 32])
def test_a_published_cross_encoders_own_tokenizer(length: int) -> None:
    folder = resolve_model("embedded:ms-marco-minilm-l12")
    words = load_tokenizer(str(folder), None, transformers.AutoConfig.from_pretrained(folder))
    pairs = [(query, document) for query in QUERIES for document in [*DOCUMENTS, "x" * 300, "a\u0301 \u00a0b" * 99]]
    for row, (query, document) in zip(rows(PairCollator(length), words, pairs), pairs, strict=True):
        own = words([query], [document], truncation="longest_first", max_length=length)
        assert ([row.ids], [row.type_ids]) == (own["input_ids"], own["token_type_ids"])
        whole = words([query], [document])["input_ids"][0]
        assert row.cut_query + row.cut_document == len(whole) - len(row.ids)


HOSTILE = st.lists(
    st.sampled_from(
        ["[SEP]", "[CLS]", "[MASK]", "[PAD]", "</s>", "<s>", "<mask>", "[", "SEP]", "</", "s>", "cat", " "]
    ),
    max_size=6,
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(query=HOSTILE, document=HOSTILE)
def test_no_text_adds_a_control_token_or_loses_a_character(kind: str, query: str, document: str) -> None:
    words = tiny_encoders.tokenizer(kind)
    (row,) = rows(PairCollator(), words, [(query, document)])
    control = set(words.all_special_ids)
    for role, text in (("query", query), ("document", document)):
        own = [i for i, of in zip(row.ids, row.roles, strict=True) if of == role]
        assert control.isdisjoint(own)
        written = words.decode(own, clean_up_tokenization_spaces=False)
        if kind == "bytes":
            assert written == text
        else:
            assert "".join(written.split()).lower() == "".join(text.split()).lower()
    fixed = [i for i, of in zip(row.ids, row.roles, strict=True) if of == "fixed"]
    assert fixed == words([""], [""])["input_ids"][0]


def test_a_query_that_would_fall_below_its_floor_is_refused() -> None:
    with pytest.raises(InputError, match="pair.v1: the prompt's own text takes 3 of max_length = 10"):
        rows(PairCollator(10, query_floor=8), tiny_encoders.tokenizer("wordpiece"), [(tiny.sentence(1, 20), "a cat")])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a [SEP] b[MASK][CLS]", "<s> a</s></s> <pad>b<mask>", "[PAD]", "</s>"])
def test_text_that_spells_a_control_token_stays_text(kind: str, text: str) -> None:
    words = tiny_encoders.tokenizer(kind)
    control = set(words.all_special_ids) - {words.unk_token_id}
    (row,) = rows(PairCollator(), words, [(f"q {text}", text)])
    own = [i for i, role in zip(row.ids, row.roles, strict=True) if role != "fixed"]
    assert control.isdisjoint(own)
    assert len(own) > len(text) // 8
    assert len(row.ids) - len(own) == words.num_special_tokens_to_add(pair=True)


def test_instructions_of_the_formatter_are_never_cut() -> None:
    words = tiny_encoders.tokenizer("wordpiece")
    formatter = Pair("search query: {query}?", "passage: {document} end")
    pair = [(tiny.sentence(1, 9), tiny.sentence(2, 60))]
    (whole,) = rows(PairCollator(), words, pair, formatter)
    assert whole.ids == words(f"search query: {pair[0][0]}?", f"passage: {pair[0][1]} end")["input_ids"]
    (cut,) = rows(PairCollator(24, query_floor=4), words, pair, formatter)
    fixed = [[i for i, role in zip(row.ids, row.roles, strict=True) if role == "fixed"] for row in (whole, cut)]
    assert fixed[0] == fixed[1]
    assert len(cut.ids) == 24
    assert cut.type_ids == sorted(cut.type_ids or [])


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_ranking_see_the_same_tokens(kind: str) -> None:
    words = tiny_encoders.tokenizer(kind)
    collator = PairCollator(24, query_floor=2)
    architecture = {"wordpiece": "bert", "untyped": "distilbert", "bytes": "roberta", "unigram": "xlm_roberta"}[kind]
    backbone = hf_classifier(str(tiny_encoders.classifier(architecture)))
    parts = Parts(Pair(), collator, backbone, Logit(), Pointwise())
    group = Group(tiny.sentence(3, 6), [tiny.sentence(40 + i, 1 + 9 * i) for i in range(4)], labels=[1.0, 0, 0, 0])
    batch = training_batch(parts, [group])
    for number, row in enumerate(rows(collator, words, [(group.query, text) for text in group.docs])):
        length = len(row.ids)
        assert batch.tokens.ids[number, :length].tolist() == row.ids
        assert batch.tokens.mask[number].tolist() == [1] * length + [0] * (batch.tokens.ids.shape[1] - length)
        assert batch.answer[number] == length - 1
        if row.type_ids is not None:
            assert batch.tokens.type_ids is not None
            assert batch.tokens.type_ids[number, :length].tolist() == row.type_ids
            assert not batch.tokens.type_ids[number, length:].any()


def test_what_is_not_a_pair_is_refused() -> None:
    one_text = Prompt((Piece("a", "query"), Piece("b", "document")))
    with pytest.raises(InputError, match="needs prompts of two texts"):
        PairCollator().encode([one_text], tiny_encoders.tokenizer("wordpiece"))
    with pytest.raises(InputError, match="puts nothing between two texts; use pointwise.v1 and sequence.v1"):
        rows(PairCollator(), tiny.tokenizer(), TEXTS)


def test_half_a_surrogate_pair_is_one_message() -> None:
    with pytest.raises(InputError, match="half a surrogate pair"):
        rows(PairCollator(), tiny_encoders.tokenizer("wordpiece"), [("a", "b\ud83d")])


def test_longer_than_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="max_length = 600, but the model reads 512"):
        rows(PairCollator(600), tiny_encoders.tokenizer("wordpiece"), TEXTS)
