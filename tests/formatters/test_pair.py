from __future__ import annotations

from typing import Any

import pytest

from rerankkit import Group
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.protocols import Ask, Piece
from rerankkit.testing import check_formatter


def test_pair_keeps_query_and_document_whole_and_apart() -> None:
    check_formatter(Pair)
    check_formatter(lambda: Pair("query: {query} {{x}}", "{document} "))
    prompt = Pair("query: {query} {{x}}").format(Ask(Group("{document}?", ["a", "b {query}"]), (1,)), None)
    fixed = Piece("query: ", "fixed"), Piece("{document}?", "query"), Piece(" {x}", "fixed")
    assert prompt.pieces == (*fixed, Piece("b {query}", "document"))
    assert prompt.second == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": "q"}, r"pair.v1, query: must contain \{query\} once, found 0 times"),
        ({"query": "{query} {query}"}, "found 2 times"),
        ({"document": "{query} {document}"}, r"document: \{query\} is unknown; use \{document\}"),
        ({"document": "{document} }"}, "a brace that belongs to no field is unknown"),
    ],
)
def test_templates_that_lose_or_repeat_a_text_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pair(**arguments)


def test_pair_shows_one_document() -> None:
    with pytest.raises(InputError, match="shows one document at a time, but the strategy asks for 2"):
        Pair().format(Ask(Group("q", ["a", "b"]), (0, 1)), None)
