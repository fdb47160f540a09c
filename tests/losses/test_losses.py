"""What every loss promises, and every loss against its naive formula, in value and in gradient."""

from __future__ import annotations

import inspect
from typing import Any

import naive_losses as naive
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_losses import Batch, OfGroup, averaged, batches, tensors

from rerankkit.errors import InputError
from rerankkit.registry import registry
from rerankkit.testing import check_loss

CASES: dict[str, list[tuple[dict[str, Any], OfGroup]]] = {
    "adr_mse": [({}, naive.adr_mse(1.0)), ({"alpha": 2.5}, naive.adr_mse(2.5))],
    "approx_ndcg": [({}, naive.approx_ndcg(1.0)), ({"temperature": 0.4}, naive.approx_ndcg(0.4))],
    "binary_cross_entropy": [({}, naive.binary(1.0)), ({"positive_weight": 3.0}, naive.binary(3.0))],
    "hinge": [({"margin": 0.7854}, naive.hinge(0.7854))],  # no lead of rounded scores is at its kink
    "kl_divergence": [
        ({}, naive.kl_divergence(1.0, 1.0)),
        ({"temperature": 2.0}, naive.kl_divergence(2.0, 2.0)),
        ({"temperature": 2.0, "teacher_temperature": 0.5}, naive.kl_divergence(2.0, 0.5)),
    ],
    "lambda_loss": [
        ({}, naive.lambda_loss("ndcg_loss2pp")),
        ({"weighting": "ndcg_loss2pp", "mu": 3.0, "k": 2}, naive.lambda_loss("ndcg_loss2pp", mu=3.0, k=2)),
        ({"weighting": "none", "sigma": 2.0}, naive.lambda_loss("none", sigma=2.0)),
        ({"weighting": "none", "k": 1}, naive.lambda_loss("none", k=1)),
        ({"weighting": "ndcg_loss1"}, naive.lambda_loss("ndcg_loss1")),
        ({"weighting": "ndcg_loss2"}, naive.lambda_loss("ndcg_loss2")),
        ({"weighting": "lambda_rank"}, naive.lambda_loss("lambda_rank")),
        ({"weighting": "lambda_rank", "k": 2}, naive.lambda_loss("lambda_rank", k=2)),
    ],
    "listmle": [({}, naive.listmle)],
    "listnet": [({}, naive.listnet(1.0)), ({"label_temperature": 0.5}, naive.listnet(0.5))],
    "margin_mse": [({}, naive.margin_mse(True)), ({"pairs": "all"}, naive.margin_mse(False))],
    "mse": [({}, naive.mse)],
    "negative_log_likelihood": [({}, naive.negative_log_likelihood)],
    "neural_ndcg": [({}, naive.neural_ndcg(1.0)), ({"temperature": 2.0, "k": 2}, naive.neural_ndcg(2.0, 2))],
    "poly1_softmax": [
        ({}, naive.softmax_cross_entropy(1.0, 1.0)),
        ({"epsilon": -0.5, "temperature": 0.5}, naive.softmax_cross_entropy(0.5, -0.5)),
    ],
    "position_aware_listmle": [({}, naive.position_aware_listmle)],
    "ranknet": [({}, naive.ranknet(1.0)), ({"sigma": 2.0}, naive.ranknet(2.0))],
    "softmax_cross_entropy": [
        ({}, naive.softmax_cross_entropy(1.0)),
        ({"temperature": 0.5}, naive.softmax_cross_entropy(0.5)),
    ],
}


def made(name: str, options: dict[str, Any]) -> Any:
    return registry.losses.get(f"{name}.v1")(**options)


LOSSES = [
    pytest.param(made(name, options), of_group, id="-".join(map(str, [name, *options.values()])))
    for name, cases in CASES.items()
    for options, of_group in cases
]
every_loss = pytest.mark.parametrize(("loss", "of_group"), LOSSES)


def graded(loss: Any, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> tuple[float, torch.Tensor]:
    leaf = scores.detach().clone().requires_grad_()
    value = loss(leaf, labels, mask)
    return value.item(), torch.autograd.grad(value, leaf)[0]


def test_every_loss_has_its_formula_here() -> None:
    ours = [n for n in registry.losses.names() if registry.origin("losses", n).package == "rerankkit"]
    assert ours == [f"{name}.v1" for name in CASES]


@every_loss
@settings(max_examples=60)
@given(batch=batches())
def test_the_value_is_that_of_the_formula(loss: Any, of_group: OfGroup, batch: Batch) -> None:
    wanted = averaged(of_group, batch)
    assert loss(*tensors(batch)).item() == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert loss(*tensors(batch, torch.float32)).item() == pytest.approx(wanted, rel=1e-4, abs=3e-6)


@every_loss
@settings(max_examples=15)
@given(batch=batches())
def test_the_gradient_is_that_of_the_formula(loss: Any, of_group: OfGroup, batch: Batch) -> None:
    _, gradient = graded(loss, *tensors(batch))
    _, single = graded(loss, *tensors(batch, torch.float32))
    assert single.tolist() == [pytest.approx(row, rel=1e-3, abs=1e-5) for row in gradient.tolist()]
    for i, row in enumerate(batch[0]):
        for j, score in enumerate(row):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [list(r) for r in batch[0]]
                moved[i][j] = score + step
                ends.append(averaged(of_group, (moved, *batch[1:]), still=batch[0]))
            assert gradient[i, j].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-5)


@every_loss
def test_gradcheck(loss: Any, of_group: OfGroup) -> None:
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0.0, 1, 0, 2], [1, 1, 0, 0], [0, 0, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4])
    assert torch.autograd.gradcheck(lambda s: loss(s, labels, mask), scores)


@pytest.mark.parametrize("garbage", [1e4, -1e4, 3e38, -3e38, float("inf"), float("-inf"), float("nan")])
@every_loss
def test_masked_documents_take_no_part(loss: Any, of_group: OfGroup, garbage: float) -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    wanted = averaged(of_group, (scores.tolist(), labels.tolist(), mask.tolist()))
    value, gradient = graded(loss, scores.masked_fill(~mask, garbage), labels.masked_fill(~mask, garbage), mask)
    assert value == pytest.approx(wanted, rel=1e-5)
    assert gradient[~mask].tolist() == [0.0] * 6 and gradient.isfinite().all()
    assert torch.equal(gradient, graded(loss, scores, labels, mask)[1])


@every_loss
@settings(max_examples=20)
@given(batch=batches(), data=st.data())
def test_the_order_of_the_documents_does_not_matter(loss: Any, of_group: OfGroup, batch: Batch, data: Any) -> None:
    scores, labels, mask = tensors(batch)
    order = torch.tensor(data.draw(st.permutations(range(scores.shape[1]))))
    value, gradient = graded(loss, scores, labels, mask)
    moved, moved_gradient = graded(loss, scores[:, order], labels[:, order], mask[:, order])
    assert moved == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert torch.allclose(moved_gradient, gradient[:, order], rtol=1e-8, atol=1e-10)


@every_loss
@settings(max_examples=20)
@given(batch=batches())
def test_large_scores_keep_everything_finite(loss: Any, of_group: OfGroup, batch: Batch) -> None:
    scores, labels, mask = tensors(batch, torch.float32)
    value, gradient = graded(loss, scores * 1e4, labels, mask)
    exact, _ = graded(loss, (scores * 1e4).double(), labels, mask)
    assert gradient.isfinite().all() and value == pytest.approx(exact, rel=1e-3, abs=1e-5)


@every_loss
def test_cases_with_nothing_to_learn(loss: Any, of_group: OfGroup) -> None:
    """One document, equal labels, no positive, nothing at all: a finite number with finite gradients."""
    for labels, there in (
        ([[1.0]], [[True]]), ([[0.0]], [[True]]), ([[1.0, 1.0]], [[True, True]]), ([[0.0, 0.0]], [[True, True]]),
        ([[-1.0, -1.0]], [[True, True]]), ([[1.0, 0.0]], [[False, False]]),
    ):  # fmt: skip
        batch = ([[2.0, -1.0][: len(labels[0])]], labels, there)
        value, gradient = graded(loss, *tensors(batch))
        assert value == pytest.approx(averaged(of_group, batch)) and gradient.isfinite().all()
        assert there != [[False, False]] or (value == 0 and not gradient.any())


@every_loss
def test_groups_with_nothing_to_learn_dilute_no_average(loss: Any, of_group: OfGroup) -> None:
    scores, labels, mask = (
        torch.randn(2, 4),
        torch.tensor([[0.0, 2, 1, 0]] * 2),
        torch.tensor([[True] * 4, [False] * 4]),
    )
    assert graded(loss, scores, labels, mask)[0] == pytest.approx(graded(loss, scores[:1], labels[:1], mask[:1])[0])


@every_loss
def test_labels_may_be_whole_numbers(loss: Any, of_group: OfGroup) -> None:
    scores, labels, mask = torch.randn(2, 4), torch.tensor([[0, 2, 1, 0], [1, 0, 0, -1]]), torch.ones(2, 4).bool()
    assert loss(scores, labels, mask).item() == loss(scores, labels.float(), mask).item()


@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_protocol(name: str) -> None:
    for options, _ in CASES[name]:
        check_loss(lambda options=options: made(name, options))


@pytest.mark.parametrize("name", CASES)
def test_numbers_that_make_no_sense_are_refused(name: str) -> None:
    factory = registry.losses.get(f"{name}.v1")
    numbers = {p.name for p in inspect.signature(factory).parameters.values() if "float" in str(p.annotation)}
    numbers |= {"k"} & set(inspect.signature(factory).parameters)
    for argument in numbers:
        for value in (0, -2.0, float("nan"), float("inf")):
            if (name, argument) == ("poly1_softmax", "epsilon") and value == 0:
                continue
            with pytest.raises(
                InputError, match=rf"^{name}.v1, {argument}: must be (above 0|at least -1 and finite), got"
            ):
                factory(**{argument: value})
    own = set(inspect.signature(factory.check).parameters) if numbers else set()
    assert own == numbers  # so that `rerankkit check` sees them all
