"""`pair_score` against its definition: random input, every mode, every precision, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rerankkit_kernels import pair_score
from rerankkit_kernels.pair_score import torch as fallback
from rerankkit_kernels.pair_score.reference import pair_score_reference

MODES = ["diff", "yes", "pair_logprob", "prob"]
SHAPES = [(None, 1.0, False), (3.0, 1.0, False), (None, 0.25, True), (5.0, 0.5, True)]
VOCABULARY = 11


def sample(
    shape: tuple[float | None, float, bool], rows: int = 4, length: int = 6, width: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Arguments in float64."""
    softcap, scale, biased = shape
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    return {
        "hidden": torch.randn(rows, length, width, **options),  # type: ignore[call-overload]
        "weight": torch.randn(VOCABULARY, width, **options),  # type: ignore[call-overload]
        "positions": torch.randint(length, (rows,), generator=generator),
        "bias": torch.randn(VOCABULARY, **options) if biased else None,  # type: ignore[call-overload]
        "softcap": softcap,
        "scale": scale,
    }


def lowered(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    floats = {k: v.to(dtype) for k, v in arguments.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    return {**arguments, **floats}


@settings(max_examples=80)
@given(
    sizes=st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 33)),
    ids=st.tuples(st.integers(0, VOCABULARY - 1), st.integers(0, VOCABULARY - 1)),
    mode=st.sampled_from(MODES),
    shape=st.sampled_from(SHAPES),
)
def test_it_is_its_definition(sizes: Any, ids: tuple[int, int], mode: str, shape: Any) -> None:
    arguments = sample(shape, *sizes, seed=sum(sizes))
    found = pair_score(yes_id=ids[0], no_id=ids[1], mode=mode, **arguments)
    assert found.shape == (sizes[0],) and found.dtype == torch.float64
    wanted = pair_score_reference(yes_id=ids[0], no_id=ids[1], mode=mode, **arguments)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-5), (torch.float16, 1e-5)])
def test_lower_precision_is_computed_in_float32(dtype: torch.dtype, tolerance: float, mode: str, shape: Any) -> None:
    """What the inputs lost by rounding is lost; the computation itself adds nothing to it."""
    arguments = lowered(sample(shape, rows=16, width=64), dtype)
    found = pair_score(yes_id=3, no_id=7, mode=mode, **arguments)
    assert found.dtype == torch.float32
    exact = pair_score_reference(yes_id=3, no_id=7, mode=mode, **lowered(arguments, torch.float64))
    assert torch.allclose(found.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_the_definition_in_bfloat16_is_near(mode: str) -> None:
    arguments = lowered(sample((5.0, 0.5, True), rows=64), torch.bfloat16)
    rough = pair_score_reference(yes_id=3, no_id=7, mode=mode, **arguments).float()
    assert (pair_score(yes_id=3, no_id=7, mode=mode, **arguments) - rough).abs().max() < 0.1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode: str, shape: Any) -> None:
    arguments = sample(shape)
    leaves = {k: arguments[k].requires_grad_() for k in ("hidden", "weight", "bias") if arguments[k] is not None}
    rest = {k: v for k, v in arguments.items() if k not in leaves}

    def score(*values: torch.Tensor) -> torch.Tensor:
        return pair_score(yes_id=3, no_id=7, mode=mode, **dict(zip(leaves, values, strict=True)), **rest)

    assert torch.autograd.gradcheck(score, tuple(leaves.values()))
    ours = torch.autograd.grad(score(*leaves.values()).square().sum(), tuple(leaves.values()))
    wanted = pair_score_reference(yes_id=3, no_id=7, mode=mode, **leaves, **rest)
    theirs = torch.autograd.grad(wanted.square().sum(), tuple(leaves.values()))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_extreme_logits_stay_finite() -> None:
    hidden, weight = torch.tensor([[[1.0]], [[-1.0]]]), torch.tensor([[1e4], [-1e4]])
    for mode, wanted in (("diff", [2e4, -2e4]), ("prob", [1.0, 0.0]), ("pair_logprob", [0.0, -2e4])):
        found = pair_score(hidden, weight, 0, 1, positions=torch.zeros(2, dtype=torch.long), mode=mode)
        assert found.tolist() == wanted


@pytest.mark.parametrize("mode", MODES)
def test_autocast_does_not_lower_its_precision(mode: str) -> None:
    arguments = lowered(sample(SHAPES[3], rows=32, width=64), torch.float32)
    wanted = pair_score(yes_id=3, no_id=7, mode=mode, **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pair_score(yes_id=3, no_id=7, mode=mode, **arguments), wanted)


def test_other_positions_do_not_count() -> None:
    arguments = sample(SHAPES[0])
    found = pair_score(yes_id=3, no_id=7, **arguments)
    elsewhere = torch.ones(4, 6, dtype=torch.bool)
    elsewhere[torch.arange(4), arguments["positions"]] = False
    noise = {**arguments, "hidden": arguments["hidden"].masked_fill(elsewhere.unsqueeze(2), float("nan"))}
    assert torch.equal(pair_score(yes_id=3, no_id=7, **noise), found)


def test_wrong_arguments_are_refused() -> None:
    arguments = sample(SHAPES[0])
    with pytest.raises(ValueError, match="mode 'no' is none of diff, yes, pair_logprob, prob"):
        pair_score(yes_id=0, no_id=1, mode="no", **arguments)
    with pytest.raises(ValueError, match="mode 'no' is none of diff"):
        pair_score_reference(yes_id=0, no_id=1, mode="no", **arguments)
    with pytest.raises(ValueError, match=r"hidden \(4, 1, 6, 16\) must be \[rows, length, width\]"):
        pair_score(yes_id=0, no_id=1, **{**arguments, "hidden": arguments["hidden"].unsqueeze(1)})
    with pytest.raises(ValueError, match=r"positions must be \[rows\] for hidden \(4, 6, 16\), not \(3,\)"):
        pair_score(yes_id=0, no_id=1, **{**arguments, "positions": torch.zeros(3, dtype=torch.long)})
    with pytest.raises(ValueError, match="exactly one of positions, attention_mask and cu_seqlens"):
        pair_score(yes_id=0, no_id=1, **arguments, attention_mask=torch.ones(4, 6))
    with pytest.raises(ValueError, match="exactly one of positions, attention_mask and cu_seqlens"):
        pair_score(yes_id=0, no_id=1, **{**arguments, "positions": None})
    with pytest.raises(ValueError, match=r"no_id 11 is no row of weight \(11, 16\)"):
        pair_score(yes_id=0, no_id=VOCABULARY, **arguments)
    with pytest.raises(ValueError, match="yes_id -1 is no row"):
        pair_score(yes_id=-1, no_id=1, **arguments)
    with pytest.raises(ValueError, match=r"hidden \(4, 0, 16\) has no tokens"):
        pair_score(yes_id=0, no_id=1, **{**arguments, "hidden": arguments["hidden"][:, :0]})
    with pytest.raises(IndexError, match="position -2: positions count from 0"):
        pair_score(yes_id=0, no_id=1, **{**arguments, "positions": torch.tensor([0, -2, 1, 1])})


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_answer_is_at_the_last_real_token(side: str) -> None:
    arguments = sample(SHAPES[2])
    lengths = torch.tensor([1, 6, 3, 4])
    place = torch.arange(6) if side == "right" else torch.arange(6).flip(0)
    mask = place < lengths.unsqueeze(1)
    del arguments["positions"]
    last = lengths - 1 if side == "right" else torch.full((4,), 5)
    wanted = pair_score_reference(yes_id=3, no_id=7, positions=last, **arguments)
    for one in (mask, mask.long()):
        assert torch.allclose(pair_score(yes_id=3, no_id=7, attention_mask=one, **arguments), wanted)
    arguments["hidden"] = arguments["hidden"][mask]  # [tokens, width]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    assert torch.allclose(pair_score(yes_id=3, no_id=7, cu_seqlens=bounds, **arguments), wanted)
    assert torch.allclose(pair_score(yes_id=3, no_id=7, positions=bounds[1:].long() - 1, **arguments), wanted)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_final_norm_and_an_adapter(dtype: torch.dtype, mode: str) -> None:
    arguments = lowered(sample(SHAPES[3]), dtype)
    extra = {"norm": torch.rand(16, dtype=torch.float64).to(dtype), "norm_eps": 1e-3}
    lora = torch.randn(2, 16, dtype=torch.float64), torch.randn(VOCABULARY, 2, dtype=torch.float64), 0.5
    exact = lowered({**arguments, **extra}, torch.float64)
    wanted = pair_score_reference(yes_id=3, no_id=7, lora=lora, mode=mode, **exact)
    found = pair_score(yes_id=3, no_id=7, lora=lora, mode=mode, **arguments, **extra)
    assert torch.allclose(found.double(), wanted, rtol=1e-12 if dtype == torch.float64 else 0.02, atol=0.02)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_through_norm_and_adapter(mode: str) -> None:
    arguments = sample(SHAPES[3])
    leaves = [arguments.pop("hidden"), arguments.pop("weight"), arguments.pop("bias"), torch.rand(16).double()]
    leaves += [torch.randn(2, 16).double(), torch.randn(VOCABULARY, 2).double()]
    for leaf in leaves:
        leaf.requires_grad_()

    def score(function: Any, *values: torch.Tensor) -> torch.Tensor:
        hidden, weight, bias, norm, down, up = values
        options = {"bias": bias, "norm": norm, "lora": (down, up, 0.5), "mode": mode, **arguments}
        return function(hidden, weight, 3, 7, **options)

    assert torch.autograd.gradcheck(lambda *values: score(pair_score, *values), tuple(leaves))
    ours = torch.autograd.grad(score(pair_score, *leaves).square().sum(), leaves)
    theirs = torch.autograd.grad(score(pair_score_reference, *leaves).square().sum(), leaves)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_an_answer_that_is_its_own_opposite_has_no_gradient() -> None:
    arguments = sample(SHAPES[0])
    arguments["weight"].requires_grad_()
    pair_score(yes_id=3, no_id=3, **arguments).sum().backward()
    assert not arguments["weight"].grad.any()


def test_frozen_inputs_cost_no_gradient() -> None:
    arguments = sample(SHAPES[2])
    arguments["hidden"].requires_grad_()
    made: list[torch.Size] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            made.extend(one.shape for one in found if isinstance(one, torch.Tensor)) if isinstance(
                found, tuple
            ) else None
            return found

    with Watch():
        pair_score(yes_id=3, no_id=7, **arguments).sum().backward()
    assert arguments["hidden"].grad.shape in made and arguments["weight"].shape not in made


@pytest.mark.parametrize(
    ("mode", "softcap", "products"), [("diff", None, 1), ("yes", None, 1), ("prob", None, 2), ("diff", 3.0, 2)]
)
def test_a_gradient_that_is_the_same_for_all_logits_computes_none(mode: str, softcap: Any, products: int) -> None:
    arguments = sample(SHAPES[0])
    made: list[str] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made.append(func.name())
            return func(*args, **(kwargs or {}))

    inputs = (arguments["hidden"], arguments["positions"], arguments["weight"], None, None)
    with Watch():
        fallback.backward(torch.ones(4), *inputs, 3, 7, 0.0, 1.0, softcap, mode, [True, False, False, False])
    assert made.count("aten::mm") == products


def test_a_packed_token_that_answers_twice_has_both_gradients() -> None:
    hidden, weight = torch.randn(6, 16, requires_grad=True), torch.randn(VOCABULARY, 16)
    pair_score(hidden, weight, 3, 7, positions=torch.tensor([4, 1, 4])).backward(torch.tensor([1.0, 2.0, 4.0]))
    wanted = torch.tensor([0.0, 2.0, 0.0, 0.0, 5.0, 0.0]).unsqueeze(1) * (weight[3] - weight[7])
    torch.testing.assert_close(hidden.grad, wanted)


def test_a_sequence_without_tokens_has_no_answer() -> None:
    hidden, weight = torch.randn(3, 5, 16), torch.randn(VOCABULARY, 16)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1]])
    with pytest.raises(IndexError, match="a sequence without tokens has none"):
        pair_score(hidden, weight, 3, 7, attention_mask=mask)
    with pytest.raises(IndexError, match="a sequence without tokens has none"):
        pair_score(hidden.flatten(0, 1), weight, 3, 7, cu_seqlens=torch.tensor([0, 4, 4, 15]))
    found = pair_score(hidden[[0, 2]], weight, 3, 7, attention_mask=mask[[0, 2]])
    wanted = pair_score_reference(hidden[[0, 2]], weight, 3, 7, positions=torch.tensor([1, 4]))
    torch.testing.assert_close(found, wanted)


@pytest.mark.regression
def test_what_would_be_read_past_an_end_or_taken_for_a_mask_is_refused() -> None:
    """Triton takes the first columns of rows that are too wide, and what lies behind those that are too short."""
    hidden, weight, mask = torch.randn(3, 5, 16), torch.randn(VOCABULARY, 16), torch.ones(3, 5)
    positions = torch.tensor([1, 0, 1])
    wanted = pair_score(hidden, weight, 3, 7, positions=positions)
    assert torch.equal(pair_score(hidden, weight, 3, 7, positions=positions.to(torch.uint8)), wanted)
    for changed, message in (
        (
            {"weight": torch.randn(VOCABULARY, 17)},
            r"weight must be \[vocabulary, 16\], as hidden is wide, not \(11, 17\)",
        ),
        ({"bias": torch.zeros(4)}, r"bias must be \(11,\), one for each row of weight, not \(4,\)"),
        ({"norm": torch.ones(1)}, r"norm must be \(16,\), as hidden is wide, not \(1,\)"),
        ({"softcap": 0.0}, "softcap 0 makes every logit 0"),
        ({"positions": positions.bool()}, "positions must be int32 or int64, not torch.bool"),
        ({"positions": None, "attention_mask": mask.log()}, "attention_mask is True or 1 on the tokens that count"),
        ({"positions": None, "attention_mask": mask[:, 2:].long()}, r"attention_mask must be \(3, 5\), as hidden is"),
    ):
        arguments: dict[str, Any] = {"hidden": hidden, "weight": weight, "positions": positions, **changed}
        with pytest.raises(ValueError, match=message):
            pair_score(yes_id=3, no_id=7, **arguments)
    with pytest.raises(ValueError, match=r"hidden \(3, 0, 16\) has no tokens"):
        pair_score(hidden[:, :0], weight, 3, 7, attention_mask=mask[:, :0].long())
    with pytest.raises(IndexError, match="position 49 is past the 15 tokens of hidden"):
        pair_score(hidden.flatten(0, 1), weight, 3, 7, cu_seqlens=torch.tensor([0, 4, 50]))
    with pytest.raises(IndexError, match="position -1"):
        pair_score(hidden.flatten(0, 1), weight, 3, 7, cu_seqlens=torch.tensor([-3, 4]))
