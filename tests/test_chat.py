"""What a chat template writes around turns, against the template's own rendering of them."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from rerankkit.chat import conversation, frame
from rerankkit.errors import InputError
from rerankkit.protocols import Piece

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
