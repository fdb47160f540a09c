"""What a model is, in one line: two models with the same fingerprint answer every prompt alike."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from rerankkit.errors import InputError, RunError
from rerankkit.recipe import Recipe, fill
from rerankkit.registry import registry

ANSWERING = ("model.collator", "model.backbone", "model.head")
"""Sections that an answer depends on beside its prompt's tokens. What is asked and in which order is free to change."""


def model_fingerprint(recipe: Recipe | None, modules: Sequence[torch.nn.Module]) -> str:
    """A hash of the recipe's filled sections, of the files that their parts are written in, and of all weights.

    Weights are hashed as they are in memory, so training on makes another model, and so does another dtype. The device
    is left out: a run may go on on another machine, whose scores differ by rounding only.
    """
    if recipe is None:
        raise InputError(
            "a score cache must know what the model is, and this reranker was put together without a recipe; build it "
            "with Reranker.from_recipe or Reranker.from_pretrained"
        )
    whole = hashlib.blake2b(digest_size=16)
    for section in re.split(r"^(?=\[)", fill(recipe), flags=re.MULTILINE):
        name = section.partition("]")[0].removeprefix("[")
        if any(name == answering or name.startswith(f"{answering}.") for answering in ANSWERING):
            whole.update(section.strip().encode() + b"\0")
            for namespace, part in re.findall(r'^@(\w+)\s*=\s*"(.+)"$', section, flags=re.MULTILINE):
                whole.update(_source(namespace, part))
    tensors = [
        (f"{number} {name} {tensor.dtype} {tuple(tensor.shape)}", tensor)
        for number, module in enumerate(modules)
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    ]
    with ThreadPoolExecutor() as hashing:  # hashlib lets other threads go on
        for (name, _), digest in zip(tensors, hashing.map(_digest, [tensor for _, tensor in tensors]), strict=True):
            whole.update(name.encode() + b"\0" + digest)
    return whole.hexdigest()


def _source(namespace: str, part: str) -> bytes:
    try:
        return hashlib.blake2b(Path(registry.namespace(namespace).find(part).file).read_bytes()).digest()
    except (OSError, RunError, InputError):
        return b""  # a part typed in at a prompt is in no file


def _digest(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(flat.numpy().data, digest_size=16).digest()
