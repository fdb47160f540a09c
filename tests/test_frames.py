"""What tokenizers put around one text, or around and between two, and texts cut to fit into it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_encoders
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from rerankkit.errors import InputError
from rerankkit.frames import frame_of, framed, marker_ids, tokenize_texts, vocabulary_id
from rerankkit.protocols import Piece, Prompt, Role

WORDS = tiny_encoders.tokenizer("wordpiece")
PROCESSORS: dict[str, Any] = {  # like those of XLNet, T5 and Llama, and one with types of its own
    "cls last": ("$A:0 </s>:0", "$A:0 </s>:0 $B:1 </s>:1 <s>:2"),
    "only behind": ("$A </s>", "$A </s> $B </s>"),
    "only before": ("<s> $A", "<s> $A <s> $B"),
    "one between": ("$A", "$A:0 </s>:7 $B:5"),
}


def processed(name: str) -> Any:
    single, pair = PROCESSORS[name]
    words = tiny_encoders.tokenizer.__wrapped__("bytes")
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    words.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return words


@pytest.mark.parametrize("kind", ["wordpiece", "untyped", "bytes", "unigram", *PROCESSORS])
@pytest.mark.parametrize("texts", [["how do I open a file"], ["a cat sat", "on the mat, aa a"]])
def test_a_frame_around_tokens_is_what_the_tokenizer_makes_of_the_texts(kind: str, texts: list[str]) -> None:
    words = processed(kind) if kind in PROCESSORS else tiny_encoders.tokenizer(kind)
    whole = words(*texts)
    roles: list[Role] = ["query", "document"]
    own = [(words(text, add_special_tokens=False)["input_ids"], roles[i]) for i, text in enumerate(texts)]
    ids, found, types = frame_of(words, len(texts)).around([(ids, [role] * len(ids)) for ids, role in own])
    assert ids == whole["input_ids"]
    assert types == whole.get("token_type_ids")
    owner: dict[int | None, Role] = {None: "fixed", 0: "query", 1: "document"}
    assert found == [owner[text] for text in whole.sequence_ids(0)]


def test_texts_are_tokenized_alone_and_in_order() -> None:
    prompts = [
        Prompt((Piece("q: ", "fixed"), Piece(query, "query"), Piece(document, "document")), second=2)
        for query, document in [("a cat", "a mat"), ("a cat", ""), ("a mat", "a cat [SEP]")]
    ]
    found = tokenize_texts(prompts, WORDS)
    for prompt, (first, second) in zip(prompts, found, strict=True):
        query, document = prompt.pieces[1].text, prompt.pieces[2].text.replace("[SEP]", "[ sep ]")
        assert first[0] == WORDS(f"q: {query}", add_special_tokens=False)["input_ids"]
        assert second[0] == WORDS(document, add_special_tokens=False)["input_ids"]
        assert first[1] == ["fixed"] * 2 + ["query"] * (len(first[0]) - 2)
        assert second[1] == ["document"] * len(second[0])


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["fixed", "document"]), max_size=12), st.integers(0, 3), st.integers(1, 16))
def test_a_framed_text_loses_its_own_last_tokens_and_nothing_else(roles: list[Role], marked: int, length: int) -> None:
    ids, marker = list(range(100, 100 + len(roles))), [7] * marked
    own = [i for i, role in zip(ids, roles, strict=True) if role == "document"]
    spare = length - 2 - marked - roles.count("fixed")
    if spare < min(len(own), 1):
        with pytest.raises(InputError, match=f"leave no room in {length} tokens; allow more"):
            framed((ids, roles), marker, length, WORDS)
        return
    found, found_roles, cut = framed((ids, roles), marker, length, WORDS)
    lost = own[spare:]
    assert found == [WORDS.cls_token_id, *marker, *[i for i in ids if i not in lost], WORDS.sep_token_id]
    assert (len(found_roles), cut) == (len(found), len(lost))
    assert found_roles.count("document") == len(own) - cut
    assert len(found) <= length


def test_markers() -> None:
    assert marker_ids("", WORDS) == []
    assert marker_ids("[unused1]", WORDS) == [WORDS.convert_tokens_to_ids("[unused1]")]
    assert marker_ids("a cat:", WORDS) == WORDS("a cat:", add_special_tokens=False)["input_ids"]
    for marker in ("\u6771", "[UNK]", " "):
        with pytest.raises(InputError, match="vocabulary cannot write the marker .* choose another, or none"):
            marker_ids(marker, WORDS)


def test_entries_of_a_vocabulary_with_and_without_an_unknown_token() -> None:
    for words in (WORDS, tiny_encoders.tokenizer("unigram"), tiny.tokenizer()):
        known = sorted(words.get_vocab())[5]
        assert vocabulary_id(known, words) == words.get_vocab()[known]
        assert vocabulary_id("zebra crossing", words) is None
    assert vocabulary_id("[UNK]", WORDS) == WORDS.unk_token_id
    assert tiny.tokenizer().unk_token_id is None
