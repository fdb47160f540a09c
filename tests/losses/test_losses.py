"""The losses against formulas written out document by document in float64, in value and in gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankkit.losses.binary_cross_entropy import BinaryCrossEntropy
from rerankkit.losses.ranknet import RankNet
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.testing import check_loss

Rows = list[list[float]]
Naive = Callable[[Rows, Rows, list[list[bool]]], float]
LABELS = [0.0, 1.0, 2.0, 0.5, 3.0]


def naive_binary(weight: float) -> Naive:
    def loss(scores: Rows, labels: Rows, mask: list[list[bool]]) -> float:
        terms = []
        for row, wanted, there in zip(scores, labels, mask, strict=True):
            for score, label, exists in zip(row, wanted, there, strict=True):
                if exists:
                    p, y = 1 / (1 + math.exp(-score)), min(max(label, 0.0), 1.0)
                    terms.append(-weight * y * math.log(p) - (1 - y) * math.log(1 - p))
        return sum(terms) / max(len(terms), 1)

    return loss


def naive_softmax(temperature: float) -> Naive:
    def loss(scores: Rows, labels: Rows, mask: list[list[bool]]) -> float:
        terms = []
        for row, wanted, there in zip(scores, labels, mask, strict=True):
            pairs = [(s / temperature, y) for s, y, exists in zip(row, wanted, there, strict=True) if exists]
            total = sum(y for _, y in pairs)
            if total > 0:
                z = math.log(sum(math.exp(s) for s, _ in pairs))
                terms.append(-sum(y / total * (s - z) for s, y in pairs))
        return sum(terms) / max(len(terms), 1)

    return loss


def naive_ranknet(sigma: float) -> Naive:
    def loss(scores: Rows, labels: Rows, mask: list[list[bool]]) -> float:
        terms = []
        for row, wanted, there in zip(scores, labels, mask, strict=True):
            pairs = [(s, y) for s, y, exists in zip(row, wanted, there, strict=True) if exists]
            for better, high in pairs:
                for worse, low in pairs:
                    if high > low:
                        terms.append(math.log(1 + math.exp(-sigma * (better - worse))))
        return sum(terms) / max(len(terms), 1)

    return loss


LOSSES: list[Any] = [
    pytest.param(BinaryCrossEntropy(), naive_binary(1.0), id="binary"),
    pytest.param(BinaryCrossEntropy(3.0), naive_binary(3.0), id="binary-weighted"),
    pytest.param(SoftmaxCrossEntropy(), naive_softmax(1.0), id="softmax"),
    pytest.param(SoftmaxCrossEntropy(0.5), naive_softmax(0.5), id="softmax-cold"),
    pytest.param(RankNet(), naive_ranknet(1.0), id="ranknet"),
    pytest.param(RankNet(2.0), naive_ranknet(2.0), id="ranknet-steep"),
]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Rows, Rows, list[list[bool]]]:
    groups, docs = draw(st.integers(1, 3)), draw(st.integers(1, 5))

    def matrix(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(st.lists(values, min_size=docs, max_size=docs), min_size=groups, max_size=groups))

    scores = st.floats(-6, 6) | st.sampled_from([0.0, 1.0])  # ties, too
    return matrix(scores), matrix(st.sampled_from(LABELS)), matrix(st.booleans())


def tensors(batch: tuple[Rows, Rows, list[list[bool]]], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    scores, labels, mask = batch
    return [torch.tensor(scores, dtype=dtype, requires_grad=True), torch.tensor(labels), torch.tensor(mask)]


@pytest.mark.parametrize(("loss", "naive"), LOSSES)
@settings(max_examples=60)
@given(batch=batches())
def test_the_value_is_that_of_the_formula(loss: Any, naive: Naive, batch: tuple[Rows, Rows, list[list[bool]]]) -> None:
    assert loss(*tensors(batch)).item() == pytest.approx(naive(*batch), rel=1e-6, abs=1e-9)
    assert loss(*tensors(batch, torch.float32)).item() == pytest.approx(naive(*batch), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("loss", "naive"), LOSSES)
@settings(max_examples=15)
@given(batch=batches())
def test_the_gradient_is_that_of_the_formula(
    loss: Any, naive: Naive, batch: tuple[Rows, Rows, list[list[bool]]]
) -> None:
    scores, labels, mask = tensors(batch)
    (gradient,) = torch.autograd.grad(loss(scores, labels, mask), scores, allow_unused=False)
    for i, row in enumerate(batch[0]):
        for j, score in enumerate(row):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [list(r) for r in batch[0]]
                moved[i][j] = score + step
                ends.append(naive(moved, batch[1], batch[2]))
            assert gradient[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)


@pytest.mark.parametrize(("loss", "naive"), LOSSES)
def test_gradcheck(loss: Any, naive: Naive) -> None:
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0.0, 1, 0, 2], [1, 1, 0, 0], [0, 0, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4])
    assert torch.autograd.gradcheck(lambda s: loss(s, labels, mask), scores)


@pytest.mark.parametrize("garbage", [1e4, -1e4, 3e38, -3e38, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize(("loss", "naive"), LOSSES)
def test_masked_documents_take_no_part(loss: Any, naive: Naive, garbage: float) -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    wanted = naive([[0.5, -1.0], [1.0]], [[1.0, 0.0], [1.0]], [[True, True], [True]])
    dirty = scores.masked_fill(~mask, garbage).requires_grad_()
    dirty_labels = labels.masked_fill(~mask, garbage)
    value = loss(dirty, dirty_labels, mask)
    (gradient,) = torch.autograd.grad(value, dirty)
    assert value.item() == pytest.approx(wanted, rel=1e-5)
    assert gradient[~mask].tolist() == [0.0] * 3 and gradient.isfinite().all()
    assert torch.equal(gradient, torch.autograd.grad(loss(s := scores.clone().requires_grad_(), labels, mask), s)[0])


@pytest.mark.parametrize(("loss", "naive"), LOSSES)
def test_cases_with_nothing_to_learn(loss: Any, naive: Naive) -> None:
    """One document, equal labels, no positive, nothing at all: a finite number with finite gradients."""
    for labels, there in (
        ([[1.0]], [[True]]), ([[0.0]], [[True]]), ([[1.0, 1.0]], [[True, True]]), ([[0.0, 0.0]], [[True, True]]),
        ([[1.0, 0.0]], [[False, False]]),
    ):  # fmt: skip
        batch = ([[2.0, -1.0][: len(labels[0])]], labels, there)
        scores, wanted, mask = tensors(batch)
        value = loss(scores, wanted, mask)
        assert value.item() == pytest.approx(naive(*batch))
        assert torch.autograd.grad(value, scores)[0].isfinite().all()


def test_what_each_loss_is_known_for() -> None:
    everything = torch.ones(1, 4, dtype=torch.bool)
    scores, labels = torch.zeros(1, 4), torch.tensor([[1.0, 0, 0, 0]])
    assert SoftmaxCrossEntropy()(scores, labels, everything).item() == pytest.approx(math.log(4))
    assert BinaryCrossEntropy()(scores, labels, everything).item() == pytest.approx(math.log(2))
    assert RankNet()(scores, labels, everything).item() == pytest.approx(math.log(2))
    several = torch.tensor([[1.0, 1.0, 0, 0]])
    one = SoftmaxCrossEntropy()(torch.tensor([[3.0, 0, 0, 0]]), several, everything)
    both = SoftmaxCrossEntropy()(torch.tensor([[3.0, 3.0, 0, 0]]), several, everything)
    assert both < one  # every positive counts
    graded = torch.tensor([[2.0, 1.0, 0, 0]])
    ordered, swapped = torch.tensor([[3.0, 2.0, 0, 0]]), torch.tensor([[2.0, 3.0, 0, 0]])
    for loss in (RankNet(), SoftmaxCrossEntropy()):
        assert loss(ordered, graded, everything) < loss(swapped, graded, everything)


@pytest.mark.parametrize("factory", [BinaryCrossEntropy, SoftmaxCrossEntropy, RankNet])
def test_it_keeps_the_protocol(factory: Any) -> None:
    check_loss(factory)
