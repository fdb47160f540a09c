from __future__ import annotations

import string
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch

from rerankkit import Group, Reranker
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.collators.late_interaction import LateInteractionCollator as Collator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.heads.maxsim import MaxSim
from rerankkit.protocols import Ask, Piece, Prompt, Row
from rerankkit.strategies.pointwise import Pointwise

WORDS = tiny_encoders.tokenizer("wordpiece")


def rows(collator: Collator, pairs: Any, tokenizer: Any = WORDS, formatter: Pair | None = None) -> list[Row]:
    asks = [Ask(Group(query, [document]), (0,)) for query, document in pairs]
    return collator.encode([(formatter or Pair()).format(ask, tokenizer) for ask in asks], tokenizer)


def test_each_text_has_its_marker_its_frame_and_its_own_length() -> None:
    query, document = tiny.sentence(1, 20), tiny.sentence(2, 40)
    (row,) = rows(Collator(query_max_length=9, document_max_length=15), [(query, document)])
    plain = [WORDS(text, add_special_tokens=False)["input_ids"] for text in (query, document)]
    cls, sep, q, d = WORDS.convert_tokens_to_ids(["[CLS]", "[SEP]", "[unused0]", "[unused1]"])
    assert list(row.shared) == [cls, q, *plain[0][:6], sep]
    assert row.ids == [cls, d, *plain[1][:12], sep]
    assert (row.cut_query, row.cut_document) == (len(plain[0]) - 6, len(plain[1]) - 12)
    assert len(row.roles) == 9 + 15


def test_instructions_stay_when_the_text_is_cut() -> None:
    formatter = Pair("question: {query} end", "passage: {document}")
    (row,) = rows(Collator(12, 12), [(tiny.sentence(1, 30), tiny.sentence(2, 30))], formatter=formatter)
    assert len(row.shared) == len(row.ids) == 12
    end = WORDS("end", add_special_tokens=False)["input_ids"]
    assert list(row.shared[-1 - len(end) : -1]) == end
    with pytest.raises(InputError, match="leave no room in 4 tokens"):
        rows(Collator(4, 12), [("a cat", "a")], formatter=formatter)


@pytest.mark.parametrize(("expand", "attend"), [(False, False), (True, False), (True, True)])
def test_expansion_is_compared_and_perhaps_attended_to(expand: bool, attend: bool) -> None:
    collator = Collator(query_max_length=10, query_expansion=expand, attend_to_expansion=attend)
    found = rows(collator, [("cat", "a mat, a cat!"), ("cat on a mat", "")])
    batch = collator.collate(found, WORDS, [row.shared for row in found])
    assert batch.shared is not None and batch.shared.compared is not None and batch.tokens.compared is not None
    for number, row in enumerate(found):
        real = len(row.shared) - row.shared.count(WORDS.mask_token_id)
        width = 10 if expand else max(len(row.shared) for row in found)
        assert batch.shared.ids.shape[1] == width
        filler = WORDS.mask_token_id if expand else WORDS.pad_token_id
        assert batch.shared.ids[number].tolist() == [*row.shared[:real], *[filler] * (width - real)]
        assert batch.shared.mask[number].tolist() == [1] * real + [int(attend)] * (width - real)
        assert batch.shared.compared[number].tolist() == [True] * real + [expand] * (width - real)
        skipped = {WORDS.convert_tokens_to_ids(mark) for mark in ",!"}
        expected = [token not in skipped for token in row.ids]
        assert batch.tokens.compared[number, : len(row.ids)].tolist() == expected
        assert not batch.tokens.compared[number, len(row.ids) :].any()
    alone = batch.take(torch.tensor([1]))
    assert alone.shared is not None and alone.shared_of is not None
    assert alone.tokens.ids.shape == (1, len(found[1].ids))
    assert alone.shared.ids.shape == (1, 10 if expand else len(found[1].shared))
    assert alone.shared_of.tolist() == [0]


def test_a_skiplist_may_be_entries_of_the_vocabulary() -> None:
    collator = Collator(skiplist=["cat"])
    batch = collator.collate(found := rows(collator, [("a", "cat, mat")]), WORDS, [found[0].shared])
    assert batch.tokens.compared is not None
    cat = WORDS.convert_tokens_to_ids("cat")
    assert batch.tokens.compared[0].tolist() == [token != cat for token in found[0].ids]
    with pytest.raises(InputError, match="skiplist has 'zebra', which is no entry"):
        Collator(skiplist=["zebra"]).collate(found, WORDS, [found[0].shared])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="query_max_length: must be at least 4"):
        Collator(query_max_length=3)
    with pytest.raises(InputError, match="cannot write the marker"):
        rows(Collator(query_marker="\u6771"), [("a", "b")])
    with pytest.raises(InputError, match="needs prompts of two texts"):
        Collator().encode([Prompt((Piece("a", "query"),))], WORDS)
    with pytest.raises(InputError, match="document_max_length = 600, but the model reads 512"):
        rows(Collator(document_max_length=600), [("a", "b")])
    with pytest.raises(InputError, match="query_max_length = 513, but the model reads 512"):
        rows(Collator(query_max_length=513), [("a", "b")])


@pytest.mark.parametrize("marker", ["[unused0]", "question", "a cat on", ""])
@pytest.mark.parametrize("length", [7, 8, 9, 10, 30])
def test_a_marker_is_an_entry_or_text_or_none_and_takes_of_the_length(marker: str, length: int) -> None:
    (row,) = rows(Collator(length, length, marker, marker, query_expansion=False), [("how do I open a", "")])
    plain, entry = (WORDS(text, add_special_tokens=False)["input_ids"] for text in ("how do I open a", marker))
    if marker == "[unused0]":
        entry = [WORDS.convert_tokens_to_ids("[unused0]")]
    kept = plain[: length - 2 - len(entry)]
    assert list(row.shared) == [WORDS.cls_token_id, *entry, *kept, WORDS.sep_token_id]
    assert row.ids == [WORDS.cls_token_id, *entry, WORDS.sep_token_id]
    assert (row.cut_query, row.cut_document) == (len(plain) - len(kept), 0)


@pytest.mark.parametrize("skiplist", ["punctuation", None, [], ["[SEP]", "cat"]])
@pytest.mark.parametrize("compare_first", [True, False])
def test_what_is_compared(skiplist: Any, compare_first: bool) -> None:
    collator = Collator(6, 30, skiplist=skiplist, compare_first=compare_first)
    pairs = [("cat, a!", "cat, mat! (how) - do."), ("a", "!"), ("a", ""), ("a", "cat" * 40)]
    batch = collator.collate(found := rows(collator, pairs), WORDS, list(dict.fromkeys(row.shared for row in found)))
    marks = [entry for entry in string.punctuation] if skiplist == "punctuation" else skiplist or []
    skipped = {WORDS.convert_tokens_to_ids(entry) for entry in marks}
    assert batch.tokens.compared is not None and batch.shared is not None and batch.shared.compared is not None
    width = batch.tokens.ids.shape[1]
    for row, compared in zip(found, batch.tokens.compared.tolist(), strict=True):
        naive = [token not in skipped and (compare_first or at > 0) for at, token in enumerate(row.ids)]
        assert compared == naive + [False] * (width - len(row.ids))
    assert batch.shared.compared.tolist() == [[compare_first] + [True] * 5] * 2  # skiplists are of documents
    assert batch.shared_of is not None and batch.shared_of.tolist() == [0, 1, 1, 1]


def test_a_tokenizer_that_frames_nothing_and_has_no_mask_token() -> None:
    words = tiny.tokenizer()
    collator = Collator(6, 6, "", "")
    (row,) = rows(collator, [("a cat", "mat " * 9)], words)
    query, plain = words(["a cat", "mat " * 9])["input_ids"]
    filled = [*query, *[words.eos_token_id] * (6 - len(query))]
    assert list(row.shared) == filled
    assert (row.ids, row.cut_document) == (plain[:6], len(plain) - 6)
    batch = collator.collate([row], words, [row.shared])
    assert batch.shared is not None
    assert batch.shared.ids.tolist() == [filled]
    assert batch.shared.mask.tolist() == [[1] * len(query) + [0] * (6 - len(query))]
    assert batch.shared.compared is not None and batch.shared.compared.all()
    for pair in (("", "mat"), ("cat", "")):
        with pytest.raises(InputError, match="an empty text has no token to compare here: .* choose a marker"):
            rows(collator, [pair], words)
    (row,) = rows(Collator(6, 6, "Q", "D", query_expansion=False), [("", "")], words)
    assert [list(row.shared), row.ids] == words(["Q", "D"])["input_ids"]


def test_a_tokenizer_with_nothing_to_expand_with_is_refused() -> None:
    words = tiny.tokenizer.__wrapped__()
    words.eos_token = None
    with pytest.raises(InputError, match="no mask token to expand with; set query_expansion = false"):
        rows(Collator(), [("a", "b")], words)
    (row,) = rows(Collator(query_marker="", query_expansion=False), [("a", "b")], words)
    assert list(row.shared) == words("a")["input_ids"]


def test_a_marker_that_a_user_writes_is_text() -> None:
    words = tiny_bert.tokenizer.__wrapped__()
    plain = words(["[ q ] a [ d ] [ unused1 ]", "[ d ] cat [ mask ]"], add_special_tokens=False)["input_ids"]
    words.add_tokens(["[Q] ", "[D] "])  # as PyLate does
    collator = Collator(query_marker="[Q] ", document_marker="[D] ", query_expansion=False)
    (row,) = rows(collator, [("[Q] a [d]\n[unused1]", "[D] cat [MASK]")], words)
    q, d = words.convert_tokens_to_ids(["[Q] ", "[D] "])
    assert list(row.shared) == [words.cls_token_id, q, *plain[0], words.sep_token_id]
    assert row.ids == [words.cls_token_id, d, *plain[1], words.sep_token_id]


def test_encode_reads_texts_as_ranking_does() -> None:
    """Also where nothing but the text makes a token."""
    backbone = hf_encoder(str(tiny_encoders.encoder("llama")))
    parts = Parts(Pair(), Collator(6, 9, "", "", query_expansion=False), backbone, MaxSim(dim=None), Pointwise())
    reranker = Reranker(parts)
    texts = [tiny.sentence(i, 1 + i) for i in range(5)]
    for kind, longest in (("query", 6), ("document", 9)):
        lengths = [min(len(tiny.tokenizer()(text)["input_ids"]), longest) for text in texts]
        assert [len(vectors) for vectors in reranker.encode(texts, kind)] == lengths
        with pytest.raises(InputError, match="choose a marker"):
            reranker.encode(["a", ""], kind)
    query, document = reranker.encode(texts[1:2], "query")[0], reranker.encode(texts[3:4])[0]
    expected = (query @ document.T).max(1).values.sum().item()
    assert reranker.compute_score([texts[1], texts[3]]) == pytest.approx([expected], abs=1e-5)
