"""What the documents of a prompt are called, and keeping a user's text from calling itself so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from rerankkit import templates
from rerankkit.caches import TextCache
from rerankkit.errors import InputError
from rerankkit.protocols import Piece

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVW")  # T5 has no single tokens for "X" and "Y"
_PLAIN = re.compile(r"[\s -~]*", re.ASCII)
_BRACKETS = {("[", "]"): ("(", ")"), ("(", ")"): ("[", "]")}  # those of a label, and those that a user's own is given


def labels_of(labels: Sequence[str], count: int, part: str) -> tuple[str, ...]:
    """The labels of the first documents: those of a list, or "letters" or "numbers".

    Args:
        part: The formatter's name, for the message where there are too few.
    """
    if labels == "numbers":
        return tuple(str(number + 1) for number in range(count))
    known = LETTERS if labels == "letters" else tuple(labels)
    if count > len(known):
        raise InputError(
            f"{part} has {len(known)} labels, but the strategy asks for {count} documents at once; give more in the "
            'formatter (labels = "numbers" has no end), or let the strategy ask for fewer (num_child, window)'
        )
    return known[:count]


def problems(labels: Sequence[str], argument: str = "labels") -> Iterator[tuple[str, str]]:
    """Say what is wrong with a list of labels, or of answers that are to tell documents apart."""
    if isinstance(labels, str):
        return
    if len(labels) < 2:
        yield argument, f"must name at least 2 documents, got {len(labels)}"
    for label in dict.fromkeys(labels):
        if not label.strip():
            yield argument, f"{label!r} names no document; give some text"
        elif labels.count(label) > 1:
            yield argument, f"{label!r} stands for {labels.count(label)} documents; give each its own"


def answers_of(answers: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """How the model would go on to name each document: the first of a list, or a template of its label."""
    if not isinstance(answers, str):
        return tuple(answers[: len(labels)])
    filled = (templates.fill(answers, {"label": [Piece(label, "fixed")]}) for label in labels if answers)
    return tuple("".join(piece.text for piece in pieces) for pieces in filled)


def answer_problems(answers: Sequence[str], labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Say what is wrong with answers, given what they are to name."""
    if isinstance(answers, str):
        found = templates.problems(answers, ("label",)) if answers else ()
        yield from (("answers", message) for message in found)
    elif answers:
        yield from problems(answers, "answers")
        count = len(LETTERS) if labels == "letters" else len(labels)
        if labels != "numbers" and count != len(answers):
            yield "answers", f"{len(answers)} answers for {count} labels; give one for each"


def neutral(text: str, template: str, labels: Sequence[str]) -> str:
    """A user's text in which nothing reads as a label of the prompt, whether that is in use or not: `[3]` becomes `(3)`
    and `Passage B:` becomes `Passage (B):`. Other text stays as it is.

    Args:
        template: How the prompt writes a label, such as `[{label}] {document}`.
    """
    known = labels if isinstance(labels, str) else tuple(labels)
    return _shown.get((text, template, known), lambda: _neutral(text, template, known))


_shown = TextCache(1 << 24)
"""A strategy shows a document again and again."""


def _neutral(text: str, template: str, labels: str | tuple[str, ...]) -> str:
    for pattern, (opening, closing), replaces in _patterns(template, labels):
        folded, origin = _folded(text)
        edits: dict[int, str] = {}
        for match in pattern.finditer(folded):
            first, last = origin[match.start("label")], origin[match.end("label") - 1]
            edits[first] = opening if replaces else opening + text[first]
            edits[last] = closing if replaces else edits.get(last, text[last]) + closing
        if edits:
            text = "".join(edits.get(position, character) for position, character in enumerate(text))
    return text


@lru_cache(maxsize=64)
def _patterns(
    template: str, labels: str | tuple[str, ...]
) -> tuple[tuple[re.Pattern[str], tuple[str, str], bool], ...]:
    """For each label in a template: how it is found in a folded text, the brackets to put it in, and whether they
    replace brackets that are there."""
    known = LETTERS if labels == "letters" else labels
    longest_first = sorted({_folded(label)[0] for label in known}, key=len, reverse=True)
    names = r"\d+" if labels == "numbers" else "|".join(map(re.escape, longest_first))
    found = []
    for (before, field), (after, _) in pairwise(templates.split(template)):
        if field != "label":
            continue
        before, after = before.rpartition("\n")[2].rstrip(), after.lstrip()
        brackets = _BRACKETS.get((before[-1:], after[:1]))
        if brackets:
            pattern = rf"(?P<label>{re.escape(before[-1])}\s*(?:{names})\s*{re.escape(after[0])})"
        else:
            word = _folded(re.search(r"\w*[^\w\s]*$", before)[0])[0]  # type: ignore[index]  # it matches no text too
            marks = re.match(r"[^\w\s]*", after)[0]  # type: ignore[index]
            # of line breaks that follow one another, each begins a line: a pattern across them would try them all
            start = r"(?<!\w)" + re.escape(word) if word[:1].isalnum() else re.escape(word)
            start = rf"{start}\s*" if word else r"(?m:^)[^\S\n]*"
            end = rf"(?=\s*[{re.escape(_folded(marks)[0])}])" if marks else r"(?!\w)"
            pattern = rf"{start}(?P<label>{names}){end}"
        found.append((re.compile(pattern), brackets or ("(", ")"), bool(brackets)))
    return tuple(found)


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """A text as tokenizers may come to see it, without case, full-width forms and invisible characters, and the place
    of each of its characters in the text."""
    if _PLAIN.fullmatch(text):
        return text.lower(), range(len(text))
    folded, origin = [], []
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cf") and not character.isspace():
            continue
        for made in unicodedata.normalize("NFKC", character).casefold():
            folded.append(made)
            origin.append(position)
    return "".join(folded), origin
