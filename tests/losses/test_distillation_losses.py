"""Losses on a teacher's scores, and the simple ones, on examples worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rerankkit.losses.adr_mse import ADRMSE
from rerankkit.losses.binary_cross_entropy import BinaryCrossEntropy
from rerankkit.losses.hinge import Hinge
from rerankkit.losses.kl_divergence import KLDivergence
from rerankkit.losses.listnet import ListNet
from rerankkit.losses.margin_mse import MarginMSE
from rerankkit.losses.mse import MSE
from rerankkit.losses.ranknet import RankNet
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy


def cost(loss: Any, scores: list[float], labels: list[float]) -> float:
    matrix = torch.tensor([scores], dtype=torch.float64)
    return loss(matrix, torch.tensor([labels]), torch.ones(matrix.shape, dtype=torch.bool)).item()


def test_mse_and_hinge_by_hand() -> None:
    assert cost(MSE(), [1.0, -2.0, 0.0], [3.0, -3.0, 0.0]) == pytest.approx(5 / 3)
    # pairs with the leads 2, 0.5 and -1.5, of which the first costs nothing
    assert cost(Hinge(), [1.0, -1.0, 0.5], [2.0, 0.0, 1.0]) == pytest.approx((0 + 0.5 + 0) / 3)
    assert cost(Hinge(), [1.0, -1.0, 0.5], [2.0, 1.0, 0.0]) == pytest.approx((0 + 0.5 + 2.5) / 3)
    assert cost(Hinge(margin=3.0), [1.0, -1.0], [2.0, 0.0]) == pytest.approx(1.0)


def test_margin_mse_by_hand() -> None:
    scores, teacher = [1.0, 3.0, 0.0], [9.0, 5.0, 4.0]  # ahead of the teacher by -8, -2 and -4
    assert cost(MarginMSE(), scores, teacher) == pytest.approx((36 + 16) / 2)
    assert cost(MarginMSE("all"), scores, teacher) == pytest.approx((36 + 16 + 4) / 3)
    assert cost(MarginMSE(), scores, [9.0, 9.0, 4.0]) == pytest.approx((4 + 16 + 4) / 3)  # both are best: every pair
    for pairs in ("best", "all"):
        assert cost(MarginMSE(pairs), [score + 7 for score in teacher], teacher) == pytest.approx(0)


def test_kl_divergence_by_hand() -> None:
    scores, teacher = [0.0, 0.0], [math.log(3), 0.0]
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert cost(KLDivergence(), scores, teacher) == pytest.approx(divergence)
    assert cost(KLDivergence(2.0), scores, [2 * label for label in teacher]) == pytest.approx(4 * divergence)
    assert cost(KLDivergence(5.0, 1.0), scores, teacher) == pytest.approx(25 * divergence)
    assert cost(KLDivergence(3.0), teacher, teacher) == pytest.approx(0)
    mixed = [0.4, -1.0, 2.0]  # ListNet is the same but for the entropy of the target, which has no gradient
    difference = cost(ListNet(), mixed, [3.0, 1.0, 0.0]) - cost(KLDivergence(), mixed, [3.0, 1.0, 0.0])
    assert difference == pytest.approx(cost(ListNet(), [3.0, 1.0, 0.0], [3.0, 1.0, 0.0]))


def test_the_factor_of_kl_divergence_keeps_the_gradients_size() -> None:
    def gradient(temperature: float) -> torch.Tensor:
        scores = torch.tensor([[0.3, -0.2, 0.1]], dtype=torch.float64, requires_grad=True)
        teacher = torch.tensor([[0.1, 0.5, -0.4]])
        loss = KLDivergence(temperature)(scores, teacher, torch.ones(1, 3, dtype=torch.bool))
        return torch.autograd.grad(loss, scores)[0]

    assert torch.allclose(gradient(100.0), gradient(1000.0), rtol=0.02)


def test_adr_mse_by_hand() -> None:
    first, third = 1 / math.log2(2), 1 / math.log2(4)
    # far apart, soft ranks are ranks
    assert cost(ADRMSE(), [50.0, 0.0, -50.0], [3.0, 2.0, 1.0]) == pytest.approx(0)
    assert cost(ADRMSE(), [50.0, 0.0, -50.0], [1.0, 2.0, 3.0]) == pytest.approx((4 * third + 4 * first) / 3)
    assert cost(ADRMSE(), [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]) == pytest.approx((third + first) / 3)  # all have rank 2
    # the tied ones both have the rank 2.5 and stand at 2 and 3
    assert cost(ADRMSE(), [50.0, 0.0, -50.0], [7.0, 0.0, 0.0]) == pytest.approx(2 * 0.25 / math.log2(3.5) / 3)
    near = 1 / (1 + math.exp(3.0))  # of the two documents 2 apart, at alpha = 1.5
    assert cost(ADRMSE(alpha=1.5), [2.0, 0.0], [1.0, 0.0]) == pytest.approx((near**2 + near**2 / math.log2(3)) / 2)


def test_what_each_loss_is_known_for() -> None:
    scores, labels = [0.0] * 4, [1.0, 0.0, 0.0, 0.0]
    assert cost(SoftmaxCrossEntropy(), scores, labels) == pytest.approx(math.log(4))
    assert cost(BinaryCrossEntropy(), scores, labels) == pytest.approx(math.log(2))
    assert cost(RankNet(), scores, labels) == pytest.approx(math.log(2))
    several = [1.0, 1.0, 0.0, 0.0]  # every positive counts
    one, both = [3.0, 0.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]
    assert cost(SoftmaxCrossEntropy(), both, several) < cost(SoftmaxCrossEntropy(), one, several)
    graded, ordered, swapped = [2.0, 1.0, 0.0, 0.0], [3.0, 2.0, 0.0, 0.0], [2.0, 3.0, 0.0, 0.0]
    for loss in (RankNet(), SoftmaxCrossEntropy()):
        assert cost(loss, ordered, graded) < cost(loss, swapped, graded)
