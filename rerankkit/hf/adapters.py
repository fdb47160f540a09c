"""A peft adapter named in place of a model: its base is loaded, and the adapter folded in before anything else is done.

What runs is then one model, which is saved whole and may be trained on with an adapter of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankkit.errors import InputError, RunError
from rerankkit.lora import tied_targets

CONFIG = "adapter_config.json"
_BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and the model that it was trained on.

    Args:
        base: A folder or a hub id, as the adapter's config has it.
        revision: Of the base, where it is a hub id.
    """

    folder: Path
    base: str
    revision: str | None


def read_adapter(name: str, config: Path | None) -> Adapter | None:
    """The adapter that a folder holds in place of a model; None where it holds none.

    Args:
        name: The folder or hub id, for messages.
        config: Its adapter_config.json, if it has one.
    """
    if config is None:
        return None
    if any(config.parent.glob("model*.safetensors")):
        raise InputError(
            f"{name} holds a model and an adapter beside it ({CONFIG}), and it is not said which is meant; move "
            "the adapter's files to a folder of their own, then name that one or this one"
        )
    try:
        settings = json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{config} is not JSON ({error}); copy or download it again") from error
    if not isinstance(settings, dict):
        raise RunError(f"{config} holds no settings of an adapter; copy or download it again")
    base = settings.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{config} does not name the model that it was trained on; write it there as {_BASE}")
    if settings.get("peft_type") != "LORA":
        raise InputError(
            f"{name} is an adapter of the kind {settings.get('peft_type')}, which cannot be folded into its model; "
            "rerankkit reads LoRA and DoRA"
        )
    return Adapter(config.parent, str(base), settings.get("revision"))


def fold_in(name: str, adapter: Adapter, model: Any) -> tuple[Any, set[str]]:
    """A model with an adapter folded into its weights, and the names of the weights that the adapter holds whole."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = adapter.folder / "adapter_model.safetensors"
    if not path.is_file() and (adapter.folder / "adapter_model.bin").is_file():
        raise InputError(
            f"{name} has its weights only in adapter_model.bin, a pickle, which may run code when it is read and is "
            "refused; save the adapter as safetensors (peft's save_pretrained does)"
        )
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    config = LoraConfig.from_pretrained(str(adapter.folder))
    config.task_type, config.inference_mode = None, True  # the task's wrapper adds nothing to the weights
    fitting = f"{name} does not fit its base {adapter.base}"
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is not None and output.weight is embeddings.weight
    try:
        wrapped = get_peft_model(model, config)
        loaded = set_peft_model_state_dict(wrapped, weights)
    except (ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{fitting}: {str(error).strip().splitlines()[-1]}") from error
    own = {key for key in loaded.missing_keys if "lora_" in key or "modules_to_save" in key}
    if astray := sorted({*loaded.unexpected_keys, *own}):
        raise InputError(f"{fitting} ({', '.join(astray[:3])}); give the base that it was trained on as {_BASE}")
    if shared := tied_targets(wrapped):
        raise InputError(
            f"{name} adapts {shared[0]}, whose weights are another layer's too in {adapter.base}, so folding it in "
            f'would change both; name the base, {adapter.base}, and go on from the adapter: lora.start = "{name}" with '
            "merge = false and its target_modules"
        )
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError) as error:  # weights that are no numbers, or a kind that cannot be merged
        raise InputError(f"{name} cannot be folded into its base {adapter.base}: {error}") from error
    if tied and merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.get_text_config().tie_word_embeddings = merged.config.tie_word_embeddings = False
    merged.requires_grad_(True)
    return merged.eval(), {key.removeprefix("base_model.model.") for key in weights if ".lora_" not in key}
