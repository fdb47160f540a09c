"""How a prompt is cut: by limits written out as a loop that takes tokens away one at a time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.errors import InputError
from rerankkit.limits import Limits, Truncation, cut_tokens, require_room
from rerankkit.protocols import Role

ROLES: st.SearchStrategy[list[Role]] = st.lists(st.sampled_from(["fixed", "query", "document"]), max_size=40)
LIMIT = st.one_of(st.none(), st.integers(1, 12))
RULE: st.SearchStrategy[Truncation] = st.sampled_from(["longest_first", "documents_first"])


def naive(roles: list[Role], limits: Limits) -> list[int] | None:
    """Positions that are kept; None where the prompt does not fit."""
    left = list(range(len(roles)))

    def last(role: Role) -> int | None:
        return next((i for i in reversed(left) if roles[i] == role), None)

    def count(role: Role) -> int:
        return sum(roles[i] == role for i in left)

    own: list[tuple[Role, int | None]] = [("query", limits.query), ("document", limits.document)]
    for role, limit in own:
        while limit is not None and count(role) > limit:
            left.remove(last(role))  # type: ignore[arg-type]
    longer: Role = "query" if count("query") > count("document") else "document"
    while len(left) > limits.max_length:
        if limits.truncation == "documents_first":
            cut: Role = "document" if count("document") else "query"
        elif count("query") != count("document"):
            cut = "query" if count("query") > count("document") else "document"
        else:  # what was longer keeps the odd token
            cut = "document" if longer == "query" else "query"
        if cut == "query" and count("query") <= limits.query_floor:
            cut = "document"
        at = last(cut)
        if at is None:
            return None
        left.remove(at)
    return left


@settings(max_examples=400)
@given(ROLES, st.integers(1, 30), LIMIT, LIMIT, st.integers(0, 12), RULE)
def test_what_is_kept(
    roles: list[Role], longest: int, document: int | None, query: int | None, floor: int, rule: Truncation
) -> None:
    limits = Limits(longest, document, query, floor, rule)
    expected = naive(roles, limits)
    if expected is None:
        with pytest.raises(InputError, match=f"acme.v1: .* of max_length = {longest} tokens"):
            limits.kept(roles, roles, "acme.v1")
        return
    kept = limits.kept(roles, roles, "acme.v1")
    assert kept == expected
    for role in ("query", "document"):
        assert cut_tokens(roles, kept, role) == roles.count(role) - [roles[i] for i in kept].count(role)


LENGTHS = st.lists(st.integers(0, 12), min_size=1, max_size=5)


def naive_lengths(lengths: list[int], room: int) -> list[int]:
    """One token at a time is taken from the longest, of equal ones from the last."""
    left = list(lengths)
    while sum(left) > room:
        longest = max(left)
        left[len(left) - 1 - left[::-1].index(longest)] -= 1
    return left


@settings(max_examples=400)
@given(LENGTHS, LENGTHS, st.integers(1, 60), LIMIT, LIMIT)
def test_several_documents_are_cut_to_one_length(
    documents: list[int], queries: list[int], room: int, document: int | None, query: int | None
) -> None:
    roles: list[Role] = ["fixed"]
    pieces = [0]
    for role, lengths in (("query", queries), ("document", documents)):
        for length in lengths:
            piece = pieces[-1] + 1
            roles += [*[role] * length, "fixed"]  # type: ignore[list-item]
            pieces += [*[piece] * length, piece + 1]
    fixed = roles.count("fixed")
    kept = Limits(fixed + room, document, query, 0).kept(roles, pieces, "acme.v1")
    wanted = (
        [min(length, query or length) for length in queries],
        [min(length, document or length) for length in documents],
    )
    first, second = sum(wanted[0]), sum(wanted[1])
    while first + second > room:
        if first > second or (first == second and sum(wanted[0]) <= sum(wanted[1])):
            first -= 1
        else:
            second -= 1
    first, second = naive_lengths(wanted[0], first), naive_lengths(wanted[1], second)  # type: ignore[assignment]
    found = [pieces[i] for i in kept if roles[i] != "fixed"]
    assert [found.count(2 * n + 1) for n in range(len(queries))] == first
    assert [found.count(2 * (n + len(queries)) + 1) for n in range(len(documents))] == second
    assert kept == sorted(kept)
    assert sum(roles[i] == "fixed" for i in kept) == fixed
    for piece in set(found):  # what is kept of a piece is its beginning
        places = [i for i in range(len(roles)) if pieces[i] == piece]
        assert [i for i in kept if pieces[i] == piece] == places[: found.count(piece)]


def test_the_message_says_what_the_prompts_own_text_takes() -> None:
    roles: list[Role] = ["fixed"] * 9 + ["query"] * 4
    with pytest.raises(InputError, match="own text takes 9 of max_length = 12 tokens and leaves 3 for the query"):
        Limits(12, None, None, 16).kept(roles, roles, "pair.v1")
    with pytest.raises(
        InputError, match="takes 9 of max_length = 8 tokens and leaves 0 for the query; raise max_length"
    ):
        Limits(8, None, None, 0).kept(roles, roles, "pair.v1")


def test_limits_that_make_no_sense_are_named_as_a_recipe_names_them() -> None:
    assert list(Limits(1, None, None, 0).problems()) == []
    assert list(Limits(0, -1, 0, -2).problems()) == [
        ("max_length", "must be at least 1, got 0"),
        ("document_max_length", "must be at least 1, got -1"),
        ("query_max_length", "must be at least 1, got 0"),
        ("query_floor", "must be at least 0, got -2"),
    ]


def test_no_more_than_the_model_reads() -> None:
    require_room(512, 512, "pair.v1")
    require_room(512, float(10**30), "pair.v1")
    with pytest.raises(InputError, match="acme.v1: longest = 513, but the model reads 512 tokens"):
        require_room(513, 512, "acme.v1", "longest")
