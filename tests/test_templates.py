"""Texts with fields in braces: what is filled in, what is literal, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.protocols import Piece, Role
from rerankkit.templates import fill, problems

FIELDS: dict[str, Role] = {"query": "query", "document": "document"}
LITERAL = st.text(st.sampled_from("{}ab %s\\\n é"), max_size=8)
ANY_TEXT = st.text(max_size=12)


@settings(max_examples=50)
@given(st.tuples(LITERAL, LITERAL, LITERAL), st.booleans(), ANY_TEXT, ANY_TEXT)
def test_a_template_is_its_literals_with_the_texts_between(
    literals: tuple[str, str, str], document_first: bool, query: str, document: str
) -> None:
    names = ["document", "query"] if document_first else ["query", "document"]
    escaped = [literal.replace("{", "{{").replace("}", "}}") for literal in literals]
    template = f"{escaped[0]}{{{names[0]}}}{escaped[1]}{{{names[1]}}}{escaped[2]}"
    assert list(problems(template, FIELDS)) == []
    texts = {"query": query, "document": document}
    expected = [
        (literals[0], "fixed"),
        (texts[names[0]], names[0]),
        (literals[1], "fixed"),
        (texts[names[1]], names[1]),
    ]
    expected.append((literals[2], "fixed"))
    found = [(piece.text, piece.role) for piece in fill(template, FIELDS, texts)]
    assert found == [(text, role) for text, role in expected if text or role != "fixed"]
    assert "".join(text for text, _ in found) == template.format(query=query, document=document)  # str.format agrees


def test_a_text_is_never_read_as_a_template() -> None:
    texts = {"query": "{document} {{x}} {", "document": "{query}%s}"}
    assert fill("{query}|{document}", FIELDS, texts) == [
        Piece(texts["query"], "query"), Piece("|", "fixed"), Piece(texts["document"], "document"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        ("", ["must contain {query} once, found 0 times", "must contain {document} once, found 0 times"]),
        ("{query} {document} {query}", ["must contain {query} once, found 2 times"]),
        ("{{query}} {document}", ["must contain {query} once, found 0 times"]),
        (
            "{query} {document} {passage}",
            ["{passage} is unknown; use {query} and {document}, and {{ }} for literal braces"],
        ),
    ],
)
def test_what_is_wrong_is_said(template: str, messages: list[str]) -> None:
    assert list(problems(template, FIELDS)) == messages


@pytest.mark.parametrize("stray", ["{", "}", "{}", "{ }", "{0}", "{query.x}", "{query!r}", "{query:3}", "}{", "{{}"])
def test_a_brace_that_belongs_to_no_field_is_refused(stray: str) -> None:
    found = list(problems(f"{{query}} {{document}} {stray}", FIELDS))
    assert found and found[0].startswith("a brace that belongs to no field is unknown; use {query} and {document}")
