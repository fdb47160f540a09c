"""The Triton kernels of language-model heads, run by Triton's interpreter, against their definitions in float64."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from rerankkit_kernels import pair_score, sequence_logprob, token_logprob
from rerankkit_kernels.logprob import torch as fallback
from rerankkit_kernels.logprob.reference import sequence_logprob_reference, token_logprob_reference
from rerankkit_kernels.pair_score.reference import pair_score_reference

pytestmark = [pytest.mark.interpreted, pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")]
VOCABULARY = 50
OPTIONS: list[dict[str, Any]] = [
    {},
    {"softcap": 3.0},
    {"scale": 0.25, "biased": True},
    {"softcap": 5.0, "biased": True},
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def sample(options: dict[str, Any], dtype: torch.dtype, width: int = 24) -> tuple[torch.Tensor, torch.Tensor, Any]:
    rest = {key: value for key, value in options.items() if key != "biased"}
    if "biased" in options:
        rest["bias"] = torch.randn(VOCABULARY).to(dtype)
    return torch.randn(3, 4, width).to(dtype), torch.randn(VOCABULARY, width).to(dtype), rest


def exact(rest: dict[str, Any]) -> dict[str, Any]:
    return {key: value.double() if isinstance(value, torch.Tensor) else value for key, value in rest.items()}


@pytest.mark.parametrize("mode", ["diff", "yes", "pair_logprob", "prob"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("width", [1, 24, 1100])
def test_pair_score(mode: str, options: Any, normed: bool, width: int) -> None:
    for dtype in DTYPES:
        hidden, weight, rest = sample(options, dtype, width)
        rest |= {"norm": torch.rand(width).to(dtype), "norm_eps": 0.3} if normed else {}
        positions = torch.tensor([3, 0, 2])
        arguments = {"positions": positions, "mode": mode, **rest}
        found = pair_score(hidden, weight, 3, 7, backend="triton", **arguments)
        wanted = pair_score_reference(
            hidden.double(), weight.double(), 3, 7, **exact(arguments) | {"positions": positions}
        )
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=2e-5)
        flat = {**arguments, "positions": positions + 4 * torch.arange(3)}
        assert torch.equal(pair_score(hidden.flatten(0, 1), weight, 3, 7, backend="triton", **flat), found)


def test_pair_score_of_strides_nothing_and_extremes() -> None:
    hidden, weight, _ = sample({}, torch.float32)
    options: Any = {"positions": torch.tensor([3, 0, 2]), "backend": "triton"}
    wanted = pair_score(hidden, weight, 3, 7, **options)
    wide = torch.randn(3, 8, 48)
    wide[:, ::2, ::2] = hidden
    torch.testing.assert_close(pair_score(wide[:, ::2, ::2], weight.T.contiguous().T, 3, 7, **options), wanted)
    assert pair_score(hidden[:0], weight, 3, 7, positions=torch.zeros(0, dtype=torch.long), backend="triton").shape == (
        0,
    )
    far = torch.tensor([[[1.0]], [[-1.0]]]), torch.tensor([[1e4], [-1e4]])
    for mode, scores in (("diff", [2e4, -2e4]), ("prob", [1.0, 0.0]), ("pair_logprob", [0.0, -2e4])):
        options["positions"] = torch.zeros(2, dtype=torch.long)
        assert pair_score(*far, 0, 1, mode=mode, **options).tolist() == scores
    assert pair_score(*far, 0, 1, softcap=2.0, **options).tolist() == [4.0, -4.0]


@pytest.mark.parametrize("mode", ["diff", "pair_logprob"])
@pytest.mark.parametrize("softcap", [None, 3.0, 30.0])
def test_no_logit_loses_its_digits(mode: str, softcap: float | None) -> None:
    logits = torch.cat([torch.linspace(-40, 40, 161), torch.logspace(-6, 0, 61)])
    hidden, weight, positions = logits.view(-1, 1, 1), torch.tensor([[1.0], [0.0]]), torch.zeros(222, dtype=torch.long)
    options: Any = {"positions": positions, "mode": mode, "softcap": softcap}
    found = pair_score(hidden, weight, 0, 1, backend="triton", **options)
    wanted = pair_score_reference(hidden.double(), weight.double(), 0, 1, **options | {"mode": "diff"})
    if mode == "pair_logprob":  # of which log_softmax, the definition, loses digits in float64 too
        wanted = torch.nn.functional.logsigmoid(wanted)
    torch.testing.assert_close(found.double(), wanted, rtol=5e-6, atol=0)


def test_a_block_of_the_vocabulary_that_is_impossible() -> None:
    hidden, weight, bias = torch.randn(2, 8), torch.randn(3000, 8), torch.zeros(3000)
    bias[:1024] = -torch.inf
    ids = torch.tensor([[2000], [2500]])
    found = token_logprob(hidden, weight, ids, bias=bias, backend="triton")
    torch.testing.assert_close(found, token_logprob_reference(hidden, weight, ids, bias=bias), rtol=1e-4, atol=1e-4)
    bias[:] = -torch.inf  # then nothing is possible, and no token has a likelihood
    assert token_logprob(hidden, weight, ids, bias=bias, backend="triton").isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rows", [2, 100])
def test_logprob(options: Any, dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit_kernels.logprob import triton as kernels

    monkeypatch.setattr(kernels, "BLOCK", 16)
    monkeypatch.setattr(fallback, "VOCABULARY", 37)
    monkeypatch.setattr(fallback, "ROWS", rows)
    hidden, weight, rest = sample(options, dtype)
    targets, mask = torch.randint(VOCABULARY, (3, 4)), torch.tensor([[True, False, True, True]] * 3)
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    found = sequence_logprob(*leaves, targets, mask=mask, backend="triton", **rest)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    wanted = sequence_logprob_reference(*doubles, targets, mask=mask, **exact(rest))
    # products of bfloat16 are rounded to bfloat16 before a kernel sees them
    atol = 0.15 if dtype == torch.bfloat16 else 2e-4 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=atol)
    for one, other in zip(
        torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(wanted.sum(), doubles), strict=True
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=0.02, atol=atol / 2)


def test_several_tokens_after_a_hidden_state() -> None:
    hidden, weight, _ = sample({}, torch.float32)
    ids = torch.tensor([1, 30, 1]).expand(3, 4, -1)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    outer = torch.randn(3, 4, 3)
    found = token_logprob(*leaves, ids, backend="triton")
    wanted = token_logprob_reference(*leaves, ids)
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad((found * outer).sum(), leaves)
    theirs = torch.autograd.grad((wanted * outer).sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_columns_of_a_table_are_read_as_such() -> None:
    hidden, weight = torch.randn(3, 5, 16), torch.randn(9, 16)
    vectors = {"positions": torch.tensor([[0, 1], [1, 4], [2, 2]])[:, 1], "bias": torch.randn(9, 2)[:, 1]}
    vectors["norm"] = torch.randn(16, 2)[:, 1]
    found = pair_score(hidden, weight, 3, 7, backend="triton", **vectors)
    torch.testing.assert_close(found, pair_score_reference(hidden, weight, 3, 7, **vectors))
    targets, bias = torch.randint(9, (3, 5)), vectors["bias"]
    found = sequence_logprob(hidden, weight, targets, bias=bias, backend="triton")
    torch.testing.assert_close(found, sequence_logprob(hidden, weight, targets, bias=bias, backend="torch"))


def test_an_answer_that_does_not_exist_is_nan_and_not_other_memory() -> None:
    hidden, weight, positions = torch.randn(3, 5, 16), torch.randn(9, 16), torch.tensor([-1, 4, 5])
    assert pair_score(hidden, weight, 3, 7, positions=positions, backend="triton").isnan().tolist() == [
        True,
        False,
        True,
    ]


def test_a_sequence_without_tokens_is_nan() -> None:
    hidden, weight = torch.randn(2, 5, 16), torch.randn(9, 16)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    found = pair_score(hidden, weight, 3, 7, attention_mask=mask, backend="triton")
    assert found.isnan().tolist() == [False, True]
    bounds = torch.tensor([0, 0, 10])
    found = pair_score(hidden.flatten(0, 1), weight, 3, 7, cu_seqlens=bounds, backend="triton")
    assert found.isnan().tolist() == [True, False]
