"""What sequence classifiers of transformers have in common, whatever their architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rerankkit.checkpoint_files import stored_tensors
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Tokens


def require_one_label(name: str, config: Any) -> None:
    """Refuse a classifier of several classes; where there is no classifier yet, the config is set to one logit."""
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        config.num_labels = 1
    elif config.num_labels != 1:
        classes = ", ".join(str(label) for label in config.id2label.values())
        raise InputError(
            f"{name} classifies into {config.num_labels} ({classes}), and a reranker needs one logit; train a new head "
            "on it with hf_encoder.v1 and linear.v1"
        )


def head_names(model: Any) -> list[str]:
    """The modules with weights around the base model: `classifier`, or whatever the architecture calls it."""
    children = dict(model.named_children())
    return [
        name
        for name, child in children.items()
        if name != model.base_model_prefix and next(child.parameters(), None) is not None
    ]


def new_poolers(missing: Iterable[str]) -> list[str]:
    """The poolers inside a base model that the checkpoint lacks; an adapter would not keep their random weights."""
    return sorted({key.partition(".pooler.")[0] + ".pooler" for key in missing if ".pooler." in key})


def in_float32(model: Any, file: Callable[[str], Path | None]) -> None:
    """Let the classifier compute in float32, under autocast too; a half-precision model's with its weights as they are
    stored."""
    heads = {name: getattr(model, name) for name in head_names(model)}
    for head in heads.values():
        head.register_forward_pre_hook(_enter_float32)
        head.register_forward_hook(_leave_float32, always_call=True)
    half = {
        f"{name}.{key}": weight
        for name, head in heads.items()
        for key, weight in head.named_parameters()
        if weight.dtype != torch.float32
    }
    if not half:
        return
    stored = stored_tensors(file, set(half))
    for head in heads.values():
        head.float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # of a quantised checkpoint, what is stored are codes of one byte
            if name in stored and stored[name].shape == weight.shape and stored[name].dtype.itemsize > 1:
                weight.copy_(stored[name])


def last_token_logits(model: Any, tokens: Tokens) -> torch.Tensor:
    """A causal classifier's logits at each row's last token, where its config names no padding token. [rows, labels]"""
    states = model.base_model(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False).last_hidden_state
    last = tokens.mask.sum(1) - 1
    return model.score(states[torch.arange(len(last), device=last.device), last])


# Functions and one stack for all, as an adapter copies a classifier with its hooks.
_without_autocast: list[Any] = []


def _enter_float32(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    device = next(module.parameters()).device.type
    _without_autocast.append(torch.autocast(device, enabled=False))
    _without_autocast[-1].__enter__()
    floating = (isinstance(value, torch.Tensor) and value.is_floating_point() for value in inputs)
    return tuple(value.float() if is_one else value for value, is_one in zip(inputs, floating, strict=True))


def _leave_float32(module: Any, inputs: Any, output: Any) -> None:
    _without_autocast.pop().__exit__(None, None, None)
