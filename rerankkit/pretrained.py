"""Loading and saving a transformers model with its tokenizer: what all backbones have in common."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rerankkit.architectures import positions, settle
from rerankkit.checkpoint_files import read_json, stored_shapes
from rerankkit.errors import InputError, RunError
from rerankkit.hf import adapters, integrity
from rerankkit.hf.adapters import Adapter, fold_in, read_adapter
from rerankkit.hf.families import unreadable
from rerankkit.hf.integrity import Task
from rerankkit.hf.quantized import made_plain, stored_method, to_be_dequantised
from rerankkit.lazy import torch, transformers
from rerankkit.lora import Lora, adapter_folder
from rerankkit.protocols import Tokens
from rerankkit.weights import check_model_name, loading, resolve_model

Dtype = Literal["fp32", "bf16", "fp16", "auto"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]
ALIGNMENT = 64
"""Bytes: where torch lets a tensor begin."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "auto": "auto"}


class Source(NamedTuple):
    """Where a model's weights are: its own folder or hub id, or those of an adapter's base."""

    base: str
    revision: str | None
    adapter: Adapter | None


def find_source(name: str, revision: str | None) -> Source:
    """Where the weights of a model are that a recipe names, which may be an adapter."""
    adapter = read_adapter(name, file_beside(name, revision, adapters.CONFIG))
    if adapter is None:
        return Source(name, revision, None)
    try:
        check_model_name(adapter.base)
    except (InputError, RunError) as error:
        raise InputError(f"{name} is an adapter, and its base cannot be had: {error}") from error
    if file_beside(adapter.base, adapter.revision, adapters.CONFIG) is not None:
        raise InputError(
            f"{name} is an adapter, and its base {adapter.base} is one, too; fold that one in first (name it as a "
            "backbone and save it), and give what is saved as the base"
        )
    return Source(adapter.base, adapter.revision, adapter)


def load(
    auto_class: Any,
    task: Task,
    name: str,
    config: Any,
    dtype: Dtype,
    attention: Attention,
    revision: str | None,
    native_class: bool,
    lora: Lora | None,
    quantization_config: Any = None,
) -> tuple[Any, Any, set[str]]:
    """A model in evaluation mode that is what its files say, its tokenizer, and the names of weights that are new.

    Args:
        config: What `load_config` gave, with what the backbone changed in it.
        native_class: Whether transformers' own classes are accepted where the repository has code.
        lora: The adapter that is going to be put on, which has to be merged where `name` is an adapter itself.
    """
    base, base_revision, adapter = find_source(name, revision)
    if adapter is not None and lora is not None and not lora.merge:
        raise InputError(
            f"{name} is an adapter, which is folded into its base {base} when it is loaded, so another one kept apart "
            "would have no saved model to go with; set merge = true in [model.backbone.lora]"
        )
    config = to_be_dequantised(name, config, quantization_config)
    quantised = stored_method(config) is not None
    # Left out where nothing is asked: None tells transformers to take the codes of a quantised checkpoint for weights.
    asked = {} if quantization_config is None else {"quantization_config": quantization_config}
    with loading(base):
        model, report = auto_class.from_pretrained(
            resolve_model(base),
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation=None if attention == "auto" else attention,
            revision=base_revision or "main",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **asked,
        )
        if quantised:
            model = made_plain(model, None if dtype == "auto" else getattr(torch, DTYPES[dtype]))
    stored = stored_shapes(functools.partial(file_beside, base, base_revision)) if not quantised else {}
    new = integrity.new_weights(base, model, report, stored, task)
    if adapter is not None:
        model, supplied = fold_in(name, adapter, model)
        new -= supplied
    _align(model)
    tokenizer = load_tokenizer(name, revision, model.config, native_class)
    integrity.require_fitting_tokenizer(name, tokenizer, model, task)
    return model.eval(), tokenizer, new


def _align(model: Any) -> None:
    """Weights that are mapped from a file begin anywhere in memory, and some CPUs' sums then differ in the last bit
    from those of the same weights elsewhere: a model would not score as it did before it was saved."""
    for weight in model.parameters():
        if weight.device.type == "cpu" and weight.data_ptr() % ALIGNMENT:
            weight.data = weight.data.clone()


def load_config(name: str, revision: str | None, native_class: bool = False) -> Any:
    """A model's config, without its weights; where attention would depend on chance or on other rows, it is set not
    to.

    Args:
        native_class: Whether transformers' own class is accepted where the repository has code for the model.
    """
    base, base_revision, _ = find_source(name, revision)
    settings = read_json(functools.partial(file_beside, base, base_revision), "config.json") or {}
    with loading(base):
        try:
            config = transformers.AutoConfig.from_pretrained(
                resolve_model(base), revision=base_revision or "main", trust_remote_code=False
            )
        except Exception:
            if reason := unreadable(settings):  # which says more than that its type is not known
                raise InputError(f"{name} {reason}") from None
            raise
    integrity.require_own_class(name, config, settings, native_class)
    integrity.require_known_positions(name, config, settings)
    config.__dict__.pop("auto_map", None)  # what is saved again is transformers' own class
    return settle(config)


def load_tokenizer(name: str, revision: str | None, config: Any, native_class: bool = False) -> Any:
    """A model's tokenizer. Its `model_max_length` becomes what the model has positions for: what is stored is often
    what its training happened to cut at, or no limit at all.

    Args:
        native_class: Whether transformers' own class is accepted where the repository has code for the tokenizer.
    """
    base, base_revision, adapter = find_source(name, revision)
    if adapter is None or (adapter.folder / "tokenizer_config.json").is_file():
        base, base_revision = name, revision  # an adapter may have a tokenizer of its own
    settings = read_json(functools.partial(file_beside, base, base_revision), "tokenizer_config.json") or {}
    integrity.require_own_tokenizer(name, settings, native_class)
    described = {} if adapter is None else {"config": config}  # beside an adapter there is none to be found
    with loading(base):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            resolve_model(base), revision=base_revision or "main", trust_remote_code=False, **described
        )
    if not tokenizer.is_fast:  # only these say where in the text each token stands
        raise InputError(f"{name} has a tokenizer written in Python ({type(tokenizer).__name__}); it needs a fast one")
    if len(tokenizer) == len(set(tokenizer.all_special_ids)):  # which transformers makes up where there are no files
        raise InputError(f"{name!r} has no tokenizer with any words: expected tokenizer.json beside its config.json")
    tokenizer.model_max_length = positions(config) or tokenizer.model_max_length
    return tokenizer


def load_shape(
    auto_class: Any, name: str, revision: str | None, config: Any, native_class: bool = False
) -> tuple[Any, Any]:
    """A model's tokenizer, and the model without weights, of which none are read or downloaded."""
    with loading(name), torch.device("meta"):
        model = auto_class.from_config(config, trust_remote_code=False)
    return load_tokenizer(name, revision, config, native_class), model


def file_beside(name: str, revision: str | None, file: str) -> Path | None:
    """A file of a checkpoint, in its folder or on the hub; None where there is no such file."""
    with loading(name):
        found = transformers.utils.cached_file(
            resolve_model(name),
            file,
            revision=revision or "main",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return Path(found) if found else None


def model_inputs(module: Any, tokens: Tokens) -> dict[str, Any]:
    """What a model's forward pass takes of some tokens; nothing is cached between passes."""
    known = _accepted(type(module))  # type: ignore[arg-type]
    inputs: dict[str, Any] = {"input_ids": tokens.ids, "attention_mask": tokens.mask}
    if tokens.type_ids is not None and "token_type_ids" in known:
        integrity.require_known_types(module, tokens.type_ids)
        inputs["token_type_ids"] = tokens.type_ids
    if "use_cache" in known:
        inputs["use_cache"] = False
    return inputs


def unpadded(states: torch.Tensor, tokens: Tokens) -> list[torch.Tensor]:
    """Hidden states [texts, longest, width] of each text by itself. [length, width]"""
    return [own[:length] for own, length in zip(states, tokens.real().sum(1).tolist(), strict=True)]


def padded(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hidden states [length, width] of several texts as one tensor. [texts, longest, width]"""
    return torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)


@functools.cache
def _accepted(model_class: type) -> frozenset[str]:
    """The arguments of a model's forward pass."""
    return frozenset(inspect.signature(model_class.forward).parameters)  # type: ignore[attr-defined]


def check_sources(name: str, lora: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What can be seen without weights: whether the model and the adapter exist."""
    try:
        check_model_name(name)
    except (InputError, RunError) as error:
        yield "name", str(error)
    try:
        if lora and lora.get("start"):
            adapter_folder(lora["start"])
    except InputError as error:
        yield "lora", str(error)


def save_model(module: Any, tokenizer: Any, name: str, adapter: Lora | None, folder: Path) -> Any:
    """Write `backbone/`, which transformers loads by itself, or `adapter/` where LoRA is to stay apart.

    A merged adapter is merged here and now, so that the model in memory and the one on disk are the same.

    Args:
        adapter: The settings of the adapter that `module` is wrapped in, if it is.

    Returns:
        The module as it goes on, without the adapter that was merged.
    """
    if adapter is not None and not adapter.merge:
        module.active_peft_config.base_model_name_or_path = name  # not where it lies on this machine
        module.save_pretrained(folder / "adapter", save_embedding_layers=False)
        return module
    if adapter is not None:
        module = module.merge_and_unload(safe_merge=True)
    module.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    return module
