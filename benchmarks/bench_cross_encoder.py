"""How fast does a cross-encoder score pairs, against sentence-transformers with the same checkpoint?

2,000 pairs of real text, of very different lengths, in random order; both begin with the texts and give the same
logits. sentence-transformers scores in its batches of 32, sorted by characters.
"""

from __future__ import annotations

import random
from functools import cache, partial
from typing import Any

import pytest
import torch
from measuring import SMALL, interleaved, matrix_product_rate, print_table
from sentence_transformers import CrossEncoder

from rerankkit.embedded import embedded_model
from rerankkit.readers.stdlib_docs import StdlibDocs
from rerankkit.reranker import Reranker

MODEL = "embedded:ms-marco-minilm-l12"
PAIRS = 60 if SMALL else 2000
ROUNDS = 3
Pairs = list[list[str]]


pytestmark = pytest.mark.usefixtures("threads")


def test_against_sentence_transformers(benchmark: Any) -> None:
    theirs = CrossEncoder(str(embedded_model(MODEL)), activation_fn=torch.nn.Identity(), max_length=512, device="cpu")
    given, ours, half = pairs(), reranker("fp32"), reranker("bf16")
    contestants = {
        "sentence-transformers, fp32": lambda: theirs.predict(given, show_progress_bar=False).tolist(),
        "rerankkit, fp32": partial(ours.compute_score, given),
        "rerankkit, bf16": partial(half.compute_score, given),
    }
    agreement: dict[str, float] = {}

    def check(results: dict[str, list[float]]) -> None:
        first, second, third = (torch.tensor(scores) for scores in results.values())
        assert (first - second).abs().max() < 1e-4
        agreement["difference"] = float((third - second).abs().max())
        agreement["order"] = same_order(given, second, third)

    seconds = interleaved(benchmark, contestants, ROUNDS, check)
    base, full, low = seconds.values()
    tokens, padding = ours.costs.tokens, ours.costs.padding
    print_table(
        f"{len(given):,} pairs by ms-marco-MiniLM-L12",
        ["way", "seconds", "pairs/s", "of sentence-transformers"],
        [[name, f"{s:.1f}", f"{len(given) / s:.1f}", f"{base / s:.2f}x"] for name, s in seconds.items()],
        f"{tokens / len(given):.0f} tokens a pair, {padding / tokens:.1%} padding. bf16 is {full / low:.2f}x of fp32; "
        f"its scores differ by up to {agreement['difference']:.2f}, and of two documents of a query whose fp32 scores "
        f"differ by more than 0.01 it orders {agreement['order']:.2%} alike.",
    )
    assert SMALL or base / full >= 1.3
    assert SMALL or not fast_in_bf16() or full / low >= 2.5


def same_order(given: Pairs, one: torch.Tensor, other: torch.Tensor) -> float:
    """The share of pairs of documents of the same query that two scorings order alike, near ties aside."""
    of_query: dict[str, list[int]] = {}
    for number, (query, _) in enumerate(given):
        of_query.setdefault(query, []).append(number)
    alike = total = 0
    for numbers in of_query.values():
        a, b = (scores[numbers].unsqueeze(0) - scores[numbers].unsqueeze(1) for scores in (one, other))
        clear = a > 0.01
        alike, total = alike + int((b[clear] > 0).sum()), total + int(clear.sum())
    return alike / max(total, 1)


def fast_in_bf16() -> bool:
    """Whether this CPU multiplies matrices three times as fast in bf16 as in fp32."""
    return matrix_product_rate(torch.bfloat16) > 3 * matrix_product_rate(torch.float32)


@cache
def reranker(dtype: str) -> Reranker:
    return Reranker.from_recipe("cross_encoder", {"model.backbone.dtype": dtype})


def pairs() -> Pairs:
    groups = list(StdlibDocs(split="test", candidates=10, limit=PAIRS // 10))
    found = [[group.query, document] for group in groups for document in group.docs]
    random.Random(0).shuffle(found)
    return found
