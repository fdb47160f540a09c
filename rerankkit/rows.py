"""The forms that a row of training or evaluation data can have, and how rows become groups."""

from __future__ import annotations

import json
import re
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import IO, Any, NamedTuple

from rerankkit.errors import InputError
from rerankkit.fingerprints import fingerprint
from rerankkit.jsonl_lines import Line, kind, nearest, quoted, require_same
from rerankkit.lazy import numpy
from rerankkit.protocols import Group
from rerankkit.warnings import Warnings

QIDS = ("qid", "query_id")
LINE_BITS = 40
IN_MEMORY = 32 << 20
"""How many bytes of flat rows are gathered before a temporary file holds them."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a file calls its query, its relevant and other documents, and the document and label of a flat row."""

    query: str = "query"
    positive: str = "positive"
    negative: str = "negative"
    document: str = "document"
    label: str = "label"

    @property
    def documents(self) -> tuple[str, ...]:
        return ("document", "text") if self.document == "document" else (self.document,)

    @property
    def labels(self) -> tuple[str, ...]:
        return ("label", "labels") if self.label == "label" else (self.label,)


def groups_of(lines: Iterator[Line], keys: Keys, notes: Warnings) -> Iterator[Group]:
    """Makes groups of rows, whose form the first one decides; counts in `notes` what is odd but legal."""
    first = next(lines)
    forms = [(keys.query, keys.positive), (keys.query, "docs"), *((keys.query, label) for label in keys.labels)]
    form = next((form for form in forms if first.has(form[1])), None)
    if form is None:
        first.require_no_null(key for form in forms for key in form)
        raise first.wrong(
            f"unknown form: expected the keys {' or '.join(quoted(form) for form in forms[:3])}, "
            f"found {quoted(first.data)}{nearest([key for form in forms for key in form], first.data)}"
        )
    lines = chain([first], lines)
    if form == forms[0]:
        groups = _by_row(lines, lambda line: _contrastive(line, keys, notes))
    elif form == forms[1]:
        groups = _by_row(lines, lambda line: _listed(line, keys, notes))
    else:
        groups = _by_query(_flat(line, keys, notes) for line in lines)
    for group in groups:
        _note_documents(group, notes)
        yield group


def _contrastive(line: Line, keys: Keys, notes: Warnings) -> Group:
    numbered = _numbered(line, keys.negative)
    others = (keys.negative, *numbered, *QIDS, "doc_ids", "teacher_scores")
    _check_keys(line, (keys.query, keys.positive), others, notes)
    positives = _documents(line, keys.positive)
    negatives = [document for key in (keys.negative, *numbered) if line.has(key) for document in _documents(line, key)]
    if not positives:
        raise line.wrong(f'"{keys.positive}" is an empty list; a row needs a relevant document')
    if not negatives:
        notes.add("rows_without_negative", line.place)
    return _group(line, keys, positives + negatives, [1.0] * len(positives) + [0.0] * len(negatives))


def _numbered(line: Line, key: str) -> list[str]:
    """The keys `negative_1`, `negative_2` and so on of a row, by their numbers: one document each, as
    sentence-transformers lays out mined negatives. One that is null or missing stands for none."""
    found = [(match, name) for name in line.data if (match := re.fullmatch(rf"{re.escape(key)}_(\d+)", name))]
    return [name for match, name in sorted(found, key=lambda pair: int(pair[0][1]))]


def _listed(line: Line, keys: Keys, notes: Warnings) -> Group:
    _check_keys(line, (keys.query, "docs"), ("labels", "teacher_scores", *QIDS, "doc_ids"), notes)
    if not isinstance(line.data["docs"], list) or not line.data["docs"]:
        raise line.wrong(f'"docs" must be a list with at least one document, but it is {_named(line, "docs")}')
    docs = _documents(line, "docs")
    return _group(line, keys, docs, line.numbers("labels", len(docs)) if line.has("labels") else None)


def _check_keys(line: Line, required: Sequence[str], optional: Sequence[str], notes: Warnings) -> None:
    known = [*required, *optional]
    missing = [key for key in required if not line.has(key)]
    strange = [key for key in line.data if key not in known]
    absent = [key for key in known if not line.has(key)]
    if missing:
        line.require_no_null(missing)
        hint = nearest(absent, strange)
        raise line.wrong(f"no {quoted(missing)}: expected {quoted(required)}, found {quoted(line.data)}{hint}")
    # a strict likeness: a row may well carry keys of its own, but a misspelt one must not be lost silently
    if hint := nearest(absent, strange, cutoff=0.85):
        raise line.wrong(f"unknown key{hint} Known keys: {quoted(known)}")
    if strange:
        notes.add("rows_with_unused_keys", f"{quoted(strange)} at {line.place}")


def _documents(line: Line, key: str) -> list[str]:
    value = line.data[key]
    return [line.document(item, key) for item in (value if isinstance(value, list) else [value])]


def _group(line: Line, keys: Keys, docs: list[str], labels: list[float] | None) -> Group:
    ids, teacher = _doc_ids(line, len(docs)), None
    if line.has("teacher_scores"):
        teacher = line.numbers("teacher_scores", len(docs))
    if ids is not None:
        at = _without_copies(line, ids, [docs, labels, teacher])
        docs, ids = [docs[i] for i in at], [ids[i] for i in at]
        labels = None if labels is None else [labels[i] for i in at]
        teacher = None if teacher is None else [teacher[i] for i in at]
    return Group(line.filled_text(keys.query), docs, labels, teacher, _qid(line), ids)


def _without_copies(line: Line, ids: list[str], columns: Sequence[Sequence[Any] | None]) -> list[int]:
    """The positions of a row's documents without those that stand there again, which must be the same in all."""
    first: dict[str, int] = {}
    for position, docid in enumerate(ids):
        if (before := first.setdefault(docid, position)) != position:
            one, other = ([column[at] for column in columns if column is not None] for at in (before, position))
            require_same(one, other, f"{line.place}: document id {docid!r} stands twice in one row")
    return list(first.values())


def _qid(line: Line) -> str:
    return line.filled_text(line.first_key(QIDS, "query id")) if any(line.has(key) for key in QIDS) else ""


def _doc_ids(line: Line, count: int) -> list[str] | None:
    if not line.has("doc_ids"):
        return None
    ids = line.data["doc_ids"]
    if not isinstance(ids, list) or not all(isinstance(docid, str) and docid.strip() for docid in ids):
        raise line.wrong(f'"doc_ids" must be a list of texts, but it is {_named(line, "doc_ids")}')
    if len(ids) != count:
        raise line.wrong(f'"doc_ids" has {len(ids)} entries for {count} documents; give one for each document')
    return ids


def _named(line: Line, key: str) -> str:
    value = line.data[key]
    return "an empty list" if value == [] else kind(value)


def _by_row(lines: Iterable[Line], read: Callable[[Line], Group]) -> Iterator[Group]:
    files: list[Path | str] = []
    seen: dict[int, int] = {}  # by query ids' fingerprints: where, and a fingerprint of what, as small as can be
    for line in lines:
        group = read(line)
        if group.qid:
            if line.path not in files[-1:]:
                files.append(line.path)
            here = len(files) << LINE_BITS | line.number
            content = fingerprint(repr(group))
            place, same = divmod(seen.setdefault(fingerprint(group.qid), here << 64 | content), 1 << 64)
            if place != here:
                before = f"{files[(place >> LINE_BITS) - 1]}{line.unit}{place & (1 << LINE_BITS) - 1}"
                require_same(same, content, f"{line.place}: query id {group.qid!r} was given before, at {before}")
                continue
        yield group


class _Flat(NamedTuple):
    """One document of one query."""

    place: str
    qid: str
    query: str
    docid: str | None
    text: str
    label: float

    def wrong(self, message: str) -> InputError:
        return InputError(f"{self.place}: {message}")


def _flat(line: Line, keys: Keys, notes: Warnings) -> _Flat:
    label = line.first_key(keys.labels, "label") if any(map(line.has, keys.labels)) else keys.labels[0]
    _check_keys(line, (keys.query, label), (*QIDS, *keys.documents, "doc_id", "title"), notes)
    document = line.first_key(keys.documents, "document")
    return _Flat(
        line.place,
        _qid(line),
        line.filled_text(keys.query),
        line.filled_text("doc_id") if line.has("doc_id") else None,
        line.titled_text(document) if line.has("title") else line.document(line.data[document], document),
        line.number_of(line.data[label], label),
    )


def _by_query(rows: Iterable[_Flat]) -> Iterator[Group]:
    """Gathers flat rows by query id, or by the query's text where there is no id; memory holds where each row lies."""
    numbers: dict[int, int] = {}
    group_of, begins = array("q"), array("q")
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as file:
        for row in rows:
            key = fingerprint(f"{row.qid}\0{'' if row.qid else row.query}")
            group_of.append(numbers.setdefault(key, len(numbers)))
            begins.append(file.tell())
            file.write(json.dumps(row).encode() + b"\n")
        del numbers
        order = numpy.argsort(numpy.array(group_of), kind="stable")
        for _, indices in groupby(order.tolist(), group_of.__getitem__):
            yield _gathered([_row_at(file, begins[index]) for index in indices])


def _row_at(file: IO[bytes], begin: int) -> _Flat:
    file.seek(begin)
    return _Flat(*json.loads(file.readline()))


def _gathered(rows: list[_Flat]) -> Group:
    first = rows[0]
    places: dict[str, _Flat] = {}
    kept: list[_Flat] = []
    for row in rows:
        if row.query != first.query:
            raise row.wrong(f"query id {row.qid!r} had another query at {first.place}: {first.query[:60]!r}")
        if (row.docid is None) != (first.docid is None):
            raise row.wrong('either all rows of a query have a "doc_id", or none')
        if row.docid is None or (before := places.setdefault(row.docid, row)) is row:
            kept.append(row)
        else:
            said = f"{row.place}: document id {row.docid!r} was given for this query before, at {before.place}"
            require_same((before.text, before.label), (row.text, row.label), said)
    labels = [row.label for row in kept]
    return Group(first.query, [row.text for row in kept], labels, qid=first.qid, doc_ids=list(places) or None)


def _note_documents(group: Group, notes: Warnings) -> None:
    if empty := sum(not doc.strip() for doc in group.docs):
        notes.add("documents_empty", f"of query {group.qid or group.query[:60]!r}", empty)
    if group.labels is not None:
        grades: dict[str, float] = {}
        for doc, label in zip(group.docs, group.labels, strict=True):
            if grades.setdefault(doc, label) != label:
                notes.add("labels_contrary", f"{doc[:60]!r} of query {group.qid or group.query[:60]!r}")
