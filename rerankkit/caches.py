"""What is kept for later calls: no longer than what it is of, and no more than a bound of bytes."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
KEPT = 64
"""Results kept of each tokenizer, of each function."""


def per_tokenizer(function: Callable[..., T]) -> Callable[..., T]:
    """Keep what a function makes of a tokenizer and other arguments, while the tokenizer lives.

    The result must not hold the tokenizer, which would then live for ever. A tokenizer that was given another chat
    template, more tokens, or other tokens and types around texts in the meantime is looked at anew.
    """
    results: weakref.WeakKeyDictionary[Any, dict[Hashable, T]] = weakref.WeakKeyDictionary()
    lock = threading.Lock()

    @functools.wraps(function)
    def remembered(tokenizer: Any, *given: Hashable) -> T:
        around = tokenizer.num_special_tokens_to_add(False), tokenizer.num_special_tokens_to_add(True)
        key = str(tokenizer.chat_template), len(tokenizer), tuple(tokenizer.model_input_names), around, given
        with lock:
            own = results.setdefault(tokenizer, {})
            if key in own:
                own[key] = own.pop(key)  # the latest used stands last
                return own[key]
        made = function(tokenizer, *given)
        with lock:
            own[key] = made
            while len(own) > KEPT:
                del own[next(iter(own))]
        return made

    return remembered


class TextCache:
    """Texts by key, the latest used ones, within a bound of bytes. A text that takes more than an eighth of the bound
    is not kept.

    Args:
        size: The bound, of what keys and texts take together.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._texts: dict[tuple[Any, ...], str] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], make: Callable[[], str]) -> str:
        """The text of a key, made where it is not kept."""
        with self._lock:
            if key in self._texts:
                self._texts[key] = text = self._texts.pop(key)
                return text
        text = make()
        taken = _bytes(key, text)
        if taken <= self.size // 8:
            with self._lock:
                if key not in self._texts:
                    self._texts[key] = text
                    self.used += taken
                while self.used > self.size:
                    oldest = next(iter(self._texts))
                    self.used -= _bytes(oldest, self._texts.pop(oldest))
        return text


def _bytes(key: tuple[Any, ...], text: str) -> int:
    """What an entry keeps in memory; a text that stands in key and value alike is kept once."""
    texts = {id(one): sys.getsizeof(one) for one in (*key, text)}
    return sys.getsizeof(key) + sum(texts.values())
