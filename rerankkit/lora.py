"""LoRA through peft, for every backbone: the recipe's [model.backbone.lora]."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankkit.errors import InputError, RunError
from rerankkit.lazy import torch

SHIPPED = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on a backbone, under peft's own names (Hu et al. 2021, arXiv 2106.09685).

    Args:
        target_modules: Names of linear layers, or "all-linear" for all but the output layer.
        start: An adapter to go on from: a folder, or `shipped:NAME`. Its r, alpha and targets must be the ones here.
        merge: Fold the adapter into the saved backbone; False saves it apart, in `adapter/`, beside the base's name.
    """

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"
    use_rslora: bool = False
    start: str | None = None
    merge: bool = True


def add_lora(model: Any, lora: Lora, whole: Sequence[str] = ()) -> Any:
    """Wrap a transformers model with an adapter, fresh or gone on from; its trainable weights are float32.

    Args:
        whole: Modules that are trained and saved whole, such as a classifier.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.use_rslora,
        modules_to_save=list(whole) or None,
        exclude_modules=rf"({'|'.join(map(re.escape, whole))})(\..*)?" if whole else None,
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise InputError(f"lora: target_modules = {lora.target_modules!r} does not fit this model: {error}") from error
    if lora.merge and (tied := tied_targets(wrapped)):
        raise InputError(
            f"lora: target_modules has {tied[0]}, whose weights are another layer's too in this model (embeddings and "
            "output layer are tied); merging would change both, so set merge = false or leave it out"
        )
    if lora.start is not None:
        _load_adapter(wrapped, lora, lora.start)
    return wrapped


def tied_targets(wrapped: Any) -> list[str]:
    """The adapted layers of a peft model whose base weights another layer uses too: folded in, they would change it."""
    from peft.tuners.lora import LoraLayer

    owners: dict[int, int] = {}
    for _, weight in wrapped.named_parameters(remove_duplicate=False):
        owners[id(weight)] = owners.get(id(weight), 0) + 1
    return [
        path.removeprefix("base_model.model.")
        for path, layer in wrapped.named_modules()
        if isinstance(layer, LoraLayer)
        and isinstance(layer.get_base_layer(), torch.nn.Module)
        and any(owners[id(weight)] > 1 for weight in layer.get_base_layer().parameters(recurse=False))
    ]


def merged_copy(wrapped: Any) -> Any:
    """A transformers model with its adapter folded in; the one that is given stays as it is."""
    if tied := tied_targets(wrapped):
        raise InputError(
            f"this model's adapter adapts {tied[0]}, whose weights are another layer's too, so that it cannot be "
            "folded in and exported; save it (save_pretrained keeps it apart), or train it without that layer"
        )
    return copy.deepcopy(wrapped).merge_and_unload(safe_merge=True)


def _load_adapter(wrapped: Any, lora: Lora, start: str) -> None:
    """Put an adapter's weights in; one that fits only in part would leave the rest as it was, without a word."""
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = adapter_folder(start)
    found = LoraConfig.from_pretrained(str(folder))
    if found.use_dora:
        raise InputError(
            f"lora: the adapter {start} is a DoRA, and a recipe's are LoRA; name its folder as the backbone"
        )
    for name in ("r", "lora_alpha", "use_rslora"):
        if getattr(found, name) != getattr(lora, name):
            raise InputError(
                f"lora: the adapter {start} has {name} = {getattr(found, name)}, the recipe says "
                f"{getattr(lora, name)}; write the adapter's value"
            )
    try:
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, SafetensorError) as error:
        raise RunError(f"lora: {folder / 'adapter_model.safetensors'} cannot be read: {error}") from error
    try:
        loaded = set_peft_model_state_dict(wrapped, weights)
    except RuntimeError as error:
        raise InputError(f"lora: the adapter {start} is for another model: {str(error).splitlines()[-1]}") from error
    except KeyError as error:
        raise InputError(
            f"lora: the adapter {start} lacks {error.args[0]}, which is trained whole beside it; give one that "
            "was saved with its classifier, or leave start out"
        ) from error
    ours = ("lora_", "modules_to_save")
    astray = [*loaded.unexpected_keys, *(k for k in loaded.missing_keys if any(part in k for part in ours))]
    if astray or found.alpha_pattern:
        raise InputError(
            f"lora: the adapter {start} does not fit this model and target_modules = {lora.target_modules!r} "
            f"({', '.join(astray[:3]) or 'alpha_pattern'})"
        )


def adapter_folder(start: str) -> Path:
    """Where an adapter lies: a folder, or one that comes with rerankkit."""
    folder = SHIPPED / start.removeprefix("shipped:") if start.startswith("shipped:") else Path(start)
    if not (folder / "adapter_config.json").is_file():
        shipped = ", ".join(f"shipped:{path.parent.name}" for path in sorted(SHIPPED.glob("*/adapter_config.json")))
        or_shipped = f", or one of {shipped}" if shipped else ""
        raise InputError(f"no adapter at {start!r}; give a folder with adapter_config.json{or_shipped}")
    return folder


def base_layer(layer: Any) -> Any:
    """The linear layer itself, where an adapter is wrapped around it."""
    from peft.tuners.lora import LoraLayer

    return layer.base_layer if isinstance(layer, LoraLayer) else layer


def effective_rows(layer: Any, rows: torch.Tensor | slice) -> torch.Tensor:
    """Some rows of a linear layer's weight, with an adapter's share where it has one. [rows, width]"""
    weight = base_layer(layer).weight[rows]
    if base_layer(layer) is layer or layer.merged or layer.disable_adapters:
        return weight
    for name in layer.active_adapters:
        weight = weight + layer.scaling[name] * (layer.lora_B[name].weight[rows] @ layer.lora_A[name].weight)
    return weight
