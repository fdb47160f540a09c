"""The pointwise prompt: templates, literal braces, chat turns, and what is refused."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.errors import InputError
from rerankkit.formatters.pointwise import Pointwise
from rerankkit.protocols import Ask, Group, Piece, Prompt

USER = "Query: {query}\nDocument: {document}\nRelevant?"
TRIMMING = tiny.CHAT.replace("message.content", "message.content | trim")
WITHOUT_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + tiny.CHAT


def prompt(formatter: Pointwise, query: str = "q", document: str = "d", chat: str | None = tiny.CHAT) -> Prompt:
    return formatter.format(Ask(Group(query, ["another", document]), (1,)), tiny.tokenizer(chat=chat))


def text(of: Prompt) -> str:
    return "".join(piece.text for piece in of.pieces)


@given(query=st.text(max_size=20), document=st.text(max_size=20))
def test_braces_in_a_users_text_are_data(query: str, document: str) -> None:
    made = prompt(Pointwise("{{x}} {query}}}|{{{document} {{"), query, document)
    assert text(made) == "{x} " + query + "}|{" + document + " {"
    assert [p.text for p in made.pieces if p.role == "query"] == [query]
    assert [p.text for p in made.pieces if p.role == "document"] == [document]
    assert made.add_special_tokens


@pytest.mark.parametrize(
    "sample", ["{document}", "{query}", "{", "}}", "{0} {}", "{document:>9}", "%s $x {{document}}"]
)
def test_a_template_in_a_users_text_is_not_filled(sample: str) -> None:
    made = prompt(Pointwise(USER), sample, sample)
    assert text(made) == f"Query: {sample}\nDocument: {sample}\nRelevant?"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{query}", "template: must contain {document} once, found 0 times"),
        ("{document}", "template: must contain {query} once, found 0 times"),
        ("{query} {document} {document}", "template: must contain {document} once, found 2 times"),
        ("{query} {document} {passage}", "template: {passage} is unknown; use {query} and {document}, and {{ }} for"),
        ("{query} {document} {", "a brace that belongs to no field is unknown; use {query}"),
        ("{query} {document} }", "a brace that belongs to no field is unknown"),
        ("{query} {document} {}", "a brace that belongs to no field is unknown"),
        ("{query} {document:>9}", "a brace that belongs to no field is unknown"),
        ("{{query}} {document}", "must contain {query} once, found 0 times"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        Pointwise(template)
    assert message in str(refused.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = list(Pointwise.check("{a} {b} {query}", chat=False, system="Be strict."))
    assert [argument for argument, _ in found] == ["template", "template", "template", "system"]
    assert found[-1] == ("system", "needs chat = true; a plain prompt has no system turn")
    assert list(Pointwise.check(USER, chat=True, system="Be strict.")) == []


@pytest.mark.parametrize("system", ["", "Judge the {relevance} of documents."])
@pytest.mark.parametrize("answer", ["", "The answer is"])
def test_a_chat_is_rendered_as_the_tokenizer_renders_it(system: str, answer: str) -> None:
    made = prompt(Pointwise(USER, chat=True, system=system, answer_prefix=answer), "what {x}", "some {{y}}\n")
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": "Query: what {x}\nDocument: some {{y}}\n\nRelevant?"})
    theirs = tiny.tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text(made) == theirs + answer
    assert not made.add_special_tokens
    assert text(made).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n" + answer)


def test_an_answer_prefix_ends_a_plain_prompt_too() -> None:
    made = prompt(Pointwise(USER, answer_prefix=" It is"))
    assert made.pieces[-1] == Piece(" It is", "fixed") and text(made).endswith("Relevant? It is")
    assert made.answer == len(made.pieces) - 1
    chat = prompt(Pointwise(USER, chat=True, answer_prefix=" It is"))
    assert chat.answer == len(chat.pieces) - 1 and chat.pieces[-1] == Piece(" It is", "fixed")
    assert prompt(Pointwise(USER)).answer is None and prompt(Pointwise(USER, chat=True)).answer is None


def test_a_template_that_trims_a_turn_keeps_its_fixed_text() -> None:
    made = prompt(Pointwise(USER, chat=True), "q", "d", TRIMMING)
    turns = [{"role": "user", "content": "Query: q\nDocument: d\nRelevant?"}]
    assert text(made) == tiny.tokenizer(chat=TRIMMING).apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    ("chat", "system", "message"),
    [
        (None, "", "this model's tokenizer has no chat template; set chat = false"),
        (WITHOUT_SYSTEM, "Be strict.", "the model's chat template refuses these turns: no system turn"),
        ("a fixed text", "", "does not show the user's turn exactly once"),
        ("{% for m in messages %}{{ m.content }} {{ m.content }}{% endfor %}", "", "the user's turn exactly once"),
    ],
)
def test_a_chat_template_that_does_not_fit_is_refused(chat: str | None, system: str, message: str) -> None:
    with pytest.raises(InputError, match="pointwise.v1: ") as refused:
        prompt(Pointwise(USER, chat=True, system=system), chat=chat)
    assert message in str(refused.value)


def test_a_strategy_that_asks_for_two_documents_does_not_fit() -> None:
    asked = Ask(Group("q", ["a", "b"]), (0, 1))
    with pytest.raises(InputError, match="one document at a time, but the strategy asks for 2"):
        Pointwise(USER).format(asked, tiny.tokenizer())
