"""Random models of real shapes, made on the device, and texts of random words that their tokenizer knows."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rerankkit import Group
from rerankkit.backbones.hf_causal import HFCausal

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[unused0]", "[unused1]", "<|im_start|>", "<|im_end|>"]
_QWEN3 = {"vocab_size": 151_936, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 8192}
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        **_QWEN3, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "Qwen3-4B": {
        **_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
    "ModernBERT-150M": {
        "vocab_size": 50_368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
        "num_attention_heads": 12,
    },
}  # fmt: skip
TINY = {
    "vocab_size": 2000, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


@cache
def words() -> list[str]:
    """Words of two or three syllables, the same on every run."""
    draw = random.Random(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeiou"]
    return sorted({"".join(draw.choices(syllables, k=draw.choice((2, 3)))) for _ in range(900)})


def text(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(words(), k=count))


def groups(count: int, documents: int, shortest: int, longest: int, labelled: bool = False) -> list[Group]:
    """Queries of eight words with documents of so many."""
    draw, found = random.Random(1), []
    for number in range(count):
        lengths = [draw.randint(shortest, longest) for _ in range(documents)]
        docs = [text(length, 1000 * number + place) for place, length in enumerate(lengths)]
        labels = [1.0, *[0.0] * (documents - 1)] if labelled else None
        found.append(Group(text(8, 77_000 + number), docs, labels, qid=f"q{number}"))
    return found


@cache
def tokenizer(framed: bool) -> Any:
    """A byte-level BPE to which most of the words are one token.

    Args:
        framed: `[CLS] query [SEP] document [SEP]`, as encoders read a pair.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    answers = " yes no Yes No Passage A B C D E F " * 30
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1900, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*(text(300, seed) for seed in range(30)), answers], trainer)
    if framed:
        bpe.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B [SEP]",
            special_tokens=[(token, bpe.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
        )
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        unk_token="[UNK]", eos_token="<|im_end|>", model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    wrapped.chat_template = None if framed else CHAT  # with one, sentence-transformers would write a conversation
    return wrapped


def _config(name: str, small: bool, ids: Any) -> Any:
    shape = {**SHAPES[name], **(TINY if small else {})}
    special = {"pad_token_id": ids.pad_token_id, "bos_token_id": ids.cls_token_id, "eos_token_id": ids.eos_token_id}
    if name.startswith("Qwen3"):
        tiny = {"head_dim": 8, "num_key_value_heads": 2} if small else {}
        return transformers.Qwen3Config(**{**shape, **tiny}, **special)
    frame = {"cls_token_id": ids.cls_token_id, "sep_token_id": ids.sep_token_id}
    return transformers.ModernBertConfig(**shape, **special, **frame, num_labels=1)


def causal(name: str, device: str, dtype: torch.dtype, small: bool) -> HFCausal:
    """A causal language model as a backbone."""
    ids = tokenizer(framed=False)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(_config(name, small, ids), dtype=dtype)
    return HFCausal(name, ids, model.eval(), share_prefix=True, lora=None)


def encoder_folder(name: str, folder: Path, classifier: bool, device: str, small: bool) -> Path:
    """A checkpoint in fp32 that transformers and sentence-transformers load."""
    ids = tokenizer(framed=True)
    auto = transformers.AutoModelForSequenceClassification if classifier else transformers.AutoModel
    torch.manual_seed(0)
    with torch.device(device):
        model = auto.from_config(_config(name, small, ids), dtype=torch.float32)
    model.save_pretrained(folder)
    ids.save_pretrained(folder)
    return folder
