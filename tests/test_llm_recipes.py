"""Each recipe of an LLM ranker, run on tiny models from the recipe to the ranking."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import tiny_t5

from rerankkit import Reranker
from rerankkit.recipe import check, load_recipe, read, recipes_folder

CAUSAL = [
    "query_likelihood", "pairwise", "setwise", "setwise_generation", "listwise_likelihood", "listwise", "rankzephyr",
    "rank_r1", "rank_r1_v02", "setwise_sft",
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


@pytest.mark.parametrize("name", CAUSAL + T5)
def test_a_recipe_ranks_and_says_how_it_is_run(name: str) -> None:
    path = recipes_folder() / f"{name}.cfg"
    assert list(check(read(path), "rank")) == []
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith(f"#   rerankkit evaluate recipes/{name}.cfg") for line in comments)
    reranker = Reranker.from_recipe(load_recipe(path, overrides(name), purpose="rank"))
    rankings = reranker.rank_groups(GROUPS)
    for group, ranking in zip(GROUPS, rankings, strict=True):
        assert sorted(ranked.index for ranked in ranking) == list(range(len(group.docs)))
        assert [ranked.text for ranked in ranking] == [group.docs[ranked.index] for ranked in ranking]
    alone = [reranker.rank_groups([group])[0] for group in GROUPS[::3]]
    assert [[r.index for r in ranking] for ranking in alone] == [
        [r.index for r in ranking] for ranking in rankings[::3]
    ]
    if name not in WRITTEN:  # a tiny model writes no label
        assert any([ranked.index for ranked in ranking] != list(range(len(ranking))) for ranking in rankings)
