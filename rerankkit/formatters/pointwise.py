"""One document, one query, one question: the prompt of a pointwise LLM reranker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rerankkit import templates
from rerankkit.chat import Variables, asked, variable_problems
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Piece, Prompt
from rerankkit.registry import registry


@registry.formatters("pointwise.v1")
@dataclass(frozen=True)
class Pointwise:
    """Fills a template with the query and one document, as plain text or as a chat turn.

    Recipe:
        [model.formatter]
        @formatters = "pointwise.v1"
        template = "Query: {query}\\nDocument: {document}\\nDoes the document answer the query?"
        chat = true

    Args:
        template: The user's turn of a chat, or the whole prompt. `{{` and `}}` are literal braces.
        chat: Render through the tokenizer's chat template; False for base models.
        system: The system turn of a chat; empty leaves the choice to the chat template.
        answer_prefix: Text after which the answer is read, behind the chat template's own opening of the turn; the
            decoder of an encoder-decoder reads it.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": false}` or the date that it
            writes, `{"date_string": "26 Jul 2024"}`.
    """

    at_once = "one"
    template: str = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer yes or no:"
    chat: bool = False
    system: str = ""
    answer_prefix: str = ""
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for argument, message in self.check(self.template, self.chat, self.system, self.chat_template_kwargs):
            raise InputError(f"pointwise.v1, {argument}: {message}")

    @staticmethod
    def check(
        template: str = template, chat: bool = False, system: str = "", chat_template_kwargs: Variables | None = None
    ) -> Iterator[tuple[str, str]]:
        """Say what is wrong with a template without building anything."""
        yield from (("template", message) for message in templates.problems(template, ("query", "document")))
        if system and not chat:
            yield "system", "needs chat = true; a plain prompt has no system turn"
        yield from variable_problems(chat_template_kwargs, chat)

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        if len(ask.docs) != 1:
            raise InputError(f"pointwise.v1 shows one document at a time, but the strategy asks for {len(ask.docs)}")
        query, document = Piece(ask.group.query, "query"), Piece(ask.group.docs[ask.docs[0]], "document")
        pieces = templates.fill(self.template, {"query": [query], "document": [document]})
        variables = self.chat_template_kwargs
        pieces, answer = asked(pieces, self.chat, self.system, self.answer_prefix, tokenizer, "pointwise.v1", variables)
        return Prompt(tuple(pieces), add_special_tokens=not self.chat, answer=answer)
