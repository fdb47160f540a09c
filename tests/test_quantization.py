"""Quantised backbones: what is said where they cannot be had, and, with bitsandbytes, that they are near and learn."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_t5
import torch
import transformers

from rerankkit import Reranker
from rerankkit.backbones.hf_causal import HFCausal, hf_causal
from rerankkit.backbones.hf_encoder_decoder import hf_encoder_decoder
from rerankkit.errors import InputError
from rerankkit.lora import Lora
from rerankkit.prompt_tokens import padded
from rerankkit.protocols import Batch
from rerankkit.recipe import check, read

AT_HAND = importlib.util.find_spec("bitsandbytes") is not None
with_it = pytest.mark.skipif(not AT_HAND, reason="needs bitsandbytes: pip install rerankkit[quantized]")
PROMPTS = [[5, 6, 7, 8], [9, 10], list(range(20, 60))]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of whole blocks of 64 weights, which is what four bits are scaled by."""
    at = tmp_path_factory.mktemp("wide")
    shape = {**tiny.SHAPE, "hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4, "head_dim": 16}
    torch.manual_seed(3)
    config = transformers.LlamaConfig(vocab_size=len(tiny.tokenizer()), **{**shape, "initializer_range": 0.1})
    transformers.LlamaForCausalLM(config).save_pretrained(at)
    tiny.tokenizer().save_pretrained(at)
    return str(at)


def states(model: HFCausal) -> torch.Tensor:
    batch = Batch(padded(PROMPTS, model.tokenizer), torch.tensor([len(ids) - 1 for ids in PROMPTS]))
    found = model.hidden(batch).states
    return torch.cat([found[row, : len(ids)] for row, ids in enumerate(PROMPTS)])


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_what_is_missing_is_named(quantization: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerankkit.quantization.find_spec", lambda name: None)
    for factory, folder in ((hf_causal, tiny.folder()), (hf_encoder_decoder, tiny_t5.folder())):
        with pytest.raises(InputError, match=rf'"{quantization}" needs bitsandbytes.* pip install "rerankkit\[quant'):
            factory(str(folder), quantization=quantization)


def test_an_adapter_that_could_not_be_folded_in_is_found_before_it_is_trained(tmp_path: Path) -> None:
    def problems(quantization: str, lora: str) -> str:
        at = tiny.recipe(tmp_path / "mine.cfg")
        named = f'name = "{tiny.folder()}"\nquantization = "{quantization}"\n{lora}'
        at.write_text(at.read_text().replace(f'name = "{tiny.folder()}"', named))
        return "".join(str(problem) for problem in check(read(at), "rank"))

    assert problems("nf4", "") == problems("nf4", "[model.backbone.lora]\nr = 4\nmerge = false") == ""
    assert "set merge = false, to keep it apart" in problems("nf4", "[model.backbone.lora]\nr = 4")
    assert "int4" in problems("int4", "")


@with_it
@pytest.mark.parametrize(("quantization", "near"), [("int8", 0.1), ("nf4", 0.4)])
def test_fewer_bits_are_near(wide: str, quantization: Any, near: float) -> None:
    full, few = hf_causal(wide), hf_causal(wide, quantization=quantization)
    with torch.no_grad():
        exact, rough = states(full), states(few)
    assert 0 < (exact - rough).std() < near * exact.std()
    assert few.module.get_memory_footprint() < 0.6 * full.module.get_memory_footprint()
    vocabulary = few.vocabulary([5, 6])  # compared with the model's own logits
    assert torch.equal(vocabulary.rows, full.vocabulary([5, 6]).rows)


@with_it
@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_an_adapter_learns_on_fewer_bits_and_is_saved_apart(wide: str, quantization: Any, tmp_path: Path) -> None:
    few = hf_causal(wide, quantization=quantization, lora=Lora(r=4, merge=False))
    trained = [weight for weight in few.module.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    losses = []
    for _ in range(6):
        loss = (states(few) - 1).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    few.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    again = hf_causal(wide, quantization=quantization, lora=Lora(r=4, merge=False, start=str(tmp_path / "adapter")))
    with torch.no_grad():
        few.module.eval()
        again.module.eval()
        # on a CPU four bits are packed anew for inference, by which a scale may be rounded otherwise
        assert torch.allclose(states(few), states(again), atol=0 if quantization == "int8" else 2e-3)


@with_it
@pytest.mark.parametrize("lora", ["", "\n[model.backbone.lora]\nr = 4"])
def test_quantised_weights_are_not_saved(wide: str, lora: str, tmp_path: Path) -> None:
    at = tiny.recipe(tmp_path / "mine.cfg")
    at.write_text(at.read_text().replace(f'name = "{tiny.folder()}"', f'name = "{wide}"\nquantization = "int8"'))
    reranker = Reranker.from_recipe(at)
    if lora:
        reranker.parts.backbone.lora, reranker.parts.backbone._has_adapter = Lora(), True  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="is saved as an adapter alone: train LoRA with merge = false"):
        reranker.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
