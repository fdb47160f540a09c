"""The classifier's logit as the score, and parts that do not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bert
import torch

from rerankkit import Reranker
from rerankkit.backbones.hf_causal import hf_causal
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.collators.late_interaction import LateInteractionCollator
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.linear import Linear
from rerankkit.heads.logit import Logit
from rerankkit.heads.maxsim import MaxSim
from rerankkit.heads.yes_no import yes_no
from rerankkit.protocols import Batch, Hidden, Tokens
from rerankkit.strategies.pointwise import Pointwise

PAIRS = [["open a file", "cat mat"], ["sort tuples", "cat mat"], ["open a file", "text disk"]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logit_is_the_score(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[1.5]], [[-2.25]], [[0.0]]], dtype=dtype, requires_grad=True)
    ids = torch.ones(3, 4, dtype=torch.long)
    scores = Logit().score(Hidden(logits), Batch(Tokens(ids, ids), torch.tensor([3, 3, 3])))
    assert scores.dtype == torch.float32 and scores.tolist() == [[1.5], [-2.25], [0.0]]
    (gradient,) = torch.autograd.grad(scores.sum(), logits)
    assert torch.equal(gradient, torch.ones_like(logits))


def test_a_classifier_of_several_labels_is_refused() -> None:
    backbone: Any = hf_classifier(str(tiny_bert.classifier()))
    Logit().bind(backbone)
    backbone.labels = 3
    with pytest.raises(InputError, match="one logit, and this one has 3.*hf_encoder.v1 and linear.v1"):
        Logit().bind(backbone)


BACKBONES: dict[str, Any] = {
    "encoder": lambda: hf_encoder(str(tiny_bert.encoder())),
    "classifier": lambda: hf_classifier(str(tiny_bert.classifier())),
    "causal": lambda: hf_causal(str(tiny.folder())),
}
REFUSED = [
    ("encoder", Logit, "this backbone has none; use hf_classifier.v1, or linear.v1 for a new head"),
    ("causal", Logit, "this backbone has none; use hf_classifier.v1, or linear.v1 for a new head"),
    ("classifier", Linear, "linear.v1 reads hidden states, and hf_classifier.v1 gives logits; use hf_encoder.v1"),
    ("classifier", MaxSim, "maxsim.v1 compares hidden states, and hf_classifier.v1 gives logits; use hf_encoder.v1"),
    ("encoder", yes_no, "yes_no.v1 reads a language model's answer, and this backbone is none; use hf_causal.v1"),
    ("classifier", yes_no, "yes_no.v1 reads a language model's answer, and this backbone is none; use hf_causal.v1"),
]  # fmt: skip


@pytest.mark.parametrize(("backbone", "head", "message"), REFUSED)
def test_a_head_on_a_backbone_that_gives_something_else(backbone: str, head: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reranker(Parts(Pair(), PairCollator(), BACKBONES[backbone](), head(), Pointwise()))


@pytest.mark.parametrize(
    ("kind", "head", "message"),
    [("classifier", "linear.v1", "logits"), ("linear", "logit.v1", "none"), ("colbert", "yes_no.v1", "none")],
)
def test_a_recipe_is_refused_when_it_is_built(tmp_path: Path, kind: str, head: str, message: str) -> None:
    before, _, _ = tiny_bert.model_sections(kind).partition("[model.head]")
    (tmp_path / "recipe.cfg").write_text(
        f'{before}[model.head]\n@heads = "{head}"\n[model.strategy]\n@strategies = "pointwise.v1"\n'
    )
    with pytest.raises(InputError, match=f"{head} .*{message}.*use hf_"):
        Reranker.from_recipe(tmp_path / "recipe.cfg")


@pytest.mark.parametrize(("backbone", "head"), [("encoder", Linear), ("classifier", Logit), ("causal", yes_no)])
def test_a_head_that_would_see_the_document_alone(backbone: str, head: Any) -> None:
    collator = LateInteractionCollator(query_marker="", document_marker="")
    of = Reranker(Parts(Pair(), collator, BACKBONES[backbone](), head(), Pointwise()))
    of.untrained = False
    with pytest.raises(InputError, match="would read the document alone; give it maxsim.v1, or the collator pair.v1"):
        of.compute_score(PAIRS)


def test_maxsim_needs_query_and_document_apart() -> None:
    for formatter, collator in ((Pair(), PairCollator()), (Template(tiny.TEMPLATE), SequenceCollator())):
        of = Reranker(Parts(formatter, collator, BACKBONES["encoder"](), MaxSim(dim=None), Pointwise()))
        with pytest.raises(InputError, match="query and document read apart; use late_interaction.v1"):
            of.compute_score(PAIRS)


TEXTS = [
    (Pair(), SequenceCollator(), "sequence.v1 reads prompts of one text, and this formatter writes two"),
    (Template(tiny.TEMPLATE), PairCollator(), "pair.v1 needs prompts of two texts, and this formatter writes one"),
    (Template(tiny.TEMPLATE), LateInteractionCollator(), "needs prompts of two texts, and this formatter writes one"),
]


@pytest.mark.parametrize(("formatter", "collator", "message"), TEXTS)
def test_a_collator_for_another_number_of_texts(formatter: Any, collator: Any, message: str) -> None:
    of = Reranker(Parts(formatter, collator, BACKBONES["classifier"](), Logit(), Pointwise()))
    with pytest.raises(InputError, match=message):
        of.compute_score(PAIRS)


def test_a_tokenizer_that_puts_nothing_between_two_texts() -> None:
    of = Reranker(Parts(Pair(), PairCollator(), BACKBONES["causal"](), yes_no(), Pointwise()))
    with pytest.raises(InputError, match="puts nothing between two texts; use pointwise.v1 and sequence.v1"):
        of.compute_score(PAIRS)


def test_late_interaction_takes_them() -> None:
    collator = LateInteractionCollator(query_marker="", document_marker="")
    of = Reranker(Parts(Pair(), collator, BACKBONES["encoder"](), MaxSim(dim=None), Pointwise()))
    first, second, _ = of.compute_score(PAIRS)
    assert first != second
