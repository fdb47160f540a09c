"""Several documents in one text: the prompt of pairwise, setwise and listwise LLM rerankers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rerankkit import labels as names
from rerankkit import templates
from rerankkit.chat import Variables, asked, variable_problems
from rerankkit.errors import InputError
from rerankkit.protocols import Ask, Piece, Prompt
from rerankkit.registry import registry


@registry.formatters("documents.v1")
@dataclass(frozen=True)
class Documents:
    """Fills a template with the query and labelled documents, as plain text or as a chat turn.

    Recipe:
        [model.formatter]
        @formatters = "documents.v1"
        template = "Query: {query}\\n\\n{documents}\\n\\nWhich of the {num} passages answers it best? Passage"
        document = "Passage {label}: {document}"
        labels = "letters"
        answers = " {label}"

    Args:
        template: The user's turn of a chat, or the whole prompt, with {documents} once, {query} at least once, and
            {num}, their number, if wanted. `{{` and `}}` are literal braces.
        document: One of them, with {document} once, and {label}. Where a query or document writes a label the same
            way, that is put in other brackets: `[3]` becomes `(3)`.
        separator: What stands between two documents.
        labels: What they are called, in their order; "letters" is A to W, "numbers" 1 and on without end.
        answers: How the model would go on to name each document, one token each, or a template of them with {label};
            empty where no single token is read.
        chat: Render through the tokenizer's chat template; False for base models.
        system: The system turn of a chat; empty leaves the choice to the chat template.
        answer_prefix: Text after which the answer is read or written, behind the chat template's own opening of the
            turn; the decoder of an encoder-decoder reads it.
        chat_template_kwargs: Variables of the chat template, such as `{"enable_thinking": false}` or the date that it
            writes, `{"date_string": "26 Jul 2024"}`.
    """

    at_once = "several"
    template: str = (
        'Given a query "{query}", which of the following passages is the most relevant one to the query?\n\n'
        "{documents}\n\nOutput only the passage label of the most relevant passage:"
    )
    document: str = 'Passage {label}: "{document}"'
    separator: str = "\n\n"
    labels: list[str] | Literal["letters", "numbers"] = "letters"
    answers: list[str] | str = ""
    chat: bool = False
    system: str = ""
    answer_prefix: str = ""
    chat_template_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        given = self.template, self.document, self.labels, self.answers, self.chat, self.system
        for argument, message in self.check(*given, self.chat_template_kwargs):
            raise InputError(f"documents.v1, {argument}: {message}")

    @staticmethod
    def check(
        template: str = template,
        document: str = document,
        labels: list[str] | Literal["letters", "numbers"] = labels,
        answers: list[str] | str = answers,
        chat: bool = False,
        system: str = "",
        chat_template_kwargs: Variables | None = None,
    ) -> Iterator[tuple[str, str]]:
        """Say what is wrong with templates, labels and answers without building anything."""
        whole = templates.problems(template, ("documents",), some=("query",), optional=("num",))
        yield from (("template", message) for message in whole)
        one = templates.problems(document, ("document",), optional=("label",))
        yield from (("document", message) for message in one)
        yield from names.problems(labels)
        yield from names.answer_problems(answers, labels)
        if system and not chat:
            yield "system", "needs chat = true; a plain prompt has no system turn"
        yield from variable_problems(chat_template_kwargs, chat)

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        labels = names.labels_of(self.labels, len(ask.docs), "documents.v1")
        shown: list[Piece] = []
        for label, position in zip(labels, ask.docs, strict=True):
            document = Piece(self._neutral(ask.group.docs[position]), "document")
            shown += [Piece(self.separator, "fixed")] if shown and self.separator else []
            shown += templates.fill(self.document, {"label": [Piece(label, "fixed")], "document": [document]})
        query, number = Piece(self._neutral(ask.group.query), "query"), Piece(str(len(labels)), "fixed")
        pieces = templates.fill(self.template, {"query": [query], "documents": shown, "num": [number]})
        variables = self.chat_template_kwargs
        pieces, answer = asked(pieces, self.chat, self.system, self.answer_prefix, tokenizer, "documents.v1", variables)
        return Prompt(
            tuple(pieces),
            add_special_tokens=not self.chat,
            answer=answer,
            labels=labels,
            choices=names.answers_of(self.answers, labels),
        )

    def _neutral(self, text: str) -> str:
        return names.neutral(text, self.document, self.labels)
