"""How fast are LLM rankers beside a plain port of the way llm-rankers runs them, and what gives how much?

The port (after github.com/ielab/llm-rankers) takes one query after another and one comparison after another, pads, and
computes the logits of the whole vocabulary at every position. Both begin with the same prompts and leave documents that
the model cannot tell apart in the first stage's order, and the orders that come out are compared before any time is
believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from bench_yes_no import MODEL, small_backbone
from measuring import SMALL, interleaved, print_table

from rerankkit.backbones.hf_causal import hf_causal
from rerankkit.engine import Parts
from rerankkit.protocols import Ask, Group
from rerankkit.readers.stdlib_docs import StdlibDocs
from rerankkit.recipe import build, load_recipe
from rerankkit.reranker import Reranker

QUERIES = 3 if SMALL else 20
BATCH = 2 if SMALL else 32
"""Of pointwise methods: what llm-rankers' own instructions give."""
ROUNDS = {"pointwise": 2, "sorts": 1}
"""Sorts of 20 queries take minutes."""
QUERY_TOKENS = 32
QUERY_FIRST = "Query: {query}\nDocument: {document}\nDoes the document answer the query? Answer yes or no:"

pytestmark = pytest.mark.usefixtures("threads")
Orders = list[list[int]]


@pytest.mark.parametrize(("passage_tokens", "at_least"), [(512, 2.4), (128, 1.5)])
def test_yes_no(benchmark: Any, passage_tokens: int, at_least: float) -> None:
    """With documents as long as they are, up to 512 tokens, and cut to 128, which is llm-rankers' default."""
    overrides = {
        "model.formatter.template": QUERY_FIRST,
        "model.formatter.chat": True,
        "model.head.positive": "Yes",
        "model.head.negative": "No",
    }
    ours, groups = reranker("llm_pointwise", overrides), queries(1, 6 if SMALL else 60, passage_tokens)
    compare(
        benchmark,
        f"yes/no, up to {passage_tokens} tokens",
        ours,
        groups,
        partial(by_yes_no, ours.parts),
        at_least,
    )


def test_query_likelihood(benchmark: Any) -> None:
    ours, groups = reranker("query_likelihood"), queries(1, 6 if SMALL else 60, 128)
    compare(
        benchmark,
        "query likelihood, up to 128 tokens",
        ours,
        groups,
        partial(by_likelihood, ours.parts),
        1.6,
    )


def test_setwise_heapsort(benchmark: Any) -> None:
    ours, groups = reranker("setwise"), queries(QUERIES, 6 if SMALL else 10, 64)
    best = partial(by_label, ours.parts)
    compare(
        benchmark,
        "setwise heapsort, up to 64 tokens",
        ours,
        groups,
        lambda group: heapsort(group, 10, 3, partial(best, group)),
        1.3,
    )


def test_pairwise_heapsort(benchmark: Any) -> None:
    ours, groups = reranker("pairwise", {"model.strategy.k": 5}), queries(QUERIES, 6, 64)
    best = partial(better_of_two, ours.parts)
    compare(
        benchmark,
        "pairwise heapsort, up to 64 tokens",
        ours,
        groups,
        lambda group: pair_heapsort(group, 5, partial(best, group)),
        1.3,
    )


def compare(
    benchmark: Any,
    method: str,
    ours: Reranker,
    groups: Sequence[Group],
    port: Callable[[Group], list[int]],
    at_least: float,
) -> None:
    """One table: the port, then what each thing that rerankkit does adds."""
    plain = copy(ours)
    plain.parts = replace(ours.parts, backbone=copy(ours.parts.backbone))
    plain.parts.backbone.shares_prefix = False
    contestants = {
        "a port of llm-rankers' way": lambda: [port(group) for group in groups],
        "rerankkit, one query after another, prompts whole": lambda: [ranked(plain, [group])[0] for group in groups],
        "+ many queries together": partial(ranked, plain, groups),
        "+ what prompts share computed once (rerankkit)": partial(ranked, ours, groups),
    }
    rounds = ROUNDS["pointwise" if len(groups) == 1 else "sorts"]
    seconds = interleaved(benchmark, contestants, rounds, same_orders)
    usual = next(iter(seconds.values()))
    rows = [[name, f"{took:.1f}", f"{usual / took:.2f}x"] for name, took in seconds.items()]
    costs = ours.costs
    note = (
        f"{len(groups)} queries of {len(groups[0].docs)} documents; "
        f"{costs.prompts} prompts in {costs.passes} passes, {costs.tokens:,} tokens, {costs.prefix_saved:,} saved, "
        f"padding {costs.padding:,}, depth {costs.depth}. Orders are the same. Interleaved rounds: {rounds}."
    )
    print_table(f"SmolLM2-135M, {method}, fp32", ["way", "seconds", "speed"], rows, note)
    ratio = usual / list(seconds.values())[-1]
    benchmark.extra_info["ratio"] = ratio
    assert SMALL or ratio >= at_least


def ranked(model: Reranker, groups: Sequence[Group]) -> Orders:
    return [[document.index for document in ranking] for ranking in model.rank_groups(groups)]


def same_orders(results: dict[str, Orders]) -> None:
    usual, *others = results.items()
    for name, orders in others:
        assert orders == usual[1], f"{name} ranks otherwise than {usual[0]}"


def reranker(recipe: str, overrides: dict[str, Any] | None = None) -> Reranker:
    """A shipped recipe, its language model without an adapter, in fp32."""
    uncut = {"model.collator.max_length": 2048, "model.collator.document_max_length": None}
    loaded = load_recipe(recipe, uncut | {"model.collator.query_max_length": None} | (overrides or {}))
    formatter, collator, head, strategy = (
        build(loaded, f"model.{part}") for part in ("formatter", "collator", "head", "strategy")
    )
    return Reranker(Parts(formatter, collator, backbone(), head, strategy)).to("cpu")


@cache
def backbone() -> Any:
    return small_backbone("fp32") if SMALL else hf_causal(MODEL)


def queries(count: int, documents: int, passage_tokens: int) -> list[Group]:
    """The first queries of the standard library's test split, texts cut as llm-rankers cuts them: beforehand."""
    found = list(StdlibDocs(split="test", candidates=documents, limit=count))
    return [Group(cut(g.query, QUERY_TOKENS), [cut(d, passage_tokens) for d in g.docs], qid=g.qid) for g in found]


def cut(text: str, tokens: int) -> str:
    tokenizer = backbone().tokenizer
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:tokens])


# ---- the port ----


def prompt(parts: Parts, group: Group, docs: tuple[int, ...]) -> str:
    tokenizer = parts.backbone.tokenizer
    return "".join(piece.text for piece in parts.formatter.format(Ask(group, docs), tokenizer).pieces)


def all_logits(parts: Parts, texts: Sequence[str]) -> tuple[torch.Tensor, Any]:
    """Logits [texts, length, vocabulary] of prompts padded on the left."""
    tokenizer = parts.backbone.tokenizer
    tokenizer.padding_side = "left"
    batch = tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        output = parts.backbone.module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return output.logits, batch


def batches(group: Group) -> Iterator[range]:
    documents = range(len(group.docs))
    yield from (documents[start : start + BATCH] for start in range(0, len(documents), BATCH))


def best_first(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda position: -scores[position])


def by_yes_no(parts: Parts, group: Group) -> list[int]:
    yes, no = (parts.backbone.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("Yes", "No"))
    scores: list[float] = []
    for some in batches(group):
        logits, _ = all_logits(parts, [prompt(parts, group, (position,)) for position in some])
        scores += (logits[:, -1, yes] - logits[:, -1, no]).tolist()
    return best_first(scores)


def by_likelihood(parts: Parts, group: Group) -> list[int]:
    """Sum of the log-probabilities of the query's tokens, which end each prompt."""
    scores: list[float] = []
    for some in batches(group):
        texts = [prompt(parts, group, (position,)) for position in some]
        logits, batch = all_logits(parts, texts)
        found = logits[:, :-1].log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
        own = [query_tokens(parts, text, group.query) for text in texts]
        scores += [row[-count:].sum().item() for row, count in zip(found, own, strict=True)]
    return best_first(scores)


def query_tokens(parts: Parts, text: str, query: str) -> int:
    """How many tokens end inside the query at the end of a prompt."""
    begins = len(text) - len(query)
    spans = parts.backbone.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return sum(end > begins for _, end in spans)


def by_label(parts: Parts, group: Group, docs: list[int]) -> int:
    """The document whose label is the likeliest answer, the first of equal ones."""
    text = prompt(parts, group, tuple(docs))
    logits, _ = all_logits(parts, [text])
    scores = logits[0, -1, label_ids(parts)[: len(docs)]].tolist()
    return docs[best_first(scores)[0]]


def label_ids(parts: Parts) -> list[int]:
    words = parts.backbone.tokenizer
    return [words(f" {letter}", add_special_tokens=False)["input_ids"][0] for letter in "ABCDEFGHIJKLMNOPQRSTUVW"]


def better_of_two(parts: Parts, group: Group, a: int, b: int) -> bool:
    """Whether both orders of two documents say that the first is better; the two make one batch."""
    logits, _ = all_logits(parts, [prompt(parts, group, (a, b)), prompt(parts, group, (b, a))])
    (aa, ab), (bb, ba) = logits[:, -1, label_ids(parts)[:2]].tolist()
    if aa > ab and ba > bb:
        return True
    return not (aa < ab and ba < bb) and a < b


def heapsort(group: Group, k: int, children: int, best: Callable[[list[int]], int]) -> list[int]:
    """The best k of a heap whose nodes have several children, then the rest as it was."""

    def settle(heap: list[int], node: int) -> None:
        below = heap[children * node + 1 : children * node + 1 + children]
        if not below:
            return
        winner = best([heap[node], *below])
        if winner != heap[node]:
            place = heap.index(winner)
            heap[node], heap[place] = heap[place], heap[node]
            settle(heap, place)

    heap = list(range(len(group.docs)))
    for node in reversed(range(len(heap))):
        settle(heap, node)
    return extract(heap, k, lambda: settle(heap, 0))


def pair_heapsort(group: Group, k: int, better: Callable[[int, int], bool]) -> list[int]:
    """The best k of a binary heap, then the rest as it was."""

    def settle(heap: list[int], node: int) -> None:
        largest = node
        for child in (2 * node + 1, 2 * node + 2):
            if child < len(heap) and better(heap[child], heap[largest]):
                largest = child
        if largest != node:
            heap[node], heap[largest] = heap[largest], heap[node]
            settle(heap, largest)

    heap = list(range(len(group.docs)))
    for node in reversed(range(len(heap))):
        settle(heap, node)
    return extract(heap, k, lambda: settle(heap, 0))


def extract(heap: list[int], k: int, settle: Callable[[], None]) -> list[int]:
    documents, top = sorted(heap), []
    while heap and len(top) < k:
        top.append(heap[0])
        last = heap.pop()
        if heap:
            heap[0] = last
            if len(top) < k:
                settle()
    return [*top, *(position for position in documents if position not in top)]
