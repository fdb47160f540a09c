"""Which documents an answer names, in the words of a model that may have written anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from rerankkit.errors import InputError

_LETTER = r"(?<![\w'\u2019])[A-Za-z](?![\w'\u2019])"
_NUMBER = r"[0-9]+"
_BRACKETS = ("[]", "()")
_INTRODUCTION = r"(?i:\b(?:passage|document)\W{1,3})"
_AROUND = re.compile(r"(?i:passage|document)|[\s\[\]()*_`\"'#]")
_BEFORE = (">", ">>", "\u227b", "\u2192", "\uff1e")
"""What an order may be written with."""
_VERBS = "is|was|has|and|or|then|over|before|beats|comes|seems"
_WORD = re.compile(rf"(?:I|[Aa])(?=\s+(?!(?:{_VERBS})\b)[a-z])")
_THOUGHT = re.compile(r"</?think(?:ing)?>")
_ORDINAL = re.compile(r"^[ \t]*([0-9]+)[.)](?=[ \t]+\S*[0-9])", re.MULTILINE)


def faulty_patterns(pattern: str, taught: str) -> Iterator[tuple[str, str]]:
    """Say what is wrong with the pattern of an answer and with what is taught to be written."""
    try:
        if pattern and re.compile(pattern).groups < 1:
            yield "pattern", f"{pattern!r} has no group; put the part that is the answer into parentheses"
    except re.error as error:
        yield "pattern", f"{pattern!r} is no regular expression: {error}"
    if taught.count("{label}") != 1:
        yield "taught", f"must contain {{label}} once, found {taught.count('{label}')} times"


def find_answer(pattern: str, text: str) -> str | None:
    """The answer in what was written, without what a model thought before it; None where it is not there.

    A pattern that names the end of the thinking itself is given all of the text.
    """
    if "</think" not in pattern:
        text = _without_thoughts(text)
    if not pattern:
        return text
    match = re.search(pattern, text, re.DOTALL)
    return None if match is None else match.group(1) or ""


def _without_thoughts(text: str) -> str:
    """What stands behind the last `</think>`, and before a `<think>` that is not closed."""
    start = end = None
    for match in _THOUGHT.finditer(text):
        if match.group().startswith("</"):
            start, end = match.end(), None
        elif end is None:
            end = match.start()
    return text[start:end]


def named(answer: str | None, labels: Sequence[str], one: bool) -> list[int | None]:
    """The documents that an answer names, by number and in its order; None for a name that no document has.

    Where labels stand as a prompt writes them, in brackets or in a row such as "2 > 1", only those count; then those
    behind the word passage or document; and only else every number, or letter in either case, that stands alone. The
    numbers of a list's lines and the words "I" and "a" of a sentence are no labels.

    Args:
        one: A single label behind the word passage or document is enough of an answer.
    """
    names = [_name(label) for label in labels]
    numeric = all(name.isdigit() for name in names)
    if not labels or not (numeric or all(len(name) == 1 and name.isalpha() and name.isascii() for name in names)):
        raise InputError(
            f"an answer can be read where documents are called by numbers or by one letter each, not {list(labels)}; "
            'give the formatter labels such as "[1]" or "A"'
        )
    text, label = answer or "", _NUMBER if numeric else _LETTER
    introduced = re.findall(rf"{_INTRODUCTION}({label})", text)
    ways = [_marked(text, label, brackets) for brackets in _BRACKETS]
    ways += [introduced] if one or len(set(introduced)) > 1 else []
    known = ([name if (name := _name(found)) in names else None for found in way] for way in ways)
    chosen = next((way for way in known if any(way)), None)
    if chosen is None:
        chosen = [name if (name := _name(found)) in names else None for found in _standing(text, label)]
    return [None if name is None else names.index(name) for name in chosen]


def _marked(text: str, label: str, brackets: str) -> list[str]:
    """Labels in brackets, by themselves or several, and those in a row with a sign of order between them."""
    opening, closing = map(re.escape, brackets)
    inside = re.finditer(rf"{opening}\s*{label}(?:\s*[,;>]\s*{label})*\s*{closing}", text)
    spans = [match.span() for match in inside]
    places, found = list(re.finditer(label, text)), set[int]()
    for number, (place, after) in enumerate(pairwise(places)):
        between = text[place.end() : after.start()]
        sign = _AROUND.sub("", between) if len(between) < 40 else between
        if sign in _BEFORE or (sign in (",", ";", "=") and number in found):
            found |= {number, number + 1}
    return [
        place.group()
        for number, place in enumerate(places)
        if number in found or any(start <= place.start() < end for start, end in spans)
    ]


def _standing(text: str, label: str) -> list[str]:
    """Every label that stands alone, without the numbers of a list's lines and the words of a sentence."""
    if label == _LETTER:
        return [match.group() for match in re.finditer(label, text) if not _WORD.match(text, match.start())]
    ordinals = [int(number[:9]) for number in _ORDINAL.findall(text)]
    if len(ordinals) > 1 and ordinals == list(range(1, len(ordinals) + 1)):
        text = _ORDINAL.sub("", text)
    return re.findall(label, text)


def _name(text: str) -> str:
    """A label without its brackets, leading zeros and case."""
    bare = re.sub(r"\W", "", text).upper()
    return bare.lstrip("0") or "0" if bare.isdigit() else bare
