"""The forms that a row of training or evaluation data can have, and how rows become groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from rerankkit.jsonl_lines import Line, kind, nearest, quoted
from rerankkit.protocols import Group

QIDS = ("qid", "query_id")
DOCUMENT = ("document", "text")


@dataclass(frozen=True, slots=True)
class Keys:
    """What a file calls its query and its relevant and other documents."""

    query: str = "query"
    positive: str = "positive"
    negative: str = "negative"


def groups_of(lines: Iterator[Line], keys: Keys, notes: Counter[str]) -> Iterator[Group]:
    """Makes groups of rows, whose form the first one decides; counts in `notes` what is odd but legal."""
    first = next(lines)
    forms = [(keys.query, keys.positive), (keys.query, "docs"), (keys.query, "label")]
    form = next((form for form in forms if first.has(form[1])), None)
    if form is None:
        raise first.wrong(
            f"unknown form: expected the keys {' or '.join(quoted(form) for form in forms)}, "
            f"found {quoted(first.data)}{nearest([key for form in forms for key in form], first.data)}"
        )
    lines = chain([first], lines)
    if form == forms[0]:
        groups = _by_row(lines, lambda line: _contrastive(line, keys, notes))
    elif form == forms[1]:
        groups = _by_row(lines, lambda line: _listed(line, keys, notes))
    else:
        groups = _by_query(lines, keys.query, notes)
    for group in groups:
        _note_documents(group, notes)
        yield group


def _contrastive(line: Line, keys: Keys, notes: Counter[str]) -> Group:
    _check_keys(line, (keys.query, keys.positive), (keys.negative, *QIDS, "doc_ids", "teacher_scores"), notes)
    positives = _documents(line, keys.positive)
    negatives = _documents(line, keys.negative) if line.has(keys.negative) else []
    if not positives:
        raise line.wrong(f'"{keys.positive}" is an empty list; a row needs a relevant document')
    if not negatives:
        notes["rows have no negative; they are kept"] += 1
    return _group(line, keys, positives + negatives, [1.0] * len(positives) + [0.0] * len(negatives))


def _listed(line: Line, keys: Keys, notes: Counter[str]) -> Group:
    _check_keys(line, (keys.query, "docs"), ("labels", "teacher_scores", *QIDS, "doc_ids"), notes)
    if not isinstance(line.data["docs"], list) or not line.data["docs"]:
        raise line.wrong(f'"docs" must be a list with at least one document, but it is {_named(line, "docs")}')
    docs = _documents(line, "docs")
    return _group(line, keys, docs, line.numbers("labels", len(docs)) if line.has("labels") else None)


def _check_keys(line: Line, required: Sequence[str], optional: Sequence[str], notes: Counter[str]) -> None:
    known = [*required, *optional]
    missing = [key for key in required if not line.has(key)]
    strange = [key for key in line.data if key not in known]
    absent = [key for key in known if not line.has(key)]
    if missing:
        hint = nearest(absent, strange)
        raise line.wrong(f"no {quoted(missing)}: expected {quoted(required)}, found {quoted(line.data)}{hint}")
    # a strict likeness: a row may well carry keys of its own, but a misspelt one must not be lost silently
    if hint := nearest(absent, strange, cutoff=0.85):
        raise line.wrong(f"unknown key{hint} Known keys: {quoted(known)}")
    for key in strange:
        notes[f'rows have a key "{key}", which is not used'] += 1


def _documents(line: Line, key: str) -> list[str]:
    value = line.data[key]
    return [line.document(item, key) for item in (value if isinstance(value, list) else [value])]


def _group(line: Line, keys: Keys, docs: list[str], labels: list[float] | None) -> Group:
    return Group(
        query=line.filled_text(keys.query),
        docs=docs,
        labels=labels,
        teacher_scores=line.numbers("teacher_scores", len(docs)) if line.has("teacher_scores") else None,
        qid=_qid(line),
        doc_ids=_doc_ids(line, len(docs)),
    )


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
    if twice := [docid for docid, times in Counter(ids).items() if times > 1]:
        raise line.wrong(f"document id {twice[0]!r} stands twice in one row")
    return ids


def _named(line: Line, key: str) -> str:
    value = line.data[key]
    return "an empty list" if value == [] else kind(value)


def _by_row(lines: Iterable[Line], read: Callable[[Line], Group]) -> Iterator[Group]:
    places: dict[str, str] = {}
    for line in lines:
        group = read(line)
        if group.qid in places:
            raise line.wrong(f"query id {group.qid!r} was given before, at {places[group.qid]}")
        if group.qid:
            places[group.qid] = line.place
        yield group


def _by_query(lines: Iterable[Line], query_key: str, notes: Counter[str]) -> Iterator[Group]:
    """Gathers flat rows by query id, or by the query's text where there is no id."""
    groups: dict[tuple[str, str], Group] = {}
    places: dict[tuple[str, str], str] = {}
    ids: dict[tuple[str, str], dict[str, str]] = {}
    labels: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        _check_keys(line, (query_key, "label"), (*QIDS, *DOCUMENT, "doc_id", "title"), notes)
        query, qid = line.filled_text(query_key), _qid(line)
        key = (qid, "" if qid else query)
        group = groups.setdefault(key, Group(query, [], qid=qid))
        if group.query != query:
            raise line.wrong(f"query id {qid!r} had another query at {places[key]}: {group.query[:60]!r}")
        places.setdefault(key, line.place)
        if line.has("doc_id"):
            docid, known = line.filled_text("doc_id"), ids.setdefault(key, {})
            if docid in known:
                raise line.wrong(f"document id {docid!r} was given for this query before, at {known[docid]}")
            known[docid] = line.place
        text = line.first_key(DOCUMENT, "document")
        group.docs.append(line.document(line.data[text], text) if not line.has("title") else line.titled_text(text))
        labels[key].append(line.number_of(line.data["label"], "label"))
        if len(ids.get(key, {})) not in (0, len(group.docs)):
            raise line.wrong('either all rows of a query have a "doc_id", or none')
    for key, group in groups.items():
        group.labels, group.doc_ids = labels[key], list(ids[key]) if key in ids else None
        yield group


def _note_documents(group: Group, notes: Counter[str]) -> None:
    if empty := sum(not doc.strip() for doc in group.docs):
        notes["documents are empty; they are kept"] += empty
    if group.labels is not None:
        grades: dict[str, float] = {}
        for doc, label in zip(group.docs, group.labels, strict=True):
            if grades.setdefault(doc, label) != label:
                notes["documents are given to one query with two different labels; they are kept"] += 1
