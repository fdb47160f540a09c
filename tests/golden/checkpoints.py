"""Late-interaction checkpoints in the layouts of other projects, the same wherever they are written.

    python tests/golden/checkpoints.py FOLDER

writes one folder for each case below; the make_*.py beside this file load them with the projects themselves.
"""

from __future__ import annotations

import json
import string
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AddedToken, AutoModel, AutoTokenizer

from rerankkit.embedded import embedded_model

OPEN_RETRIEVALS_TRUNK, OPEN_RETRIEVALS_DIM = "embedded:minilm-l6", 1024


@dataclass(frozen=True)
class PyLate:
    """What PyLate writes into config_sentence_transformers.json, and the shape of its projection."""

    trunk: str = "embedded:minilm-l6"
    dim: int = 128
    bias: bool = False
    query_prefix: str = "[Q] "
    document_prefix: str = "[D] "
    query_length: int = 32
    document_length: int = 180
    attend_to_expansion_tokens: bool = False
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)
    do_query_expansion: bool = True


@dataclass(frozen=True)
class Stanford:
    """What Stanford's ColBERT writes into artifact.metadata."""

    trunk: str = "embedded:colbert-small-trunk"
    dim: int = 96
    query_maxlen: int = 32
    doc_maxlen: int = 300
    attend_to_mask_tokens: bool = False


@dataclass(frozen=True)
class MultiVector:
    """What sentence-transformers' MultiVectorEncoder writes, in several files."""

    trunk: str = "embedded:minilm-l6"
    dim: int = 64
    query_prompt: str = "query: "
    document_prompt: str = "passage: "
    longest: int = 200
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: dict[str, Any] | None = None
    skiplist_words: tuple[str, ...] = ()
    similarity: str | None = None


PYLATE = {
    "default": PyLate(),
    "attend": PyLate(attend_to_expansion_tokens=True),
    "no_expansion": PyLate(do_query_expansion=False),
    "no_skiplist": PyLate(
        query_prefix="[QueryMarker]",
        document_prefix="[DocumentMarker]",
        query_length=48,
        document_length=64,
        skiplist_words=(),
    ),
    "no_prefix": PyLate(query_prefix="", document_prefix=""),
    "bias_96": PyLate("embedded:bge-small", 96, True, query_prefix="[unused0]", document_prefix="[unused1]"),
}
MULTI_VECTOR = {
    "text_prompts": MultiVector(similarity="meanmaxsim"),
    "markers": MultiVector(
        "embedded:bge-small",
        query_prompt="[unused0] ",
        document_prompt="[unused1] ",
        document_length=64,
        query_expansion={"strategy": "fixed", "attend": True, "token": None, "length": 24},
        skiplist_words=(",", ".", "the", "no entry"),
        similarity="maxsim",
    ),
}
STANFORD = {
    "small": Stanford(),
    "attend": Stanford("embedded:minilm-l6", 96, query_maxlen=24, doc_maxlen=40, attend_to_mask_tokens=True),
}


def write_pylate(case: PyLate, folder: Path) -> None:
    """The folder that PyLate 1.6 saves: a sentence-transformers folder whose second module is a projection."""
    model, tokenizer = _trunk(case.trunk)
    prefixes = [prefix for prefix in (case.query_prefix, case.document_prefix) if prefix]
    known = len(tokenizer)
    tokenizer.add_tokens(prefixes)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    embeddings = model.get_input_embeddings().weight
    for token, unused in zip(prefixes, ("[unused0]", "[unused1]"), strict=False):
        row = tokenizer.convert_tokens_to_ids(token)
        if row >= known:  # PyLate draws the rows of new tokens at random; these can be written again
            embeddings.data[row] = embeddings.data[tokenizer.convert_tokens_to_ids(unused)]
    tokenizer.pad_token = tokenizer.mask_token  # queries are filled up with it
    # what PyLate cut at last, a document without the prefix that it inserts; it sets another for every call
    tokenizer.model_max_length = case.document_length - bool(case.document_prefix)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    dense = folder / "1_Dense"
    dense.mkdir()
    weights = projection(model.config.hidden_size, case.dim, case.bias)
    save_file({f"linear.{name}": weight for name, weight in weights.items()}, dense / "model.safetensors")
    _json(
        dense / "config.json",
        {
            "in_features": model.config.hidden_size,
            "out_features": case.dim,
            "bias": case.bias,
            "activation_function": "torch.nn.modules.linear.Identity",
            "use_residual": False,
        },
    )
    modules = [("0", "", "sentence_transformers.models.Transformer"), ("1", "1_Dense", "pylate.models.Dense.Dense")]
    _json(
        folder / "modules.json",
        [{"idx": int(name), "name": name, "path": path, "type": kind} for name, path, kind in modules],
    )
    _json(folder / "sentence_bert_config.json", {"max_seq_length": tokenizer.model_max_length, "do_lower_case": False})
    _json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "ColBERT",
            "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0", "pytorch": "2.13.0"},
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": case.query_prefix,
            "document_prefix": case.document_prefix,
            "query_length": case.query_length,
            "document_length": case.document_length,
            "attend_to_expansion_tokens": case.attend_to_expansion_tokens,
            "skiplist_words": list(case.skiplist_words),
            "do_query_expansion": case.do_query_expansion,
        },
    )


def write_multi_vector(case: MultiVector, folder: Path) -> None:
    """The folder that MultiVectorEncoder of sentence-transformers 6.2 saves: modules that say what they do."""
    model, tokenizer = _trunk(case.trunk)
    markers = [prompt.strip() for prompt in (case.query_prompt, case.document_prompt) if prompt.startswith("[")]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(marker, normalized=False, special=True) for marker in markers]}
    )
    tokenizer.model_max_length = case.longest
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = {
        "": "base.modules.transformer.Transformer",
        "1_Dense": "base.modules.dense.Dense",
        "2_MultiVectorMask": "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
        "3_Normalize": "base.modules.normalize.Normalize",
    }
    for place in kinds:
        (folder / place).mkdir(exist_ok=True)
    weights = projection(model.config.hidden_size, case.dim)
    save_file({"linear.weight": weights["weight"]}, folder / "1_Dense" / "model.safetensors")
    tokens = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    shape = {"in_features": model.config.hidden_size, "out_features": case.dim, "bias": False}
    activation = {"activation_function": "torch.nn.modules.linear.Identity"}
    _json(folder / "1_Dense" / "config.json", {**shape, **activation, **tokens})
    mask = {"skiplist_words": list(case.skiplist_words), "skiplist_tasks": ["document"], "keep_only_token_ids": None}
    _json(folder / "2_MultiVectorMask" / "config.json", mask)
    _json(folder / "3_Normalize" / "config.json", tokens)
    _json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.{kind}"}
            for i, (place, kind) in enumerate(kinds.items())
        ],
    )
    lengths = {"query_length": case.query_length, "document_length": case.document_length}
    _json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
            **{name: length for name, length in lengths.items() if length is not None},
            **({"query_expansion": case.query_expansion} if case.query_expansion else {}),
        },
    )
    _json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0"},
            "model_type": "MultiVectorEncoder",
            "prompts": {"query": case.query_prompt, "document": case.document_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": case.similarity,
        },
    )


def write_stanford(case: Stanford, folder: Path) -> None:
    """The folder that Stanford's ColBERT 0.2.22 saves: one checkpoint with the projection in it, and its settings."""
    model, tokenizer = _trunk(case.trunk)
    weights = {f"bert.{name}": weight for name, weight in model.state_dict().items()}
    weights["linear.weight"] = projection(model.config.hidden_size, case.dim)["weight"]
    model.config.architectures = ["HF_ColBERT"]
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _json(
        folder / "artifact.metadata",
        {
            "query_token_id": "[unused0]",
            "doc_token_id": "[unused1]",
            "query_token": "[Q]",
            "doc_token": "[D]",
            "dim": case.dim,
            "doc_maxlen": case.doc_maxlen,
            "mask_punctuation": True,
            "query_maxlen": case.query_maxlen,
            "attend_to_mask_tokens": case.attend_to_mask_tokens,
            "interaction": "colbert",
            "similarity": "cosine",
        },
    )


def write_open_retrievals(folder: Path) -> None:
    """The folder that open-retrievals saves, and bge-m3 is published as: a checkpoint, and a projection beside it."""
    model, tokenizer = _trunk(OPEN_RETRIEVALS_TRUNK)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(projection(model.config.hidden_size, OPEN_RETRIEVALS_DIM, bias=True), folder / "colbert_linear.pt")


def projection(hidden: int, dim: int, bias: bool = False) -> dict[str, torch.Tensor]:
    """The state of a linear layer, drawn from a seed."""
    seeded = torch.Generator().manual_seed(0)
    weights = {"weight": torch.randn(dim, hidden, generator=seeded) * 0.05}
    if bias:
        weights["bias"] = torch.randn(dim, generator=seeded) * 0.05
    return weights


def _trunk(name: str) -> tuple[Any, Any]:
    folder = embedded_model(name)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def _json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def main(folder: str) -> None:
    for name, case in PYLATE.items():
        write_pylate(case, Path(folder) / "pylate" / name)
    for name, stanford in STANFORD.items():
        write_stanford(stanford, Path(folder) / "stanford" / name)
    for name, multi_vector in MULTI_VECTOR.items():
        write_multi_vector(multi_vector, Path(folder) / "multi_vector" / name)
    write_open_retrievals(Path(folder) / "open_retrievals")


if __name__ == "__main__":
    main(*sys.argv[1:])
