"""A reranker as a folder: recipe, weights, and where every part came from. Nothing in it is ever unpickled.

recipe.cfg         what it was built and trained with, every default written out
origin.json        package and version of each part, sha256 of every other file
backbone/          a `save_pretrained` folder with its tokenizer, which transformers loads by itself
adapter/           instead of backbone/ where LoRA is kept apart
head.safetensors   where the head has weights
code/              the files of `--code`, where parts came from such files
README.md          a model card
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch

from rerankkit import __version__
from rerankkit.errors import InputError, RunError
from rerankkit.files import explaining, new_folder
from rerankkit.folder_cache import sha256_of
from rerankkit.problems import RecipeError
from rerankkit.recipe import Recipe, fill, load_recipe
from rerankkit.registry import load_code, registry
from rerankkit.warnings import warn

if TYPE_CHECKING:
    from rerankkit.reranker import Reranker

ORIGIN = "origin.json"


def save(reranker: Reranker, folder: Path, notes: str = "") -> None:
    """Write the folder: it is there whole or not at all."""
    if reranker.recipe is None:
        raise InputError("this reranker was not built from a recipe, so it cannot be saved; use Reranker.from_recipe")
    with explaining(folder), new_folder(folder) as unfinished:
        _write(reranker, reranker.recipe, unfinished, notes)


def is_saved(folder: Path) -> bool:
    """Whether a folder is, or was meant to be, a reranker that rerankkit saved."""
    return any((folder / name).exists() for name in (ORIGIN, "recipe.cfg"))


def load(cls: type[Reranker], folder: Path, overrides: dict[str, Any], trust_code: bool) -> Reranker:
    """Build a saved reranker's parts and put its weights in."""
    origin = _read_origin(folder)
    _verify(folder, origin["files"])
    for name in origin["code"]:
        if not trust_code:
            raise InputError(
                f"{folder} ships its own Python code, {', '.join(origin['code'])}. Read it, then load the model with "
                "trust_code=True (--trust-code)"
            )
        load_code(folder / name)
    recipe = _recipe(folder, origin, overrides)
    reranker = cls.from_recipe(recipe)
    head = reranker.parts.head.module
    if head is not None:
        _load_head(head, folder / "head.safetensors")
    reranker.untrained = origin.get("untrained", False)
    if head is not None:
        reranker.to(next(reranker.parts.backbone.module.parameters()).device)
    return reranker


def _write(reranker: Reranker, recipe: Recipe, folder: Path, notes: str) -> None:
    (folder / "recipe.cfg").write_text(fill(recipe), encoding="utf-8")
    reranker.parts.backbone.save(folder)
    if reranker.parts.head.module is not None:
        safetensors.torch.save_model(reranker.parts.head.module, str(folder / "head.safetensors"))
    parts, code = {}, []
    for namespace, name in recipe.parts():
        came_from = registry.origin(namespace, name)
        parts[f"{namespace}:{name}"] = came_from.requirement or f"{came_from.kind} {Path(came_from.file).name}"
        if came_from.kind == "code":
            code.append(f"code/{Path(came_from.file).name}")
            if sha256_of(Path(came_from.file)) != came_from.sha256:
                warn("code_changed", came_from.file)
            (folder / "code").mkdir(exist_ok=True)
            shutil.copyfile(came_from.file, folder / code[-1])
    (folder / "README.md").write_text(_card(recipe, parts, notes), encoding="utf-8")
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    origin = {
        "rerankkit": __version__,
        "untrained": reranker.untrained,
        "parts": parts,
        "code": sorted(set(code)),
        "files": files,
    }
    (folder / ORIGIN).write_text(json.dumps(origin, indent=1), encoding="utf-8")


def _recipe(folder: Path, origin: dict[str, Any], overrides: dict[str, Any]) -> Recipe:
    """The saved recipe, pointed at the saved weights."""
    weights: dict[str, Any] = {}
    if (folder / "backbone").is_dir():
        weights = {"model.backbone.name": str(folder / "backbone"), "model.backbone.lora": None}
    elif (folder / "adapter").is_dir():
        weights = {"model.backbone.lora.start": str(folder / "adapter")}
    try:
        return load_recipe(folder / "recipe.cfg", {**weights, **overrides}, purpose="load")
    except RecipeError as error:
        lost = {
            source
            for part, source in origin["parts"].items()
            if part.partition(":")[2] not in registry.namespace(part.partition(":")[0])
        }
        if packages := sorted(source for source in lost if "==" in source):
            raise InputError(f"{error}\nthis model needs: pip install {' '.join(packages)}") from error
        if programs := sorted(source.removeprefix("program ") for source in lost if source.startswith("program ")):
            raise InputError(f"{error}\nthis model needs parts of {', '.join(programs)}; import it first") from error
        raise


def _read_origin(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give a model that rerankkit saved, or a recipe to Reranker.from_recipe")
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{folder} is not a model that rerankkit saved: it has no {ORIGIN}") from None
    except ValueError as error:
        raise RunError(f"{folder / ORIGIN} is damaged: {error}") from error
    kinds = {"files": dict, "parts": dict, "code": list}
    if not isinstance(origin, dict) or not all(isinstance(origin.get(key), kind) for key, kind in kinds.items()):
        raise RunError(f"{folder / ORIGIN} is damaged: it should have {', '.join(kinds)}")
    return origin


def _verify(folder: Path, files: dict[str, str]) -> None:
    """A flipped bit in a weight file would load without a word and rank wrongly."""
    for name, digest in files.items():
        path = folder / name
        if name == "README.md":  # a model card is there to be edited
            continue
        if not path.is_file():
            raise RunError(f"{folder} is incomplete: {name} is missing; copy the model again")
        if sha256_of(path) != digest:
            raise RunError(f"{path} is not what was saved (its sha256 differs); copy the model again")


def _load_head(head: Any, path: Path) -> None:
    if not path.is_file():
        raise RunError(f"{path} is missing; without it the head would score at random")
    try:
        safetensors.torch.load_model(head, str(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} does not fit this head: {error}") from error


def _card(recipe: Recipe, parts: dict[str, str], notes: str) -> str:
    rows = "\n".join(f"| {part} | {origin} |" for part, origin in parts.items())
    return f"""---
library_name: rerankkit
pipeline_tag: text-ranking
---

# A reranker made with rerankkit {__version__}

```python
from rerankkit import Reranker

reranker = Reranker.from_pretrained("this folder")
reranker.rank("a query", ["a document", "another one"])
```

{notes}

| part | from |
|---|---|
{rows}

`recipe.cfg` is the recipe it was built from; `rerankkit train recipe.cfg` trains it anew.
"""
