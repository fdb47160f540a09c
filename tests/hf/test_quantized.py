"""Checkpoints of quantised weights: the scores of the numbers that they stand for, or refused by their method."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_encoders
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerankkit.errors import InputError
from rerankkit.registry import registry

BLOCK = 16
IDS = torch.tensor([[5, 9, 7, 8, 12]])
METHODS: dict[str, dict[str, Any]] = {
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compressed-tensors": {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head", "score"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": {
            "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}}},
    },
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
}  # fmt: skip
SOURCES = {
    "hf_causal.v1": lambda: tiny.folder("qwen3"),
    "hf_classifier.v1": lambda: tiny_encoders.classifier("qwen3"),
    "hf_encoder.v1": lambda: tiny_encoders.classifier("qwen3"),
}


def copies(at: Path, part: str, method: str, stored: bool = True) -> tuple[Path, Path]:
    """A checkpoint whose layers are quantised, and one of plain weights that are the same numbers."""
    plain, quantised = (Path(shutil.copytree(SOURCES[part](), at / name)) for name in ("plain", "quantised"))
    weights = load_file(plain / "model.safetensors")
    numbers, codes = dict(weights), dict(weights)
    for name, weight in weights.items():
        if not name.endswith("_proj.weight"):
            continue
        if method == "fp8":
            rows, columns = weight.shape[0] // BLOCK, weight.shape[1] // BLOCK
            blocks = weight.reshape(rows, BLOCK, columns, BLOCK)
            scale = blocks.abs().amax((1, 3)) / 448
            code = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
            numbers[name] = (code.float().reshape(blocks.shape) * scale[:, None, :, None]).reshape(weight.shape)
            codes |= {name: code, f"{name}_scale_inv": scale}
        else:
            scale = weight.abs().amax(1, keepdim=True) / 127
            code = (weight / scale).round().to(torch.int8)
            numbers[name] = code.float() * scale
            beside = {
                "bitsandbytes": {name.replace("weight", "SCB"): scale[:, 0] * 127},
                "compressed-tensors": {f"{name}_scale": scale},
            }[method]
            codes |= {name: code, **beside}
    save_file(numbers, plain / "model.safetensors", metadata={"format": "pt"})
    save_file(codes, quantised / "model.safetensors", metadata={"format": "pt"})
    if stored:
        settings = json.loads((quantised / "config.json").read_text())
        settings["quantization_config"] = METHODS[method]
        (quantised / "config.json").write_text(json.dumps(settings))
    return plain, quantised


def states(part: str, folder: Path, dtype: str = "fp32") -> torch.Tensor:
    module = registry.backbones.get(part)(str(folder), dtype=dtype).module
    assert {weight.dtype for weight in module.parameters()} <= {torch.float32, torch.bfloat16}
    with torch.no_grad():
        return module(input_ids=IDS)[0]


@pytest.mark.regression
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", SOURCES)
def test_what_is_stored_in_few_bits_is_read_as_what_it_stands_for(part: str, method: str, tmp_path: Path) -> None:
    plain, quantised = copies(tmp_path, part, method)
    package = {"fp8": "json"}.get(method, method.replace("-", "_"))
    if find_spec(package) is None:
        with pytest.raises(InputError, match=f"weights are quantised by {method}.*pip install {method}"):
            states(part, quantised)
        return
    assert torch.allclose(states(part, quantised), states(part, plain), atol=1e-3 if method == "bitsandbytes" else 1e-5)
    registry.backbones.get(part)(str(quantised)).save(tmp_path / "saved")  # as plain weights, which need no package
    assert torch.equal(states(part, tmp_path / "saved" / "backbone"), states(part, quantised))


def test_eight_bits_are_read_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    plain, quantised = copies(tmp_path, "hf_causal.v1", "fp8")
    found = states("hf_causal.v1", quantised, "bf16")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, states("hf_causal.v1", plain, "bf16"))


@pytest.mark.regression
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("part", SOURCES)
def test_scales_that_no_config_speaks_of_are_noticed(part: str, method: str, tmp_path: Path) -> None:
    _, quantised = copies(tmp_path, part, method, stored=False)
    with pytest.raises(InputError, match="scales of a quantisation that its config.json does not name"):
        states(part, quantised)


@pytest.mark.regression
@pytest.mark.parametrize("method", ["gptq", "awq", "fbgemm_fp8", "quanto", "hqq", "torchao", "of my own"])
def test_other_methods_are_named(method: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny.folder("qwen3"), tmp_path / "model"))
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 16}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=f"weights are quantised by {method} .*the checkpoint that it was made from"):
        states("hf_causal.v1", folder)


def test_what_is_quantised_is_not_quantised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerankkit.quantization.find_spec", lambda name: object())
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", lambda **_: "four bits")
    _, quantised = copies(tmp_path, "hf_causal.v1", "fp8")
    with pytest.raises(InputError, match=r"quantised already \(fp8\); leave quantization out"):
        registry.backbones.get("hf_causal.v1")(str(quantised), quantization="nf4")
