"""The projection of a late-interaction checkpoint, wherever its layout keeps it.

PyLate, sentence-transformers   modules.json names Dense modules: 1_Dense/config.json, 1_Dense/model.safetensors
Stanford's ColBERT              linear.weight in the root's model.safetensors
open-retrievals, BGE-M3         colbert_linear.pt: {weight, bias}, a pickle that is read as tensors only
"""

from __future__ import annotations

import functools
import pickle
from dataclasses import dataclass
from pathlib import Path

from rerankkit.checkpoint_files import Finder, read_json, stored_tensors
from rerankkit.errors import InputError, RunError
from rerankkit.lazy import torch

LINEAR = "colbert_linear.pt"


@dataclass(frozen=True)
class Projection:
    """A linear layer. weight [dim, width], bias [dim]"""

    file: str
    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [tuple(tensor.shape) for tensor in (self.weight, self.bias) if tensor is not None]
        if len(shapes[0]) != 2 or shapes[1:] not in ([], [shapes[0][:1]]):
            raise RunError(
                f"{self.file} holds no linear layer: weight and bias have the shapes {', '.join(map(str, shapes))}, "
                "expected (dim, width) and (dim,)"
            )


def find_projection(file: Finder) -> Projection | None:
    """What a checkpoint projects its hidden states with; None where it has nothing of the kind."""
    if dense := [_dense(folder, file) for kind, folder in modules(file) if kind == "Dense"]:
        return functools.reduce(_after, dense)
    stanford = stored_tensors(file, {"linear.weight", "linear.bias"})
    if "linear.weight" in stanford:
        return Projection("model.safetensors", stanford["linear.weight"].float(), _float(stanford.get("linear.bias")))
    path = file(LINEAR)
    return None if path is None else _pickled(path)


def modules(file: Finder) -> list[tuple[str, str]]:
    """The (kind, folder) of each module that modules.json names, in their order; none where there is no such file."""
    path = file("modules.json")
    listed = [] if path is None else (read_json(lambda name: path, "modules.json") or {}).get("")
    if not isinstance(listed, list) or not all(isinstance(m, dict) and {"path", "type"} <= m.keys() for m in listed):
        raise RunError(f"{path} is no list of modules, each with a path and a type; copy or download it again")
    return [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in listed]


def _dense(folder: str, file: Finder) -> Projection:
    config = read_json(file, f"{folder}/config.json") or {}
    activation = str(config.get("activation_function") or "").rpartition(".")[2]
    if activation not in ("", "Identity"):
        raise InputError(f"{folder} has the activation {activation}; maxsim.v1 projects with a linear layer alone")
    tensors = stored_tensors(file, {"linear.weight", "linear.bias", "residual.weight"}, f"{folder}/model.safetensors")
    if "linear.weight" not in tensors:
        raise RunError(f"{folder}/model.safetensors has no linear.weight; copy or download the checkpoint again")
    weight = tensors["linear.weight"].float()
    if config.get("use_residual"):
        if "residual.weight" not in tensors and weight.shape[0] != weight.shape[-1]:
            raise RunError(f"{folder}/model.safetensors has no residual.weight; copy or download the checkpoint again")
        weight = weight + tensors.get("residual.weight", torch.eye(*weight.shape)).float()
    return Projection(f"{folder}/model.safetensors", weight, _float(tensors.get("linear.bias")))


def _after(first: Projection, second: Projection) -> Projection:
    """Two linear layers as one."""
    if second.weight.shape[1] != first.weight.shape[0]:
        raise RunError(
            f"{second.file} takes vectors of {second.weight.shape[1]}, and {first.file} gives {first.weight.shape[0]}"
        )
    weight = (second.weight.double() @ first.weight.double()).float()
    shifted = None if first.bias is None else second.weight @ first.bias
    biases = [bias for bias in (shifted, second.bias) if bias is not None]
    return Projection(f"{first.file} and {second.file}", weight, sum(biases[1:], biases[0]) if biases else None)


def _pickled(path: Path) -> Projection:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        weight, bias = tensors["weight"].float(), _float(tensors.get("bias"))
    except (OSError, EOFError, RuntimeError, LookupError, AttributeError, TypeError, pickle.UnpicklingError) as error:
        raise RunError(
            f"{path} is no state dict of a linear layer that can be read without running code; write it anew with "
            "torch.save(linear.state_dict(), file)"
        ) from error
    return Projection(path.name, weight, bias)


def _float(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.float()
