"""Whether the parts of a model are made for one document a prompt or for several, as far as they say.

A head, formatter or strategy says so by `at_once`, "one" or "several", on its class or function. A part that says
nothing may go with anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rerankkit.vocabulary import stored_entries


def foreign_markers(
    collator: Any, given: Mapping[str, Any], checkpoint: str | Collection[str]
) -> Iterator[tuple[str, str]]:
    """Say which arguments of a collator name entries that the checkpoint's vocabulary has not: pairs of (argument,
    message).

    Args:
        collator: The factory, which may have a `check_vocabulary`.
        given: Its arguments in the recipe.
        checkpoint: A folder, in whose tokenizer files is looked, or the vocabulary itself.
    """
    check = inspect.getattr_static(collator, "check_vocabulary", None)
    entries = stored_entries(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if isinstance(check, staticmethod) and entries is not None:
        names = [name for name in inspect.signature(check.__func__).parameters if name in given]
        yield from check.__func__(entries, **{name: given[name] for name in names})


def misfits(named: Mapping[str, tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """Say which parts do not go together: pairs of (part, message).

    Args:
        named: The name and the factory of "formatter", "head" and "strategy", of those that are known.
    """
    says = {part: getattr(factory, "at_once", None) for part, (_, factory) in named.items()}
    names = {part: name for part, (name, _) in named.items()}
    if says.get("strategy") == "several":
        for part, does, other in (
            ("formatter", "shows", "the formatter documents.v1"),
            ("head", "scores", "a head that scores each document of a prompt, such as choice.v1"),
        ):
            if says.get(part) == "one":
                yield (
                    part,
                    f"{names[part]} {does} one document at a time, and {names['strategy']} asks about several at "
                    f"once; use {other}, or the strategy pointwise.v1",
                )
    elif says.get("head") == "several" and says.get("formatter") == "one":
        yield (
            "head",
            f"{names['head']} tells the documents of a prompt apart by their names, and {names['formatter']} gives "
            "them none; use a head that scores one document, such as yes_no.v1, or the formatter documents.v1 with a "
            "strategy that asks about several documents at once, such as setwise_heapsort.v1",
        )
