"""Which documents an answer names, in the words of a model that may have written anything."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from rerankkit.errors import InputError

_LETTER = r"(?<!\w)(?<!\w['\u2019])[A-Za-z](?!\w|['\u2019]\w)"
_NUMBER = r"(?<![0-9])(?<![0-9]\.)[0-9]+(?![0-9]|\.[0-9]|%)"  # no score such as 0.95
_BRACKETS = (("[", "]"), ("(", ")"))
_NOUNS = "passage|document|doc|text|article|candidate|snippet|paragraph"
_INTRODUCTION = rf"(?i:\b(?:{_NOUNS})\W{{1,3}})"
_COUNTED = re.compile(
    rf"(?i:[ \t]+(?:(?:most|relevant|given|provided|other|best|top)[ \t]+)*(?:{_NOUNS}|result|item|option)s\b)"
)
"""Behind a number that says how many."""
_AROUND = re.compile(r"(?i:passage|document)|[\s\[\]()*_`\"'#\\$]")
_BEFORE = (">", ">>", "->", "=>", "\u227b", "\u2192", "\u21d2", "\u226b", "succ", "&gt;", ">=", "\u2265")
"""What an order may be written with."""
_BESIDE = (",", ";", "=", "~", "\u2248")
"""What may stand between the labels of such a row, too."""
_VERBS = "is|was|has|and|or|then|over|before|beats|comes|seems"
_WORD = re.compile(rf"(?:I|[Aa])(?=\s+(?!(?:{_VERBS})\b)[a-z])")
_THOUGHT = re.compile(
    r"(?i:<(?P<end>/)?(?:\w+:)?(?:think|thinking|thought|reasoning)\s*>)|\[(?P<end_too>/)?THINK\]"
    r"|\u25c1(?P<close>/)?think\u25b7|<\|(?:START|(?P<stop>END))_THINKING\|>"
    r"|<\|channel\|>(?:analysis|commentary|(?P<final>final)[^<]*<\|message\|>)"
)
"""The marks around what a model thinks: most models', Mistral's, Kimi's, Cohere's, and the channels of gpt-oss."""
_ORDINAL = re.compile(
    r"^[ \t]*(?:([0-9]+)[.)]|\|[ \t]*([0-9]+)[ \t]*\||(?i:rank)[ \t]+([0-9]+)[ \t]*:)(?=[ \t]+\S*[0-9])", re.MULTILINE
)
_OPENING, _CLOSING = "\u3010\u3014\u3016\u27e6", "\u3011\u3015\u3017\u27e7"
_PLAIN = str.maketrans(_OPENING + _CLOSING, "[" * len(_OPENING) + "]" * len(_CLOSING))


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
    if not _THOUGHT.search(pattern.replace("\\", "")):
        text = _without_thoughts(text)
    if not pattern:
        return text
    match = re.search(pattern, text, re.DOTALL)
    return None if match is None else match.group(1) or ""


def marks_thought(token: str) -> bool:
    """Whether a model writes this token around what it thinks."""
    return _THOUGHT.fullmatch(token) is not None or token in ("<|channel|>", "<|message|>")


def _without_thoughts(text: str) -> str:
    """What stands behind the last `</think>`, and before a `<think>` that is not closed."""
    start = end = None
    for match in _THOUGHT.finditer(text):
        if any(match.groups()):
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
    text, label = _plain(answer or ""), _NUMBER if numeric else _LETTER
    introduced = [m for m in re.finditer(rf"{_INTRODUCTION}(?P<label>{label})", text) if not _is_word(text, m)]
    places = list(re.finditer(f"(?P<label>{label})", text))
    signs = [_sign(text[place.end() : after.start()]) for place, after in pairwise(places)]
    ways = _marked(text, label, places, signs)
    ways += [introduced] if one or len({match["label"] for match in introduced}) > 1 else []
    chosen = next((way for way in ways if any(_name(match["label"]) in names for match in way)), None)
    if chosen is None:
        chosen = _standing(text, places, numeric)
    number = {name: place for place, name in enumerate(names)}
    found = [number.get(_name(match["label"])) for match in chosen]
    return found if one else _of_one_row(text, chosen, found)


def _of_one_row(text: str, places: Sequence[re.Match[str]], found: list[int | None]) -> list[int | None]:
    """The first row with signs of order that has all that is named, if there is one: what is said around it, of one
    document or of another, is no order."""
    everything, row, ordered = set(found) - {None}, found[:1], False
    for (place, after), number in zip(pairwise(places), found[1:], strict=True):
        sign = _sign(text[place.end("label") : after.start("label")])
        if sign not in _BEFORE and sign not in _BESIDE:
            if ordered and everything <= set(row):
                return row
            row, ordered = [], False
        ordered |= sign in _BEFORE
        row.append(number)
    return row if ordered and everything <= set(row) else found


@lru_cache(maxsize=1024)
def _sign(between: str) -> str:
    """What stands between two labels besides brackets and the like."""
    return _AROUND.sub("", between) if len(between) < 40 else between


def _marked(text: str, label: str, places: Sequence[re.Match[str]], signs: Sequence[str]) -> list[list[re.Match[str]]]:
    """For each kind of brackets: labels in them, by themselves or several, and those in a row with a sign of order
    between them."""
    rows = set[int]()
    for number, sign in enumerate(signs):
        if sign in _BEFORE or (sign in _BESIDE and number in rows):
            rows |= {number, number + 1}
    ways = []
    for opening, closing in _BRACKETS:
        inside = re.finditer(rf"\{opening}\s*{label}(?:\s*[,;>]\s*{label})*\s*\{closing}", text)
        bracketed = {place for match in inside for place in range(*match.span())}
        ways.append([place for n, place in enumerate(places) if n in rows or place.start() in bracketed])
    return ways


def _standing(text: str, places: list[re.Match[str]], numeric: bool) -> list[re.Match[str]]:
    """Every label that stands alone, without numbers that count, those of a list's lines and the words of a
    sentence."""
    if not numeric:
        return [match for match in places if not _is_word(text, match)]
    lines = list(_ORDINAL.finditer(text))
    ordinals = [int((match[1] or match[2] or match[3])[:9]) for match in lines]
    listed = len(ordinals) > 1 and ordinals == list(range(1, len(ordinals) + 1))
    ends = {match.end(match.lastindex or 0) for match in lines} if listed else set()
    return [match for match in places if match.end() not in ends and not _COUNTED.match(text, match.end())]


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Whether a letter is a word of its sentence, as in "I think" and "a document"."""
    return _WORD.match(text, match.start("label")) is not None


def _plain(text: str) -> str:
    """A text in which other forms of digits, letters and brackets are those of ASCII: `\uff3b\uff13\uff3d`, `\u2462`,
    `\u30103\u3011`."""
    return text if text.isascii() else "".join(map(_plain_character, text)).translate(_PLAIN)


def _plain_character(character: str) -> str:
    form = unicodedata.decomposition(character).partition(" ")[0]
    if form == "<circle>":
        return f" {unicodedata.normalize('NFKC', character)} "
    if form == "<wide>":
        return unicodedata.normalize("NFKC", character)
    return character


def _name(text: str) -> str:
    """A label without its brackets, leading zeros and case."""
    bare = re.sub(r"\W", "", text).upper()
    return bare.lstrip("0") or "0" if bare.isdigit() else bare
