"""How fast are the yes/no scores of one query's 100 documents, against the usual way, and what gives how much?

The usual way pads batches of 16 in the given order, computes the logits of the whole vocabulary at every position with
AutoModelForCausalLM, and looks at two of them. Every row below starts from the texts and reads the same token ids.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
import transformers
from measuring import SMALL, interleaved, matrix_product_rate, print_table

from rerankkit import engine
from rerankkit.backbones.hf_causal import HFCausal, hf_causal
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.embedded import embedded_model
from rerankkit.engine import Parts
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.yes_no import yes_no
from rerankkit.pretrained import DTYPES
from rerankkit.protocols import Ask, Backbone, Batch, Group, Row
from rerankkit.readers.stdlib_docs import StdlibDocs
from rerankkit.reranker import Reranker
from rerankkit.strategies.pointwise import Pointwise

MODEL = "embedded:smollm2-135m-instruct"
DOCUMENTS = 12 if SMALL else 100
BATCH = 4 if SMALL else 16
ROUNDS = 3
TEMPLATE = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer yes or no:"
ANSWERS = "Yes", "No"


pytestmark = pytest.mark.usefixtures("threads")


def test_yes_no_against_full_logits(benchmark: Any) -> None:
    ours = reranker("fp32")
    shared = ours.parts
    whole = replace(shared, backbone=without_prefix(shared.backbone))
    group = documents()
    pairs = [(group.query, document) for document in group.docs]
    contestants = {
        "full logits, batches of 16 in the given order": partial(in_order, whole, group, full_logits),
        "last position only": partial(in_order, whole, group, last_position),
        "two rows of the output layer": partial(in_order, whole, group, two_rows),
        "+ shared prefix computed once": partial(in_order, shared, group, two_rows),
        "+ batches by tokens, sorted by length (rerankkit)": partial(ours.compute_score, pairs),
    }
    seconds = interleaved(benchmark, contestants, ROUNDS, same_scores)
    usual = next(iter(seconds.values()))
    computed = [count(whole, group)] * 3 + [count(shared, group), (ours.costs.tokens, ours.costs.padding)]
    rows = [
        [name, f"{took:.1f}", f"{len(group.docs) / took:.1f}", f"{usual / took:.2f}x", f"{tokens:,}", f"{padding:,}"]
        for (name, took), (tokens, padding) in zip(seconds.items(), computed, strict=True)
    ]
    print_table(
        f"SmolLM2-135M yes/no, 1 query x {len(group.docs)} documents, fp32",
        ["way", "seconds", "documents/s", "speed", "tokens", "padding"],
        rows,
        f"Query: {group.query!r}. Prompts have {prompt_lengths(whole, group)}. Medians of {ROUNDS} interleaved rounds.",
    )
    ratio = usual / list(seconds.values())[-1]
    benchmark.extra_info["ratio"] = ratio
    assert SMALL or ratio >= 2.0  # 3 and more on a quiet machine


def test_bf16_against_fp32(benchmark: Any) -> None:
    group = documents()
    pairs = [(group.query, document) for document in group.docs]
    rerankers = {dtype: reranker(dtype) for dtype in ("fp32", "bf16")}
    scores: dict[str, list[float]] = {}
    seconds = interleaved(
        benchmark,
        {dtype: partial(model.compute_score, pairs) for dtype, model in rerankers.items()},
        ROUNDS,
        scores.update,
    )
    rates = {dtype: matrix_product_rate(getattr(torch, DTYPES[dtype])) for dtype in rerankers}
    faster = rates["bf16"] / rates["fp32"]
    apart = max(abs(a - b) for a, b in zip(scores["fp32"], scores["bf16"], strict=True))
    spread = max(scores["fp32"]) - min(scores["fp32"])
    alike = torch.corrcoef(torch.tensor([scores["fp32"], scores["bf16"]]))[0, 1].item()
    rows = [
        [dtype, f"{took:.1f}", f"{len(pairs) / took:.1f}", f"{seconds['fp32'] / took:.2f}x", f"{rates[dtype]:.0f}"]
        for dtype, took in seconds.items()
    ]
    print_table(
        f"SmolLM2-135M yes/no with rerankkit, 1 query x {len(pairs)} documents, bf16 against fp32",
        ["dtype", "seconds", "documents/s", "speed", "GFLOP/s of a matrix product"],
        rows,
        f"Scores differ by at most {apart:.3f} where they range over {spread:.3f}; their correlation is {alike:.4f}.",
    )
    assert alike > 0.9
    # A model can be no faster than its matrix products. Where the CPU has no fast ones in bf16, or hides them from a
    # virtual machine, there is nothing to assert: bf16 then saves memory alone.
    ratio = seconds["fp32"] / seconds["bf16"]
    benchmark.extra_info["ratio"] = ratio
    assert SMALL or faster < 3.0 or ratio >= 1.5  # 2.5 and more on a quiet machine


def reranker(dtype: str) -> Reranker:
    """With no [engine] settings, a user's own."""
    backbone = small_backbone(dtype) if SMALL else hf_causal(MODEL, dtype=dtype)  # type: ignore[arg-type]
    head = yes_no(*ANSWERS)
    return Reranker(Parts(Template(TEMPLATE, chat=True), SequenceCollator(), backbone, head, Pointwise())).to("cpu")


def small_backbone(dtype: str) -> HFCausal:
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_model(MODEL))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    model = transformers.LlamaForCausalLM(config).to(getattr(torch, DTYPES[dtype])).eval()
    return HFCausal("small", tokenizer, model, share_prefix=True, lora=None)


def without_prefix(backbone: Backbone) -> Backbone:
    """The same weights, which read every prompt whole."""
    whole = copy(backbone)
    whole.shares_prefix = False
    return whole


@cache
def documents() -> Group:
    """The first query of the standard library's test split with the documents that BM25 found for it."""
    return next(iter(StdlibDocs(split="test", candidates=DOCUMENTS, limit=1)))


def rows_of(parts: Parts, group: Group) -> list[Row]:
    return engine.encode(parts, [Ask(group, (position,)) for position in range(len(group.docs))])


def batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    yield from (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def in_order(parts: Parts, group: Group, score: Any) -> list[float]:
    """Scores of batches in the given order; what the prompts share is read once where `parts` share it."""
    rows = rows_of(parts, group)
    found: list[float] = []
    with torch.inference_mode():
        states = None
        if rows[0].shared:
            prefix = parts.collator.collate([Row(list(rows[0].shared), [])], parts.backbone.tokenizer).tokens
            states = parts.backbone.read_shared(prefix)
        for some in batches(rows):
            found += score(parts, engine.collate(parts, some), states).flatten().tolist()
    return found


def full_logits(parts: Parts, batch: Batch, states: Any) -> torch.Tensor:
    """What one writes with transformers alone."""
    output = parts.backbone.module(input_ids=batch.tokens.ids, attention_mask=batch.tokens.mask, use_cache=False)
    answer = output.logits[torch.arange(len(batch.answer)), batch.answer]  # [rows, vocabulary]
    return yes_minus_no(parts, answer)


def last_position(parts: Parts, batch: Batch, states: Any) -> torch.Tensor:
    """The whole vocabulary, at the answer's position alone."""
    hidden = parts.backbone.hidden(batch).states[torch.arange(len(batch.answer)), batch.answer]  # [rows, width]
    return yes_minus_no(parts, parts.backbone.module.get_output_embeddings()(hidden))


def two_rows(parts: Parts, batch: Batch, states: Any) -> torch.Tensor:
    return engine.forward(parts, batch, states)


def yes_minus_no(parts: Parts, logits: torch.Tensor) -> torch.Tensor:
    yes, no = (parts.backbone.tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in ANSWERS)
    return (logits[:, yes] - logits[:, no]).float()


def same_scores(results: dict[str, list[float]]) -> None:
    usual, *others = results.items()
    for name, scores in others:
        apart = (torch.tensor(scores) - torch.tensor(usual[1])).abs().max().item()
        assert apart < 1e-3, f"{name}: a score is {apart:.2g} away from that of {usual[0]}"


def count(parts: Parts, group: Group) -> tuple[int, int]:
    """Tokens and padding that batches in the given order compute."""
    rows = rows_of(parts, group)
    real = sum(len(row.ids) for row in rows)
    padded = sum(len(some) * max(len(row.ids) for row in some) for some in batches(rows))
    return real + len(rows[0].shared), padded - real


def prompt_lengths(parts: Parts, group: Group) -> str:
    lengths = [len(row.ids) for row in rows_of(parts, group)]
    return f"{min(lengths)} to {max(lengths)} tokens, {statistics.mean(lengths):.0f} on average"
