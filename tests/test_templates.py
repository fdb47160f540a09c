"""Texts with fields in braces: what is filled in, what is literal, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.protocols import Piece
from rerankkit.templates import fill, problems

FIELDS = ("query", "document")
LITERAL = st.text(st.sampled_from("{}ab %s\\\n é"), max_size=8)
ANY_TEXT = st.text(max_size=12)


def pieces(query: str, document: str) -> dict[str, list[Piece]]:
    return {"query": [Piece(query, "query")], "document": [Piece(document, "document")]}


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
    found = [(piece.text, piece.role) for piece in fill(template, pieces(query, document))]
    assert found == [(text, role) for text, role in expected if text or role != "fixed"]
    assert "".join(text for text, _ in found) == template.format(query=query, document=document)  # str.format agrees


def test_a_text_is_never_read_as_a_template() -> None:
    texts = {"query": "{document} {{x}} {", "document": "{query}%s}"}
    assert fill("{query}|{document}", pieces(**texts)) == [
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


def test_a_field_may_stand_several_times_or_not_at_all_where_that_is_allowed() -> None:
    def found(template: str) -> list[str]:
        return list(problems(template, ("documents",), some=("query",), optional=("num",)))

    assert found("{query}{documents}") == found("{num}{query}{num}{documents}{query}") == []
    assert found("{documents}") == ["must contain {query} at least once, found 0 times"]
    assert found("{query}{documents}{documents}") == ["must contain {documents} once, found 2 times"]
    assert found("{query}{documents}{doc}") == [
        "{doc} is unknown; use {documents}, {query} and {num}, and {{ }} for literal braces"
    ]
    assert list(problems("{x}", (), optional=("num",))) == ["{x} is unknown; use {num}, and {{ }} for literal braces"]


def test_a_field_may_be_several_pieces() -> None:
    several = [Piece("a", "document"), Piece(", ", "fixed"), Piece("b", "document")]
    assert fill("({documents})", {"documents": several}) == [Piece("(", "fixed"), *several, Piece(")", "fixed")]
