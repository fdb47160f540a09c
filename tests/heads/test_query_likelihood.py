"""The query likelihood head, against all logits of each prompt by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import tiny
import tiny_rankers
import tiny_t5
import torch

from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.heads.query_likelihood import QueryLikelihood
from rerankkit.protocols import Ask, Group, Piece, Prompt
from rerankkit.testing import check_head

GROUPS = [tiny.group(1, 5), tiny.group(2, 2)]
GROUPS[1].query = "cat"
ASKS = [Ask(group, (i,)) for group in GROUPS for i in range(len(group.docs))]
QUERY = tiny_rankers.QueryAfter()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("lora", ["", "output"])
@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_scores_are_read_off_all_logits(architecture: str, lora: str, reduction: Literal["sum", "mean"]) -> None:
    of = tiny_rankers.parts(QueryLikelihood(reduction), architecture, QUERY, lora=lora)
    rows, found = tiny_rankers.scored(of, ASKS)
    assert found.dtype == torch.float32 and found.shape == (7, 1)
    for ask, row, value in zip(ASKS, rows, found[:, 0].tolist(), strict=True):
        with torch.no_grad():
            each = tiny_rankers.likelihoods(of, row)[0]
        wanted = of.backbone.tokenizer(ask.group.query)["input_ids"]
        assert row.ids[-len(each) :] == wanted  # the query alone is scored, all of it
        assert value == pytest.approx(sum(map(float, each)) / (len(each) if reduction == "mean" else 1), abs=1e-4)


@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_a_long_query_is_as_likely_as_in_float64(architecture: str) -> None:
    long = Group(tiny.sentence(9, 128), GROUPS[0].docs)
    of = tiny_rankers.parts(QueryLikelihood(), architecture, QUERY)
    rows, found = tiny_rankers.scored(of, [Ask(long, (i,)) for i in range(5)])
    of.backbone.module.double()
    for row, value in zip(rows, found[:, 0].tolist(), strict=True):
        with torch.no_grad():
            each = tiny_rankers.likelihoods(of, row)[0]
        assert len(each) >= 128
        assert value == pytest.approx(sum(map(float, each)), abs=2e-6 * len(each))


def test_both_reductions_rank_alike() -> None:
    orders = []
    for reduction in ("sum", "mean"):
        of = tiny_rankers.parts(QueryLikelihood(reduction), formatter=QUERY)  # type: ignore[arg-type]
        orders.append(tiny_rankers.scored(of, ASKS[:5])[1][:, 0].argsort().tolist())
    assert orders[0] == orders[1] != sorted(orders[0])


@dataclass(frozen=True)
class Bare:
    """The query and nothing before it, or nothing that is scored."""

    scored: int | None

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        return Prompt((Piece(ask.group.query, "query", self.scored),))


@pytest.mark.parametrize(
    ("scored", "message"), [(0, "something must stand before it"), (None, "marks no text .* query_generation.v1")]
)
def test_what_cannot_be_scored_is_refused(scored: int | None, message: str) -> None:
    of = tiny_rankers.parts(QueryLikelihood(), formatter=Bare(scored))
    with pytest.raises(InputError, match=message):
        tiny_rankers.scored(of, ASKS[:2])


def test_it_keeps_the_protocol() -> None:
    check_head(QueryLikelihood)


@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_a_decoder_scores_the_query_after_its_start_token(architecture: str) -> None:
    backbone, head = tiny_t5.backbone(architecture), QueryLikelihood()
    head.bind(backbone)
    of = Parts(QUERY, EncoderDecoderCollator(256), backbone, head, tiny_rankers.Together(1))
    rows, found = tiny_rankers.scored(of, ASKS)
    for ask, row, value in zip(ASKS, rows, found[:, 0].tolist(), strict=True):
        query = backbone.tokenizer(ask.group.query, add_special_tokens=False)["input_ids"]
        start = backbone.module.config.decoder_start_token_id
        assert row.ids == [start, *query]
        read = f"Document: {ask.group.docs[ask.docs[0]]}\nQuestion:"
        every = tiny_t5.naive_logits(backbone, read, row.ids).log_softmax(-1)
        assert value == pytest.approx(sum(every[t, token].item() for t, token in enumerate(query)), abs=1e-4)
