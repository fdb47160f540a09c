"""Published checkpoints as recipes: what the files of other projects say, in the words of a shipped recipe.

*ForSequenceClassification     one logit                                                      recipe cross_encoder
PyLate                         config_sentence_transformers.json, modules.json, 1_Dense/      recipe colbert
sentence-transformers 6        the same files, model_type MultiVectorEncoder                  recipe colbert
Stanford's ColBERT             architectures ["HF_ColBERT"], artifact.metadata                recipe colbert
open-retrievals, BGE-M3        colbert_linear.pt beside an encoder                            recipe colbert
"""

from __future__ import annotations

import logging
import string
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rerankkit import pretrained
from rerankkit.checkpoint_files import Finder, read_json
from rerankkit.errors import InputError
from rerankkit.frames import vocabulary_id
from rerankkit.projection import LINEAR, find_projection
from rerankkit.recipe import Recipe, load_recipe

logger = logging.getLogger("rerankkit")
Settings = dict[str, Any]
LONGEST_PAIR = 512
"""Tokens of a pair where a checkpoint reads more; `model.collator.max_length` sets another number."""
COLBERT = "model.collator"


def published_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a checkpoint that another project wrote, from its files.

    Args:
        name: A folder, `embedded:NAME` or a hub id.
        overrides: Win over what the files say, such as `{"model.head.similarity": "sum"}`.
    """
    overrides = dict(overrides or {})
    revision = overrides.get("model.backbone.revision")
    config, file = pretrained.load_config(name, revision), partial(pretrained.file_beside, name, revision)
    kinds = config.architectures or []
    if "HF_ColBERT" in kinds:
        recipe, found = "colbert", _stanford(name, file, config)
    elif file("modules.json") is not None and file("config_sentence_transformers.json") is not None:
        recipe, found = _sentence_transformers(name, file, config)
    elif file(LINEAR) is not None:
        recipe, found = "colbert", _open_retrievals(config)
    else:
        recipe, found = _transformers(name, kinds, config)
    if recipe == "colbert":
        found |= _projection(file)
    return load_recipe(recipe, {"model.backbone.name": name, **found, **overrides})


def _transformers(name: str, kinds: Sequence[str], config: Any) -> tuple[str, Settings]:
    if any(kind.endswith("ForSequenceClassification") for kind in kinds):
        limit = pretrained.positions(config) or LONGEST_PAIR
        return "cross_encoder", {"model.collator.max_length": min(limit, LONGEST_PAIR)}
    if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        raise InputError(
            f"{name} is a language model, and nothing in it says what to ask it; name it in a recipe such as "
            f'llm_pointwise: Reranker.from_recipe("llm_pointwise", {{"model.backbone.name": "{name}"}})'
        )
    raise InputError(
        f"{name} is no reranker: it has neither a classifier nor a projection for late interaction. Train a new head "
        f"on it: rerankkit train cross_encoder_new_head --model.backbone.name {name}, or colbert in its place"
    )


def _sentence_transformers(name: str, file: Finder, config: Any) -> tuple[str, Settings]:
    """What PyLate or sentence-transformers saved."""
    said = read_json(file, "config_sentence_transformers.json") or {}
    types = [str(module.get("type", "")).rpartition(".")[2] for module in _modules(file)]
    kind = said.get("model_type")
    if kind == "ColBERT":
        return "colbert", _pylate(name, said)
    if kind == "MultiVectorEncoder":
        return "colbert", _multi_vector(name, file, said, types)
    if types in ([], ["Transformer"]):  # what a cross-encoder of transformers alone has
        return _transformers(name, config.architectures or [], config)
    if file(LINEAR) is not None:
        return "colbert", _open_retrievals(config)
    raise InputError(
        f"{name} is a sentence-transformers model of {', '.join(types)} ({kind or 'no model_type'}), which rerankkit "
        "cannot read; it reads sequence classifiers with one logit, and late interaction"
    )


def _pylate(name: str, said: Settings) -> Settings:
    if said.get("similarity_fn_name") not in (None, "MaxSim"):
        raise InputError(f"{name} compares by {said['similarity_fn_name']}, and maxsim.v1 by MaxSim alone")
    return {
        f"{COLBERT}.query_marker": said.get("query_prefix") or "",
        f"{COLBERT}.document_marker": said.get("document_prefix") or "",
        f"{COLBERT}.query_max_length": said.get("query_length") or 32,
        f"{COLBERT}.document_max_length": said.get("document_length") or 180,
        f"{COLBERT}.query_expansion": said.get("do_query_expansion", True),
        f"{COLBERT}.attend_to_expansion": said.get("attend_to_expansion_tokens", False),
        f"{COLBERT}.skiplist": _skiplist(name, said.get("skiplist_words")),
        f"{COLBERT}.compare_first": True,
    }


def _multi_vector(name: str, file: Finder, said: Settings, types: Sequence[str]) -> Settings:
    if set(types) - {"Transformer", "Dense", "MultiVectorMask", "Normalize"} or "Normalize" not in types:
        raise InputError(f"{name} is made of {', '.join(types)}; rerankkit reads Transformer, Dense, mask, Normalize")
    if said.get("similarity_fn_name") not in (None, "MaxSim", "colbert", "maxsim"):
        raise InputError(f"{name} compares by {said['similarity_fn_name']}, and maxsim.v1 by MaxSim alone")
    lengths = read_json(file, "sentence_bert_config.json") or {}
    expansion = lengths.get("query_expansion") or {}
    if expansion and (expansion.get("strategy") != "fixed" or expansion.get("token") is not None):
        raise InputError(
            f"{name} expands its queries by {expansion}, and late_interaction.v1 by mask tokens up to a fixed length"
        )
    masks = [
        read_json(file, f"{module['path']}/config.json") or {}
        for module in _modules(file)
        if str(module["type"]).endswith("MultiVectorMask")
    ]
    mask = masks[0] if masks else {}
    if mask.get("keep_only_token_ids") or mask.get("skiplist_tasks") not in (None, ["document"]):
        raise InputError(f"{name} masks tokens in a way that late_interaction.v1 does not know: {mask}")
    prompts = said.get("prompts") or {}
    return {
        f"{COLBERT}.query_marker": prompts.get("query") or "",
        f"{COLBERT}.document_marker": prompts.get("document") or "",
        f"{COLBERT}.query_max_length": expansion.get("length") or lengths.get("query_length") or 32,
        f"{COLBERT}.document_max_length": lengths.get("document_length") or 180,
        f"{COLBERT}.query_expansion": bool(expansion),
        f"{COLBERT}.attend_to_expansion": bool(expansion.get("attend")),
        f"{COLBERT}.skiplist": _skiplist(name, mask.get("skiplist_words") or []),
        f"{COLBERT}.compare_first": True,
    }


def _stanford(name: str, file: Finder, config: Any) -> Settings:
    said = read_json(file, "artifact.metadata") or {}
    if said.get("similarity", "cosine") != "cosine":
        raise InputError(f"{name} compares by {said['similarity']}, and maxsim.v1 by cosines alone")
    skiplist = None
    if said.get("mask_punctuation", True):
        tokenizer = pretrained.load_tokenizer(name, None, config)
        first = {sign: tokenizer(sign, add_special_tokens=False)["input_ids"][0] for sign in string.punctuation}
        entries = [str(tokenizer.convert_ids_to_tokens(number)) for number in first.values()]
        skiplist = "punctuation" if entries == list(first) else entries
    return {
        f"{COLBERT}.query_marker": said.get("query_token_id", "[unused0]"),
        f"{COLBERT}.document_marker": said.get("doc_token_id", "[unused1]"),
        f"{COLBERT}.query_max_length": said.get("query_maxlen", 32),
        f"{COLBERT}.document_max_length": said.get("doc_maxlen", 220),
        f"{COLBERT}.query_expansion": True,
        f"{COLBERT}.attend_to_expansion": said.get("attend_to_mask_tokens", False),
        f"{COLBERT}.skiplist": skiplist,
        f"{COLBERT}.compare_first": True,
    }


def _open_retrievals(config: Any) -> Settings:
    limit = min(pretrained.positions(config) or 256, 256)
    return {
        f"{COLBERT}.query_marker": "",
        f"{COLBERT}.document_marker": "",
        f"{COLBERT}.query_max_length": limit,
        f"{COLBERT}.document_max_length": limit,
        f"{COLBERT}.query_expansion": False,
        f"{COLBERT}.skiplist": None,
        f"{COLBERT}.compare_first": False,
        "model.head.similarity": "mean",
    }


def _projection(file: Finder) -> Settings:
    found = find_projection(file)
    if found is None:
        return {"model.head.dim": None}
    return {"model.head.dim": len(found.weight), "model.head.bias": found.bias is not None}


def _skiplist(name: str, words: Sequence[str] | None) -> str | list[str] | None:
    """The words that are entries of the vocabulary; PyLate takes the others for its unknown token."""
    words = list(string.punctuation if words is None else words)
    if not words or words == list(string.punctuation):
        return "punctuation" if words else None
    tokenizer = pretrained.load_tokenizer(name, None, pretrained.load_config(name, None))
    known = [word for word in words if vocabulary_id(word, tokenizer) is not None]
    if left_out := [word for word in words if word not in known]:
        logger.warning("%s: %d words of its skiplist are no tokens, such as %r", name, len(left_out), left_out[0])
    return known


def _modules(file: Finder) -> list[dict[str, Any]]:
    return (read_json(file, "modules.json") or {}).get("", [])
