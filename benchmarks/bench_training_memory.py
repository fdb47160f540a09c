"""How much memory does one training step of 16 x 256 tokens take, against the same step with full logits?

Each step runs in a process of its own, so that neither can profit from memory that the other left behind. What is
reported is the highest resident memory during the step (forward, backward, optimizer) less what was resident before
it. Resident memory is sampled by a thread: the kernel's own high-water mark (ru_maxrss) cannot be reset, and loading a
model may have set it; a count of tensors (torch's profiler) would leave out the workspace of the matrix products. The
sampler cannot miss much: memory grows only as fast as its pages are touched, a few MB in a millisecond, and the large
tensors live for seconds.

glibc's heap keeps what was freed between blocks that are in use. With recomputed activations that was several times
what the step needed, whichever way its logits were made. So tensors of a megabyte and more are mapped one by one here,
and their memory goes back when they do.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from measuring import SMALL, PeakMemory, in_a_process, print_table

GROUPS, DOCUMENTS, LENGTH = (2, 2, 64) if SMALL else (4, 4, 256)
SMOLLM2 = "embedded:smollm2-135m-instruct"
ANSWERS = " yes", " no"


@dataclass(frozen=True)
class Model:
    """What is trained. A random model has Qwen3-0.6B's sizes, its number of layers aside."""

    title: str
    layers: int | None = None
    vocabulary: int = 49_152
    recompute: bool = False
    at_most: float = 1.0


MODELS = {
    "smollm2": Model("SmolLM2-135M"),
    "qwen3": Model("Qwen3-0.6B's shape, random", layers=4, vocabulary=151_936, at_most=1 / 3),
    # Activations grow with the layers and are the same both ways, so with all layers they are recomputed, as one
    # trains a model of this size.
    "qwen3-deep": Model("Qwen3-0.6B's shape, random", layers=28, vocabulary=151_936, recompute=True, at_most=1 / 3),
}
WAYS = ("full", "ours")


def test_memory_of_a_training_step() -> None:
    rows, wrong = [], []
    for name, model in MODELS.items():
        full, ours = (in_a_process(__file__, name, way) for way in WAYS)
        assert ours["loss"] == pytest.approx(full["loss"], rel=1e-3)
        assert ours["gradient"] == pytest.approx(full["gradient"], rel=1e-2)
        ratio = ours["peak"] / full["peak"]
        if ratio > model.at_most:
            wrong.append(f"{name}: {ratio:.2f} of full logits' memory, at most {model.at_most:.2f} was expected")
        layers = f"{full['layers']}{', recomputed' if model.recompute else ''}"
        sizes = [f"{gigabytes:.2f}" for gigabytes in (full["logits"], full["resident"], full["peak"], ours["peak"])]
        rows.append([model.title, layers, f"{full['vocabulary']:,}", *sizes, f"{ratio:.2f}"])
    print_table(
        f"Memory of one training step, {GROUPS * DOCUMENTS} x {LENGTH} tokens, LoRA, fp32",
        ["model", "layers", "vocabulary", "one logits tensor", "resident", "full logits", "rerankkit", "ratio"],
        rows,
        "GB. The last two are the step's peak over what was resident before it.",
    )
    assert SMALL or not wrong, wrong


def measure(model: Model, way: str) -> dict[str, float]:
    """One training step, in this process."""
    import psutil
    import torch

    from rerankkit.batches import training_batch
    from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
    from rerankkit.training.trainer import TrainingModule

    torch.manual_seed(0)
    parts = build(model)
    module = TrainingModule(parts, SoftmaxCrossEntropy())
    if model.recompute:
        module.gradient_checkpointing_enable()
    module.train()
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    forward = module if way == "ours" else lambda batch: full_logits(module, batch)

    # what a process sets up once (threads, kernels, checks of the model) is no part of a step
    forward(training_batch(parts, [group(0, 2, 4)]))["loss"].backward()
    optimizer.zero_grad()
    batch = training_batch(parts, [group(number, DOCUMENTS, LENGTH) for number in range(GROUPS)])
    assert batch.tokens.ids.shape == (GROUPS * DOCUMENTS, LENGTH) and batch.tokens.mask.all() and batch.shared is None

    resident = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        output = forward(batch)
        output["loss"].backward()
        optimizer.step()
    config = parts.backbone.module.config
    return {
        "peak": (memory.peak - resident) / 1e9,
        "resident": resident / 1e9,
        "logits": batch.tokens.ids.numel() * config.vocab_size * 4 / 1e9,
        "loss": output["loss"].item(),
        "gradient": torch.stack([w.grad.norm() for w in weights if w.grad is not None]).norm().item(),
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
    }


def full_logits(module: Any, batch: Any) -> dict[str, Any]:
    """The usual way: all logits, of which two are looked at."""
    import torch

    from rerankkit.batches import score_matrix

    output = module.backbone(input_ids=batch.tokens.ids, attention_mask=batch.tokens.mask, use_cache=False)
    tokenizer = module.parts.backbone.tokenizer
    yes, no = (tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in ANSWERS)
    answer = output.logits[torch.arange(len(batch.answer)), batch.answer]  # [rows, vocabulary]
    scores = score_matrix((answer[:, yes] - answer[:, no]).unsqueeze(1), batch)
    # a caller holds the output during the backward pass, as a trainer does
    return {"loss": module.loss(scores, batch.labels, batch.mask), "output": output}


def build(model: Model) -> Any:
    """Parts of a yes/no reranker with LoRA; no prefix is shared, so both ways compute the same tokens."""
    import transformers

    from rerankkit.backbones.hf_causal import HFCausal, hf_causal
    from rerankkit.collators.sequence import SequenceCollator
    from rerankkit.embedded import embedded_model
    from rerankkit.engine import Parts
    from rerankkit.formatters.pointwise import Pointwise as Template
    from rerankkit.heads.yes_no import yes_no
    from rerankkit.lora import Lora, add_lora
    from rerankkit.strategies.pointwise import Pointwise

    if model.layers is None and not SMALL:
        backbone = hf_causal(SMOLLM2, share_prefix=False, lora=Lora())
    else:
        sizes = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": model.layers or 2}
        if SMALL:
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        config = transformers.Qwen3Config(
            vocab_size=model.vocabulary,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=8 if SMALL else 128,
            tie_word_embeddings=True,
            **sizes,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_model(SMOLLM2))  # its ids are all in range
        module = add_lora(transformers.AutoModelForCausalLM.from_config(config), Lora())
        backbone = HFCausal("random", tokenizer, module, share_prefix=False, lora=Lora())
    head = yes_no(*ANSWERS)
    head.bind(backbone)
    return Parts(Template(), SequenceCollator(max_length=LENGTH), backbone, head, Pointwise())


def group(number: int, documents: int, words: int) -> Any:
    """Documents of so many words, each at least a token."""
    from rerankkit.protocols import Group

    docs = [" ".join(f"word{number * position + place}" for place in range(words)) for position in range(documents)]
    return Group(f"what is word {number}?", docs, [1.0] + [0.0] * (documents - 1))


if __name__ == "__main__":
    print(json.dumps(measure(MODELS[sys.argv[1]], sys.argv[2])))
