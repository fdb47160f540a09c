"""Reads TREC's topics and documents: SGML whose elements are known by name and whose text is what tags leave over."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import Line, text_lines

CONTENT = ("TITLE", "HEADLINE", "HEAD", "HL", "TTL", "LP", "LEADPARA", "TEXT")
"""The elements that hold a document's text in TREC's collections of news."""
_TAG = re.compile(r"</?[A-Za-z?!][^<>]*>")


def read_topics(path: str | Path) -> Iterator[Line]:
    """Yields each `<top>` as `_id` and `text`: its number, as qrels have it, and its title."""
    for line in _elements(Path(path), "top", "<top> <num> Number: 301 <title> ... </top>"):
        number, title = (_field(line, name) for name in ("num", "title"))
        number, title = re.sub(r"^Number:\s*", "", number), re.sub(r"^Topic:\s*", "", title)
        yield Line(line.path, line.number, {"_id": number, "text": title})


def read_documents(path: str | Path) -> Iterator[Line]:
    """Yields each `<DOC>` as `_id` and `text`: its `<DOCNO>`, and what stands in its titles, leads and texts."""
    content = re.compile(rf"<({'|'.join(CONTENT)})\b[^<>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
    some = False
    for line in _elements(Path(path), "DOC", "<DOC> <DOCNO>d1</DOCNO> <TEXT>...</TEXT> </DOC>"):
        parts = [_plain(match[2]) for match in content.finditer(line.data["element"])]
        some = some or any(parts)
        yield Line(line.path, line.number, {"_id": _field(line, "DOCNO"), "text": " ".join(filter(None, parts))})
    if not some:
        raise InputError(f"{path}: no document has any text; it is read from the elements {', '.join(CONTENT)}")


def _field(line: Line, name: str) -> str:
    """An element that stands once and ends where the next tag begins: topics leave the closing tags out."""
    found = re.findall(rf"<{name}>(.*?)(?=</?[A-Za-z]+\b[^<>]*>|\Z)", line.data["element"], re.IGNORECASE | re.DOTALL)
    if len(found) != 1:
        raise line.wrong(f"expected one <{name}> between this line and the closing tag, but found {len(found)}")
    return _plain(found[0])


def _plain(markup: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def _elements(path: Path, name: str, example: str) -> Iterator[Line]:
    """Each element of this name with the line where it begins; nothing but other tags may stand between them."""
    marks = re.compile(rf"(</?{name}(?:\s[^<>]*)?>)", re.IGNORECASE)
    begin, parts, some = 0, [""], False
    for number, text in text_lines(path):
        for part in marks.split(text):
            if marks.fullmatch(part) is None:
                if not begin and (stray := _TAG.sub("", part).strip()):
                    raise InputError(f"{path}:{number}: {stray[:60]!r} is in no <{name}>; expected {example}")
                parts.append(part)
            elif part.startswith("</"):
                if not begin:
                    raise InputError(f"{path}:{number}: {part} closes nothing; a <{name}> is missing before it")
                yield Line(path, begin, {"element": "".join(parts)})
                begin = 0
            elif begin:
                raise InputError(f"{path}:{begin}: no </{name}> before the next <{name}> in line {number}; add it")
            else:
                begin, parts, some = number, [], True
    if begin:
        raise InputError(f"{path}:{begin}: this <{name}> has no </{name}>; add it, or get the file again")
    if not some:
        raise InputError(f"{path}: no <{name}> in this file; expected {example}")
