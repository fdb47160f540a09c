"""What rerankkit says of every kind of reranker, so that a change of the code that should change no score is seen.

    PYTHONPATH=.:kernels:tests OMP_NUM_THREADS=1 python tests/golden/make_kinds.py tests/golden/kinds.json

Written twice on one machine the files are equal to the last byte; on another machine scores differ by rounding.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import test_llm_recipes
import tiny
import tiny_bert
import tiny_training
import torch
import transformers
from test_encoder_training import recipe as encoder_recipe

from rerankkit import Reranker, load_recipe, registry, train

GROUPS = [tiny.group(1, 7, 12), tiny.group(3, 1), tiny.group(4, 12, 10)]
LOSSES = [name for name in registry.losses.names() if name != "negative_log_likelihood.v1"]
TRAINED = ["classifier", "linear", "colbert", "yes_no"]
ONCE = {"max_steps": 3, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def ranked(reranker: Reranker) -> list[list[list[float]]]:
    """[group, place in the order, (position, score)]"""
    return [[[one.index, one.score] for one in order] for order in reranker.rank_groups(GROUPS)]


def recipe_kind(name: str) -> list[list[list[float]]]:
    """The rankings of a shipped recipe on tiny models."""
    return ranked(test_llm_recipes.built(name))


def encoder_kind(kind: str, folder: Path) -> list[list[list[float]]]:
    """The rankings of a tiny encoder reranker, whose new head is drawn from a seed."""
    torch.manual_seed(13)
    path = folder / "recipe.cfg"
    path.write_text(tiny_bert.model_sections(kind))
    reranker = Reranker.from_recipe(path)
    reranker.untrained = False
    return ranked(reranker)


def trained_kind(kind: str, folder: Path) -> list[list[list[float]]]:
    """The rankings after three steps of training."""
    torch.manual_seed(13)
    if kind == "yes_no":
        path = tiny_training.recipe(folder / "recipe", ONCE, dev=0)
    else:
        path = encoder_recipe(folder / "recipe", kind, ONCE)
    return ranked(train(load_recipe(path), folder / "model"))


def loss_value(name: str) -> list[float]:
    """A loss with its defaults, of three groups of five documents, and the sum of its gradient's squares."""
    draw = torch.Generator().manual_seed(17)
    scores = torch.randn(3, 5, generator=draw).requires_grad_()
    labels = torch.randint(0, 3, (3, 5), generator=draw).float()
    labels[:, 0], labels[:, 1] = 2.0, 0.0
    mask = torch.tensor([5, 3, 4]).unsqueeze(1) > torch.arange(5)
    torch.manual_seed(19)
    loss = registry.losses.get(name)()(scores, labels, mask)
    loss.backward()
    assert scores.grad is not None
    return [loss.item(), scores.grad.square().sum().item()]


def record() -> dict[str, Any]:
    """Everything."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:

        def place(name: str) -> Path:
            folder = Path(home) / name
            folder.mkdir()
            return folder

        return {
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "recipes": {name: recipe_kind(name) for name in test_llm_recipes.CAUSAL + test_llm_recipes.T5},
            "encoders": {kind: encoder_kind(kind, place(kind)) for kind in tiny_bert.KINDS},
            "trained": {kind: trained_kind(kind, place(f"trained {kind}")) for kind in TRAINED},
            "losses": {name: loss_value(name) for name in LOSSES},
        }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(record(), indent=None, separators=(",", ":")) + "\n", "utf-8")
