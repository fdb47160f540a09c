"""A conversation in which each passage is a turn of its own: RankGPT's prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rerankkit import templates
from rerankkit.chat import Variables, begun, conversation, variable_problems
from rerankkit.errors import InputError
from rerankkit.labels import labels_of, neutral
from rerankkit.protocols import Ask, Piece, Prompt
from rerankkit.registry import registry


@registry.formatters("conversation.v1")
@dataclass(frozen=True)
class Conversation:
    """Hands the model one passage a turn, numbered and acknowledged, then asks for their order (Sun et al. 2023, Is
    ChatGPT Good at Search?).

    Recipe:
        [model.formatter]
        @formatters = "conversation.v1"
        system = "You are an assistant that ranks passages."
        passage = "[{label}] {document}"

    Args:
        system: The system turn; empty leaves the choice to the chat template.
        opening: The user's first turn, with {query} and {num} if wanted. `{{` and `}}` are literal braces.
        opening_reply: What the model is taken to have said to it.
        passage: The user's turn with one passage, with {document} once, and {label}, its number. Where a query or
            document writes a label the same way, that is put in other brackets: `[3]` becomes `(3)`.
        passage_reply: What the model is taken to have said to it, with {label} if wanted.
        closing: The user's last turn, with {query} and {num} if wanted.
        answer_prefix: Text that the model's answer is taken to begin with.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": false}` or the date that it
            writes, `{"date_string": "26 Jul 2024"}`.
    """

    at_once = "several"
    system: str = (
        "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query."
    )
    opening: str = (
        "I will provide you with {num} passages, each indicated by number identifier []. \n"
        "Rank the passages based on their relevance to query: {query}."
    )
    opening_reply: str = "Okay, please provide the passages."
    passage: str = "[{label}] {document}"
    passage_reply: str = "Received passage [{label}]."
    closing: str = (
        "Search Query: {query}. \nRank the {num} passages above based on their relevance to the search query. "
        "The passages should be listed in descending order using identifiers. The most relevant passages should be "
        "listed first. The output format should be [] > [], e.g., [1] > [2]. "
        "Only response the ranking results, do not say any word or explain."
    )
    answer_prefix: str = ""
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        turns = self.opening, self.opening_reply, self.passage, self.passage_reply, self.closing
        for argument, message in self.check(*turns, self.chat_template_kwargs):
            raise InputError(f"conversation.v1, {argument}: {message}")

    @staticmethod
    def check(
        opening: str = opening,
        opening_reply: str = opening_reply,
        passage: str = passage,
        passage_reply: str = passage_reply,
        closing: str = closing,
        chat_template_kwargs: Variables | None = None,
    ) -> Iterator[tuple[str, str]]:
        """Say what is wrong with the turns without building anything."""
        around = {"opening": opening, "opening_reply": opening_reply, "closing": closing}
        for argument, text in around.items():
            found = templates.problems(text, (), optional=("query", "num"))
            yield from ((argument, message) for message in found)
        if not any(name == "query" for text in around.values() for _, name in templates.split(text)):
            yield "opening", "must contain {query}, or else closing must; found it in neither"
        one = templates.problems(passage, ("document",), optional=("label",))
        yield from (("passage", message) for message in one)
        reply = templates.problems(passage_reply, (), optional=("label",))
        yield from (("passage_reply", message) for message in reply)
        yield from variable_problems(chat_template_kwargs)

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        labels = labels_of("numbers", len(ask.docs), "conversation.v1")
        query = Piece(neutral(ask.group.query, self.passage, "numbers"), "query")
        around = {"query": [query], "num": [Piece(str(len(labels)), "fixed")]}
        turns = [
            ("user", templates.fill(self.opening, around)),
            ("assistant", templates.fill(self.opening_reply, around)),
        ]
        for label, position in zip(labels, ask.docs, strict=True):
            document = Piece(neutral(ask.group.docs[position], self.passage, "numbers"), "document")
            fields = {"label": [Piece(label, "fixed")], "document": [document]}
            turns.append(("user", templates.fill(self.passage, fields)))
            turns.append(("assistant", templates.fill(self.passage_reply, fields)))
        turns.append(("user", templates.fill(self.closing, around)))
        chat = conversation(turns, tokenizer, "conversation.v1", self.system, self.chat_template_kwargs)
        pieces, answer = begun(chat, self.answer_prefix)
        return Prompt(tuple(pieces), add_special_tokens=False, answer=answer, labels=labels)
