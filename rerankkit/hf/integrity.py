"""Whether what will run is what was saved: the one gate that every checkpoint passes, whatever backbone loads it.

config       code of the repository, position schemes that transformers has dropped
weights      keys that the architecture lacks or does not read, codes that are no weights
tokenizer    entries without an embedding, types without one

Each difference is known and run, or refused with the file, the reason and what would work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rerankkit.checkpoint_files import StoredTensor
from rerankkit.errors import InputError, RunError
from rerankkit.lazy import torch

Task = Literal["language model", "classifier", "encoder"]
"""What of a checkpoint is used: all of it, its body and its classifier, or its body alone."""

_READERS = ("AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor", "AutoVideoProcessor")
_POSITIONS = {"esm", "evolla", "granitemoehybrid"}
"""Model types whose code reads `position_embedding_type`."""
_PRETRAINING = {
    "cls", "lm_head", "predictions", "sop_classifier", "discriminator_predictions", "generator_predictions",
    "generator_lm_head", "lm_predictions", "mask_predictions", "vocab_transform", "vocab_layer_norm", "vocab_projector",
    "pred_layer", "mlm", "nsp", "nsp_classifier", "seq_relationship", "decoder", "mtp", "v_head",
}  # fmt: skip
"""Output layers of pre-training, by the first word of their weights' names."""
_TASKS = {"classifier", "score", "pre_classifier", "qa_outputs", "head", "linear", "logits_proj", "dropout", "dense"}
"""Output layers of a task."""
_BUFFERS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|(original_)?inv_freq|masked_bias|causal_mask|num_batches_tracked|version"
    r"|(cos|sin)_cached|embed_positions\.weights|_float_tensor)$"
)
_CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")
_POOLER = re.compile(r"(^|\.)pooler\.")
_CODES = re.compile(
    r"((weight|input|output|activation|[qkv])_(scale|global_scale|zero_point)(_inv)?|\.(scale|scales|scale_inv)"
    r"|weight_packed|weight_shape|SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map|quant_state\.\w+"
    r"|qweight|qzeros|g_idx)$"
)
_ADAPTERS = re.compile(
    r"(^base_model\.model\.|lora_(A|B|E|magnitude_vector|embedding_A|embedding_B)\b|\.ia3_l\b|hada_w\d|oft_r\b"
    r"|modules_to_save\.|original_module\.|\badapters?\.)"
)


_LEFTOVERS = (
    (
        _CODES,
        "scales of a quantisation that its config.json does not name, without which the weights are codes",
        "restore quantization_config there, or name the checkpoint that it was made from",
    ),
    (
        _ADAPTERS,
        "an adapter that was not folded in, without which it is another model",
        "fold it in (peft's merge_and_unload) and save the model again, or name the adapter's own folder",
    ),
)
_WHOLE = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
_ACCEPT = (
    'native_class = true in [model.backbone] (Reranker.from_pretrained(name, {"model.backbone.native_class": True}), '
    "--model.backbone.native_class true)"
)
_COMMON = {
    "_name_or_path", "architectures", "auto_map", "model_type", "torch_dtype", "dtype", "transformers_version",
    "use_cache", "quantization_config", "rope_theta", "rope_scaling", "gradient_checkpointing", "pad_token_id",
    "bos_token_id", "eos_token_id", "num_labels", "id2label", "label2id", "tie_word_embeddings", "tokenizer_class",
    "decoder_start_token_id", "torchscript", "output_attentions", "output_hidden_states", "position_embedding_type",
}  # fmt: skip
"""Keys that any config may have, and that say nothing of what another class would compute."""


def require_own_class(name: str, config: Any, settings: Mapping[str, Any], native_class: bool) -> None:
    """Refuse a model whose repository has code for it, unless transformers' own class is accepted in its place.

    Args:
        config: What transformers made of config.json.
        settings: config.json as it is written.
    """
    code = _code(settings.get("auto_map"))
    if not code or native_class:
        return
    own = type(config)
    unknown = sorted(settings.keys() - own().to_dict().keys() - own.attribute_map.keys() - _COMMON)
    more = f" (its config.json sets {', '.join(unknown[:5])}, which {own.__name__} does not know)" if unknown else ""
    raise InputError(
        f"{name}: its config.json names code of the repository for the model (auto_map: {', '.join(code)}), which is "
        f"never run; transformers' own {config.model_type} would run in its place, and may compute something "
        f"else{more}. If the code only repeats transformers', accept that: {_ACCEPT}"
    )


def require_own_tokenizer(name: str, settings: Mapping[str, Any], native_class: bool) -> None:
    """Refuse a tokenizer whose repository has code for it, unless transformers' own is accepted in its place.

    Args:
        settings: tokenizer_config.json as it is written.
    """
    auto_map = settings.get("auto_map")
    code = auto_map.get("AutoTokenizer") if isinstance(auto_map, Mapping) else auto_map
    named = [str(part) for part in (code if isinstance(code, list | tuple) else [code]) if part]
    if named and not native_class:
        raise InputError(
            f"{name}: its tokenizer_config.json names code of the repository for the tokenizer (auto_map: "
            f"{', '.join(named)}), which is never run; transformers' own {settings.get('tokenizer_class', 'class')} "
            f"would run in its place, and may write other tokens. If the code only repeats it, accept that: {_ACCEPT}"
        )


def require_known_positions(name: str, config: Any, settings: Mapping[str, Any]) -> None:
    """Refuse positions that the architecture does not compute any more.

    Args:
        settings: config.json as it is written.
    """
    positions = settings.get("position_embedding_type")
    if positions not in (None, "absolute") and config.model_type not in _POSITIONS:
        raise InputError(
            f"{name}: its config.json has position_embedding_type = {positions!r}, and the {config.model_type} of the "
            "installed transformers knows absolute positions alone, so it would be another model; choose a "
            "checkpoint with absolute positions"
        )


def new_weights(
    name: str, model: Any, report: Mapping[str, Any], stored: Mapping[str, StoredTensor], task: Task
) -> set[str]:
    """Compare a checkpoint's weights with the model's.

    Args:
        report: What transformers says of loading: `missing_keys`, `unexpected_keys`.
        stored: Every tensor in the checkpoint's files; empty where that is not known.

    Returns:
        The names of weights that are new and random, as the checkpoint has no classifier, or none of this shape.

    Raises:
        InputError: The files hold weights that would not be read, or codes that would be read as weights.
        RunError: The files lack weights.
    """
    missing, unexpected = set(report["missing_keys"]), set(report["unexpected_keys"])
    new = {key for key in missing if _may_be_new(key, model, task)}
    used = task == "language model" or (task == "classifier" and all(_in_base(key, model) for key in missing))
    unread = sorted(key for key in unexpected if not _may_stay(key, model, stored, task, used))
    for pattern, what, remedy in _LEFTOVERS:
        if left := [key for key in sorted(unexpected) if pattern.search(key)]:
            raise InputError(
                f"{name}: its weights have {left[0]} beside them ({len(left)} of this kind): {what}; {remedy}"
            )
    if codes := _codes(model, stored):
        raise InputError(
            f"{name}: its weights are stored as whole numbers ({codes[0]} is {stored[codes[0]].dtype}), the codes of a "
            "quantisation that its config.json does not name; name the checkpoint that it was made from"
        )
    if unread:
        raise InputError(
            f"{name} has {len(unread):,} weights that the {model.config.model_type} of the installed transformers does "
            f"not read, such as {_some(unread)}, so it would be another model"
            + (f"; and it lacks {_some(sorted(missing - new))}" if missing - new else "")
            + ". Choose a checkpoint of that architecture, or the version of transformers that it was saved with"
        )
    if lacking := sorted(missing - new):
        of = "a causal language model" if _is_causal(model) and task == "language model" else "its architecture"
        raise RunError(f"{name} lacks weights of {of}, such as {_some(lacking)}")
    return new


def require_fitting_tokenizer(name: str, tokenizer: Any, model: Any, task: Task) -> None:
    """Refuse a tokenizer with entries or types that the model has no embedding for."""
    entries = max([len(tokenizer), *(number + 1 for number in tokenizer.added_tokens_decoder)])
    if (rows := _embeddings(model, entries)) < entries:
        beyond = sorted((number, entry) for entry, number in tokenizer.get_vocab().items() if number >= rows)
        raise InputError(
            f"{name}: its tokenizer has entries up to number {beyond[-1][0]:,}, and the model has embeddings for "
            f"{rows:,} ({', '.join(repr(entry) for _, entry in beyond[:3])} would have none); take the tokenizer that "
            "the model was trained with, or save the model after resize_token_embeddings"
        )
    if task == "classifier" and "token_type_ids" in tokenizer.model_input_names:
        require_known_types(model, torch.tensor(tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"]))


def _embeddings(model: Any, entries: int) -> int:
    """How many entries have an embedding: all, where the model has no table, as CANINE hashes characters."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except NotImplementedError:
        return entries


def require_known_types(model: Any, type_ids: torch.Tensor) -> None:
    """Refuse types of tokens that a model has no embedding for."""
    if getattr(model.config, "type_vocab_size", None) == 1 and (types := int(type_ids.max()) + 1) > 1:
        raise InputError(
            f"the tokenizer gives the texts of a pair {types} types, and the model has embeddings for 1 "
            "(type_vocab_size); take the tokenizer that the model was trained with, or one without token_type_ids in "
            "its model_input_names"
        )


def _code(auto_map: Any) -> list[str]:
    """The classes of a config's `auto_map`, without those that read texts and images."""
    entries = auto_map if isinstance(auto_map, Mapping) else {}
    return sorted({str(code) for auto, code in entries.items() if code and auto not in _READERS})


def _may_be_new(key: str, model: Any, task: Task) -> bool:
    """Whether a weight that the checkpoint lacks is one that the task trains anew, or has no use for."""
    if task == "language model":
        return False
    return bool(_POOLER.search(key)) or (task == "classifier" and not _in_base(key, model))


def _in_base(key: str, model: Any) -> bool:
    """Whether a weight of a classifier belongs to its base model."""
    return key.partition(".")[0] == model.base_model_prefix


def _may_stay(key: str, model: Any, stored: Mapping[str, StoredTensor], task: Task, used: bool) -> bool:
    """Whether a weight may be left in its file: a buffer, a pooler, an output layer that nothing here uses.

    Args:
        used: Whether what stands around the base model is used, so that a part of it must not be lost.
    """
    if _BUFFERS.search(key) or _POOLER.search(key):
        return True
    prefix = f"{model.base_model_prefix}."
    tensor = stored.get(key) or stored.get(key.removeprefix(prefix)) or stored.get(prefix + key)
    if _CAUSAL_MASK.search(key) and (tensor is None or len(tensor.shape) > 1):  # a bias has one dimension
        return True
    first = key.partition(".")[0]
    parts = {name for name, _ in model.base_model.named_children()}
    if used:
        parts |= {name for name, _ in model.named_children()}
    if key.startswith(prefix) or first in parts:
        return False
    if first in _PRETRAINING or (first in _TASKS and not (task == "classifier" and used)):
        return True
    # around a base model whose weights all bear its name; without that, it might be a part of the base model
    return not used and any(name.startswith(prefix) for name in stored)


def _codes(model: Any, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Tensors of whole numbers that were read as weights, where no quantiser made weights of them."""
    numbers = [name for name, tensor in stored.items() if tensor.dtype in _WHOLE]
    if not numbers:
        return []
    prefix = f"{model.base_model_prefix}."
    floating = {name for name, weight in model.named_parameters() if weight.is_floating_point()}
    return sorted(n for n in numbers if {n, n.removeprefix(prefix), prefix + n} & floating)


def _is_causal(model: Any) -> bool:
    return not model.config.is_encoder_decoder


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3])
