from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import tiny
import tiny_bert
import tiny_encoders
import torch

from rerankkit import Reranker, engine
from rerankkit.backbones.hf_classifier import hf_classifier
from rerankkit.backbones.hf_encoder import hf_encoder
from rerankkit.collators.pair import PairCollator
from rerankkit.collators.sequence import SequenceCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.formatters.pair import Pair
from rerankkit.formatters.pointwise import Pointwise as Template
from rerankkit.heads.linear import Linear
from rerankkit.heads.logit import Logit
from rerankkit.heads.maxsim import MaxSim
from rerankkit.protocols import Ask, Group
from rerankkit.settings import Engine
from rerankkit.strategies.pointwise import Pointwise
from rerankkit.testing import check_head

PAIRS = [[tiny.sentence(i, 4), tiny.sentence(50 + i, 1 + 7 * i % 30)] for i in range(8)]


def reranker(folder: Any, head: Linear, settings: Engine | None = None) -> Reranker:
    backbone = hf_encoder(str(folder))
    is_decoder = backbone.tokenizer.cls_token is None
    formatter, collator = (Template(tiny.TEMPLATE), SequenceCollator(512)) if is_decoder else (Pair(), PairCollator())
    found = Reranker(Parts(formatter, collator, backbone, head, Pointwise()), settings)
    found.untrained = False
    return found


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_a_linear_head_passes_the_checks(pooling: Any) -> None:
    check_head(lambda: Linear(pooling))


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [*product(["bert", "roberta", "distilbert", "modernbert"], ["cls", "mean", "last"]),
     *product(["llama", "qwen3"], ["mean", "last"])],
)  # fmt: skip
def test_scores_are_the_pooled_state_of_each_prompt_alone(architecture: str, pooling: Any) -> None:
    of = reranker(tiny_encoders.encoder(architecture), Linear(pooling), Engine(batch_tokens=120))
    words, model, linear = of.parts.backbone.tokenizer, of.parts.backbone.module, of.parts.head.module[1]
    found = of.compute_score(PAIRS)
    for (query, document), score in zip(PAIRS, found, strict=True):
        if words.cls_token is None:
            inputs = words(tiny.TEMPLATE.format(query=query, document=document), return_tensors="pt")
        else:
            inputs = words(query, document, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0]
            pooled = {"cls": states[0], "last": states[-1], "mean": states.mean(0)}[pooling]
            expected = float(pooled @ linear.weight[0] + linear.bias)
        assert score == pytest.approx(expected, abs=1e-5)


def test_dropout_is_for_training() -> None:
    of = reranker(tiny_bert.encoder(), Linear("mean", dropout=0.5))
    scores = of.compute_score(PAIRS)
    of.parts.head.module.train()
    asks = [Ask(Group(query, [document]), (0,)) for query, document in PAIRS]
    batch = engine.collate(of.parts, engine.encode(of.parts, asks))
    assert not torch.equal(engine.forward(of.parts, batch), engine.forward(of.parts, batch))
    assert of.compute_score(PAIRS) == scores  # ranking is none
    with pytest.raises(InputError, match="dropout: must be at least 0 and below 1, got 1"):
        Linear(dropout=1.0)


def test_pooling_reads_all_that_it_needs() -> None:
    """The first token of a decoder has seen nothing; what prompts share is missing from a mean."""
    for backbone in (hf_encoder(str(tiny.folder())), tiny.backbone(share_prefix=False)):
        with pytest.raises(InputError, match=r"no token that stands for a whole text.*use \"last\""):
            Linear("cls").bind(backbone)
        Linear("mean").bind(backbone)
    with pytest.raises(InputError, match='"mean" needs every token of a prompt.*share_prefix = false or "last"'):
        Linear("mean").bind(tiny.backbone())


@pytest.mark.parametrize(("pooling", "share"), [("last", True), ("last", False), ("mean", False)])
def test_on_a_language_models_backbone_batch_mates_change_nothing(pooling: Any, share: bool) -> None:
    backbone = tiny.backbone(share_prefix=share)
    of = Reranker(Parts(Template(tiny.TEMPLATE), SequenceCollator(512), backbone, Linear(pooling), Pointwise()))
    of.untrained = False
    together = of.compute_score([["open a file", document] for _, document in PAIRS])
    assert (of.costs.prefix_saved > 0) == share
    alone = [of.compute_score(["open a file", document])[0] for _, document in PAIRS]
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_new_head_refuses_to_rank() -> None:
    parts = Parts(Pair(), PairCollator(), hf_encoder(str(tiny_bert.encoder())), Linear(), Pointwise())
    for call in (lambda of: of.rank("a", ["b"]), lambda of: of.compute_score(["a", "b"])):
        with pytest.raises(InputError, match="head of this reranker is new and random.*train it first"):
            call(Reranker(parts))


def test_heads_refuse_backbones_that_give_something_else() -> None:
    classifier, encoder = hf_classifier(str(tiny_bert.classifier())), hf_encoder(str(tiny_bert.encoder()))
    for head in (Linear(), MaxSim()):
        with pytest.raises(InputError, match="reads hidden states|compares hidden states"):
            head.bind(classifier)
    with pytest.raises(InputError, match="this backbone has none; use hf_classifier.v1, or linear.v1 for a new head"):
        Logit().bind(encoder)
