"""What the Python API is given: a list and not what only looks like one, texts and not what is none.

A table's iteration gives the names of its columns and a mapping's its keys; either would be ranked as if it were text.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from collections.abc import KeysView as Keys
from os import PathLike
from typing import Any, NamedTuple

from rerankkit.errors import InputError
from rerankkit.warnings import warn

_TABLES = frozenset({"DataFrame", "LazyFrame", "Table", "RecordBatch"})  # of pandas, polars, pyarrow, dask, spark …
_HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs, which no encoding of Unicode has alone


class Wanted(NamedTuple):
    """What an argument takes, for messages.

    Args:
        said: Which list, such as "rank takes a list of documents".
        text: What to do with one text.
        mapping: With a mapping.
        table: With a table.
    """

    said: str
    text: str
    mapping: str
    table: str


DOCUMENTS = Wanted(
    "rank takes a list of documents",
    "put the one text into a list",
    "give list(docs.values()); `index` of a result then says which of list(docs) it is",
    'give the column of its texts, such as docs["text"].tolist()',
)
GROUPS = Wanted(
    "rank_groups takes a list of Group",
    "give [Group(query, docs)], or use rank",
    "give list(groups.values())",
    "make a Group(query, docs) of each of its queries",
)
PAIRS = Wanted(
    "compute_score takes pairs of texts, [[query, document]]",
    "it was given one text",
    "give list(pairs.items()) where its keys are queries and its values documents",
    'give two of its columns, such as pairs[["query", "document"]].values.tolist()',
)
TEXTS = Wanted(
    "encode takes a list of texts",
    "put the one text into a list",
    "give list(texts.values())",
    'give the column of its texts, such as texts["text"].tolist()',
)


def listed(values: Iterable[Any], wanted: Wanted) -> list[Any]:
    """The values as a list in the order that they come in: a column of a table by place, whatever its index.

    Raises:
        InputError: They are one text, a mapping, a table, a set, or nothing that can be gone through.
    """
    if isinstance(values, list):
        return values
    if isinstance(values, str | bytes | bytearray | memoryview):
        raise InputError(f"{wanted.said}; {wanted.text}")
    if isinstance(values, Mapping):
        raise InputError(f"{wanted.said}, and was given a mapping, whose keys would be taken; {wanted.mapping}")
    if _TABLES & {kind.__name__ for kind in type(values).__mro__}:
        raise InputError(f"{wanted.said}, and was given a table, whose columns' names would be taken; {wanted.table}")
    if isinstance(values, Set) and not isinstance(values, Keys):
        raise InputError(f"{wanted.said}, and was given a set, which has no order; give a list, such as sorted(…)")
    try:
        return list(values)
    except TypeError as error:
        raise InputError(f"{wanted.said}; got {values!r:.120}") from error


def kept_list(values: Any, name: str, owner: str) -> list[Any]:
    """What a group keeps of each document, as a list by place; the group is gone through again and again.

    Args:
        name: The group's argument.
        owner: Which group it is, for messages.
    """
    said = f"{owner}: {name} must be a list"
    if isinstance(values, Iterator):
        raise InputError(f"{said}, which can be gone through again; give list({name})")
    return listed(values, Wanted(said, "put the one text into a list", "give list(….values())", "give one column"))


def of_each_document(values: Any, name: str, owner: str, documents: int) -> list[Any]:
    """What a group knows of each document: ids as texts, all else as finite numbers.

    Args:
        name: The group's argument.
        owner: Which group it is, for messages.
        documents: How many there have to be.
    """
    kept = kept_list(values, name, owner)
    if len(kept) != documents:
        raise InputError(f"{owner}: {documents} docs but {len(kept)} {name}; give one for each document")
    of = text_of if name == "doc_ids" else _number_of
    return [of(value, f"{owner}: {name}[{position}]") for position, value in enumerate(kept)]


def _number_of(value: Any, what: str) -> float:
    try:
        number = value if isinstance(value, int | float) else float(value)
        usable = math.isfinite(number) and not isinstance(value, str | bytes)
    except (TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        raise InputError(f"{what} = {value!r:.120} must be a finite number")
    return number


def text_of(value: Any, what: str) -> str:
    """A text as a plain `str`: subclasses, such as of enumerations and of markup, may be formatted in another way."""
    if type(value) is str:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    hints: dict[Any, str] = {
        Mapping: '; give its text, such as doc["text"]',
        (bytes, bytearray, memoryview): "; decode it, such as by .decode()",
        (type(None), float): "; leave it out, or give the text that is missing",
    }
    hint = next((hint for kinds, hint in hints.items() if isinstance(value, kinds)), "")
    raise InputError(f"{what} must be a text; got {value!r:.120}{hint}")


def query_of(value: Any, what: str) -> str:
    """A query as a plain `str`, which must have a character that is no space."""
    query = text_of(value, what)
    if not query.strip():
        raise InputError(f"{what} is empty; give it some text")
    if _HALVES.search(query):
        raise InputError(f"{what} has half a surrogate pair, which no tokenizer reads: {query[:60]!r}")
    return query


def document_of(value: Any, what: str) -> str:
    """A document as a plain `str`; half a surrogate pair becomes U+FFFD, of which is warned."""
    document = text_of(value, what)
    if document.isascii() or not _HALVES.search(document):
        return document
    warn("documents_undecoded", f"{what} ({ascii(document[:60])})")
    return _HALVES.sub("\N{REPLACEMENT CHARACTER}", document)


def documents_of(values: Sequence[Any], group: str) -> list[str]:
    """The documents of a group as plain texts."""
    return [document_of(value, f"document {position} of group {group}") for position, value in enumerate(values)]


def name_of(value: Any, what: str) -> Any:
    """What names a model or a recipe: a text or a path."""
    if not isinstance(value, str | PathLike):
        raise InputError(f"{what} must be a name or a path; got {value!r:.120}")
    return value


def overrides_of(value: Any) -> dict[str, Any]:
    """Overrides of a recipe's values by their dotted names; None is none."""
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f'overrides must be a dict such as {{"model.backbone.dtype": "bf16"}}; got {value!r:.120}')
    return dict(value or {})


def top_of(top_k: int | None) -> int | None:
    """How many of the best documents are asked for: None, or a whole number of at least 1, and no float or bool."""
    if top_k is None:
        return None
    try:
        count = operator.index(top_k)
    except TypeError:
        count = None
    if count is None or isinstance(top_k, bool):
        raise InputError(f"top_k = {top_k!r:.120} must be a whole number, such as 10, or None for all")
    if count < 1:
        raise InputError(f"top_k = {count} must be at least 1")
    return count
