"""An adapter named as a model: peft's scores, one model when it is saved, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from rerankkit.errors import InputError, RunError
from rerankkit.lora import Lora
from rerankkit.registry import registry

IDS = torch.tensor([[5, 9, 7, 8, 12]])
AUTO = {
    "hf_causal.v1": transformers.AutoModelForCausalLM,
    "hf_classifier.v1": transformers.AutoModelForSequenceClassification,
    "hf_encoder.v1": transformers.AutoModel,
}


def base(part: str) -> Path:
    return tiny.folder("qwen3") if part == "hf_causal.v1" else tiny_bert.classifier()


def adapter(at: Path, part: str, targets: list[str] | None = None, **options: Any) -> tuple[Path, torch.Tensor]:
    """A folder as peft saves it, with weights that matter, and what peft's own model gives."""
    folder = Path(shutil.copytree(base(part), at / "base"))
    linear = ["q_proj", "v_proj", "up_proj"] if part == "hf_causal.v1" else ["query", "value"]
    torch.manual_seed(3)
    wrapped = get_peft_model(
        AUTO[part].from_pretrained(folder), LoraConfig(r=4, target_modules=targets or linear, **options)
    )
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.3)
    wrapped.save_pretrained(at / "adapter")
    with torch.no_grad():
        return at / "adapter", wrapped.eval()(input_ids=IDS)[0]


def states(part: str, folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return registry.backbones.get(part)(str(folder)).module(input_ids=IDS)[0]


OPTIONS: list[dict[str, Any]] = [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}}]


@pytest.mark.regression
@pytest.mark.parametrize("options", OPTIONS, ids=["lora", "dora", "rslora"])
@pytest.mark.parametrize("part", AUTO)
def test_an_adapter_named_as_a_model_is_saved_as_one_model(part: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder, right = adapter(tmp_path, part, **options)
    if part != "hf_causal.v1":
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(base(part) / file, folder / file)
    found = states(part, folder)
    assert torch.allclose(found, right, atol=1e-4)
    assert not torch.allclose(found, states(part, base(part)), atol=1e-3)
    registry.backbones.get(part)(str(folder)).save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "base")
    shutil.rmtree(folder)
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["backbone"]
    assert not list((tmp_path / "saved" / "backbone").glob("adapter*"))
    assert torch.equal(states(part, tmp_path / "saved" / "backbone"), found)


def test_a_classifier_that_the_adapter_brings_is_no_new_one(tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(tiny_bert.encoder(), tmp_path / "base"))
    torch.manual_seed(3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1)
    wrapped = get_peft_model(
        model, LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS", modules_to_save=["classifier"])
    )
    torch.nn.init.normal_(model.classifier.modules_to_save["default"].weight)
    wrapped.save_pretrained(tmp_path / "adapter")
    part = registry.backbones.get("hf_classifier.v1")(str(tmp_path / "adapter"))
    assert part.untrained is False
    with torch.no_grad():
        assert torch.allclose(part.module(input_ids=IDS).logits, wrapped.eval()(input_ids=IDS).logits, atol=1e-5)


def test_layers_that_an_adapter_holds_whole_are_no_longer_tied(tmp_path: Path) -> None:
    folder, right = adapter(tmp_path, "hf_causal.v1", modules_to_save=["lm_head"])
    found = states("hf_causal.v1", folder)
    assert torch.allclose(found, right, atol=1e-4)
    registry.backbones.get("hf_causal.v1")(str(folder)).save(tmp_path / "saved")
    assert torch.equal(states("hf_causal.v1", tmp_path / "saved" / "backbone"), found)


@pytest.mark.regression
@pytest.mark.parametrize("merge", [True, False])
def test_another_adapter_on_top_is_merged_or_refused_before_it_is_trained(merge: bool, tmp_path: Path) -> None:
    folder, right = adapter(tmp_path, "hf_causal.v1")
    build = registry.backbones.get("hf_causal.v1")
    if not merge:
        with pytest.raises(InputError, match="is an adapter, which is folded into its base .*; set merge = true"):
            build(str(folder), lora=Lora(r=2, merge=False))
        return
    part = build(str(folder), lora=Lora(r=2))
    for name, weight in part.module.named_parameters():
        assert weight.requires_grad == ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    with torch.no_grad():
        trained = part.module(input_ids=IDS).logits
        with part.module.disable_adapter():
            assert torch.allclose(part.module(input_ids=IDS).logits, right, atol=1e-4)
    part.save(tmp_path / "saved")
    assert torch.allclose(states("hf_causal.v1", tmp_path / "saved" / "backbone"), trained, atol=1e-4)


def test_what_cannot_be_folded_in_is_refused(tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path / "tied", "hf_causal.v1", ["embed_tokens"])
    with pytest.raises(InputError, match="adapts model.embed_tokens, whose weights are another layer's too"):
        states("hf_causal.v1", folder)
    folder, _ = adapter(tmp_path, "hf_causal.v1")
    settings = json.loads((folder / "adapter_config.json").read_text())

    def refused(changes: dict[str, Any], message: str, error: type[Exception] = InputError) -> None:
        (folder / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(error, match=message):
            states("hf_causal.v1", folder)

    refused({"base_model_name_or_path": str(tmp_path / "gone")}, "is an adapter, and its base cannot be had: no folder")
    refused({"base_model_name_or_path": str(tmp_path / "tied" / "adapter")}, "and its base .* is one, too")
    refused({"base_model_name_or_path": None}, "does not name the model that it was trained on")
    refused({"peft_type": "IA3"}, "an adapter of the kind IA3.*reads LoRA and DoRA")
    refused({"base_model_name_or_path": str(tiny.folder("gpt2"))}, f"{folder} does not fit its base")
    refused({"target_modules": ["q_proj"]}, f"{folder} does not fit its base .*give the base")
    (folder / "adapter_model.safetensors").write_bytes(b"short")
    refused({}, "adapter_model.safetensors cannot be read", RunError)
    shutil.copytree(base("hf_causal.v1"), folder, dirs_exist_ok=True)
    refused({}, "holds a model and an adapter beside it")


def test_peft_and_rerankkit_read_the_same_base(tmp_path: Path) -> None:
    """The reference of this file: peft's own way to load a saved adapter."""
    folder, right = adapter(tmp_path, "hf_causal.v1")
    again = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), folder)
    with torch.no_grad():
        assert torch.allclose(again.eval()(input_ids=IDS).logits, right, atol=1e-5)
    assert any("lora_B" in name for name in load_file(folder / "adapter_model.safetensors"))


@pytest.mark.regression
def test_an_adapter_that_cannot_be_merged_or_read_is_named(tmp_path: Path) -> None:
    folder, _ = adapter(tmp_path, "hf_causal.v1")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "alora_invocation_tokens": [1, 2]}))
    with pytest.raises(InputError, match="cannot be folded into its base .*aLoRA"):
        states("hf_causal.v1", folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(RunError, match="holds no settings of an adapter"):
        states("hf_causal.v1", folder)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"only in adapter_model.bin, a pickle"):
        states("hf_causal.v1", folder)
