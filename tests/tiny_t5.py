"""Tiny encoders with decoders, with random weights and a small real tokenizer, on disk, for the tests that need one."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from rerankkit.backbones.hf_encoder_decoder import HFEncoderDecoder, hf_encoder_decoder
from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.engine import Parts
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.yes_no import yes_no
from rerankkit.lora import Lora
from rerankkit.protocols import Group
from rerankkit.strategies.pointwise import Pointwise

_HOME = tempfile.TemporaryDirectory(prefix="rerankkit-tiny-t5-")
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>", "<extra_id_0>", "<extra_id_1>"]
WORDS = [*dict.fromkeys(tiny.WORDS), *("Query", "Document", "Passage", "Answer", "true", "false"), *"ABCD"]
TEMPLATE = "Query: {query} Document: {document} Does the document answer the query?"
_T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 32, "decoder_start_token_id": 0,
}  # fmt: skip
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 256,
    "init_std": 0.3, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1, "decoder_start_token_id": 1,
    "forced_eos_token_id": 1,
}  # fmt: skip
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {**_T5, "feed_forward_proj": "relu"}),
    "t5_v1_1": ("T5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("MT5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "bart": ("Bart", _BART),
}
NAMES = list(ARCHITECTURES)


@cache
def tokenizer(opened: bool = False) -> Any:
    """A Unigram model that closes every text with `</s>`, as T5's does.

    Args:
        opened: It puts `<s>` before every text, as BART's does.
    """
    letters = [chr(code) for code in range(33, 127)]
    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [(f"▁{word}", -5.0 - 0.01 * number) for number, word in enumerate(WORDS)]
    pieces += [("▁", -8.0)] + [(letter, -9.0 - 0.01 * number) for number, letter in enumerate(letters)]
    words = Tokenizer(models.Unigram(pieces, unk_id=2))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    words.add_special_tokens(SPECIAL)
    single, added = ("<s> $A </s>", [("<s>", 3), ("</s>", 1)]) if opened else ("$A </s>", [("</s>", 1)])
    words.post_processor = processors.TemplateProcessing(single=single, special_tokens=added)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<extra_id_0>", "<extra_id_1>"],
        model_max_length=512,
    )


@cache
def folder(architecture: str = "t5") -> Path:
    """A checkpoint that transformers loads by itself."""
    name, shape = ARCHITECTURES[architecture]
    words = tokenizer(opened=architecture == "bart")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        config = getattr(transformers, f"{name}Config")(vocab_size=len(words), **shape)
        model = transformers.AutoModelForSeq2SeqLM.from_config(config)
        for weight in (
            w for name, w in model.named_parameters() if "bart" not in architecture and "attention" in name.lower()
        ):
            weight.data *= 3.0  # so that documents differ in more than noise
        if architecture in ("t5_v1_1", "mt5"):  # which transformers ties until a checkpoint says otherwise
            model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(len(words), 32))
        if architecture == "bart":
            model.final_logits_bias.normal_()
    path = Path(_HOME.name) / architecture
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def backbone(architecture: str = "t5", lora: Lora | None = None) -> HFEncoderDecoder:
    """A tiny model as a part; built anew, so that a test may change it."""
    return hf_encoder_decoder(str(folder(architecture)), lora=lora)


def parts(architecture: str = "t5", of: HFEncoderDecoder | None = None) -> Parts:
    """The five parts of a tiny yes/no reranker, bound."""
    model, head = of or backbone(architecture), yes_no("true", "false")
    head.bind(model)
    return Parts(Template(TEMPLATE), EncoderDecoderCollator(256), model, head, Pointwise())


def naive_logits(of: HFEncoderDecoder, read: str, ids: list[int]) -> torch.Tensor:
    """All logits behind each of the decoder's tokens, for one text by itself. [tokens, vocabulary]"""
    given = torch.tensor([of.tokenizer(read)["input_ids"]])
    with torch.no_grad():
        return of.module(input_ids=given, decoder_input_ids=torch.tensor([ids])).logits[0].float()


def naive_scores(of: Parts, asked: Group) -> list[float]:
    """logit("true") - logit("false") from all logits, one prompt at a time."""
    yes, no = (of.backbone.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("true", "false"))
    start = of.backbone.module.config.decoder_start_token_id
    found = []
    for document in asked.docs:
        text = TEMPLATE.replace("{query}", asked.query).replace("{document}", document)
        logits = naive_logits(of.backbone, text, [start])[-1]  # type: ignore[arg-type]
        found.append((logits[yes] - logits[no]).item())
    return found
