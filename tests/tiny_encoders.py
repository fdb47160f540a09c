"""Tiny encoders and classifiers of many architectures, with random weights and tokenizers of their own, on disk."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import tiny_bert
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

_HOME = tempfile.TemporaryDirectory(prefix="rerankkit-tiny-encoders-")
ANGLED = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_BERT = {**tiny_bert.SHAPE, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_ROBERTA = {**_BERT, "max_position_embeddings": 514, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DISTILBERT = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "initializer_range": 0.3,
               "max_position_embeddings": 512, "dropout": 0.0, "attention_dropout": 0.0,
               "seq_classif_dropout": 0.0}  # fmt: skip
_MODERNBERT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
               "initializer_range": 0.3, "max_position_embeddings": 512, "local_attention": 16, "pad_token_id": 0,
               "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}  # fmt: skip
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "type_vocab_size": 0,
            "pooler_hidden_size": 32, "norm_rel_ebd": "layer_norm"}  # fmt: skip
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("Bert", "wordpiece", _BERT),
    "roberta": ("Roberta", "bytes", {**_ROBERTA, "type_vocab_size": 1}),
    "distilbert": ("DistilBert", "untyped", _DISTILBERT),
    "modernbert": ("ModernBert", "untyped", _MODERNBERT),
    "electra": ("Electra", "wordpiece", {**_BERT, "embedding_size": 16}),
    "deberta_v2": ("DebertaV2", "untyped", {**_BERT, **_DEBERTA}),
    "albert": ("Albert", "wordpiece", {**_BERT, "embedding_size": 16}),
    "xlm_roberta": ("XLMRoberta", "unigram", {**_ROBERTA, "type_vocab_size": 1}),
}
"""Configuration and tokenizer of each architecture."""
DECODERS = {
    "llama": ("Llama", {"pad_token_id": 0}),
    "llama_without_pad": ("Llama", {"pad_token_id": None}),
    "llama_pad_is_eos": ("Llama", {"pad_token_id": 2}),
    "qwen3": ("Qwen3", {"pad_token_id": 0}),
}


@cache
def tokenizer(kind: str) -> Any:
    """A tokenizer that frames pairs as BERT (`wordpiece`, `untyped`), RoBERTa (`bytes`) or XLM-R (`unigram`) does."""
    if kind in ("wordpiece", "untyped"):
        found = tiny_bert.tokenizer()
        if kind == "wordpiece":
            return found
        options = {f"{name}_token": getattr(found, f"{name}_token") for name in ("pad", "unk", "cls", "sep", "mask")}
        return _wrapped(found.backend_tokenizer, options)
    corpus = [tiny.sentence(i, 30) for i in range(40)]
    if kind == "bytes":
        words = Tokenizer(models.BPE())
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=400, special_tokens=ANGLED, initial_alphabet=alphabet, show_progress=False
        )
    else:
        words = Tokenizer(models.Unigram())
        words.pre_tokenizer = pre_tokenizers.Metaspace()
        words.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=ANGLED, unk_token="<unk>", show_progress=False,
            initial_alphabet=[chr(i) for i in range(33, 127)],
        )  # fmt: skip
    words.train_from_iterator(corpus, trainer)
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return _wrapped(words, {f"{name}_token": token for name, token in names.items()})


def _wrapped(words: Any, options: dict[str, Any]) -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
        **options,
    )


@cache
def encoder(architecture: str) -> Path:
    return _written(architecture, "Model")


@cache
def classifier(architecture: str, labels: int = 1) -> Path:
    return _written(architecture, "ForSequenceClassification", labels)


def _written(architecture: str, task: str, labels: int = 1) -> Path:
    folder = Path(_HOME.name) / f"{architecture}-{task}-{labels}"
    if architecture in ENCODERS:
        name, kind, shape = ENCODERS[architecture]
        words = tokenizer(kind)
    else:
        name, changes = DECODERS[architecture]
        words, shape = tiny.tokenizer(), {**tiny.SHAPE, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(13)
        config = getattr(transformers, f"{name}Config")(vocab_size=len(words), num_labels=labels, **shape)
        model = getattr(transformers, f"{name}{task}")(config)
        for weight in model.parameters():
            if weight.ndim == 1:  # biases of zero would hide a bias that is lost
                torch.nn.init.normal_(weight, mean=float(weight.detach().mean()), std=0.1)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
