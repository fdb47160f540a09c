"""Modules in evaluation mode for as long as they rank."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_ranking: dict[int, tuple[int, list[Any]]] = {}
"""By a module's id: how many calls rank with it now, and which of the modules in it were in training mode before."""


@contextlib.contextmanager
def evaluation_mode(*modules: Any) -> Iterator[None]:
    """Let no dropout change a score, and leave every module as it was. Calls in several threads end it together.

    Args:
        modules: Modules of torch; None for a part without weights.
    """
    given = [module for module in modules if module is not None]
    for module in given:
        _enter(module)
    try:
        yield
    finally:
        for module in given:
            _leave(module)


def _enter(module: Any) -> None:
    with _lock:
        calls, training = _ranking.get(id(module), (0, []))
        if not calls:
            training = [part for part in module.modules() if part.training]
            for part in training:
                part.training = False  # not eval(), which some modules answer with work of their own
        _ranking[id(module)] = calls + 1, training


def _leave(module: Any) -> None:
    with _lock:
        calls, training = _ranking.pop(id(module))
        if calls > 1:
            _ranking[id(module)] = calls - 1, training
            return
        for part in training:
            part.training = True
