"""Checkpoints whose files hold quantised weights: read as the numbers that they stand for, or refused by their method.

What is loaded is a model of plain weights, which runs on every device, takes adapters and is saved as any other. To run
in few bits, the recipe asks for it (`quantization`), of a checkpoint of plain weights.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from rerankkit.errors import InputError

_PACKAGES = {"fp8": "", "compressed-tensors": "compressed_tensors", "bitsandbytes": "bitsandbytes"}
"""The methods that are read, and the package that each needs."""


def stored_method(config: Any) -> str | None:
    """The method that a checkpoint's weights are quantised by; None where they are plain."""
    settings = _settings(config)
    if settings is None:
        return None
    bits = [bits for bits in ("load_in_8bit", "load_in_4bit") if settings.get(bits)]
    return str(settings.get("quant_method") or ("bitsandbytes" if bits else "unknown"))


def to_be_dequantised(name: str, config: Any, asked: Any) -> Any:
    """A config that has transformers make plain weights of quantised ones.

    Args:
        asked: The recipe's own quantisation, which is for plain weights.
    """
    method = stored_method(config)
    if method is None:
        return config
    if asked is not None:
        raise InputError(
            f"{name}: its weights are quantised already ({method}); leave quantization out, or name the checkpoint "
            "that it was made from"
        )
    if method not in _PACKAGES:
        raise InputError(
            f"{name}: its weights are quantised by {method} (quantization_config in its config.json), which rerankkit "
            f"does not read; it reads {', '.join(_PACKAGES)} and plain weights, so name the checkpoint that it was "
            "made from"
        )
    package = _PACKAGES[method]
    if package and find_spec(package) is None:
        raise InputError(
            f"{name}: its weights are quantised by {method}, and reading them needs a package that is not installed: "
            f"pip install {package.replace('_', '-')}; or name the checkpoint that it was made from"
        )
    if method == "bitsandbytes":  # made plain once they are loaded
        return config
    config = copy.deepcopy(config)
    for part in (config, config.get_text_config()):
        settings = part.to_dict().get("quantization_config")
        if settings is not None:
            part.quantization_config = {**settings, "dequantize": True}
    return config


def made_plain(model: Any, dtype: Any) -> Any:
    """A model whose weights are plain, whatever transformers had to load them as.

    Args:
        dtype: Of the weights; None for the one that the checkpoint names.
    """
    dtype = dtype or model.config.dtype
    model = model if stored_method(model.config) is None else model.dequantize(dtype=dtype)
    model._weight_conversions = None  # by which transformers would make codes of the weights again in saving them
    kept = {*model._keep_in_fp32_modules, *model._keep_in_fp32_modules_strict}
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and kept.isdisjoint(name.split(".")):
            weight.data = weight.data.to(dtype)  # they come in the dtype of their scales
    return model


def _settings(config: Any) -> Mapping[str, Any] | None:
    for part in (config, config.get_text_config()):
        settings = part.to_dict().get("quantization_config")
        if settings is not None:
            return settings
    return None
