"""Texts that nobody meant to be read: a finite score, or one clear message, for every kind of reranker."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders

from rerankkit import Reranker
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.collators.late_interaction import LateInteractionCollator
from rerankkit.collators.pair import PairCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.heads.logit import Logit
from rerankkit.heads.maxsim import MaxSim
from rerankkit.strategies.pointwise import Pointwise

KINDS = ["yes_no", "classifier", "linear", "colbert", "roberta", "colbert_xlm_roberta", "colbert_llama"]
ODD = {
    "empty": "", "blank": " \n\t", "nul": "a \0 b", "control": "\x01\x02\x7f\x1b[0m",
    "emoji": "\U0001f642\u200d\U0001f525", "right to left": "\u05e9\u05dc\u05d5\u05dd \u202e abc", "mark": "\ufeff",
    "control tokens": "[MASK] [SEP] <|im_end|> <s>", "one long word": "x" * 50_000, "unassigned": "\ue000\uffff",
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def reranker(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Reranker:
    if request.param == "roberta":
        backbone: Any = hf_classifier(str(tiny_encoders.classifier("roberta")))
        return Reranker(Parts(Pair(), PairCollator(), backbone, Logit(), Pointwise()))
    if request.param.startswith("colbert_"):
        backbone = hf_encoder(str(tiny_encoders.encoder(request.param.removeprefix("colbert_"))))
        return Reranker(Parts(Pair(), LateInteractionCollator(), backbone, MaxSim(dim=None), Pointwise()))
    path = Path(tmp_path_factory.mktemp(request.param)) / "recipe.cfg"
    if request.param == "yes_no":
        tiny.recipe(path)
    else:
        path.write_text(tiny_bert.model_sections(request.param))
    found = Reranker.from_recipe(path)
    found.untrained = False
    return found


def test_odd_documents_have_a_score_that_no_other_changes(reranker: Reranker) -> None:
    pairs = [["open a file", text] for text in ODD.values()]
    together = reranker.compute_score(pairs)
    assert all(map(math.isfinite, together))
    assert together == pytest.approx([reranker.compute_score(pair)[0] for pair in pairs], abs=2e-5)


def test_ranking_odd_documents_gives_the_same_scores(reranker: Reranker) -> None:
    documents = list(ODD.values())
    ranked = sorted(reranker.rank("open a file", documents), key=lambda one: one.index)
    scores = reranker.compute_score([["open a file", text] for text in documents])
    assert [one.score for one in ranked] == pytest.approx(scores, abs=2e-5)


@pytest.mark.parametrize("name", [name for name in ODD if name not in ("empty", "blank")])
def test_odd_queries_have_a_score(reranker: Reranker, name: str) -> None:
    (score,) = reranker.compute_score([ODD[name], "a cat sat"])
    assert math.isfinite(score)


def test_empty_queries_are_refused(reranker: Reranker) -> None:
    for query in ("", " \n\t"):
        with pytest.raises(InputError, match="the query of pair 0 is empty"):
            reranker.compute_score([query, "a cat"])
        with pytest.raises(InputError, match="the query of group 0 is empty"):
            reranker.rank(query, ["a cat"])


def test_half_a_surrogate_pair_is_replaced_in_a_document_and_refused_in_a_query(reranker: Reranker) -> None:
    broken = reranker.compute_score(["a cat", "a \ud83d b"])
    assert broken == reranker.compute_score(["a cat", "a \ufffd b"])
    with pytest.raises(InputError, match="such as the document of pair 0"):
        reranker.compute_score(["a cat", "a \ud83d b"], warnings="error")
    with pytest.raises(InputError, match="the query of pair 0 has half a surrogate pair, which no tokenizer reads"):
        reranker.compute_score(["a \ud83d b", "a cat"])


@pytest.mark.parametrize(("words", "times"), [("cat mat ", 50_000), ("[SEP]</s> <|im_end|>", 5_000)])
def test_a_very_long_document_is_cut_in_bounded_time(reranker: Reranker, words: str, times: int) -> None:
    start = time.perf_counter()
    (score,) = reranker.compute_score(["cat", words * times])
    assert time.perf_counter() - start < 20
    assert math.isfinite(score)
    assert reranker.costs.cut_documents == 1
