"""Published checkpoints as recipes: what the files of other projects say, in the words of a shipped recipe.

*ForSequenceClassification     one logit                                                      recipe cross_encoder
PyLate                         config_sentence_transformers.json, modules.json, 1_Dense/      recipe colbert
sentence-transformers 6        the same files, model_type MultiVectorEncoder                  recipe colbert
Stanford's ColBERT             architectures ["HF_ColBERT"], artifact.metadata                recipe colbert
open-retrievals, BGE-M3        colbert_linear.pt beside an encoder                            recipe colbert
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rerankkit import pretrained
from rerankkit.checkpoint_files import read_json
from rerankkit.errors import InputError, RunError
from rerankkit.frames import frames_each, vocabulary_id
from rerankkit.hf.families import unreadable
from rerankkit.lazy import transformers
from rerankkit.projection import LINEAR, find_projection, modules
from rerankkit.recipe import Recipe, load_recipe
from rerankkit.warnings import warn

Settings = dict[str, Any]
OPEN_RETRIEVALS_LENGTH = 256
"""Tokens of a text for open-retrievals, whose files say nothing about it."""
_UNLIMITED = 1_000_000  # a tokenizer without a limit names a number that no text reaches
_SETTINGS, _MODULE = "config_sentence_transformers.json", "sentence_bert_config.json"


class Published:
    """The files of a checkpoint that another project wrote.

    Args:
        name: A folder, `embedded:NAME` or a hub id.
        native_class: Whether transformers' own classes are accepted where the repository has code.
    """

    def __init__(self, name: str, revision: str | None = None, native_class: bool = False) -> None:
        self.name, self.revision, self.native_class = name, revision, native_class
        if reason := unreadable(self.json("config.json")):
            raise InputError(f"{name} {reason}")
        self.config = pretrained.load_config(name, revision, native_class)
        self.kinds: Sequence[str] = self.config.architectures or []

    def file(self, name: str) -> Path | None:
        return pretrained.file_beside(self.name, self.revision, name)

    def json(self, name: str) -> Settings:
        """What a file says; nothing where there is no such file."""
        said = read_json(self.file, name) or {}
        if "" in said:
            raise RunError(f"{self.name}: {name} should hold an object; copy or download the checkpoint again")
        return said

    @property
    def is_late_interaction(self) -> bool:
        """Whether a project saved it as late interaction."""
        model = self.json(_SETTINGS).get("model_type")
        return "HF_ColBERT" in self.kinds or model in ("ColBERT", "MultiVectorEncoder")

    @cached_property
    def tokenizer(self) -> Any:
        return pretrained.load_tokenizer(self.name, self.revision, self.config, self.native_class)

    @cached_property
    def longest(self) -> int:
        """Where sentence-transformers cuts a text that nothing else limits."""
        module = self.json(_MODULE)
        text = (module.get("processing_kwargs") or {}).get("text") or {}
        stored = self.json("tokenizer_config.json").get("model_max_length")
        limits = (pretrained.positions(self.config), stored, module.get("max_seq_length"), text.get("max_length"))
        return min((n for n in limits if isinstance(n, int) and 0 < n < _UNLIMITED), default=512)


def published_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a checkpoint that another project wrote, from its files.

    Args:
        overrides: Win over what the files say, such as `{"model.head.similarity": "sum"}`.
    """
    overrides = dict(overrides or {})
    revision, native_class = (overrides.get(f"model.backbone.{key}") for key in ("revision", "native_class"))
    recipe, found = published_settings(Published(name, revision, bool(native_class)))
    return load_recipe(recipe, {"model.backbone.name": name, **found, **overrides})


def published_settings(checkpoint: Published) -> tuple[str, Settings]:
    """The shipped recipe that reads a checkpoint, and what the checkpoint's files change in it.

    Raises:
        InputError: It is no reranker, or none that can be read.
    """
    if "HF_ColBERT" in checkpoint.kinds:
        recipe, found = "colbert", _stanford(checkpoint)
    elif checkpoint.file("modules.json") is not None and checkpoint.file(_SETTINGS) is not None:
        recipe, found = _sentence_transformers(checkpoint)
    elif checkpoint.file(LINEAR) is not None:
        recipe, found = "colbert", _open_retrievals(checkpoint)
    else:
        recipe, found = "cross_encoder", _transformers(checkpoint)
    if recipe == "colbert":
        found |= _projection(checkpoint)
    return recipe, found


def _transformers(checkpoint: Published) -> Settings:
    name = checkpoint.name
    if any(kind.endswith("ForSequenceClassification") for kind in checkpoint.kinds):
        return {"model.collator.max_length": checkpoint.longest}
    if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in checkpoint.kinds):
        raise InputError(
            f"{name} is a language model, and nothing in it says what to ask it; name it in a recipe such as "
            f'llm_pointwise: Reranker.from_recipe("llm_pointwise", {{"model.backbone.name": "{name}"}})'
        )
    if checkpoint.config.is_encoder_decoder:
        raise InputError(
            f"{name} is a text-to-text model, and nothing in it says what to ask it; name it in a recipe such as "
            f'monot5: Reranker.from_recipe("monot5", {{"model.backbone.name": "{name}"}})'
        )
    strange = [kind for kind in checkpoint.kinds if kind not in transformers.__all__]
    if strange:
        raise InputError(
            f"{name} is a {strange[0]}, a class that transformers does not have, and what it computes from its "
            f"{checkpoint.config.model_type} is not known; choose another reranker, or train a new head on the "
            f"{checkpoint.config.model_type}: rerankkit train cross_encoder_new_head --model.backbone.name {name}"
        )
    raise InputError(
        f"{name} is no reranker: it has neither a classifier nor a projection for late interaction. Train a new head "
        f"on it: rerankkit train cross_encoder_new_head --model.backbone.name {name}, or colbert in its place"
    )


def _sentence_transformers(checkpoint: Published) -> tuple[str, Settings]:
    """What PyLate or sentence-transformers saved."""
    said = checkpoint.json(_SETTINGS)
    parts = [kind for kind, _ in modules(checkpoint.file)]
    model = said.get("model_type")
    if model in ("ColBERT", "MultiVectorEncoder") or parts == ["Transformer"]:
        _require_same_case(checkpoint)
    if model == "ColBERT":
        return "colbert", _pylate(checkpoint, said)
    if model == "MultiVectorEncoder":
        return "colbert", _multi_vector(checkpoint, said, parts)
    if parts in ([], ["Transformer"]):  # what a cross-encoder of transformers alone has
        found = _transformers(checkpoint) | _instructions(_prompt(said), "")
        if frames_each(checkpoint.tokenizer):  # as sentence-transformers trained it
            found["model.collator.frame_each"] = True
        return "cross_encoder", found
    if checkpoint.file(LINEAR) is not None:
        return "colbert", _open_retrievals(checkpoint)
    hint = ""
    if "LogitScore" in parts:
        hint = "; it is a language model, to be named in a recipe such as llm_pointwise"
    elif "Pooling" in parts:
        hint = f". A new head: rerankkit train cross_encoder_new_head --model.backbone.name {checkpoint.name}"
    raise InputError(
        f"{checkpoint.name} is a sentence-transformers model of {', '.join(parts)} ({model or 'no model_type'}), which "
        f"rerankkit cannot read; it reads sequence classifiers with one logit, and late interaction{hint}"
    )


def _pylate(checkpoint: Published, said: Settings) -> Settings:
    if said.get("similarity_fn_name") not in (None, "MaxSim"):
        raise InputError(f"{checkpoint.name} compares by {said['similarity_fn_name']}, and maxsim.v1 by MaxSim alone")
    query, document = _or(said.get("query_prefix"), "[Q] "), _or(said.get("document_prefix"), "[D] ")
    for marker in (query, document):
        if marker and vocabulary_id(marker, checkpoint.tokenizer) is None:
            raise InputError(
                f"{checkpoint.name} was saved without a vector for its marker {marker!r}, which PyLate would draw at "
                "random; choose a marker of its vocabulary, or none, in a recipe that extends colbert, and train it"
            )
    words = _or(said.get("skiplist_words"), list(string.punctuation))
    return {
        **_collator(query, document, _or(said.get("query_length"), 32), _or(said.get("document_length"), 180)),
        "model.collator.query_expansion": _or(said.get("do_query_expansion"), True),
        "model.collator.attend_to_expansion": _or(said.get("attend_to_expansion_tokens"), False),
        "model.collator.skiplist": _skiplist(checkpoint, words),
        **_instructions(_prompt(said), _prompt(said)),
    }


def _multi_vector(checkpoint: Published, said: Settings, parts: Sequence[str]) -> Settings:
    name = checkpoint.name
    if set(parts) - {"Transformer", "Dense", "MultiVectorMask", "Normalize"} or "Normalize" not in parts:
        raise InputError(f"{name} is made of {', '.join(parts)}; rerankkit reads Transformer, Dense, mask, Normalize")
    similarities = {None: "sum", "maxsim": "sum", "meanmaxsim": "mean"}
    if said.get("similarity_fn_name") not in similarities:
        raise InputError(f"{name} compares by {said['similarity_fn_name']}, and maxsim.v1 by MaxSim alone")
    module = checkpoint.json(_MODULE)
    expansion = module.get("query_expansion") or {}
    filler = next((token for token in (checkpoint.tokenizer.mask_token, checkpoint.tokenizer.eos_token) if token), None)
    if expansion and (expansion.get("strategy") != "fixed" or expansion.get("token") not in (None, filler)):
        raise InputError(
            f"{name} expands its queries by {expansion}, and late_interaction.v1 by mask tokens up to a fixed length"
        )
    masks = [checkpoint.json(f"{folder}/config.json") for kind, folder in modules(checkpoint.file) if "Mask" in kind]
    mask = masks[0] if masks else {}
    if mask.get("keep_only_token_ids") or mask.get("skiplist_tasks") not in (None, ["document"]):
        raise InputError(f"{name} masks tokens in a way that late_interaction.v1 does not know: {mask}")
    if expansion and not masks:
        raise InputError(f"{name} expands its queries and does not compare what it adds; late_interaction.v1 does")
    texts = [(said.get("prompts") or {}).get(key) or "" for key in ("query", "document")]
    query, document = (_split(text, checkpoint.tokenizer) for text in texts)
    query_length = expansion.get("length") or module.get("query_length") or checkpoint.longest
    document_length = module.get("document_length") or checkpoint.longest
    return {
        **_collator(query[0], document[0], query_length, document_length),
        "model.collator.query_expansion": bool(expansion),
        "model.collator.attend_to_expansion": bool(expansion.get("attend")),
        "model.collator.skiplist": _skiplist(checkpoint, mask.get("skiplist_words") or []),
        **_instructions(query[1], document[1]),
        "model.head.similarity": similarities[said.get("similarity_fn_name")],
    }


def _stanford(checkpoint: Published) -> Settings:
    said = checkpoint.json("artifact.metadata")
    if said.get("similarity", "cosine") != "cosine":
        raise InputError(f"{checkpoint.name} compares by {said['similarity']}, and maxsim.v1 by cosines alone")
    query, document = said.get("query_token_id", "[unused0]"), said.get("doc_token_id", "[unused1]")
    skiplist: str | list[str] | None = None
    if said.get("mask_punctuation", True):
        skiplist = stanford_skiplist(checkpoint.tokenizer)
        skiplist = "punctuation" if skiplist == list(string.punctuation) else skiplist
    return {
        **_collator(query, document, said.get("query_maxlen", 32), said.get("doc_maxlen", 220)),
        "model.collator.query_expansion": True,
        "model.collator.attend_to_expansion": said.get("attend_to_mask_tokens", False),
        "model.collator.skiplist": skiplist,
    }


def stanford_skiplist(tokenizer: Any) -> list[str]:
    """What Stanford's ColBERT takes for punctuation: the first token of each sign, which may be another entry of the
    vocabulary than the sign itself, such as `▁,`."""
    first = [tokenizer(sign, add_special_tokens=False)["input_ids"][0] for sign in string.punctuation]
    return list(dict.fromkeys(tokenizer.convert_ids_to_tokens(first)))


def _open_retrievals(checkpoint: Published) -> Settings:
    limit = min(pretrained.positions(checkpoint.config) or OPEN_RETRIEVALS_LENGTH, OPEN_RETRIEVALS_LENGTH)
    return {
        **_collator("", "", limit, limit),
        "model.collator.query_expansion": False,
        "model.collator.skiplist": None,
        "model.collator.compare_first": False,
        "model.head.similarity": "mean",
    }


def _collator(query_marker: str, document_marker: str, query_length: int, document_length: int) -> Settings:
    return {
        "model.collator.query_marker": query_marker,
        "model.collator.document_marker": document_marker,
        "model.collator.query_max_length": query_length,
        "model.collator.document_max_length": document_length,
        "model.collator.compare_first": True,
    }


def _instructions(query: str, document: str) -> Settings:
    """Text in front of queries and documents, as the formatter writes it."""
    literal = [text.replace("{", "{{").replace("}", "}}") for text in (query, document)]
    return {"model.formatter.query": f"{literal[0]}{{query}}", "model.formatter.document": f"{literal[1]}{{document}}"}


def _projection(checkpoint: Published) -> Settings:
    found = find_projection(checkpoint.file)
    if found is not None:
        return {"model.head.dim": len(found.weight), "model.head.bias": found.bias is not None}
    if "HF_ColBERT" in checkpoint.kinds:
        raise RunError(f"{checkpoint.name} has no linear.weight in its model.safetensors; copy or download it again")
    return {"model.head.dim": None}


def _split(prompt: str, tokenizer: Any) -> tuple[str, str]:
    """A prompt as (marker, text): a marker where the tokenizer makes one token of it, whatever follows."""
    for marker in (prompt, prompt.strip()):
        alone, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", f"{prompt}a"))
        if marker and after == [vocabulary_id(marker, tokenizer), *alone]:
            return marker, ""
    return "", prompt


def _skiplist(checkpoint: Published, words: Sequence[str]) -> str | list[str] | None:
    """The words that are entries of the vocabulary; PyLate takes the others for its unknown token."""
    known = [word for word in words if vocabulary_id(word, checkpoint.tokenizer) is not None]
    if left_out := [word for word in words if word not in known]:
        warn("skiplist_unknown", f"{left_out[0]!r} of {checkpoint.name}", len(left_out))
    return "punctuation" if known == list(string.punctuation) else known or None


def _require_same_case(checkpoint: Published) -> None:
    if checkpoint.json(_MODULE).get("do_lower_case"):
        upper, lower = (checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("A", "a"))
        if upper != lower:
            raise InputError(
                f"{checkpoint.name} has its texts lower-cased before its tokenizer, which keeps upper case, sees them "
                f"(do_lower_case in {_MODULE}); set it to false there and give lower-case texts"
            )


def _prompt(said: Settings) -> str:
    """What sentence-transformers puts before a text where nobody names a prompt."""
    return (said.get("prompts") or {}).get(said.get("default_prompt_name")) or ""


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
