"""LambdaLoss, ApproxNDCG and NeuralNDCG: examples worked out by hand, and their limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from naive_losses import Doc, gain, ideal_dcg

from rerankkit.losses.approx_ndcg import ApproxNDCG
from rerankkit.losses.lambda_loss import LambdaLoss
from rerankkit.losses.neural_ndcg import NeuralNDCG
from rerankkit.losses.ranknet import RankNet

SECOND, THIRD = 1 / math.log2(3), 1 / 2  # the discounts of ranks 2 and 3


def cost(loss: Any, scores: list[float], labels: list[float]) -> float:
    matrix = torch.tensor([scores], dtype=torch.float64)
    return loss(matrix, torch.tensor([labels]), torch.ones(matrix.shape, dtype=torch.bool)).item()


def wrong_by(lead: float) -> float:
    return math.log2(1 + math.exp(lead))


def ndcg(scores: list[float], labels: list[float], k: int | None = None) -> float:
    """Of scores without ties."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    dcg = sum(gain(labels[i]) / math.log2(1 + place) for place, i in enumerate(order, start=1))
    return dcg / ideal_dcg([Doc(0.0, label, 0.0) for label in labels], k)


@pytest.mark.parametrize(
    ("weighting", "weight"),
    [
        ("none", 1.0),
        ("lambda_rank", 1 - SECOND),
        ("ndcg_loss2", 1 - SECOND),
        ("ndcg_loss2pp", 11 * (1 - SECOND)),
        ("ndcg_loss1", SECOND),
    ],
)
def test_lambda_loss_of_two_documents_in_the_wrong_order(weighting: Any, weight: float) -> None:
    assert cost(LambdaLoss(weighting), [0.0, 1.5], [1.0, 0.0]) == pytest.approx(weight * wrong_by(1.5))
    assert cost(LambdaLoss(weighting, sigma=2.0), [0.0, 1.5], [1.0, 0.0]) == pytest.approx(weight * wrong_by(3.0))


def test_lambda_loss_of_three_documents_by_hand() -> None:
    """Ranks 1, 2, 3 have the gains 0, 1, 3; the ideal DCG is 3 + 1 / log2(3)."""
    scores, labels, ideal = [2.0, 1.0, 0.0], [0.0, 1.0, 2.0], 3 + SECOND
    pairs = [(3, 2, 2.0, 1 - THIRD), (2, 1, 1.0, SECOND - THIRD), (1, 1, 1.0, 1 - SECOND)]  # gap, distance, lead, swap
    swaps = sum(gap / ideal * swap * wrong_by(lead) for gap, _, lead, swap in pairs) / 3
    steps = {1: 1 - SECOND, 2: SECOND - THIRD}
    bounds = sum(gap / ideal * steps[distance] * wrong_by(lead) for gap, distance, lead, _ in pairs) / 3
    assert cost(LambdaLoss("lambda_rank"), scores, labels) == pytest.approx(swaps)
    assert cost(LambdaLoss("ndcg_loss2"), scores, labels) == pytest.approx(bounds)
    assert cost(LambdaLoss(), scores, labels) == pytest.approx(swaps + 10 * bounds)
    assert cost(LambdaLoss(mu=0.5), scores, labels) == pytest.approx(swaps + bounds / 2)
    first = 3 * THIRD * (wrong_by(2.0) + wrong_by(1.0)) + SECOND * (wrong_by(1.0) + wrong_by(-1.0))
    assert cost(LambdaLoss("ndcg_loss1"), scores, labels) == pytest.approx(first / ideal / 4)
    assert cost(LambdaLoss("none"), scores, labels) == pytest.approx(cost(RankNet(), scores, labels) / math.log(2))


def test_k_keeps_pairs_with_a_document_at_the_top() -> None:
    scores, labels = [3.0, 2.0, 1.0, 0.0], [0.0, 0.0, 1.0, 2.0]
    top = (wrong_by(2.0) + wrong_by(3.0)) / 2  # of both relevant documents with the first
    assert cost(LambdaLoss("none", k=1), scores, labels) == pytest.approx(top)
    # the change of nDCG@1's gains, whose ideal is that of the best document alone
    swaps = (1 / 3 * (1 - THIRD) * wrong_by(2.0) + 3 / 3 * (1 - 1 / math.log2(5)) * wrong_by(3.0)) / 2
    assert cost(LambdaLoss("lambda_rank", k=1), scores, labels) == pytest.approx(swaps)


def test_weights_have_no_gradient_and_equal_scores_still_learn() -> None:
    scores = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    labels, mask = torch.tensor([[0.0, 1.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool)
    (gradient,) = torch.autograd.grad(LambdaLoss("lambda_rank")(scores, labels, mask), scores)
    # worst first: the relevant one is third and the others share rank 1.5
    pull = (1 / math.log2(2.5) - THIRD) / 2 / math.log(2)
    assert gradient[0].tolist() == pytest.approx([pull / 2, -pull, pull / 2])


@pytest.mark.parametrize("k", [None, 1, 3, 50])
def test_small_temperatures_give_ndcg(k: int | None) -> None:
    for _ in range(20):
        scores = (torch.randperm(9) + 0.5 * torch.rand(9)).tolist()
        labels = torch.randint(-1, 4, (9,)).float().tolist()
        wanted = 1 - ndcg(scores, labels, k)
        assert cost(NeuralNDCG(temperature=1e-3, k=k), scores, labels) == pytest.approx(wanted, abs=1e-9)
        if k is None:
            assert cost(ApproxNDCG(temperature=1e-3), scores, labels) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("factory", [ApproxNDCG, NeuralNDCG])
def test_the_limit_is_approached(factory: Any) -> None:
    scores, labels = [0.3, -1.0, 2.0, 0.9], [1.0, 0.0, 0.0, 2.0]
    wanted = 1 - ndcg(scores, labels)
    gaps = [abs(cost(factory(temperature=t), scores, labels) - wanted) for t in (0.3, 0.1, 0.03, 0.01)]
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 1e-3 and gaps[-1] < 1e-6


def test_the_ideal_order_is_hardly_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the scaling a document fills several places, and nDCG exceeds 1."""
    labels = torch.randint(0, 4, (100, 6)).float()
    batch = [labels + 0.1 * torch.randn(100, 6), labels]
    groups = [(scores.tolist(), wanted.tolist()) for scores, wanted in zip(*batch, strict=True)]
    for temperature in (0.3, 1.0, 3.0):
        assert min(cost(NeuralNDCG(temperature), *group) for group in groups) > -3e-3
        assert min(cost(ApproxNDCG(temperature), *group) for group in groups) > -1e-12
    monkeypatch.setattr("rerankkit.losses.neural_ndcg.ROUNDS", 0)
    assert min(cost(NeuralNDCG(), *group) for group in groups) < -1e-2


@pytest.mark.parametrize("loss", [LambdaLoss(), LambdaLoss("ndcg_loss1"), ApproxNDCG(), NeuralNDCG()])
def test_labels_of_any_size_overflow_nothing(loss: Any) -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[900.0, 0.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool))
    alone = loss(scores, torch.tensor([[30.0, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool))
    assert value.isfinite() and torch.autograd.grad(value, scores)[0].isfinite().all()
    assert isinstance(loss, LambdaLoss) or value.item() == pytest.approx(alone.item(), rel=1e-5)
