"""Training of every style of language model ranker: its gradient against a naive one, and what a tiny run learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_rankers
import tiny_t5
import tiny_training as run
import torch
from test_batches import alike, gradients
from test_training_kinds import history, measured, seen  # noqa: F401

from rerankkit import Group, Reranker, train
from rerankkit.batches import training_batch
from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.heads.choice import Choice
from rerankkit.heads.generated_order import GeneratedOrder
from rerankkit.heads.query_likelihood import QueryLikelihood
from rerankkit.losses.negative_log_likelihood import NegativeLogLikelihood
from rerankkit.losses.ranknet import RankNet
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.protocols import Batch
from rerankkit.trainer import GroupTrainer, TrainingModule

QUERY = tiny_rankers.QueryAfter()
NUMBERED = tiny_rankers.Listed("12345678")
STYLES: dict[str, tuple[Callable[[], Any], Any, int, Any]] = {
    "pairwise": (Choice, None, 2, SoftmaxCrossEntropy()),
    "setwise": (Choice, None, 4, SoftmaxCrossEntropy()),
    "listwise": (Choice, None, 8, RankNet()),
    "listwise_written": (GeneratedOrder, NUMBERED, 8, NegativeLogLikelihood()),
    "setwise_written": (lambda: GeneratedOrder(one=True), NUMBERED, 4, NegativeLogLikelihood()),
    "query_likelihood": (QueryLikelihood, QUERY, 1, SoftmaxCrossEntropy()),
    "mean_likelihood": (lambda: QueryLikelihood("mean"), QUERY, 1, SoftmaxCrossEntropy()),
}


def groups(shown: int) -> list[Group]:
    """One that fills its prompts, and one that does not."""
    found = [tiny.group(1, max(shown, 3) if shown > 2 else 2, 12), tiny.group(2, 2 if shown > 1 else 3, 12)]
    for group in found:
        group.labels = [float(i % 2) + (i == 3) for i in range(1, len(group.docs) + 1)]
    return found


def naive_loss(of: Parts, batch: Batch, asked: list[Group], loss: Any) -> torch.Tensor:
    """The scores of one whole prompt after another, from all logits, and the loss of their matrix."""
    assert batch.scored is not None or batch.choices is not None
    width = max(len(group.docs) for group in asked)
    matrix = [[torch.zeros(()) for _ in range(width)] for _ in asked]
    row = 0
    for number, group in enumerate(asked):
        for docs in of.strategy.training_asks(group):
            ids = batch.tokens.ids[row][batch.tokens.mask[row].bool()]
            every = of.backbone.module(input_ids=ids[None]).logits[0]
            for i, position in enumerate(docs):
                if batch.scored is None:
                    name = of.backbone.tokenizer(tiny_rankers.LETTERS[i])["input_ids"][0]
                    matrix[number][position] = every[-1, name]
                    continue
                marked = [t for t in range(1, len(ids)) if batch.scored[row, t] == i]
                each = [every[t - 1].log_softmax(-1)[ids[t]] for t in marked]
                mean = isinstance(of.head, QueryLikelihood) and of.head.reduction == "mean"
                matrix[number][position] = sum(each, torch.zeros(())) / (len(each) if mean else 1)
            row += 1
    assert row == len(batch.answer)
    scores = torch.stack([torch.stack(line) for line in matrix])
    labels = torch.tensor([[*(g.labels or []), *[0.0] * (width - len(g.docs))] for g in asked])
    mask = torch.tensor([[i < len(g.docs) for i in range(width)] for g in asked])
    return loss(scores, labels, mask)


@pytest.mark.parametrize("lora", ["", "output"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "phi"])
@pytest.mark.parametrize("style", STYLES)
def test_gradients_are_those_of_all_logits(style: str, architecture: str, lora: str) -> None:
    head, formatter, shown, loss = STYLES[style]
    of = tiny_rankers.parts(head(), architecture, formatter, shown, lora)
    if architecture != "gemma2":  # whose attention is computed in float32, and masked with float64's lowest number
        of.backbone.module.double()
    asked = groups(shown)
    batch = training_batch(of, asked)
    module = TrainingModule(of, loss)
    value, found = gradients(module, batch)
    module.zero_grad()
    wanted = naive_loss(of, batch, asked, loss)
    wanted.backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    assert value == pytest.approx(wanted.item(), rel=1e-5)
    alike(found, expected, 1e-4)
    for size in (1, 2):
        alike(gradients(TrainingModule(of, loss, size), batch)[1], expected, 1e-4)
