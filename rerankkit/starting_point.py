"""What a training takes over from the published reranker that it starts from, so that it begins as `rank` reads it."""

from __future__ import annotations

import copy
import logging
from typing import Any

from rerankkit.errors import InputError, RunError
from rerankkit.fitting import foreign_markers
from rerankkit.problems import COMMAND_LINE, shown
from rerankkit.published import Published, published_settings
from rerankkit.recipe import Recipe, read
from rerankkit.registry import registry
from rerankkit.resolving import evaluate, override, recipes_folder
from rerankkit.warnings import warn

logger = logging.getLogger("rerankkit")


def with_checkpoint_settings(recipe: Recipe) -> Recipe:
    """The recipe with the markers, lengths, prompts and the like that its checkpoint's files name, in place of those of
    a shipped recipe and of defaults. What a recipe of the user or the command line sets stays, and is said.

    Raises:
        InputError: The vocabulary has not the markers that are left.
    """
    recipe = _with_settings(recipe)
    block, backbone = recipe.get("model.collator"), recipe.get("model.backbone")
    collator = registry.collators.get(block["@collators"])
    try:
        entries = Published(
            backbone["name"], backbone.get("revision"), bool(backbone.get("native_class"))
        ).tokenizer.get_vocab()
    except (InputError, RunError, KeyError):  # what it is that cannot be loaded is said where it is
        return recipe
    for argument, message in foreign_markers(collator, block, entries):
        raise InputError(f"[model.collator] {argument}: {message}")
    return recipe


def _with_settings(recipe: Recipe) -> Recipe:
    backbone = recipe.get("model.backbone")
    if not isinstance(name := backbone.get("name"), str):
        return recipe
    try:
        checkpoint = Published(name, backbone.get("revision"), bool(backbone.get("native_class")))
    except (InputError, RunError):  # what it is that cannot be loaded is said where it is
        return recipe
    try:
        base, found = published_settings(checkpoint)
    except InputError as error:
        if checkpoint.is_late_interaction:
            warn("checkpoints_unread", f"{name} ({error})")
        return recipe
    theirs, ours = read(base).get("model"), recipe.get("model")  # its own model need not be installed
    if ours["collator"].get("@collators") != theirs["collator"]["@collators"]:
        return recipe  # another kind of reranker, of which the checkpoint is only the body
    taken: dict[str, Any] = {}
    for key, value in found.items():
        _, part, argument = key.split(".")
        if not _same_part(ours[part], theirs[part]) or (part == "head" and ours[part].get("start") == "new"):
            continue
        if argument in ours[part] and ours[part][argument] == value:
            continue
        if _is_given(recipe, part, argument):
            now = f"[model.{part}] {argument} = {ours[part].get(argument)!r}"
            warn("checkpoint_settings_overridden", f"{now}, where {name} is read with {value!r}")
        else:
            taken[key] = value
    if not taken:
        return recipe
    logger.info("as %s is read: %s", name, ", ".join(f"{key.removeprefix('model.')} = {taken[key]!r}" for key in taken))
    sections = copy.deepcopy(recipe.sections)
    override(sections, taken)
    return Recipe(recipe.path, evaluate(sections), sections)


def _same_part(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return all(ours.get(key) == name for key, name in theirs.items() if key.startswith("@"))


def _is_given(recipe: Recipe, part: str, argument: str) -> bool:
    """Whether the command line or a recipe of the user sets a value, rather than a shipped recipe or nobody."""
    entry = recipe.sections.entries.get(("model", part), {}).get(argument)
    if entry is None:
        return False
    return entry.place.file == COMMAND_LINE or entry.place.file not in {
        shown(path) for path in recipes_folder().rglob("*.cfg")
    }
