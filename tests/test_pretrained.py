"""What a checkpoint says of itself: how much it reads, which weights it lacks, that it is none."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import tiny_encoders
import torch
import transformers

from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.checkpoint_files import stored_tensors
from rerankkit.errors import InputError, RunError
from rerankkit.pretrained import check_sources, file_beside, load, load_config, load_tokenizer, model_inputs, positions
from rerankkit.protocols import Batch, Tokens

COUNTING = ["Roberta", "RobertaPreLayerNorm", "XLMRoberta", "XLMRobertaXL", "Camembert", "MPNet", "IBert", "Xmod"]
FROM_ZERO = ["Bert", "DistilBert", "Electra"]


@pytest.mark.parametrize("name", COUNTING + FROM_ZERO)
def test_a_model_reads_as_many_tokens_as_it_is_said_to(name: str) -> None:
    """No token more: positions that are counted from behind the padding token leave some unused."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    if name == "DistilBert":
        small = {"dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=20, max_position_embeddings=12, pad_token_id=1, **small)
    if name == "Xmod":
        config.default_language = config.languages[0]
    model = getattr(transformers, f"{name}Model")(config).eval()
    limit = positions(config)
    assert limit == (10 if name in COUNTING else 12)
    model(input_ids=torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 5))


def test_a_tokenizers_own_limit_gives_way_to_the_models() -> None:
    folder = str(tiny_encoders.encoder("roberta"))
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.max_position_embeddings == 514
    assert load_tokenizer(folder, None, config).model_max_length == 512


def test_a_tokenizer_that_cannot_say_where_its_tokens_stand_is_refused(tmp_path: Path) -> None:
    config = transformers.T5Config()
    config.save_pretrained(tmp_path)
    transformers.ByT5Tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a tokenizer written in Python .ByT5Tokenizer.; it needs a fast one"):
        load_tokenizer(str(tmp_path), None, config)


def test_what_is_no_encoder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for name in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises((InputError, RunError), match=re.escape(str(name))):
            hf_encoder(str(name))
    transformers.T5Config(d_model=8, num_layers=1, vocab_size=20).save_pretrained(tmp_path / "t5")
    with pytest.raises(InputError, match=r"encoder with a decoder \(t5\), which hf_encoder.v1 cannot read"):
        hf_encoder(str(tmp_path / "t5"))


@pytest.mark.parametrize(
    ("architecture", "taken"),
    [("bert", {"token_type_ids", "use_cache"}), ("distilbert", set()), ("modernbert", set()), ("llama", {"use_cache"})],
)
def test_a_model_is_given_what_its_forward_pass_takes(architecture: str, taken: set[str]) -> None:
    module = transformers.AutoModel.from_pretrained(tiny_encoders.encoder(architecture))
    ids = torch.tensor([[2, 9, 3]])
    inputs = model_inputs(module, Tokens(ids, torch.ones_like(ids), type_ids=torch.tensor([[0, 0, 1]])))
    assert inputs.keys() == {"input_ids", "attention_mask"} | taken
    assert inputs.get("use_cache", False) is False
    assert module(**inputs).last_hidden_state.shape == (1, 3, 32)
    assert "token_type_ids" not in model_inputs(module, Tokens(ids, torch.ones_like(ids)))


def test_what_can_be_seen_without_weights_is_checked(tmp_path: Path) -> None:
    folder = str(tiny_encoders.encoder("bert"))
    assert list(check_sources(folder, None)) == list(check_sources(folder, {"r": 4})) == []
    found = dict(check_sources(str(tmp_path / "nowhere"), {"start": str(tmp_path)}))
    assert found.keys() == {"name", "lora"}
    assert "no folder" in found["name"] and "no adapter at" in found["lora"]
    for part in (hf_encoder, hf_classifier):
        assert part.check is check_sources  # type: ignore[attr-defined]


def test_a_file_beside_a_checkpoint() -> None:
    folder = tiny_encoders.encoder("bert")
    assert file_beside(str(folder), None, "config.json") == folder / "config.json"
    assert file_beside(str(folder), None, "colbert_linear.pt") is None


@pytest.mark.parametrize("part", [hf_encoder, hf_classifier])
def test_the_attention_is_the_one_asked_for(part: Any) -> None:
    """Eager and fused attention agree on every token that is not padding."""
    folder = tiny_encoders.encoder("bert") if part is hf_encoder else tiny_encoders.classifier("bert")
    ids, mask = torch.tensor([[2, 9, 3], [2, 3, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    eager, fused = (part(str(folder), attention=kind) for kind in ("eager", "sdpa"))
    assert [of.module.config._attn_implementation for of in (eager, fused)] == ["eager", "sdpa"]
    first, second = (of.hidden(Batch(Tokens(ids, mask), torch.tensor([2, 1]))).states[:, :2] for of in (eager, fused))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_tensors_are_read_one_by_one_from_the_files_that_hold_them(tmp_path: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_encoders.encoder("bert"))
    model.save_pretrained(tmp_path, max_shard_size="12KB")
    stored, read = model.state_dict(), []

    def file(name: str) -> Path | None:
        if not (tmp_path / name).is_file():
            return None
        read.append(name)
        return tmp_path / name

    wanted = {"pooler.dense.bias", "embeddings.LayerNorm.weight", "no.such.weight"}
    found = stored_tensors(file, wanted)
    assert found.keys() == wanted - {"no.such.weight"}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in found.items())
    assert len(read) <= 3 < len(list(tmp_path.glob("*.safetensors")))  # the index and a shard each
    assert stored_tensors(lambda name: None, wanted) == {}
    shard = next(tmp_path / name for name in read if name.endswith(".safetensors"))
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(RunError, match=f"{shard.name} cannot be read"):
        stored_tensors(file, wanted)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    with pytest.raises(RunError, match="index.json is not JSON"):
        stored_tensors(file, wanted)


def test_weights_begin_where_torch_lets_tensors_begin(tmp_path: Path) -> None:
    """Mapped from a file they begin anywhere, and the same weights would give scores that differ in the last bit."""
    folder = Path(shutil.copytree(tiny.folder("qwen3"), tmp_path / "model"))
    stored = safetensors.torch.load_file(tiny.folder("qwen3") / "model.safetensors")
    mapped = set()
    for pad in range(0, 64, 8):
        safetensors.torch.save_file(stored, folder / "model.safetensors", {"format": "pt", "pad": "x" * pad})
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
        mapped |= {weight.data_ptr() % 64 for weight in plain.parameters()}
        model, _, _ = load(
            transformers.AutoModelForCausalLM, "language model", str(folder), load_config(str(folder), None), "fp32",
            "auto", None, native_class=False, lora=None,
        )  # fmt: skip
        weights = dict(model.named_parameters())
        assert {weight.data_ptr() % 64 for weight in weights.values()} == {0}
        assert all(torch.equal(weights[name], weight) for name, weight in stored.items())
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(mapped) > 1  # else this test shows nothing
