"""Marks of a chat's turns that are no tokens of their own, and keeping a user's text from setting them.

Where a chat template ends a turn with a token such as `<|im_end|>`, no user's text can: `prompt_tokens.py` sees to it.
Others write `[/INST]`, `### Response:` or `ASSISTANT:` as plain text, which a document could write as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from rerankkit.protocols import Piece

_OTHER_BRACKETS = str.maketrans("[]<>{}()", "()()()[]")
_BRACKETED = re.compile(r"[\[<{(]+[^\s\[\]<>{}()]+[\]>})]+")
_LONGEST = 3  # words; more than that is a sentence, such as a template's own system turn


def disarmed(pieces: Sequence[Piece], between: tuple[str, ...]) -> list[Piece]:
    """The pieces of a turn in which no query or document writes a mark: `[/INST]` becomes `(/INST)`, and `Human:`
    becomes `(Human):`. Other text stays as it is.

    Args:
        between: What the chat template writes around turns, without tokens of their own.
    """
    pattern = _pattern(between)
    spans = [match.span() for match in pattern.finditer("".join(p.text for p in pieces))] if pattern else []
    if not spans:
        return list(pieces)
    found, start = [], 0
    for piece in pieces:
        parts, end, length = list[str](), 0, len(piece.text)
        for first, last in spans if piece.role != "fixed" else []:
            first, last = max(first - start, 0), min(last - start, length)
            if first < last:
                parts += [piece.text[end:first], _apart(piece.text[first:last])]
                end = last
        found.append(Piece("".join([*parts, piece.text[end:]]), piece.role, piece.scored))
        start += length
    return found


@lru_cache(maxsize=64)
def _pattern(between: tuple[str, ...]) -> re.Pattern[str] | None:
    """Any mark, or None where the template has none; the longest first, so that a match is never a part of another."""
    marks = sorted({mark for text in between for mark in _marks(text)}, key=lambda mark: (-len(mark), mark))
    spelled = [r"[\s▁]+".join(map(re.escape, mark.split())) for mark in marks]  # a tokenizer may write ▁ for a space
    return re.compile("|".join(rf"(?<!\w){one}" if one[0].isalnum() else one for one in spelled)) if marks else None


def _marks(text: str) -> Iterator[str]:
    """What stands in brackets, such as `[INST]` and `<<SYS>>`; of other lines those that end or begin like a heading,
    such as `### Response:`. A bare word is no mark: it was written after a token, as in `<|im_start|>user`."""
    for line in filter(None, map(str.strip, text.splitlines())):
        bracketed = _BRACKETED.findall(line)
        heading = any(map(str.isalnum, line)) and not (line[0].isalnum() and line[-1].isalnum())
        yield from bracketed or ([line] if heading and len(line.split()) <= _LONGEST else [])


def _apart(text: str) -> str:
    swapped = text.translate(_OTHER_BRACKETS)
    return swapped if swapped != text else re.sub(r"\w+(?:[\s▁]+\w+)*|\A\W+\Z", r"(\g<0>)", text)
