from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_encoders
import torch

from rerankkit import Group
from rerankkit.collators.late_interaction import LateInteractionCollator as Collator
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.protocols import Ask, Piece, Prompt, Row

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
    with pytest.raises(InputError, match="max_length = 600, but the model reads 512"):
        rows(Collator(document_max_length=600), [("a", "b")])
