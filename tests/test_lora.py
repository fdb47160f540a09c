"""LoRA: what trains, what is saved merged and apart, what is gone on from, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_t5
import torch

from rerankkit import Reranker, engine
from rerankkit.backbones.hf_causal import HFCausal, hf_causal
from rerankkit.backbones.hf_encoder_decoder import hf_encoder_decoder
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.lora import Lora, adapter_folder, effective_rows
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.protocols import Ask
from rerankkit.settings import Engine

GROUP = tiny.group(1, 5)
HEAD_TOO = ["q_proj", "v_proj", "lm_head"]


def scores(model: HFCausal) -> list[float]:
    orders, _ = engine.run(tiny.parts(of=model), [GROUP], Engine())
    return [score for _, score in sorted(orders[0])]


def losses(of: Parts, steps: int = 6) -> list[float]:
    """Training on one group by hand."""
    asks = [Ask(GROUP, (i,)) for i in range(len(GROUP.docs))]
    labels, mask = torch.tensor([[0.0, 0, 0, 1, 0]]), torch.ones(1, 5, dtype=torch.bool)
    optimizer = torch.optim.Adam([p for p in of.backbone.module.parameters() if p.requires_grad], lr=0.02)
    found = []
    for _ in range(steps):
        found_scores = engine.forward(of, engine.collate(of, engine.encode(of, asks)))
        loss = SoftmaxCrossEntropy()(found_scores.view(1, 5), labels, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def trained(lora: Lora, architecture: str = "llama", dtype: Any = "fp32") -> HFCausal:
    model = hf_causal(str(tiny.folder(architecture)), dtype=dtype, lora=lora)
    course = losses(tiny.parts(of=model))
    assert course[-1] < course[0] / 2
    return model


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_only_the_adapter_trains_in_float32(dtype: Any) -> None:
    model = hf_causal(str(tiny.folder()), dtype=dtype, lora=Lora(r=4))
    before = {name: weight.clone() for name, weight in model.module.named_parameters()}
    losses(tiny.parts(of=model), steps=2)
    for name, weight in model.module.named_parameters():
        assert weight.requires_grad == ("lora_" in name) and torch.equal(weight, before[name]) != ("lora_" in name)
        assert weight.dtype == (torch.float32 if "lora_" in name or dtype == "fp32" else torch.bfloat16)


@pytest.mark.parametrize(
    ("architecture", "targets"), [("llama", "all-linear"), ("llama", HEAD_TOO), ("qwen3", "all-linear")]
)
def test_a_merged_adapter_is_in_the_backbone(tmp_path: Path, architecture: str, targets: list[str] | str) -> None:
    model = trained(Lora(r=4, target_modules=targets), architecture)
    before = scores(model)
    model.save(tmp_path)
    assert not (tmp_path / "adapter").exists()
    assert scores(model) == pytest.approx(before, abs=1e-4)  # the sum is rounded elsewhere
    assert scores(hf_causal(str(tmp_path / "backbone"))) == scores(model)
    assert before != pytest.approx(scores(tiny.backbone(architecture)), abs=0.1)
    model.save(tmp_path / "again")
    assert scores(hf_causal(str(tmp_path / "again" / "backbone"))) == scores(model)


@pytest.mark.parametrize(("architecture", "targets"), [("llama", "all-linear"), ("qwen3", HEAD_TOO)])
def test_an_adapter_kept_apart_goes_on_where_it_was(
    tmp_path: Path, architecture: str, targets: list[str] | str
) -> None:
    lora = Lora(r=4, lora_alpha=6, target_modules=targets, merge=False, use_rslora=True)
    model = trained(lora, architecture)
    before = scores(model)
    model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert scores(model) == before
    again = hf_causal(str(tiny.folder(architecture)), lora=replace(lora, start=str(tmp_path / "adapter")))
    assert scores(again) == before
    course = losses(tiny.parts(of=again), steps=2)
    assert course[1] < course[0] < 0.7


def test_a_merged_adapter_in_bfloat16_is_the_same_in_memory_and_on_disk(tmp_path: Path) -> None:
    model = trained(Lora(r=4), dtype="bf16")
    before = scores(model)
    model.save(tmp_path)
    assert scores(hf_causal(str(tmp_path / "backbone"), dtype="bf16")) == scores(model)
    spread = max(before) - min(before)
    assert max(abs(a - b) for a, b in zip(before, scores(model), strict=True)) < 0.05 * spread


def test_the_rows_of_the_output_layer_follow_the_adapter() -> None:
    model = hf_causal(str(tiny.folder()), lora=Lora(r=4, target_modules=HEAD_TOO, merge=False))
    layer = model.model.get_output_embeddings()
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    rows = torch.tensor([3, 1, 3])
    base, share = layer.base_layer.weight[rows].clone(), layer.get_delta_weight("default")[rows]
    assert torch.allclose(effective_rows(layer, rows), base + share, atol=1e-6)
    effective_rows(layer, rows).sum().backward()
    assert layer.lora_A["default"].weight.grad.any() and layer.lora_B["default"].weight.grad.any()
    with model.module.disable_adapter():
        assert torch.equal(effective_rows(layer, rows), base)
    model.module.merge_adapter()
    assert torch.allclose(effective_rows(layer, rows), base + share, atol=1e-6)
    assert torch.equal(effective_rows(layer.base_layer, rows), layer.base_layer.weight[rows])


def test_a_tied_output_layer_is_not_merged() -> None:
    """Its sum would change the embeddings as well, and with them every score."""
    with pytest.raises(InputError, match="has lm_head, whose weights are another layer's too .*; merging would change"):
        tiny.backbone("qwen3", lora=Lora(target_modules=HEAD_TOO))
    assert tiny.backbone("qwen3", lora=Lora(target_modules=HEAD_TOO, merge=False))


TIED = [
    (hf_causal, lambda: tiny.folder("qwen3"), ["q_proj", "embed_tokens"], "model.embed_tokens"),
    (hf_causal, lambda: tiny.folder("gpt2"), ["c_attn", "wte"], "transformer.wte"),
    (hf_encoder_decoder, lambda: tiny_t5.folder("t5"), ["q", "shared"], "shared"),
    (hf_encoder_decoder, lambda: tiny_t5.folder("bart"), ["q_proj", "lm_head"], "lm_head"),
]


@pytest.mark.regression
@pytest.mark.parametrize(("part", "folder", "targets", "tied"), TIED)
def test_no_tied_layer_is_merged(part: Any, folder: Any, targets: list[str], tied: str) -> None:
    """Whichever of the layers that share weights is adapted: folded in, it would change the others."""
    with pytest.raises(InputError, match=f"has {tied}, whose weights are another layer's too .* set merge = false"):
        part(str(folder()), lora=Lora(r=4, target_modules=targets))
    assert part(str(folder()), lora=Lora(r=4, target_modules=targets, merge=False))


def test_embeddings_of_their_own_are_merged(tmp_path: Path) -> None:
    model = trained(Lora(r=4, target_modules=["q_proj", "v_proj", "embed_tokens"]))
    before = scores(model)
    model.save(tmp_path)
    assert scores(model) == pytest.approx(before, abs=1e-4) == scores(hf_causal(str(tmp_path / "backbone")))


@pytest.mark.regression
def test_an_export_merges_no_tied_layer(tmp_path: Path) -> None:
    model = tiny.backbone("qwen3", lora=Lora(r=4, target_modules=["q_proj", "embed_tokens"], merge=False))
    with pytest.raises(InputError, match="adapts model.embed_tokens, whose weights are another layer's too"):
        Reranker(tiny.parts(of=model)).export(tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()


def test_targets_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match=r"lora: target_modules = \['query'\] does not fit this model"):
        tiny.backbone(lora=Lora(target_modules=["query"]))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora")
    trained(Lora(r=4, merge=False)).save(folder)
    return folder / "adapter"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, "has r = 4, the recipe says 8; write the adapter's value"),
        ({"lora_alpha": 64}, "has lora_alpha = 32, the recipe says 64; write the adapter's value"),
        ({"use_rslora": True}, "has use_rslora = False, the recipe says True"),
        ({"target_modules": ["q_proj"]}, "does not fit this model and target_modules = ['q_proj'] (base_model"),
        ({"target_modules": HEAD_TOO}, "does not fit this model and target_modules"),
    ],
)
def test_an_adapter_that_is_not_the_recipes_is_refused(adapter: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        tiny.backbone(lora=replace(Lora(r=4, start=str(adapter)), **changes))
    assert str(refused.value).startswith("lora: ") and message in str(refused.value)


def test_an_adapter_of_another_model_is_refused(adapter: Path) -> None:
    for architecture in ("gpt2", "phi"):  # other layers; other shapes of the same layers
        with pytest.raises(InputError, match="lora: the adapter .* (does not fit|is for another model)"):
            tiny.backbone(architecture, lora=Lora(r=4, start=str(adapter)))


def test_a_damaged_adapter_is_refused(adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(RunError, match="adapter_model.safetensors cannot be read"):
        tiny.backbone(lora=Lora(r=4, start=str(folder)))
    weights.unlink()
    (folder / "adapter_model.bin").write_bytes(b"a pickle, which is never read")
    with pytest.raises(RunError, match="adapter_model.safetensors cannot be read"):
        tiny.backbone(lora=Lora(r=4, start=str(folder)))
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "alpha_pattern": {"q_proj": 3}}))
    shutil.copy(adapter / "adapter_model.safetensors", weights)
    with pytest.raises(InputError, match=r"does not fit .*\(alpha_pattern\)"):
        tiny.backbone(lora=Lora(r=4, start=str(folder)))


def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for start in (str(tmp_path), "shipped:nothing"):
        with pytest.raises(InputError, match="no adapter at .*; give a folder with adapter_config.json"):
            adapter_folder(start)
