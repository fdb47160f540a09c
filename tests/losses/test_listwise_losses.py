"""ListMLE, p-ListMLE, ListNet and poly-1 softmax on examples worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from rerankkit.losses.listmle import ListMLE
from rerankkit.losses.listnet import ListNet
from rerankkit.losses.poly1_softmax import Poly1Softmax
from rerankkit.losses.position_aware_listmle import PositionAwareListMLE
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy

CHANCES = [3.0, 2.0, 1.0]  # what the documents' exp(score) are


def cost(loss: Any, labels: list[float], chances: list[float] = CHANCES) -> float:
    scores = torch.tensor([chances], dtype=torch.float64).log()
    return loss(scores, torch.tensor([labels]), torch.ones(scores.shape, dtype=torch.bool)).item()


def test_listmle_by_hand() -> None:
    # the chances of first and second are 3/6 * 2/3 in the right order and 1/6 * 2/5 in the reverse
    assert cost(ListMLE(), [2.0, 1.0, 0.0]) == pytest.approx(math.log(3))
    assert cost(ListMLE(), [0.0, 1.0, 2.0]) == pytest.approx(math.log(15))
    # the order is that by labels, whatever the input's: [0.5, 7, 0] is second, first, third
    assert cost(ListMLE(), [0.5, 7.0, 0.0]) == pytest.approx(-math.log(2 / 6 * 3 / 4))
    # tied documents are both drawn from both: 3/6, then 2/3 and 1/3
    assert cost(ListMLE(), [1.0, 0.0, 0.0]) == pytest.approx(-math.log(3 / 6 * 2 / 3 * 1 / 3))
    assert cost(ListMLE(), [1.0, 1.0, 0.0]) == pytest.approx(-math.log(3 / 6 * 2 / 6))


def test_position_aware_listmle_by_hand() -> None:
    # the ranks weigh 3, 1 and 0 of 4
    assert cost(PositionAwareListMLE(), [2.0, 1.0, 0.0]) == pytest.approx(-(3 * math.log(3 / 6) + math.log(2 / 3)) / 4)
    tied = -(3 * math.log(3 / 6) + 0.5 * math.log(2 / 3) + 0.5 * math.log(1 / 3)) / 4
    assert cost(PositionAwareListMLE(), [1.0, 0.0, 0.0]) == pytest.approx(tied)
    assert cost(PositionAwareListMLE(), [1.0, 0.0], [1.0, 1.0]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_position_aware_listmle_of_two_thousand_documents(dtype: torch.dtype) -> None:
    size = 2000  # 2^size overflows both types
    labels = torch.arange(size, 0, -1).unsqueeze(0)
    scores = torch.zeros(1, size, dtype=dtype, requires_grad=True)
    value = PositionAwareListMLE()(scores, labels, torch.ones(1, size, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(value, scores)
    weights = [2 ** (size - rank) - 1 for rank in range(1, size + 1)]
    total = sum(weights)
    wanted = sum(float(Fraction(w, total)) * math.log(size - i) for i, w in enumerate(weights))
    assert value.item() == pytest.approx(wanted, rel=1e-5) and gradient.isfinite().all()


def test_listnet_by_hand() -> None:
    labels = [math.log(3), math.log(2), 0.0]  # whose softmax is that of the scores
    entropy = -sum(p / 6 * math.log(p / 6) for p in CHANCES)
    assert cost(ListNet(), labels) == pytest.approx(entropy)
    assert cost(ListNet(), [label + 5 for label in labels]) == pytest.approx(entropy)
    assert cost(ListNet(), [4.0, 4.0, 4.0]) == pytest.approx(-sum(math.log(p / 6) for p in CHANCES) / 3)
    assert cost(ListNet(label_temperature=1e-3), [0.0, 1.0, 0.0]) == pytest.approx(-math.log(2 / 6))


def test_equal_labels_draw_scores_together_in_listnet_and_are_no_order_in_listmle() -> None:
    assert cost(ListNet(), [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]) < cost(ListNet(), [1.0, 1.0, 1.0])
    assert cost(ListMLE(), [1.0, 1.0, 1.0]) == cost(PositionAwareListMLE(), [1.0, 1.0, 1.0]) == 0


def test_poly1_by_hand() -> None:
    assert cost(Poly1Softmax(epsilon=2.0), [0.0, 1.0, 0.0]) == pytest.approx(-math.log(2 / 6) + 2 * (1 - 2 / 6))
    shared = -(math.log(3 / 6) + math.log(2 / 6)) / 2
    assert cost(Poly1Softmax(), [1.0, 1.0, 0.0]) == pytest.approx(shared + (1 - 5 / 6))
    for labels in ([1.0, 0.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]):
        assert cost(Poly1Softmax(epsilon=0.0), labels) == pytest.approx(cost(SoftmaxCrossEntropy(), labels))


def test_the_second_term_of_poly1_vanishes_however_many_positives_there_are() -> None:
    chances = [1e9, 1e9, 1e-9, 1e9]
    extra = cost(Poly1Softmax(epsilon=5.0), [1.0, 1.0, 0.0, 1.0], chances)
    assert extra == pytest.approx(cost(Poly1Softmax(epsilon=0.0), [1.0, 1.0, 0.0, 1.0], chances), abs=1e-12)
