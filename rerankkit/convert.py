"""Turns weights that installed packages carry into checkpoints that transformers loads by itself."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rerankkit.errors import RunError
from rerankkit.lazy import torch, transformers

_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2(source: Path, folder: Path) -> None:
    """SmolLM2-135M-Instruct from GGUF to float32 safetensors, with its tokenizer and chat template."""
    import gguf

    reader = gguf.GGUFReader(source)
    facts = {name: reader.fields[name].contents() for name in reader.fields if not name.startswith("GGUF.")}
    config = transformers.LlamaConfig(
        vocab_size=facts["llama.vocab_size"],
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": facts["llama.rope.freq_base"], "rope_type": "default"},
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
    )
    weights = {}
    for tensor in reader.tensors:
        name = _llama_name(tensor.name)
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("q_proj.weight"):
            values = _as_halves(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _as_halves(values, config.num_key_value_heads)
        weights[name] = torch.from_numpy(values.copy())
    _gguf_tokenizer(facts, config).save_pretrained(folder)
    transformers.GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(folder)
    _write(transformers.LlamaForCausalLM, config, weights, folder, tied="lm_head.weight")


def bert_classifier(source: Path, folder: Path) -> None:
    """A BERT cross-encoder from int8 ONNX to float32 safetensors."""
    _bert(source, folder, lambda: transformers.BertForSequenceClassification)


def bert(source: Path, folder: Path) -> None:
    """A BERT encoder from int8 ONNX to float32 safetensors."""
    _bert(source, folder, lambda: transformers.BertModel)


def bert_without_pooler(source: Path, folder: Path) -> None:
    """A BERT encoder whose export left the pooler out: it becomes zero, as transformers would make up a random one."""
    zero = {"pooler.dense.weight": (384, 384), "pooler.dense.bias": (384,)}
    _bert(source, folder, lambda: transformers.BertModel, zero)


def _bert(
    source: Path, folder: Path, model_class: Callable[[], Any], zero: dict[str, tuple[int, ...]] | None = None
) -> None:
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=1536,
        num_labels=1,
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (source.parent / name).is_file():
            shutil.copyfile(source.parent / name, folder / name)
    zeros = {name: torch.zeros(shape) for name, shape in (zero or {}).items()}
    _write(model_class(), config, zeros | dequantise_onnx(source), folder)


def dequantise_onnx(source: Path) -> dict[str, torch.Tensor]:
    """The weights of a dynamically quantised ONNX model, in float32, by their names before the export.

    A matrix that lost its name in the export gets it back from the bias that is added to its product.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(source).graph
    arrays = {array.name: to_array(array) for array in graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    weights = {
        name: torch.from_numpy(array.copy()) for name, array in arrays.items() if re.search(r"\.(weight|bias)$", name)
    }
    for name, array in arrays.items():
        if not name.endswith("_quantized"):
            continue
        plain = name.removesuffix("_quantized")
        values = (array.astype("float32") - arrays[f"{plain}_zero_point"].astype("float32")) * arrays[f"{plain}_scale"]
        users = [node for node in readers.get(name, []) if node.op_type == "MatMulInteger"]
        if users:  # x @ W there, x @ W.T in torch
            values = values.T
            plain = _bias_after(users[0], readers, arrays).removesuffix(".bias") + ".weight"
        weights[plain] = torch.from_numpy(values.copy())
    return weights


def _bias_after(node: Any, readers: dict[str, list[Any]], arrays: dict[str, Any]) -> str:
    """The bias that is added to a product, some casts and rescalings later."""
    for _ in range(4):
        node = readers[node.output[0]][0]
        if node.op_type == "Add":
            return next(name for name in node.input if name in arrays)
    raise RunError(f"no bias follows the matrix product {node.name}")


def _llama_name(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    if match is None or match[2] not in _GGUF_NAMES:
        raise RunError(f"unexpected tensor {name!r} in the GGUF file")
    layer = "" if match[1] is None else f"model.layers.{match[1]}."
    return f"{layer}{_GGUF_NAMES[match[2]]}.weight"


def _as_halves(weight: Any, heads: int) -> Any:
    """Undo GGUF's order of the rotary dimensions: it interleaves the pairs that transformers keeps in two halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _gguf_tokenizer(facts: dict[str, Any], config: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words, control = facts["tokenizer.ggml.tokens"], 3
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    # what `tokenizer.ggml.pre = smollm` stands for: each digit is a token of its own
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(words, facts["tokenizer.ggml.token_type"], strict=True)
    special = [AddedToken(word, special=True, normalized=False) for word, kind in kinds if kind == control]
    tokenizer.add_special_tokens(special)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=words[config.bos_token_id],
        eos_token=words[config.eos_token_id],
        pad_token=words[config.pad_token_id],
        unk_token=words[facts["tokenizer.ggml.unknown_token_id"]],
        chat_template=facts["tokenizer.chat_template"],
        model_max_length=config.max_position_embeddings,
    )


def _write(model_class: Any, config: Any, weights: dict[str, torch.Tensor], folder: Path, tied: str = "") -> None:
    """Write a checkpoint whose weights are exactly those that the model has: none left to chance, none left over."""
    from safetensors.torch import save_file

    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in model_class(config).state_dict().items() if name != tied}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != found:
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise RunError(
            f"the weights do not fit {model_class.__name__}: "
            + "; ".join(f"{name} expected {wanted.get(name)}, found {found.get(name)}" for name in differing[:4])
        )
    config.architectures = [model_class.__name__]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # safetensors lets only the owner read its files; a cache may be shared
    shutil.copymode(folder / "config.json", folder / "model.safetensors")
