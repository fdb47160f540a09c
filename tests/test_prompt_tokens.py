"""Prompts as tokens: the tokenizer's own ids, in which no query or document can spell a control token."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rerankkit.errors import InputError
from rerankkit.prompt_tokens import tokenize
from rerankkit.protocols import Piece, Prompt, Role

CONTROL = [*tiny.SPECIAL, *tiny.THINK]
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
HOSTILE = st.lists(
    st.one_of(st.sampled_from([*CONTROL, "<|im_", "_end", "end|>", "<", ">", "<s", " "]), ANY_TEXT), max_size=5
)


def pieces(*texts: tuple[str, Role]) -> Prompt:
    return Prompt(tuple(Piece(text, role) for text, role in texts))


def tokens(prompt: Prompt, tokenizer: Any = None) -> tuple[list[int], list[Role]]:
    (found,) = tokenize([prompt], tokenizer or tiny.tokenizer())
    return found.ids, found.roles


def control_ids(ids: list[int], tokenizer: Any = None) -> list[int]:
    known = set((tokenizer or tiny.tokenizer()).convert_tokens_to_ids(CONTROL))
    return [i for i in ids if i in known]


@pytest.mark.parametrize("leading", [False, True])
@given(query=ANY_TEXT, document=ANY_TEXT)
def test_ordinary_text_has_the_tokenizers_own_ids(leading: bool, query: str, document: str) -> None:
    ids, roles = tokens(pieces(("Q: ", "fixed"), (query, "query"), (document, "document")), tiny.tokenizer(leading))
    assert ids == tiny.tokenizer(leading)(f"Q: {query}{document}")["input_ids"]
    assert len(roles) == len(ids) and roles[: 1 + leading] == ["fixed"] * (1 + leading)


def test_special_tokens_are_left_out_where_the_prompt_holds_its_own() -> None:
    prompt = Prompt((Piece("<|im_start|>user\n", "fixed"), Piece("a cat", "document")), add_special_tokens=False)
    ids, _ = tokens(prompt, tiny.tokenizer(True))
    assert ids == tiny.tokenizer(True)("<|im_start|>user\na cat", add_special_tokens=False)["input_ids"]
    assert ids[0] == 1


def test_tokens_that_a_tokenizer_puts_at_the_end_are_left_out() -> None:
    words = tiny.tokenizer.__wrapped__()
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|im_end|>", special_tokens=[("<s>", 3), ("<|im_end|>", 2)]
    )
    assert words("a cat")["input_ids"][-1] == 2
    assert tokens(pieces(("a cat", "fixed")), words)[0] == words("a cat")["input_ids"][:-1]


@given(query=HOSTILE.map("".join), document=HOSTILE.map("".join))
def test_no_users_text_adds_a_control_token(query: str, document: str) -> None:
    prompt = pieces(
        ("<|im_start|>user\n<", "fixed"), (query, "query"), ("\n<|im", "fixed"), (document, "document"),
        ("|>\n<|im_end|>\n<think>", "fixed"),
    )  # fmt: skip
    ids, roles = tokens(prompt)
    text = "".join(piece.text for piece in prompt.pieces)
    assert control_ids(ids) == [1, 2, tiny.tokenizer().convert_tokens_to_ids("<think>")]
    assert all(role == "fixed" for token, role in zip(ids, roles, strict=True) if control_ids([token]))
    assert tiny.tokenizer().decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("word", CONTROL)
@pytest.mark.parametrize("at", [1, 2, -1])
def test_a_control_token_split_over_a_boundary_is_text(word: str, at: int) -> None:
    left, right = word[:at], word[at:]
    halves: list[tuple[Role, Role]] = [
        ("fixed", "document"), ("document", "fixed"), ("query", "document"), ("fixed", "query"),
    ]  # fmt: skip
    for before, after in halves:
        ids, _ = tokens(pieces(("a ", "fixed"), (left, before), (right, after), (" b", "fixed")))
        assert control_ids(ids) == []
        assert tiny.tokenizer().decode(ids) == f"a {word} b"
    ids, _ = tokens(pieces(("a ", "fixed"), (left, "fixed"), (right, "fixed")))
    assert len(control_ids(ids)) == 1


def test_the_naive_way_would_let_a_document_steer() -> None:
    """What this module is for: the same text, tokenized as one string, holds the control token."""
    assert control_ids(tiny.tokenizer()("Document: <|im_end|>")["input_ids"]) == [2]


@given(ANY_TEXT, ANY_TEXT)
def test_each_token_has_the_role_of_its_last_character(query: str, document: str) -> None:
    prompt = pieces(("Q:", "fixed"), (query, "query"), ("\nD:", "fixed"), (document, "document"), ("\nA:", "fixed"))
    owner = [piece.role for piece in prompt.pieces for _ in piece.text]
    text = "".join(piece.text for piece in prompt.pieces)
    offsets = tiny.tokenizer()(text, return_offsets_mapping=True)["offset_mapping"]
    assert tokens(prompt)[1] == [owner[max(end - 1, begin)] for begin, end in offsets]


def test_a_token_over_a_boundary_belongs_to_where_it_ends() -> None:
    ids, roles = tokens(pieces(("the ", "fixed"), ("cat ", "query"), ("sat", "document"), (" on", "fixed")))
    assert tiny.tokenizer().convert_ids_to_tokens(ids) == ["the", "Ġcat", "Ġsat", "Ġon"]
    assert roles == ["fixed", "query", "document", "fixed"]


def test_many_prompts_are_the_prompts_one_by_one() -> None:
    prompts = [pieces(("Q: ", "fixed"), (f"{word} {n}", "document")) for n, word in enumerate([*CONTROL, "cat", ""])]
    assert [(found.ids, found.roles) for found in tokenize(prompts, tiny.tokenizer())] == [tokens(p) for p in prompts]
    assert tokenize([], tiny.tokenizer()) == []


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="half a surrogate pair cannot be tokenized: 'x "):
        tokens(pieces(("x ", "fixed"), ("\ud83d", "document")))


@pytest.mark.parametrize("normal", ["\n", "  ", "<b>"])
def test_added_tokens_that_are_ordinary_text_stay_tokens(normal: str) -> None:
    """Gemma's line breaks, runs of spaces and HTML tags."""
    words = tiny.tokenizer.__wrapped__(chat=tiny.CHAT + "  ")
    words.add_tokens([AddedToken(normal, special=False, normalized=False)])
    ids, _ = tokens(pieces((f"a{normal}b", "document")), words)
    assert ids == words(f"a{normal}b")["input_ids"] and len(words) - 1 in ids


def test_a_marker_outside_the_chat_template_is_a_control_token_too() -> None:
    words = tiny.tokenizer.__wrapped__()
    words.add_tokens([AddedToken("<|fim_prefix|>", special=False, normalized=False)])
    ids, _ = tokens(pieces(("a <|fim_prefix|>", "document")), words)
    assert len(words) - 1 not in ids and words.decode(ids) == "a <|fim_prefix|>"


WIDE = ["<|\N{FULLWIDTH LATIN SMALL LETTER T}ool|>", "\uff1c|tool|\uff1e", "x\uff1c|tool|>y\uff1c|tool|\uff1e"]


@pytest.mark.regression
@pytest.mark.parametrize("wide", WIDE)
def test_what_a_normalizer_turns_into_a_control_token_is_text(wide: str) -> None:
    words = tiny.tokenizer.__wrapped__()
    words.backend_tokenizer.normalizer = normalizers.NFKC()
    words.add_tokens([AddedToken("<|tool|>", special=False, normalized=True)])
    ids = tokens(pieces(("a ", "fixed"), (wide, "document")), words)[0]
    assert len(words) - 1 not in ids
    assert words.decode(ids) == "a " + unicodedata.normalize("NFKC", wide)
    assert len(words) - 1 in tokens(pieces((f"a {wide}", "fixed")), words)[0]


def test_full_width_text_spells_no_entry_of_a_unigram_vocabulary() -> None:
    words = tiny_encoders.tokenizer("unigram")
    wide = "".join(chr(ord(character) + 0xFEE0) for character in "<s>a</s>")
    for text in (wide, f"{wide} cat {wide}", "\uff1cs>"):
        ids = tokens(pieces((text, "document")), words)[0][1:]
        assert set(ids).isdisjoint(set(words.all_special_ids) - {words.unk_token_id})
        assert len(ids) >= 2


@pytest.mark.regression
def test_a_character_that_is_a_control_token_is_left_out_and_said() -> None:
    from rerankkit.warnings import collecting

    words = tiny.tokenizer.__wrapped__()
    words.backend_tokenizer.normalizer = normalizers.Replace("\u2588", "<|tool|>")
    words.add_tokens([AddedToken("<|tool|>", special=False, normalized=True)])
    with collecting() as counted:
        ids = tokens(pieces(("a ", "fixed"), ("cat \u2588mat", "document")), words)[0]
    assert len(words) - 1 not in ids and words.decode(ids) == "a cat mat"
    assert counted.counts == {"control_characters_left_out": 1}
    assert counted.examples["control_characters_left_out"].startswith("in the document 'cat ")


@pytest.mark.parametrize("text", ["[Q] a", "[q] a", "b [Q]\na", "[Q]\u00a0", "[Q][D]\t", "[ Q ] a"])
def test_a_marker_is_text_where_a_user_writes_it(text: str) -> None:
    """Markers such as PyLate's are ordinary added tokens, and a lower-casing tokenizer finds them in any spelling."""
    words = tiny_bert.tokenizer.__wrapped__()
    plain = words(text, add_special_tokens=False)["input_ids"]
    words.add_tokens(["[Q] ", "[D] "])
    added = set(range(len(words) - 2, len(words)))
    if " Q " not in text:
        assert added & set(words(text)["input_ids"])  # the naive way
    asked, own = tokenize([pieces((text, "query")), pieces((text, "fixed"))], words, ("[Q] ", "[D] "))
    assert asked.ids[1:] == plain
    assert own.ids == words(text)["input_ids"][:-1]


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
def test_tokenizers_that_open_texts_with_a_space(scheme: Any) -> None:
    """Such a tokenizer writes a space at the break, but no control token either."""
    vocabulary = {"<unk>": 0, "<s>": 1, **{c: i + 2 for i, c in enumerate("▁<s>abcd")}}
    bare = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    bare.decoder = decoders.Metaspace(prepend_scheme=scheme)
    words = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>", unk_token="<unk>")
    ids, _ = tokens(pieces(("ab ", "fixed"), ("c<s>d", "document")), words)
    assert 1 not in ids and 0 not in ids
    assert words.decode(ids).replace(" ", "") == "abc<s>d"
