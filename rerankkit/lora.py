"""LoRA through peft, for every backbone: the recipe's [model.backbone.lora]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on a backbone, under peft's own names (Hu et al. 2021, arXiv 2106.09685).

    Args:
        target_modules: Names of linear layers, or "all-linear" for all but the output layer.
        merge: Fold the adapter into the saved backbone; False keeps it apart in `adapter/`.
    """

    r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"
    use_rslora: bool = False
    merge: bool = False


def add_lora(model: Any, lora: Lora) -> Any:
    """Wrap a transformers model with a fresh adapter; its trainable weights are float32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        use_rslora=lora.use_rslora,
    )
    return get_peft_model(model, config)  # autocast_adapter_dtype keeps the adapter in float32
