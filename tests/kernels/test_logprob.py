"""Log-probabilities against their definition: shapes, masks, packing, precisions, gradients, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rerankkit_kernels import sequence_logprob, token_logprob
from rerankkit_kernels.logprob import api, op
from rerankkit_kernels.logprob import torch as fallback
from rerankkit_kernels.logprob.reference import sequence_logprob_reference, token_logprob_reference

VOCABULARY = 37
SHAPES = [(None, 1.0, False), (3.0, 1.0, False), (None, 0.25, True), (5.0, 0.5, True)]


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "VOCABULARY", 8)
    monkeypatch.setattr(fallback, "ROWS", 5)


def sample(shape: Any, rows: int = 3, length: int = 4, width: int = 6, seed: int = 0) -> dict[str, Any]:
    softcap, scale, biased = shape
    generator = torch.Generator().manual_seed(seed)
    options: Any = {"generator": generator, "dtype": torch.float64}
    return {
        "hidden": torch.randn(rows, length, width, **options),
        "weight": torch.randn(VOCABULARY, width, **options),
        "bias": torch.randn(VOCABULARY, **options) if biased else None,
        "softcap": softcap,
        "scale": scale,
    }


def targets_and_mask(rows: int = 3, length: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(VOCABULARY, (rows, length), generator=generator)
    return targets, torch.rand(rows, length, generator=generator) > 0.4


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 17)),
    shape=st.sampled_from(SHAPES),
    reduction=st.sampled_from(["sum", "mean", "none"]),
    masked=st.booleans(),
)
def test_it_is_its_definition(sizes: Any, shape: Any, reduction: str, masked: bool) -> None:
    arguments = sample(shape, *sizes, seed=sum(sizes))
    targets, mask = targets_and_mask(*sizes[:2], seed=sum(sizes))
    everything = torch.ones_like(mask)
    wanted = sequence_logprob_reference(
        targets=targets, mask=mask if masked else everything, reduction=reduction, **arguments
    )
    found = sequence_logprob(targets=targets, mask=mask if masked else None, reduction=reduction, **arguments)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("several", [0, 1, 3])
def test_tokens_after_a_hidden_state(shape: Any, several: int) -> None:
    arguments = sample(shape)
    ids = torch.randint(VOCABULARY, (3, 4, several))
    found = token_logprob(ids=ids, **arguments)
    torch.testing.assert_close(found, token_logprob_reference(ids=ids, **arguments), rtol=1e-12, atol=1e-12)
    last = {**arguments, "hidden": arguments["hidden"][:, -1]}
    torch.testing.assert_close(token_logprob(ids=ids[:, -1], **last), found[:, -1])


def test_the_whole_vocabulary_has_probability_one() -> None:
    arguments = sample(SHAPES[3])
    ids = torch.arange(VOCABULARY).expand(3, 4, -1)
    torch.testing.assert_close(token_logprob(ids=ids, **arguments).exp().sum(-1), torch.ones(3, 4).double())


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_packed_sequences(reduction: str) -> None:
    arguments = sample(SHAPES[2])
    targets, mask = targets_and_mask()
    wanted = sequence_logprob(targets=targets, mask=mask, reduction=reduction, **arguments)
    packed = {**arguments, "hidden": arguments["hidden"].flatten(0, 1)}
    bounds = torch.tensor([0, 4, 8, 8, 12], dtype=torch.int32)
    found = sequence_logprob(
        targets=targets.flatten(), mask=mask.flatten(), cu_seqlens=bounds, reduction=reduction, **packed
    )
    if reduction == "none":
        assert torch.equal(found, wanted.flatten())
    else:
        torch.testing.assert_close(found[[0, 1, 3]], wanted)
        assert found[2] == 0  # no token at all


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients(shape: Any) -> None:
    arguments = sample(shape)
    leaves = {k: arguments.pop(k).requires_grad_() for k in ("hidden", "weight", "bias") if arguments[k] is not None}
    targets, mask = targets_and_mask()
    biased, packed = arguments.pop("bias", None), torch.tensor([0, 5, 12])

    def score(function: Any, *values: torch.Tensor) -> torch.Tensor:
        return function(targets=targets, mask=mask, **dict(zip(leaves, values, strict=True)), **arguments)

    assert torch.autograd.gradcheck(lambda *values: score(sequence_logprob, *values), tuple(leaves.values()))
    ours = torch.autograd.grad(score(sequence_logprob, *leaves.values()).square().sum(), list(leaves.values()))
    wanted = score(sequence_logprob_reference, *leaves.values()).square().sum()
    theirs = torch.autograd.grad(wanted, list(leaves.values()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)

    flat = leaves["hidden"].flatten(0, 1), leaves["weight"], targets.flatten()
    found = sequence_logprob(*flat, cu_seqlens=packed, bias=leaves.get("bias", biased), **arguments)
    each = token_logprob_reference(flat[0], flat[1], flat[2].unsqueeze(1), bias=leaves.get("bias", biased), **arguments)
    whole = torch.stack([each[:5].sum(), each[5:].sum()])
    weight = torch.tensor([2.0, -3.0], dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((found * weight).sum(), list(leaves.values())),
        torch.autograd.grad((whole * weight).sum(), list(leaves.values())),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_gradients_where_one_state_is_asked_for_several_tokens() -> None:
    arguments = sample(SHAPES[3])
    leaves = [arguments.pop("hidden").requires_grad_(), arguments.pop("weight").requires_grad_()]
    ids = torch.tensor([1, 30, 1]).expand(3, 4, -1)  # one of them twice
    weight = torch.randn(3, 4, 3, dtype=torch.float64)
    ours = torch.autograd.grad((token_logprob(*leaves, ids, **arguments) * weight).sum(), leaves)
    theirs = torch.autograd.grad((token_logprob_reference(*leaves, ids, **arguments) * weight).sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_input_gets_no_gradient(frozen: str) -> None:
    arguments = sample(SHAPES[0])
    trained = arguments["weight" if frozen == "hidden" else "hidden"].requires_grad_()
    targets, _ = targets_and_mask()
    sequence_logprob(targets=targets, **arguments).sum().backward()
    assert trained.grad is not None and trained.grad.any() and arguments[frozen].grad is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-5), (torch.bfloat16, 0.02)])
def test_lower_precision_is_summed_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    arguments = sample(SHAPES[0], width=64)
    low = {**arguments, "hidden": arguments["hidden"].to(dtype), "weight": arguments["weight"].to(dtype)}
    exact = {**low, "hidden": low["hidden"].double(), "weight": low["weight"].double()}
    targets, mask = targets_and_mask()
    found = sequence_logprob(targets=targets, mask=mask, **low)
    assert found.dtype == torch.float32
    wanted = sequence_logprob_reference(targets=targets, mask=mask, **exact)
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    low["hidden"].requires_grad_(), low["weight"].requires_grad_()
    grads = torch.autograd.grad(sequence_logprob(targets=targets, **low).sum(), (low["hidden"], low["weight"]))
    assert [grad.dtype for grad in grads] == [dtype, dtype]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_many_tokens_are_added_up_without_loss(reduction: str) -> None:
    arguments = {key: sample(SHAPES[0], 16, 300)[key].float() for key in ("hidden", "weight")}
    targets, mask = targets_and_mask(16, 300)
    each = sequence_logprob(targets=targets, mask=mask, reduction="none", **arguments).double()
    wanted = each.sum(1) if reduction == "sum" else each.sum(1) / mask.sum(1)
    bounds = torch.arange(0, 16 * 300 + 1, 300)
    flat = {"targets": targets.flatten(), "mask": mask.flatten(), "cu_seqlens": bounds}
    packed = {**arguments, "hidden": arguments["hidden"].flatten(0, 1)}
    assert torch.equal(sequence_logprob(targets=targets, mask=mask, reduction=reduction, **arguments), wanted.float())
    assert torch.equal(sequence_logprob(reduction=reduction, **flat, **packed), wanted.float())


def test_a_weight_in_bfloat16_does_not_lower_a_hidden_state_in_float32() -> None:
    arguments = sample(SHAPES[0], width=64)
    arguments["hidden"], arguments["weight"] = arguments["hidden"].float(), arguments["weight"].bfloat16()
    exact = {**arguments, "hidden": arguments["hidden"].double(), "weight": arguments["weight"].double()}
    targets, mask = targets_and_mask()
    wanted = sequence_logprob_reference(targets=targets, mask=mask, **exact)
    found = sequence_logprob(targets=targets, mask=mask, **arguments)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    hidden, weight = torch.tensor([[[1.0], [-1.0]]]), torch.tensor([[1e4], [-1e4]])
    assert sequence_logprob(hidden, weight, torch.tensor([[0, 0]]), reduction="none").tolist() == [[0.0, -2e4]]


def test_what_is_masked_is_not_even_read() -> None:
    arguments = sample(SHAPES[0])
    targets, mask = targets_and_mask()
    arguments["hidden"].requires_grad_()
    wanted = sequence_logprob(targets=targets, mask=mask, **arguments)
    arguments["hidden"] = arguments["hidden"].detach().masked_fill(~mask.unsqueeze(2), float("nan")).requires_grad_()
    found = sequence_logprob(targets=targets.masked_fill(~mask, -100), mask=mask, **arguments)
    assert torch.equal(found, wanted)
    found.sum().backward()
    assert not arguments["hidden"].grad[~mask].any() and arguments["hidden"].grad.isfinite().all()


def test_no_tensor_is_as_wide_as_the_vocabulary() -> None:
    arguments = sample(SHAPES[0])
    arguments["hidden"].requires_grad_()
    wide: list[torch.Size] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "rerankkit":  # what it does inside
                return (op.run_forward if "forward" in str(func) else op._run_backward)(*args)
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.ndim and found.shape[-1] >= VOCABULARY:
                wide.append(found.shape)
            return found

    with Watch():
        sequence_logprob(targets=targets_and_mask()[0], **arguments).sum().backward()
    assert arguments["hidden"].grad.any() and wide == []


def test_wrong_arguments_are_refused() -> None:
    arguments = sample(SHAPES[0])
    targets, _ = targets_and_mask()
    with pytest.raises(ValueError, match="reduction 'max' is none of sum, mean, none"):
        sequence_logprob(targets=targets, reduction="max", **arguments)
    with pytest.raises(ValueError, match=r"targets must be \(3, 4\), not \(3, 3\)"):
        sequence_logprob(targets=targets[:, 1:], **arguments)
    with pytest.raises(ValueError, match=r"hidden \(3, 4, 6\) must be .* or \[tokens, width\] if packed"):
        sequence_logprob(targets=targets, cu_seqlens=torch.tensor([0, 4]), **arguments)
    with pytest.raises(ValueError, match=r"ids must be \[3, 4, 'k'\], not \[3, 4\]"):
        token_logprob(ids=targets, **arguments)


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_token_that_does_not_exist_is_refused_unless_masked(token: int) -> None:
    arguments = sample(SHAPES[0])
    targets, mask = targets_and_mask()
    targets[0, 0], mask[0, 0] = token, True
    for wanted in (False, True):
        arguments["hidden"].requires_grad_(wanted)
        with pytest.raises(IndexError, match=rf"token {token} is no row of weight \(37, 6\)"):
            sequence_logprob(targets=targets, mask=mask, **arguments)
    mask[0, 0] = False
    assert sequence_logprob(targets=targets, mask=mask, **arguments).isfinite().all()
    with pytest.raises(IndexError, match=f"token {token} is no row"):
        token_logprob(ids=targets.unsqueeze(2), **arguments)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_with_a_frozen_output_layer(shape: Any, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = sample(shape)
    hidden = arguments.pop("hidden").requires_grad_()
    targets, mask = targets_and_mask()
    mask = mask if masked else torch.ones_like(mask)
    options: Any = {"targets": targets, "reduction": "none", **arguments}
    outer = torch.randn(3, 4, dtype=torch.float64)
    monkeypatch.setattr(fallback, "differentiate", None)  # no logits a second time
    found = sequence_logprob(hidden, mask=mask if masked else None, **options)
    wanted = sequence_logprob_reference(hidden, mask=mask, **options)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    (ours,) = torch.autograd.grad((found * outer).sum(), hidden)
    (theirs,) = torch.autograd.grad((wanted * outer).sum(), hidden)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda hidden: sequence_logprob(hidden, mask=mask, **options), (hidden,))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_the_gradient_of_what_is_nearly_certain_keeps_its_digits(dtype: torch.dtype, tolerance: float) -> None:
    weight = (5 * torch.eye(16)[:12] + 0.1 * torch.randn(12, 16, generator=torch.Generator().manual_seed(0))).to(dtype)
    hidden = (2 * torch.eye(16)[:12]).to(dtype).unsqueeze(0).requires_grad_()  # [1, 12, 16]; logits of 10 and of 0
    exact = hidden.detach().double().requires_grad_()
    targets = torch.arange(12).unsqueeze(0)
    mask = torch.ones_like(targets, dtype=torch.bool)
    wanted = sequence_logprob_reference(exact, weight.double(), targets, mask=mask)
    sequence_logprob(hidden, weight, targets).sum().backward()
    (theirs,) = torch.autograd.grad(wanted.sum(), exact)
    assert hidden.grad is not None and theirs.abs().max() < 1e-2
    assert (hidden.grad.double() - theirs).abs().max() < tolerance * theirs.abs().max()


def test_tokens_that_cannot_come_add_nothing() -> None:
    arguments = sample(SHAPES[2])
    arguments["bias"][:9] = -torch.inf  # more than the first block
    arguments["hidden"].requires_grad_()
    targets = torch.full((3, 4), 20)
    found = sequence_logprob(targets=targets, **arguments)
    wanted = sequence_logprob_reference(targets=targets, mask=torch.ones(3, 4, dtype=torch.bool), **arguments)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad(found.sum(), arguments["hidden"])
    torch.testing.assert_close(ours, torch.autograd.grad(wanted.sum(), arguments["hidden"]))


def test_where_nobody_asks_whether_a_token_exists_it_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, which is not waited for."""
    monkeypatch.setattr(fallback, "_tokens", lambda ids, weight: ids.clamp(0, len(weight) - 1))
    arguments = sample(SHAPES[0])
    targets, mask = targets_and_mask()
    everything = torch.ones_like(mask)
    wanted = sequence_logprob_reference(targets=targets, mask=everything, reduction="none", **arguments)
    targets[0, 0], targets[2, 3] = -1, VOCABULARY
    wanted[0, 0] = wanted[2, 3] = torch.nan
    for watched in (False, True):
        arguments["hidden"].requires_grad_(watched)
        found = sequence_logprob(targets=targets, reduction="none", **arguments)
        torch.testing.assert_close(found, wanted, equal_nan=True)


@pytest.mark.regression
def test_packed_sequences_are_summed_where_they_lie() -> None:
    arguments = sample(SHAPES[3])
    arguments["hidden"] = arguments["hidden"].flatten(0, 1)
    targets = targets_and_mask()[0].flatten()
    each = sequence_logprob(targets=targets, reduction="none", cu_seqlens=torch.tensor([0, 12]), **arguments)
    bounds = torch.tensor([2, 5, 5, 11])  # neither the first token nor the last one is of a sequence
    for reduction in ("sum", "mean"):
        parts = [each[2:5], each[5:5], each[5:11]]
        wanted = torch.stack([part.sum() / (max(1, len(part)) if reduction == "mean" else 1) for part in parts])
        found = sequence_logprob(targets=targets, cu_seqlens=bounds, reduction=reduction, **arguments)
        torch.testing.assert_close(found, wanted)


BOUNDS = [([0, 12, 50], 1), ([-3, 4, 12], 0), ([0, 9, 5, 12], 1)]
"""Bounds that 12 tokens have not, and the sequence that is not there."""


@pytest.mark.regression
@pytest.mark.parametrize(("bounds", "wrong"), BOUNDS)
def test_bounds_that_do_not_fit_are_refused(bounds: list[int], wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = sample(SHAPES[0])
    arguments["hidden"] = arguments["hidden"].flatten(0, 1).requires_grad_()
    arguments |= {"targets": targets_and_mask()[0].flatten(), "cu_seqlens": torch.tensor(bounds)}
    with pytest.raises(ValueError, match="cu_seqlens must rise from 0 or more to at most 12, the tokens of hidden"):
        sequence_logprob(**arguments)
    monkeypatch.setattr(api, "_check_bounds", lambda *_: None)  # as on a GPU, which is not asked
    for reduction in ("sum", "mean"):
        found = sequence_logprob(reduction=reduction, **arguments)
        assert found[wrong].isnan() and found[0 if wrong else 1].isfinite()


@pytest.mark.regression
def test_what_would_be_read_past_an_end_or_taken_for_a_mask_is_refused() -> None:
    arguments = sample(SHAPES[0])
    targets, mask = targets_and_mask()
    wanted = sequence_logprob(targets=targets, **arguments)
    assert torch.equal(sequence_logprob(targets=targets.to(torch.uint8), **arguments), wanted)
    for name, value, message in (
        ("targets", targets.bool(), "targets must be int32 or int64, not torch.bool"),
        ("mask", mask.double().log(), "mask is True or 1 on the tokens that count; one of floats"),
        ("bias", torch.zeros(1), r"bias must be \(37,\), one for each row of weight, not \(1,\)"),
        ("weight", torch.zeros(37, 5), r"weight must be \[vocabulary, 6\], as hidden is wide, not \(37, 5\)"),
        ("softcap", 0.0, "softcap 0 makes every logit 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sequence_logprob(**{**arguments, "targets": targets, name: value})
        if name not in ("targets", "mask"):
            with pytest.raises(ValueError, match=message):
                token_logprob(**{**arguments, "ids": targets.unsqueeze(2), name: value})
    packed = {**arguments, "hidden": arguments["hidden"].flatten(0, 1), "targets": targets.flatten()}
    with pytest.raises(ValueError, match="cu_seqlens must be int32 or int64, not torch.float32"):
        sequence_logprob(cu_seqlens=torch.tensor([0.0, 4.5, 12.0]), **packed)
