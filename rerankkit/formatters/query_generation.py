"""One document, then the query as if the model had written it: the prompt of query likelihood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rerankkit import templates
from rerankkit.chat import Variables, asked, variable_problems
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Piece, Prompt
from rerankkit.registry import registry


@registry.formatters("query_generation.v1")
@dataclass(frozen=True)
class QueryGeneration:
    """Asks for a question about one document, and puts the query where the model would write it; the likelihood of its
    tokens is the score (Sachan et al. 2022, Improving Passage Retrieval with Zero-Shot Question Generation).

    Recipe:
        [model.formatter]
        @formatters = "query_generation.v1"
        template = "Passage: {document}\\nPlease write a question based on this passage."

    Args:
        template: The user's turn of a chat, or the prompt. `{{` and `}}` are literal braces.
        chat: Render through the tokenizer's chat template; False for base models.
        system: The system turn of a chat; empty leaves the choice to the chat template.
        answer_prefix: What stands between the prompt and the query; None is a new line, and nothing in a chat. Empty
            for an encoder-decoder, whose decoder begins with the query.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": false}` or the date that it
            writes, `{"date_string": "26 Jul 2024"}`.
    """

    at_once = "one"
    template: str = "Passage: {document}\nPlease write a question based on this passage."
    chat: bool = False
    system: str = ""
    answer_prefix: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for argument, message in self.check(self.template, self.chat, self.system, self.chat_template_kwargs):
            raise InputError(f"query_generation.v1, {argument}: {message}")

    @staticmethod
    def check(
        template: str = template, chat: bool = False, system: str = "", chat_template_kwargs: Variables | None = None
    ) -> Iterator[tuple[str, str]]:
        """Say what is wrong with a template without building anything."""
        yield from (("template", message) for message in templates.problems(template, ("document",)))
        if system and not chat:
            yield "system", "needs chat = true; a plain prompt has no system turn"
        yield from variable_problems(chat_template_kwargs, chat)

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        if len(ask.docs) != 1:
            raise InputError(
                f"query_generation.v1 shows one document at a time, but the strategy asks for {len(ask.docs)}"
            )
        pieces = templates.fill(self.template, {"document": [Piece(ask.group.docs[ask.docs[0]], "document")]})
        prefix = self.answer_prefix if self.answer_prefix is not None else "" if self.chat else "\n"
        variables = self.chat_template_kwargs
        pieces, answer = asked(pieces, self.chat, self.system, prefix, tokenizer, "query_generation.v1", variables)
        answer = len(pieces) if answer is None else answer
        pieces.append(Piece(ask.group.query, "query", scored=0))
        return Prompt(tuple(pieces), add_special_tokens=not self.chat, answer=answer)
