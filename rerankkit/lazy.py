"""Heavy packages, imported at their first use.

`rerankkit check`, `list` and `--help` read the signature of every component; importing torch for that would make
them take seconds. A component file writes `from rerankkit.lazy import torch` and uses it as ever; with
`from __future__ import annotations` its type hints cost nothing either.
"""

import importlib
from typing import TYPE_CHECKING, Any


class _LazyModule:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"<lazy module {self._name}>"


if TYPE_CHECKING:
    import numpy as numpy
    import torch as torch
    import transformers as transformers
else:
    numpy = _LazyModule("numpy")
    torch = _LazyModule("torch")
    transformers = _LazyModule("transformers")
