"""What is found out about a tokenizer once: kept as long as the tokenizer lives, and as long as it stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

MOST = 64
"""How many answers to one question are kept of a tokenizer."""
P = ParamSpec("P")
T = TypeVar("T")


def cached(function: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Keep what a function of a tokenizer and of hashable arguments returned. It is asked again once the tokenizer has
    another chat template or other tokens."""
    kept: WeakKeyDictionary[Any, dict[Any, T]] = WeakKeyDictionary()

    @wraps(function)
    def asked(tokenizer: Any, *args: P.args, **named: P.kwargs) -> T:
        key = (str(tokenizer.chat_template), len(tokenizer), args, tuple(sorted(named.items())))
        own = kept.setdefault(tokenizer, {})
        if key not in own:
            found = function(tokenizer, *args, **named)
            if len(own) >= MOST:
                own.clear()
            own[key] = found
            return found
        return own[key]

    return asked
