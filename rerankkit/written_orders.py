"""Which documents an answer names, in the words of a model that may have written anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rerankkit.errors import InputError

_LETTER = r"(?<![\w'\u2019])[A-Za-z](?![\w'\u2019])"
_INTRODUCED = re.compile(rf"(?i:passage|document)\W{{1,3}}({_LETTER})")


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
    """The answer in what was written; None where it is not there."""
    if not pattern:
        return text
    match = re.search(pattern, text, re.DOTALL)
    return None if match is None else match.group(1) or ""


def named(answer: str | None, labels: Sequence[str], one: bool) -> list[int | None]:
    """The documents that an answer names, by number and in its order; None for a name that no document has.

    Of labels that are numbers, "[2]", every run of digits is a name, as RankGPT reads them; of letters, "B", every
    letter that stands alone, in either case.

    Args:
        one: A letter behind the word passage or document counts before one that may be a word of the sentence.
    """
    names = [_name(label) for label in labels]
    numeric = all(name.isdigit() for name in names)
    if not labels or not (numeric or all(len(name) == 1 and name.isalpha() and name.isascii() for name in names)):
        raise InputError(
            f"an answer can be read where documents are called by numbers or by one letter each, not {list(labels)}; "
            'give the formatter labels such as "[1]" or "A"'
        )
    if numeric:
        found = re.findall(r"[0-9]+", answer or "")
    else:
        found = _INTRODUCED.findall(answer or "") if one else []
        found = found or re.findall(_LETTER, answer or "")
    return [names.index(name) if (name := _name(text)) in names else None for text in found]


def _name(text: str) -> str:
    """A label without its brackets, leading zeros and case."""
    bare = re.sub(r"\W", "", text).upper()
    return bare.lstrip("0") or "0" if bare.isdigit() else bare
