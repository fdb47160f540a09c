"""What BM25 counts as a word: runs of letters and digits, and pieces of scripts that write no spaces.

Words are those of scikit-learn's CountVectorizer, of two characters or more. Chinese, Japanese, Thai and their like
are read by characters and pairs of neighbours, as Lucene's CJKBigramFilter does with outputUnigrams. Vowel signs of
Indic scripts belong to their words; those of Arabic and Hebrew, which most writers leave out, do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

_WORD = re.compile(r"\b\w\w+\b")
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f\U00020000-\U0003ffff"  # Han and kana
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Tibetan, Burmese
    "\u1780-\u17ff\u19e0-\u19ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9df"  # Khmer, Tai, Balinese, Javanese
)
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]"
)
_NO_PART = (
    range(0x300, 0x370),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE00, 0xFE30),
)
"""Marks of no script of its own, such as accents that no letter takes up, and those of emoji."""


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What texts that need more than `_WORD` have in them, and the runs of such a text: unspaced ones, and words."""
    marks = "".join(
        chr(code)
        for code in range(0x370, 0x20000)
        if unicodedata.category(chr(code)) in ("Mn", "Mc") and not any(code in those for those in _NO_PART)
    )
    word = f"[^\\W{_UNSPACED}](?:[^\\W{_UNSPACED}]|[{marks}])+"
    return re.compile(f"[{_UNSPACED}{marks}]"), re.compile(f"(?P<unspaced>[{_UNSPACED}]+)|{word}")


def words(text: str) -> list[str]:
    """The words of a text, in lower case and in their order."""
    text = text.lower()
    if text.isascii():
        return _WORD.findall(text)
    text = _POINTS.sub("", unicodedata.normalize("NFC", text))
    special, runs = _patterns()
    if special.search(text) is None:
        return _WORD.findall(text)
    return [
        word for run in runs.finditer(text) for word in (_pieces(run[0]) if run["unspaced"] is not None else [run[0]])
    ]


def _pieces(run: str) -> Iterator[str]:
    """Each character of an unspaced run, with its marks, and each with the one after it; punctuation parts them."""
    before = ""
    for character in _characters(unicodedata.normalize("NFKC", run)):  # half-width kana are written as whole ones
        if character and before:
            yield before + character
        if character:
            yield character
        before = character


def _characters(run: str) -> Iterator[str]:
    """Letters and digits with the marks on them; empty for anything else."""
    character = ""
    for letter in run:
        kind = unicodedata.category(letter)[0]
        if kind == "M" and character:
            character += letter
            continue
        if character:
            yield character
        character = letter if kind in "LN" else ""
        if not character:
            yield ""
    if character:
        yield character
