"""Train, evaluate and run rerankers, assembled from recipes out of registered parts.

Importing rerankkit loads neither torch nor transformers; what needs them is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Group": "rerankkit.protocols",
    "Passages": "rerankkit.passages",
    "Ranked": "rerankkit.protocols",
    "Reranker": "rerankkit.reranker",
    "load_code": "rerankkit.registry",
    "load_recipe": "rerankkit.recipe",
    "registry": "rerankkit.registry",
    "train": "rerankkit.training",
}
__all__ = ["Group", "Passages", "Ranked", "Reranker", "load_code", "load_recipe", "registry", "train"]

if TYPE_CHECKING:
    from rerankkit.passages import Passages as Passages
    from rerankkit.protocols import Group as Group
    from rerankkit.protocols import Ranked as Ranked
    from rerankkit.recipe import load_recipe as load_recipe
    from rerankkit.registry import load_code as load_code
    from rerankkit.registry import registry as registry
    from rerankkit.reranker import Reranker as Reranker
    from rerankkit.training import train as train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rerankkit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
