"""Tiny causal language models with random weights and a small real tokenizer, on disk, for the tests that need one."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from rerankkit.backbones.hf_causal import HFCausal, hf_causal
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.yes_no import yes_no
from rerankkit.lora import Lora
from rerankkit.protocols import Group
from rerankkit.strategies.pointwise import Pointwise

_HOME = tempfile.TemporaryDirectory(prefix="rerankkit-tiny-")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
THINK = ["<think>", "</think>"]
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
TEXT = (
    "how do I open a file in python the open function returns a file object and reads text or bytes from the disk "
    "sort list of tuples by key which module parses dates does the document answer the query yes or no Yes No "
    "a cat sat on the mat while rain fell over quiet hills relevant passage question judge search engine"
)
WORDS = TEXT.split()
TEMPLATE = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer:"
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "max_position_embeddings": 4096,
    "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 2,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "n_positions": 4096}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**SHAPE, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3", {**SHAPE, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {**SHAPE, "sliding_window": 16, "final_logit_softcapping": 3.0}),
    "granite": ("Granite", {**SHAPE, "logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    "cohere": ("Cohere", {**SHAPE, "logit_scale": 0.25}),
    "phi": ("Phi", {**SHAPE, "num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "gpt2": ("GPT2", {**_GPT2, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 2}),
}
NAMES = list(ARCHITECTURES)


def sentence(number: int, words: int) -> str:
    """Some text that is the same on every run, another for each number."""
    draw = torch.randint(len(WORDS), (words,), generator=torch.Generator().manual_seed(number))
    return " ".join(WORDS[i] for i in draw)


def group(number: int, docs: int, longest: int = 40) -> Group:
    """A query with documents of mixed length."""
    lengths = torch.randint(1, longest, (docs,), generator=torch.Generator().manual_seed(number)).tolist()
    texts = [sentence(1000 * number + i, n) for i, n in enumerate(lengths)]
    return Group(sentence(number, 6), texts, qid=f"q{number}", doc_ids=[f"q{number}d{i}" for i in range(docs)])


@cache
def tokenizer(leading: bool = False, chat: str | None = CHAT, limit: int = 4096) -> Any:
    """A byte-level BPE with special tokens, and `<think>`, which is added but not special.

    Args:
        leading: It puts `<s>` before every sequence.
        chat: Its chat template.
        limit: Its `model_max_length`.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    corpus = [sentence(i, 30) for i in range(40)] + [TEMPLATE, "Document: Query: Answer: yes no Yes No\n\n"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=480, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINK])
    if leading:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 3)])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        bos_token="<s>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=limit,
    )
    wrapped.chat_template = chat
    return wrapped


@cache
def folder(architecture: str = "llama", leading: bool = False) -> Path:
    """A checkpoint that transformers loads by itself."""
    name, shape = ARCHITECTURES[architecture]
    words = tokenizer(leading)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        config = getattr(transformers, f"{name}Config")(vocab_size=len(words), **shape)
        model = transformers.AutoModelForCausalLM.from_config(config)
        if (bias := model.get_output_embeddings().bias) is not None:
            torch.nn.init.normal_(bias)
    path = Path(_HOME.name) / f"{architecture}-{leading}"
    model.save_pretrained(path)
    words.save_pretrained(path)
    return path


def backbone(architecture: str = "llama", share_prefix: bool = True, lora: Lora | None = None) -> HFCausal:
    """A tiny model as a part; built anew, so that a test may change it."""
    return hf_causal(str(folder(architecture)), share_prefix=share_prefix, lora=lora)


def parts(
    architecture: str = "llama",
    share_prefix: bool = True,
    template: Template | None = None,
    collator: SequenceCollator | None = None,
    strategy: Any = None,
    of: HFCausal | None = None,
) -> Parts:
    """The five parts of a tiny yes/no reranker, bound."""
    model = of or backbone(architecture, share_prefix)
    head = yes_no()
    head.bind(model)
    return Parts(
        template or Template(TEMPLATE), collator or SequenceCollator(512), model, head, strategy or Pointwise()
    )


def naive_scores(of: Parts, asked: Group) -> list[float]:
    """logit(" yes") - logit(" no") from all logits of each whole prompt, one at a time."""
    words, model = of.backbone.tokenizer, of.backbone.module
    yes, no = (words(text, add_special_tokens=False)["input_ids"][0] for text in (" yes", " no"))
    found = []
    for document in asked.docs:
        text = TEMPLATE.replace("{query}", asked.query).replace("{document}", document)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([words(text)["input_ids"]])).logits[0, -1]
        found.append((logits[yes] - logits[no]).item())
    return found


def recipe(at: Path, architecture: str = "llama", extra: str = "") -> Path:
    """A recipe file of a tiny reranker."""
    at.write_text(
        f"""[model]
[model.formatter]
@formatters = "pointwise.v1"
[model.collator]
@collators = "sequence.v1"
[model.backbone]
@backbones = "hf_causal.v1"
name = "{folder(architecture)}"
[model.head]
@heads = "yes_no.v1"
[model.strategy]
@strategies = "pointwise.v1"
{extra}"""
    )
    return at
