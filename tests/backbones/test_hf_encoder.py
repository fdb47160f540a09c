"""The encoder backbone: hidden states that no padding changes, what it loads, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch
import transformers
from safetensors.torch import load_file, save_file

from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import HFEncoder, hf_encoder
from rerankkit.collators.pair import PairCollator
from rerankkit.errors import InputError, RunError
from rerankkit.formatters.pair import Pair
from rerankkit.heads.linear import Linear
from rerankkit.lora import Lora
from rerankkit.protocols import Ask, Batch, Group, Tokens

DOCS = [tiny.sentence(30 + i, 1 + 9 * i) for i in range(4)]
SMALL = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 1,
         "num_attention_heads": 4, "initializer_range": 0.3}  # fmt: skip


def batch(backbone: HFEncoder) -> Batch:
    """Pairs of mixed length, padded."""
    prompts = [Pair().format(Ask(Group(tiny.sentence(1, 4), DOCS), (i,)), backbone.tokenizer) for i in range(len(DOCS))]
    return PairCollator().collate(PairCollator().encode(prompts, backbone.tokenizer), backbone.tokenizer)


@torch.no_grad()
def distance(backbone: HFEncoder, padded: Batch, folder: Path, **options: Any) -> float:
    """How far the hidden states are from those that transformers gives of each row alone, relative to their size."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    states, farthest = backbone.hidden(padded).states.float(), 0.0
    for row, mask in enumerate(padded.tokens.mask.bool()):
        inputs = {"input_ids": padded.tokens.ids[row, mask][None]}
        if padded.tokens.type_ids is not None:
            inputs["token_type_ids"] = padded.tokens.type_ids[row, mask][None]
        alone = model(**inputs).last_hidden_state[0]
        farthest = max(farthest, float((states[row, mask] - alone).abs().max() / alone.abs().max()))
    return farthest


@pytest.mark.parametrize("architecture", tiny_encoders.ENCODERS)
def test_padded_hidden_states_are_those_of_each_text_alone(architecture: str) -> None:
    folder = tiny_encoders.encoder(architecture)
    backbone = hf_encoder(str(folder))
    padded = batch(backbone)
    assert padded.tokens.mask.sum() < padded.tokens.mask.numel()
    assert distance(backbone, padded, folder) < 1e-5
    assert (padded.tokens.type_ids is not None) == (tiny_encoders.ENCODERS[architecture][1] == "wordpiece")


def test_in_bf16_they_are_near() -> None:
    folder = tiny_encoders.encoder("bert")
    backbone = hf_encoder(str(folder), dtype="bf16")
    assert {weight.dtype for weight in backbone.module.parameters()} == {torch.bfloat16}
    assert 1e-5 < distance(backbone, batch(backbone), folder) < 0.05


@pytest.mark.parametrize("name", ["Bert", "SqueezeBert", "LayoutLM"])
def test_no_weight_is_left_that_nothing_reads(name: str, tmp_path: Path) -> None:
    """A pooler would be one, and some models call it whether they have it or not."""
    extra = {"embedding_size": 32} if name == "SqueezeBert" else {}
    shape = {**SMALL, **extra, "vocab_size": len(tiny_bert.tokenizer()), "pad_token_id": 0}
    getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**shape)).save_pretrained(tmp_path)
    tiny_bert.tokenizer().save_pretrained(tmp_path)
    backbone = hf_encoder(str(tmp_path))
    assert distance(backbone, batch(backbone), tmp_path) < 1e-5
    backbone.hidden(batch(backbone)).states.square().sum().backward()
    unread = [name for name, weight in backbone.module.named_parameters() if weight.grad is None]
    assert [name for name in unread if "embeddings" not in name] == []
    backbone.save(tmp_path / "saved")
    stored = load_file(tmp_path / "saved" / "backbone" / "model.safetensors")
    assert stored.keys() and not any("pooler" in name for name in stored)
    again = hf_encoder(str(tmp_path / "saved" / "backbone"))
    assert torch.equal(again.hidden(batch(again)).states, backbone.hidden(batch(again)).states)


def test_the_body_of_a_classifier_or_a_language_model_is_read() -> None:
    of_three = hf_encoder(str(tiny_encoders.classifier("bert", labels=3)))
    assert distance(of_three, batch(of_three), tiny_encoders.classifier("bert", labels=3)) < 1e-5
    stored = load_file(tiny.folder("qwen3") / "model.safetensors")
    body = hf_encoder(str(tiny.folder("qwen3"))).module
    assert not hasattr(body, "lm_head")
    assert all(torch.equal(weight, stored[f"model.{name}"]) for name, weight in body.named_parameters())


def test_lora_trains_beside_frozen_weights_and_joins_them(tmp_path: Path) -> None:
    backbone = hf_encoder(str(tiny_bert.encoder()), lora=Lora(r=4))
    assert {n.partition("lora_")[1] for n, w in backbone.module.named_parameters() if w.requires_grad} == {"lora_"}
    for name, weight in backbone.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    padded = batch(backbone)
    before = backbone.hidden(padded).states
    backbone.save(tmp_path)
    torch.testing.assert_close(backbone.hidden(padded).states, before, atol=1e-4, rtol=1e-4)
    assert distance(backbone, padded, tmp_path / "backbone") < 1e-5
    assert distance(backbone, padded, tiny_bert.encoder()) > 0.1


def copy(tmp_path: Path, source: Path, without: str) -> Path:
    """A checkpoint that lacks some weights."""
    folder = Path(shutil.copytree(source, tmp_path / "copy"))
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if without not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_weights_that_a_checkpoint_lacks(tmp_path: Path) -> None:
    cut = copy(tmp_path / "cut", tiny_bert.encoder(), "layer.1.output")
    with pytest.raises(RunError, match=r"lacks weights of its architecture, such as encoder\.layer\.1\.output"):
        hf_encoder(str(cut))
    without_pooler = copy(tmp_path / "pooler", tiny_bert.encoder(), "pooler.")
    backbone = hf_encoder(str(without_pooler))
    assert distance(backbone, batch(backbone), tiny_bert.encoder()) < 1e-5


@pytest.mark.parametrize("part", [hf_encoder, hf_classifier])
@pytest.mark.parametrize("fault", ["cut", "empty", "missing", "pickle"])
def test_a_damaged_checkpoint_is_named(part: Any, fault: str, tmp_path: Path) -> None:
    source = tiny_bert.encoder() if part is hf_encoder else tiny_bert.classifier()
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    weights = folder / "model.safetensors"
    held = weights.read_bytes()
    weights.write_bytes(held[: len(held) // 2] if fault == "cut" else b"")
    if fault in ("missing", "pickle"):
        weights.unlink()
    if fault == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"a pickle, which is never read")
    message = {"missing": "holds no weights", "pickle": "only in pytorch_model.bin, a pickle"}
    with pytest.raises((InputError, RunError), match=message.get(fault, "copy or download it again")) as refused:
        part(str(folder))
    assert str(folder) in str(refused.value)


def test_its_shape_needs_no_weights(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert.encoder(), tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    backbone = hf_encoder.without_weights(str(folder), None)  # type: ignore[attr-defined]
    assert next(backbone.module.parameters()).device.type == "meta"
    head = Linear()
    head.bind(backbone)
    assert head.module[1].in_features == 32


def test_queries_are_read_apart() -> None:
    backbone = hf_encoder(str(tiny_bert.encoder()))
    whole = batch(backbone)
    queries = Tokens(whole.tokens.ids[:2, :5], whole.tokens.mask[:2, :5])
    found = backbone.hidden(Batch(whole.tokens, whole.answer, queries, torch.tensor([0, 1, 1, 0])))
    assert found.shared is not None
    assert torch.equal(found.shared, backbone.module(queries.ids, queries.mask).last_hidden_state)
    assert torch.equal(found.states, backbone.hidden(whole).states)
    states = backbone.read_shared(queries)
    assert [len(state) for state in states] == queries.mask.sum(1).tolist()
    again = backbone.hidden(Batch(whole.tokens, whole.answer, queries), states).shared
    assert again is not None
    for row, state in enumerate(states):
        assert torch.equal(again[row, : len(state)], found.shared[row, : len(state)])
