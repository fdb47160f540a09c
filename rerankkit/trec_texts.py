"""Reads TREC's topics and documents: SGML or XML, with elements known by name and text that is what tags leave over."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rerankkit.errors import InputError
from rerankkit.jsonl_lines import Line, Texts

CONTENT = ("TITLE", "HEADLINE", "HEAD", "HL", "TTL", "LP", "LEADPARA", "TEXT")
"""The elements that hold a document's text in TREC's collections of news."""
TOPIC = '<top> <num> Number: 301 <title> ... </top> or <topic number="1"> <query>...</query> </topic>'
_TAG = re.compile(r"</?[A-Za-z?!][^<>]*>")


def read_topics(path: str | Path, lines: Texts) -> Iterator[Line]:
    """Yields each `<top>`, or XML's `<topic>`, as `_id` and `text`: its number, as qrels have it, and its title."""
    path = Path(path)
    name, begin = "top", []
    for begun in lines:
        begin.append(begun)
        if found := re.search(r"<(top|topic)(?=[\s>])", begun[1], re.IGNORECASE):
            name = found[1].lower()
            break
    for line in _elements(path, chain(begin, lines), name, TOPIC):
        if name == "topic":
            number, title = _number(line), _query(line)
        else:
            number = re.sub(r"^Number:\s*", "", _field(line, "num"))
            title = re.sub(r"^Topic:\s*", "", _field(line, "title"))
        yield Line(line.path, line.number, {"_id": number, "text": title})


def _number(topic: Line) -> str:
    """An attribute or an element."""
    found = re.search(r"\s(?:number|num|id)\s*=\s*([\"'])(.*?)\1", topic.data["tag"], re.IGNORECASE)
    return html.unescape(found[2]).strip() if found else _field(topic, "num(?:ber)?", "<number>")


def _query(topic: Line) -> str:
    """The element of that name, else the title, else all there is where no elements are."""
    markup = topic.data["element"]
    if not _TAG.search(markup):
        return _plain(markup)
    return _field(topic, "query" if re.search(r"<query[\s>]", markup, re.IGNORECASE) else "title", "<query> or <title>")


def read_documents(path: str | Path, lines: Texts) -> Iterator[Line]:
    """Yields each `<DOC>` as `_id` and `text`: its `<DOCNO>`, and what stands in its titles, leads and texts."""
    content = re.compile(rf"<({'|'.join(CONTENT)})\b[^<>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
    some = False
    for line in _elements(Path(path), lines, "DOC", "<DOC> <DOCNO>d1</DOCNO> <TEXT>...</TEXT> </DOC>"):
        parts = [_plain(match[2]) for match in content.finditer(line.data["element"])]
        some = some or any(parts)
        yield Line(line.path, line.number, {"_id": _field(line, "DOCNO"), "text": " ".join(filter(None, parts))})
    if not some:
        raise InputError(f"{path}: no document has any text; it is read from the elements {', '.join(CONTENT)}")


def _field(line: Line, name: str, called: str = "") -> str:
    """An element that stands once and ends where the next tag begins: topics leave the closing tags out.

    Args:
        name: Its name, or a pattern of it.
        called: What it is called in messages, where that is something else.
    """
    pattern = rf"<{name}(?:\s[^<>]*)?>(.*?)(?=</?[A-Za-z]+\b[^<>]*>|\Z)"
    found = re.findall(pattern, line.data["element"], re.IGNORECASE | re.DOTALL)
    if len(found) != 1:
        raise line.wrong(
            f"expected one {called or f'<{name}>'} between this line and the closing tag, but found {len(found)}"
        )
    return _plain(found[0])


def _plain(markup: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def _elements(path: Path, lines: Texts, name: str, example: str) -> Iterator[Line]:
    """Each element of this name with the line where it begins; nothing but other tags may stand between them."""
    marks = re.compile(rf"(</?{name}(?:\s[^<>]*)?>)", re.IGNORECASE)
    begin, tag, parts, some = 0, "", [""], False
    for number, text in lines:
        for part in marks.split(text):
            if marks.fullmatch(part) is None:
                if not begin and (stray := _TAG.sub("", part).strip()):
                    raise InputError(f"{path}:{number}: {stray[:60]!r} is in no <{name}>; expected {example}")
                parts.append(part)
            elif part.startswith("</"):
                if not begin:
                    raise InputError(f"{path}:{number}: {part} closes nothing; a <{name}> is missing before it")
                yield Line(path, begin, {"tag": tag, "element": "".join(parts)})
                begin = 0
            elif begin:
                raise InputError(f"{path}:{begin}: no </{name}> before the next <{name}> in line {number}; add it")
            else:
                begin, tag, parts, some = number, part, [], True
    if begin:
        raise InputError(f"{path}:{begin}: this <{name}> has no </{name}>; add it, or get the file again")
    if not some:
        raise InputError(f"{path}: no <{name}> in this file; expected {example}")
