"""A tiny BERT with random weights and a real WordPiece tokenizer, on disk, in the forms of published checkpoints."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_HOME = tempfile.TemporaryDirectory(prefix="rerankkit-tiny-bert-")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "initializer_range": 0.3, "max_position_embeddings": 512,
}  # fmt: skip


@cache
def tokenizer() -> Any:
    """A lower-casing WordPiece whose pairs are `[CLS] query [SEP] document [SEP]`, with types."""
    letters = [chr(i) for i in range(33, 127)]
    pieces = [f"##{letter}" for letter in letters] + ["##ing", "##er", "##es"]
    # written out, as a trained vocabulary is another one in every process
    entries = [*SPECIAL, *letters, *pieces, *tiny.TEXT.lower().split(), "passage", "answers"]
    words = Tokenizer(models.WordPiece({e: i for i, e in enumerate(dict.fromkeys(entries))}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=True)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    words.add_special_tokens(SPECIAL)
    words.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, words.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=512,
    )


@cache
def encoder(dropout: float = 0.0) -> Path:
    """A folder with an encoder alone."""
    return _written(transformers.BertModel, f"encoder-{dropout}", dropout)


@cache
def classifier(labels: int = 1, dropout: float = 0.0) -> Path:
    """A folder with a sequence classifier."""
    return _written(transformers.BertForSequenceClassification, f"classifier-{labels}-{dropout}", dropout, labels)


@cache
def with_projection(dim: int = 24) -> Path:
    """An encoder beside which `colbert_linear.pt` lies, as open-retrievals and BGE-M3 have it."""
    folder = _written(transformers.BertModel, f"projection-{dim}", 0.0)
    generator = torch.Generator().manual_seed(3)
    weights = {"weight": torch.randn(dim, SHAPE["hidden_size"], generator=generator), "bias": torch.zeros(dim)}
    torch.save(weights, folder / "colbert_linear.pt")
    return folder


def _written(model_class: Any, name: str, dropout: float, labels: int = 1) -> Path:
    folder = Path(_HOME.name) / name
    with torch.random.fork_rng():
        torch.manual_seed(11)
        dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        config = transformers.BertConfig(vocab_size=len(tokenizer()), num_labels=labels, **SHAPE, **dropouts)
        model = model_class(config)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["architectures"] == [model_class.__name__]
    return folder


KINDS = {
    "classifier": ("pair.v1", 'hf_classifier.v1"\nname = "{classifier}', "logit.v1"),
    "linear": ("pair.v1", 'hf_encoder.v1"\nname = "{encoder}', 'linear.v1"\npooling = "mean'),
    "colbert": ("late_interaction.v1", 'hf_encoder.v1"\nname = "{encoder}', 'maxsim.v1"\nsimilarity = "mean'),
}
"""Collator, backbone and head of each kind of encoder reranker."""


def model_sections(kind: str, lora: str = "", dropout: float = 0.0) -> str:
    """The [model] of a recipe.

    Args:
        lora: What stands in [model.backbone.lora]; empty for no LoRA.
    """
    collator, backbone, head = KINDS[kind]
    names = {"classifier": classifier(dropout=dropout), "encoder": encoder(dropout)}
    parts = {
        "formatter": '@formatters = "pair.v1"',
        "collator": f'@collators = "{collator}"',
        "backbone": f'@backbones = "{backbone}"'.format(**names),
        **({"backbone.lora": lora} if lora else {}),
        "head": f'@heads = "{head}"',
        "strategy": '@strategies = "pointwise.v1"',
    }
    return "[model]\n" + "".join(f"[model.{name}]\n{text}\n" for name, text in parts.items())
