"""One document, one query, one question: the prompt of a pointwise LLM reranker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rerankkit import templates
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Piece, Prompt, Role
from rerankkit.registry import registry

FIELDS: dict[str, Role] = {"query": "query", "document": "document"}
_STAND_IN = "\N{OBJECT REPLACEMENT CHARACTER}template\N{OBJECT REPLACEMENT CHARACTER}"


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
        answer_prefix: Text after which the answer is read, behind the chat template's own opening of the turn.
    """

    template: str = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer yes or no:"
    chat: bool = False
    system: str = ""
    answer_prefix: str = ""

    def __post_init__(self) -> None:
        for argument, message in self.check(template=self.template, chat=self.chat, system=self.system):
            raise InputError(f"pointwise.v1, {argument}: {message}")

    @staticmethod
    def check(template: str = template, chat: bool = False, system: str = "") -> Iterator[tuple[str, str]]:
        """Say what is wrong with a template without building anything."""
        yield from (("template", message) for message in templates.problems(template, FIELDS))
        if system and not chat:
            yield "system", "needs chat = true; a plain prompt has no system turn"

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        if len(ask.docs) != 1:
            raise InputError(f"pointwise.v1 shows one document at a time, but the strategy asks for {len(ask.docs)}")
        texts = {"query": ask.group.query, "document": ask.group.docs[ask.docs[0]]}
        user = templates.fill(self.template, FIELDS, texts)
        if not self.chat:
            return Prompt((*user, Piece(self.answer_prefix, "fixed")))
        before, after = _chat_frame(tokenizer, self.system)
        return Prompt((Piece(before, "fixed"), *user, Piece(after + self.answer_prefix, "fixed")), False)


@lru_cache(maxsize=8)
def _chat_frame(tokenizer: Any, system: str) -> tuple[str, str]:
    """What the chat template writes before and after the user's text."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise InputError("pointwise.v1: chat = true, but this model's tokenizer has no chat template; set chat = false")
    turns = [{"role": "system", "content": system}] if system else []
    turns.append({"role": "user", "content": _STAND_IN})
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise InputError(f"pointwise.v1: the model's chat template refuses these turns: {error}") from error
    before, found, after = text.partition(_STAND_IN)
    if not found or _STAND_IN in after:
        raise InputError("pointwise.v1: the chat template does not show the user's turn exactly once")
    return before, after
