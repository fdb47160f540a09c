"""Each recipe of an LLM ranker, run on tiny models from the recipe to the ranking."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_t5
import torch

from rerankkit import Reranker
from rerankkit.protocols import AnswerReader, Ask, Asked, Group
from rerankkit.recipe import check, load_recipe, read, recipes_folder

CAUSAL = [
    "query_likelihood", "pairwise", "setwise", "setwise_generation", "listwise_likelihood", "listwise", "rankzephyr",
    "rank_r1", "rank_r1_v02", "setwise_sft", "llm_relevant_body",
]  # fmt: skip
T5 = [
    "llm_rankers_yes_no", "monot5", "duot5", "query_likelihood_t5", "pairwise_t5", "setwise_t5", "listwise_t5",
    "listwise_likelihood_t5",
]  # fmt: skip
GROUPS = [tiny.group(1, 7, 12), tiny.group(2, 0), tiny.group(3, 1), tiny.group(4, 23, 10)]
WRITTEN = ("setwise_generation", "listwise", "rankzephyr", "rank_r1", "rank_r1_v02", "setwise_sft", "listwise_t5")


def overrides(name: str) -> dict[str, Any]:
    """What makes a recipe run on a tiny model: its folder, its words, its context."""
    values: dict[str, Any] = {"model.backbone.name": str((tiny_t5 if name in T5 else tiny).folder())}
    if name in ("rank_r1", "rank_r1_v02", "setwise_sft"):
        values |= {"model.collator.max_length": 3800, "model.head.max_new_tokens": 8}
    if name in ("pairwise", "setwise", "listwise_likelihood"):  # " A" is two tokens of the tiny tokenizer
        words = [" yes", " no"] if name == "pairwise" else [" yes", " no", " cat", " file"]
        values |= {"model.formatter.answers": words, "model.formatter.labels": ["A", "B", "C", "D"][: len(words)]}
    if name == "listwise":
        values["model.collator.max_length"] = 3900
    if name == "llm_rankers_yes_no":
        values |= {"model.head.positive": "yes", "model.head.negative": "no"}
    return values


def test_every_recipe_of_a_language_model_is_here() -> None:
    others = {"base", "colbert", "cross_encoder", "cross_encoder_new_head"}
    others |= {"llm_pointwise", "llm_yes_logit", "llm_classifier"}  # tested where they are trained
    assert {path.stem for path in recipes_folder().glob("*.cfg")} == {*CAUSAL, *T5} | others


def naive_order(reranker: Reranker, group: Group) -> list[int]:
    """The ranking of one query, one prompt after another, with nothing shared."""
    parts = reranker.parts
    tokenizer = parts.backbone.tokenizer

    def answer(docs: Asked) -> list[float]:
        (row,) = parts.collator.encode([parts.formatter.format(Ask(group, docs), tokenizer)], tokenizer)
        batch = parts.collator.collate([row], tokenizer, [row.shared] if row.shared else [])
        with torch.no_grad():
            if isinstance(parts.head, AnswerReader):
                (written,) = parts.backbone.write(batch, parts.head.max_new_tokens)  # type: ignore[attr-defined]
                return parts.head.read(tokenizer.decode(written), row.labels).scores
            return parts.head.score(parts.backbone.hidden(batch), batch)[0].tolist()

    steps = parts.strategy.rank(group)
    try:
        asks = next(steps)
        while True:
            asks = steps.send([answer(docs) for docs in asks])
    except StopIteration as end:
        return [position for position, _ in end.value]


def built(name: str) -> Reranker:
    return Reranker.from_recipe(load_recipe(recipes_folder() / f"{name}.cfg", overrides(name), purpose="rank"))


@pytest.mark.parametrize("name", CAUSAL + T5)
def test_a_recipe_is_without_problems_and_says_how_it_is_run(name: str) -> None:
    path = recipes_folder() / f"{name}.cfg"
    assert list(check(read(path), "rank")) == []
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith(f"#   rerankkit evaluate recipes/{name}.cfg") for line in comments)


@pytest.mark.parametrize("name", CAUSAL + T5)
def test_the_parts_of_a_recipe_fit(name: str) -> None:
    reranker = built(name)
    orders = [naive_order(reranker, group) for group in GROUPS]
    assert [sorted(order) for order in orders] == [list(range(len(group.docs))) for group in GROUPS]
    if name not in WRITTEN:  # a tiny model writes no label
        assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("name", CAUSAL + T5)
def test_many_queries_at_once_are_ranked_as_one_prompt_after_another(name: str) -> None:
    reranker = built(name)
    for group, ranking in zip(GROUPS, reranker.rank_groups(GROUPS), strict=True):
        assert [ranked.index for ranked in ranking] == naive_order(reranker, group)
        assert [ranked.text for ranked in ranking] == [group.docs[ranked.index] for ranked in ranking]
