"""What a chat template writes around turns, against the template's own rendering of them."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.chat import conversation, frame
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.errors import InputError
from rerankkit.formatters.pointwise import Pointwise
from rerankkit.protocols import Ask, Group, Piece
from rerankkit.registry import registry

PLAIN = st.text(st.characters(exclude_characters="\ufffc", exclude_categories=("Cs",)), max_size=12)


@given(st.lists(PLAIN, min_size=1, max_size=4), st.sampled_from(["", "Be brief."]))
def test_a_conversation_is_what_the_chat_template_makes_of_it(said: list[str], system: str) -> None:
    roles = [("user", "assistant")[number % 2] for number in range(len(said))]
    turns = [{"role": "system", "content": system}] if system else []
    turns += [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    theirs = tiny.tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    pieces = [(role, [Piece(text, "document")]) for role, text in zip(roles, said, strict=True)]
    made = conversation(pieces, tiny.tokenizer(), "x.v1", system)
    assert "".join(piece.text for piece in made) == theirs
    assert [piece.text for piece in made if piece.role == "document"] == said


def test_a_frame_has_one_text_more_than_there_are_turns() -> None:
    found = frame(tiny.tokenizer(), ("user", "assistant", "user"), "", "x.v1")
    assert found == (
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    )  # fmt: skip


REVERSED = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
ONE_TURN = "{{ messages[-1].content }}"
NO_REPLIES = (
    "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no replies') }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (None, "x.v1: a chat is to be written, but this model's tokenizer has no chat template; set chat = false"),
        (REVERSED, "x.v1: the chat template does not show the assistant's turn exactly once"),
        (ONE_TURN, "x.v1: the chat template does not show the user's turn exactly once"),
        (NO_REPLIES, "x.v1: the model's chat template refuses these turns: no replies"),
    ],
)
def test_a_chat_template_that_shows_other_turns_is_refused(chat: str | None, message: str) -> None:
    with pytest.raises(InputError) as refused:
        frame(tiny.tokenizer(chat=chat), ("user", "assistant"), "", "x.v1")
    assert str(refused.value) == message


SHORTENED = "{% for m in messages %}{{ m.content[:4] }}{% endfor %}"
LISTED = "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
FAILS = "{% for m in messages %}{{ m.content + 1 }}{% endfor %}"
RETRIEVAL = (
    "{% for m in messages %}{% if m.role == 'query' %}Q: {{ m.content }}{% elif m['role'] == 'document' %}"
    "D: {{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.regression
@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (SHORTENED, "the chat template cuts or rewrites what the user's turn says"),
        (FAILS, "the model's chat template fails on these turns: TypeError: "),
        (RETRIEVAL, "made for turns of the roles query and document, .*; set chat = false, and write"),
    ],
)
def test_a_template_that_cannot_be_used_says_its_own(chat: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frame(tiny.tokenizer(chat=chat), ("user", "assistant"), "", "x.v1")


UNHEARD = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% endif %}{% endfor %}"
TRIMS = "{% for m in messages %}{{ m.role }}:{% if m.role == 'system' %}{{ m.content | trim }}{% else %}{{ m.content }}"
TRIMS += "{% endif %}{% endfor %}"


@pytest.mark.regression
def test_a_system_turn_that_the_template_leaves_out_is_refused() -> None:
    with pytest.raises(InputError, match="x.v1: .* does not show the system turn.*; leave system empty, and write at"):
        frame(tiny.tokenizer(chat=UNHEARD), ("user",), "Judge well.", "x.v1")
    assert frame(tiny.tokenizer(chat=UNHEARD), ("user",), "", "x.v1") == ("[", "]")
    assert frame(tiny.tokenizer(chat=TRIMS), ("user",), " Judge\nwell. ", "x.v1")[0] == "system:Judge\nwell.user:"


@pytest.mark.regression
def test_turns_in_parts_are_written_so() -> None:
    found = frame(tiny.tokenizer(chat=LISTED), ("user", "assistant"), "", "x.v1")
    assert found == ("<user>", "<assistant>", "")


@pytest.mark.regression
def test_another_chat_template_counts_at_once() -> None:
    words = tiny.tokenizer.__wrapped__()
    said = [("user", [Piece("a", "document")])]
    before = conversation(said, words, "x.v1")
    words.chat_template = "{% for m in messages %}USER {{ m.content }} ASSISTANT{% endfor %}"
    after = conversation(said, words, "x.v1")
    assert "".join(piece.text for piece in before).startswith("<|im_start|>user\n")
    assert "".join(piece.text for piece in after) == "USER a ASSISTANT"


ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


@pytest.mark.regression
@pytest.mark.parametrize("template", [ZEPHYR, "{{ bos_token }}" + ZEPHYR])
def test_a_chat_begins_with_what_the_tokenizer_opens_texts_with(template: str) -> None:
    words = tiny.tokenizer(leading=True, chat=template)
    (start,) = words("a")["input_ids"][: -len(words("a", add_special_tokens=False)["input_ids"])]
    prompt = Pointwise("{query} {document}", chat=True).format(Ask(Group("a cat", ["a mat"]), (0,)), words)
    (row,) = SequenceCollator().encode([prompt], words)
    turns = [{"role": "user", "content": "a cat a mat"}]
    text = words.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    own = words(text, add_special_tokens=False)["input_ids"]
    assert row.ids == [start] * (own[0] != start) + own
    assert row.ids.count(start) == 1


DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today is {{ date_string }}.{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
GRANITE = (
    "{% if messages[0].role != 'system' %}Today is {{ strftime_now('%B %d, %Y') }}.{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


@pytest.mark.regression
def test_a_template_that_reads_a_clock_needs_the_date() -> None:
    with pytest.raises(InputError, match='date of the day.*chat_template_kwargs = {"date_string": "26 Jul 2024"}'):
        frame(tiny.tokenizer(chat=DATED), ("user",), "", "x.v1")
    given = frame(tiny.tokenizer(chat=DATED), ("user",), "", "x.v1", {"date_string": "1 May 2030"})
    assert given == ("Today is 1 May 2030.<user>", "")
    with pytest.raises(InputError, match='{"strftime_now": "26 Jul 2024"}, or give a system turn'):
        frame(tiny.tokenizer(chat=GRANITE), ("user",), "", "x.v1")
    given = frame(tiny.tokenizer(chat=GRANITE), ("user",), "", "x.v1", {"strftime_now": "May 1, 2030"})
    assert given == ("Today is May 1, 2030.<user>", "")
    assert frame(tiny.tokenizer(chat=GRANITE), ("user",), "Be brief.", "x.v1") == ("<system>Be brief.<user>", "")


THINKS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<none>{% endif %}"
)


@pytest.mark.regression
@pytest.mark.parametrize("formatter", ["pointwise.v1", "query_generation.v1", "documents.v1", "conversation.v1"])
def test_every_formatter_gives_the_template_its_variables(formatter: str) -> None:
    factory, words = registry.formatters.get(formatter), tiny.tokenizer(chat=THINKS)
    chat = {} if formatter == "conversation.v1" else {"chat": True}
    ask = Ask(Group("a cat", ["a mat"]), (0,))
    for variables, shown in (({"enable_thinking": False}, 1), ({"enable_thinking": True}, 0), (None, 0)):
        prompt = factory(chat_template_kwargs=variables, **chat).format(ask, words)
        assert "".join(piece.text for piece in prompt.pieces).count("<none>") == shown
    with pytest.raises(InputError, match="chat_template_kwargs: tools is none of the template's own variables"):
        factory(chat_template_kwargs={"tools": []}, **chat)
    if chat:
        with pytest.raises(InputError, match="chat_template_kwargs: needs chat = true"):
            factory(chat_template_kwargs={"enable_thinking": False})


@pytest.mark.parametrize(
    "start", ["", "\n", "\n\n", "  ", " {# a #} ", "\n  {% if true %}b{% endif %}\n", "{%- set a = 1 -%}\n"]
)
def test_nothing_of_a_template_is_lost_at_its_beginning(start: str) -> None:
    words = tiny.tokenizer(chat=start + "{% for m in messages %}<{{ m.content }}>{% endfor %}")
    theirs = words.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert "x".join(frame(words, ("user",), "", "x.v1")) == theirs
