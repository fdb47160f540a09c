"""The causal-LM backbone: what it loads and refuses, its output layer, and when prefixes may be shared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import tiny_t5
import torch
import transformers

from rerankkit import engine
from rerankkit.backbones.hf_causal import HFCausal, hf_causal
from rerankkit.causal_lm import refuse_other_architectures, token_logits
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.lora import Lora
from rerankkit.protocols import Batch, Tokens
from rerankkit.settings import Engine

SHAPE = {key: value for key, value in tiny.SHAPE.items() if key != "head_dim"}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"attention_types": [[["global", "local"], 1]], "window_size": 16}
OTHERS: dict[str, tuple[bool, dict[str, Any]]] = {
    "OPT": (True, {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
                   "word_embed_proj_dim": 32, "init_std": 0.3}),
    "Falcon": (True, {**SMALL, "alibi": True}),
    "Phi3": (True, SHAPE),
    "Qwen3Moe": (True, {**tiny.SHAPE, **EXPERTS}),
    "Mistral": (False, {**tiny.SHAPE, "sliding_window": 16}),
    "Qwen2": (False, {**SHAPE, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "Gemma3Text": (False, {**tiny.SHAPE, "sliding_window": 16}),
    "GPTNeo": (False, {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "initializer_range": 0.3, **LOCAL}),
    "Mpt": (False, {"d_model": 32, "n_heads": 4, "n_layers": 2, "initializer_range": 0.3}),
    "Bloom": (False, {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}),
}  # fmt: skip
GROUPS = [tiny.group(number, 3) for number in (1, 2)]
GROUPS[1].query += " " + tiny.sentence(77, 30)  # so that one prefix is padded beside the other


def other(architecture: str) -> HFCausal:
    """A model that is not among the tiny ones, as a part, without a folder."""
    shape = {**OTHERS[architecture][1], "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 2}
    config = getattr(transformers, f"{architecture}Config")(vocab_size=len(tiny.tokenizer()), **shape)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    return HFCausal(architecture, tiny.tokenizer(), model, True, None)


def distance(of: Parts) -> float:
    """How far the scores are from a naive forward's."""
    orders, _ = engine.run(of, GROUPS, Engine())
    naive = [tiny.naive_scores(of, group) for group in GROUPS]
    return max(abs(score - naive[g][i]) for g, order in enumerate(orders) for i, score in order)


def copy(tmp_path: Path, architecture: str = "llama", **settings: Any) -> Path:
    """A tiny checkpoint with changes to its config.json."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder(architecture), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))
    return folder


@pytest.mark.parametrize("architecture", OTHERS)
def test_prefixes_are_shared_only_where_scores_stay(architecture: str) -> None:
    model = other(architecture)
    assert model.shares_prefix == OTHERS[architecture][0]
    assert distance(tiny.parts(of=model)) < 1e-4


@pytest.mark.parametrize("architecture", ["GPTNeo", "Mpt", "Mistral"])
def test_shared_there_they_would_not(architecture: str) -> None:
    model = other(architecture)
    model.shares_prefix = True
    assert distance(tiny.parts(of=model)) > 0.01


def test_tiny_models_share_unless_a_window_slides() -> None:
    assert [name for name in tiny.NAMES if not tiny.backbone(name).shares_prefix] == ["gemma2"]
    assert not tiny.backbone("llama", share_prefix=False).shares_prefix


@pytest.mark.parametrize("lora", [None, Lora(r=2, target_modules=["lm_head", "q_proj"])])
@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_the_output_layers_rows_give_the_models_logits(architecture: str, lora: Lora | None) -> None:
    if lora is not None:
        targets = ["lm_head", "c_attn"] if architecture == "gpt2" else lora.target_modules
        lora = Lora(r=2, target_modules=targets, merge=False)
    model = tiny.backbone(architecture, lora=lora)
    for name, weight in model.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    ids = torch.tensor([tiny.tokenizer()("does the document answer the query?")["input_ids"]])
    chosen = [5, 291, 17, 400]
    vocabulary = model.vocabulary(chosen)
    with torch.no_grad():
        hidden = model.hidden(Batch(Tokens(ids, torch.ones_like(ids)), answer=torch.tensor([0]))).states
        ours, theirs = token_logits(hidden, vocabulary), model.module(input_ids=ids).logits[..., chosen]
    assert ours.dtype == torch.float32 and torch.allclose(ours, theirs, atol=1e-5)
    expected = {"gemma2": (1.0, 3.0), "granite": (0.25, None), "cohere": (0.25, None)}
    assert (vocabulary.scale, vocabulary.softcap) == expected.get(architecture, (1.0, None))
    assert (vocabulary.bias is not None) == (architecture == "phi")


def test_logits_made_in_an_unknown_way_are_refused() -> None:
    model = tiny.backbone("cohere")  # whose logits are small
    model.module.lm_head.register_forward_hook(lambda module, given, logits: 1.2 * logits)
    with pytest.raises(RunError, match="computes its logits in a way that hf_causal.v1 does not know"):
        model.vocabulary([5, 6])


def test_dropout_is_no_unknown_way() -> None:
    model = tiny.backbone(lora=Lora(r=4, lora_dropout=0.9, target_modules=["q_proj", "down_proj"]))
    for name, weight in model.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight)
    model.module.train()
    model.vocabulary([5, 6])
    assert all(module.training for module in model.module.modules())


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_lower_precision_is_near(architecture: str) -> None:
    """Eight bits of mantissa: 3 % of the scores' spread on these models of two layers."""
    full, half = (tiny.parts(of=hf_causal(str(tiny.folder(architecture)), dtype=d)) for d in ("fp32", "bf16"))
    group = tiny.group(5, 12)
    exact, rough = (dict(engine.run(of, [group], Engine())[0][0]) for of in (full, half))
    values = torch.tensor([[exact[i], rough[i]] for i in range(12)])
    assert next(half.backbone.module.parameters()).dtype == torch.bfloat16
    assert (values[:, 0] - values[:, 1]).abs().max() < 0.03 * (values[:, 0].max() - values[:, 0].min())


def test_attention_and_precision_are_the_checkpoints_own(tmp_path: Path) -> None:
    assert tiny.backbone("gemma2").model.config._attn_implementation == "eager"  # there is no other
    assert tiny.backbone("llama").model.config._attn_implementation == "sdpa"
    eager = hf_causal(str(tiny.folder()), attention="eager")
    assert distance(tiny.parts(of=eager)) < 1e-4
    folder = copy(tmp_path)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    halved = {name: weight.bfloat16() for name, weight in weights.items()}
    safetensors.torch.save_file(halved, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    assert hf_causal(str(folder), dtype="auto").module.dtype == torch.bfloat16
    assert hf_causal(str(folder)).module.dtype == torch.float32


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="lacks weights of a causal language model, such as lm_head.weight"):
        hf_causal(str(folder))


def test_an_encoder_with_a_decoder_is_told_where_it_belongs() -> None:
    with pytest.raises(InputError, match=r"of the kind 't5', .* hf_encoder_decoder\.v1 for T5's kin"):
        hf_causal(str(tiny_t5.folder("t5")))


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "LlamaModel", "BertForMaskedLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_another_kind_of_model_is_refused(tmp_path: Path, kind: str, tied: bool) -> None:
    folder = copy(tmp_path, tie_word_embeddings=tied, architectures=[kind])
    with pytest.raises(InputError, match=f"is a {kind}, not a causal language model"):
        hf_causal(str(folder))


def test_a_decoder_that_cannot_be_found_is_refused() -> None:
    config = transformers.Llama4TextConfig(**{**tiny.SHAPE, "num_local_experts": 2, "vocab_size": 50})
    with pytest.raises(InputError, match="Llama4ForCausalLM, whose decoder and output layer hf_causal.v1 cannot tell"):
        refuse_other_architectures("x", transformers.AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("model_type", ["llama", "brand_new"])
def test_code_in_a_models_folder_is_never_run(tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> str:
        raise AssertionError("it asked whether to run code")

    monkeypatch.setattr("builtins.input", asked)
    parts = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    folder = copy(tmp_path, model_type=model_type, auto_map=parts)
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": parts}))
    known = model_type == "llama"  # transformers' own code may be used where it is accepted
    with pytest.raises(InputError, match="which is never run" if known else "brings code of its own, which is not run"):
        hf_causal(str(folder))
    if known:
        assert distance(tiny.parts(of=hf_causal(str(folder), native_class=True))) < 1e-4
    assert not ran.exists()
