"""MaxSim's Triton kernels, run by Triton's interpreter, against the definition in float64."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from maxsim_samples import ragged, steps_of
from rerankkit_kernels import maxsim, maxsim_packed
from rerankkit_kernels.maxsim.reference import maxsim_packed_reference, maxsim_reference

pytestmark = [pytest.mark.interpreted, pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def sample(layout: str, nq: int, nd: int, lq: int, ld: int, dim: int, dtype: torch.dtype) -> Any:
    shape = {"cross": (nd, ld), "grouped": (nq, nd, ld), "pairs": (nq, ld)}[layout]
    q = torch.nn.functional.normalize(torch.randn(nq, lq, dim), dim=-1).to(dtype)
    d = torch.nn.functional.normalize(torch.randn(*shape, dim), dim=-1).to(dtype)
    d_mask = torch.rand(shape) > 0.4
    d_mask.view(-1, ld)[0] = False
    return q, d, torch.rand(nq, lq) > 0.2, d_mask


def same(function: Any, reference: Any, q: torch.Tensor, d: torch.Tensor) -> None:
    """Scores and both gradients; those of the winners that our own forward pass chose are a sum of given rows."""
    dtype = q.dtype
    q, d = q.requires_grad_(), d.requires_grad_()
    found = function(q, d)
    exact_q, exact_d = (one.detach().double().requires_grad_() for one in (q, d))
    wanted = reference(exact_q, exact_d)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5 * q.shape[-2])
    with torch.no_grad():
        torch.testing.assert_close(function(q, d), found)  # other tiles, so other rounding
    weight = torch.randn(found.shape)
    ours = torch.autograd.grad((found * weight).sum(), (q, d))
    theirs = torch.autograd.grad((wanted * weight.double()).sum(), (exact_q, exact_d))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        # the interpreter cuts float32 off where it stores bfloat16
        rtol, atol = (0.01, 1e-4) if dtype == torch.bfloat16 else (None, None)
        torch.testing.assert_close(one, other.to(dtype), rtol=rtol, atol=atol)
    again = torch.autograd.grad((function(q, d) * weight).sum(), (q, d))
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["cross", "grouped", "pairs"])
@pytest.mark.parametrize("masked", [False, True])
def test_padded(layout: str, masked: bool, dtype: torch.dtype) -> None:
    q, d, q_mask, d_mask = sample(layout, 3, 2, 9, 70, 24, dtype)
    masks = (q_mask, d_mask) if masked else (None, None)
    same(
        lambda q, d: maxsim(q, d, *masks, layout=layout, backend="triton"),
        lambda q, d: maxsim_reference(q, d, *masks, layout=layout),
        q,
        d,
    )


@pytest.mark.parametrize(
    ("nq", "lq", "ld", "dim"),
    [(1, 1, 1, 1), (5, 32, 130, 48), (2, 130, 65, 96), (1, 20, 33, 300), (2, 3, 128, 128), (1, 32, 64, 17)],
)
def test_sizes(nq: int, lq: int, ld: int, dim: int) -> None:
    q, d, *_ = sample("cross", nq, 2, lq, ld, dim, torch.float32)
    same(lambda q, d: maxsim(q, d, backend="triton"), maxsim_reference, q, d)


@pytest.mark.parametrize("listed", ["cross", "own", "pairs"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_packed(listed: str, index: torch.dtype) -> None:
    q, _, q_mask, _ = sample("cross", 3, 1, 6, 1, 16, torch.float32)
    lengths = [4, 0, 130, 64, 1]
    d, bounds = torch.randn(sum(lengths) + 3, 16), torch.tensor([0, *lengths]).cumsum(0) + 2
    pair_q = {"cross": None, "own": torch.tensor([0, 2, 1, 1, 0]), "pairs": torch.tensor([0, 1, 1, 2, 2, 0, 0])}[listed]
    pair_d = torch.tensor([2, 2, 4, 1, 0, 2, 2]) if listed == "pairs" else None
    options = {"q_mask": q_mask, "pair_q": pair_q, "pair_d": pair_d}
    low = {**options, "pair_q": None if pair_q is None else pair_q.to(index)}
    same(
        lambda q, d: maxsim_packed(q, d, bounds.to(index), backend="triton", **low),
        lambda q, d: maxsim_packed_reference(q, d, bounds, **options),
        q,
        d,
    )


@pytest.mark.parametrize("ld", [128, 150])  # equals in the same lane of another tile, and in another lane
@pytest.mark.parametrize("masked", [False, True])
def test_winners_are_those_of_the_fallback_and_the_first_of_equals(ld: int, masked: bool) -> None:
    _, _, q_mask, d_mask = sample("cross", 5, 4, 20, ld, 16, torch.float32)
    # whole numbers, so that no order of additions makes equals unequal
    q, d = torch.randint(-9, 10, (5, 20, 16)).float(), torch.randint(-9, 10, (4, ld, 16)).float()
    d = d.repeat(1, 2, 1)  # every token twice
    masks = (q_mask, d_mask.repeat(1, 2)) if masked else (None, None)
    kept = {}
    for backend in ("torch", "triton"):
        arguments = (q, d, None, *masks, None, None, None, 0, torch.int16, "default", backend)
        kept[backend] = torch.ops.rerankkit.maxsim_forward(*arguments)[1]
    assert kept["triton"].dtype == torch.int16 and torch.equal(kept["triton"], kept["torch"])
    assert (kept["torch"][1:] >= 0).any() and (kept["torch"] < ld).all()
    assert (kept["torch"][0] == -1).all() == masked


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["cross", "grouped", "pairs"])
@pytest.mark.parametrize("masked", [False, True])
def test_int8_documents(layout: str, masked: bool, dtype: torch.dtype) -> None:
    for nq, lq, ld, dim in ((3, 9, 70, 24), (1, 20, 130, 300), (5, 32, 128, 96)):
        q, d, *masks = sample(layout, nq, 2, lq, ld, dim, dtype)
        rows, scale = steps_of(d.float())
        if not masked:
            masks = [None, None]
        found = maxsim(q, rows, *masks, d_scale=scale, layout=layout, backend="triton")
        wanted = maxsim_reference(q.double(), rows, *masks, d_scale=scale.double(), layout=layout)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5 * lq)


@pytest.mark.parametrize("listed", ["cross", "own", "pairs"])
def test_packed_int8_documents(listed: str) -> None:
    q = sample("cross", 3, 1, 6, 1, 16, torch.float32)[0]
    d, bounds = ragged([4, 0, 130, 64, 1], 16)
    rows, scale = (torch.cat([one[:2], one, one[:1]]) for one in steps_of(d.float()))
    pair_q = {"cross": None, "own": torch.tensor([0, 2, 1, 1, 0]), "pairs": torch.tensor([0, 1, 1, 2, 2, 0, 0])}[listed]
    pair_d = torch.tensor([2, 2, 4, 1, 0, 2, 2]) if listed == "pairs" else None
    options = {"pair_q": pair_q, "pair_d": pair_d}
    found = maxsim_packed(q, rows, bounds + 2, d_scale=scale, backend="triton", **options)
    wanted = maxsim_packed_reference(q, rows, bounds + 2, d_scale=scale, **options)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    strided = rows.repeat_interleave(2, 1)[:, ::2], scale.repeat_interleave(2)[::2]
    assert torch.equal(maxsim_packed(q, strided[0], bounds + 2, d_scale=strided[1], backend="triton", **options), found)


def test_documents_may_begin_beyond_32_bits() -> None:
    """Rows so far apart that the last document begins 2^31 elements after the first; memory in between is untouched."""
    apart, dim = 1 << 29, 16
    d = torch.empty(5 * apart + dim, dtype=torch.int8).as_strided((3, 2, dim), (2 * apart, apart, 1))
    q, scale = torch.randn(2, 3, dim), torch.rand(3, 2)
    d.copy_(torch.randint(-127, 128, d.shape))
    near, bounds = d.contiguous(), torch.tensor([0, 2, 4, 6], dtype=torch.int32)
    wanted = maxsim_reference(q, near, d_scale=scale)
    torch.testing.assert_close(maxsim(q, d, d_scale=scale, backend="triton"), wanted)
    flat = d.flatten(0, 1)
    assert flat.stride(0) == apart
    torch.testing.assert_close(maxsim_packed(q, flat, bounds, d_scale=scale.flatten(), backend="triton"), wanted)


def test_a_document_may_reach_beyond_32_bits() -> None:
    """Rows of one document so far apart that the last begins 2^31 elements after the first."""
    apart, dim = 1 << 29, 16
    d = torch.empty(4 * apart + dim, dtype=torch.int8).as_strided((5, dim), (apart, 1))
    d.copy_(torch.randint(-127, 128, d.shape))
    q, scale, near = torch.randn(2, 3, dim), torch.rand(5), d.contiguous()
    wanted = maxsim_reference(q, near[None], d_scale=scale[None])
    assert (q @ near.float().T * scale).argmax(-1).eq(4).any()
    torch.testing.assert_close(maxsim_packed(q, d, torch.tensor([0, 5]), d_scale=scale, backend="triton"), wanted)
    torch.testing.assert_close(maxsim(q, d[None], d_scale=scale[None], backend="triton"), wanted)


def clean_gradients(scores: torch.Tensor, *leaves: torch.Tensor) -> bool:
    return all(grad.isfinite().all() for grad in torch.autograd.grad(scores.nan_to_num().sum(), leaves))


@pytest.mark.parametrize("bounds", [[0, 4, 50], [-3, 4, 10], [0, 4, 2, 10]])
def test_bounds_that_are_none_of_d_are_nan_and_not_other_memory(bounds: list[int]) -> None:
    table = torch.randn(100, 8)
    q, d = torch.randn(2, 3, 8, requires_grad=True), table[20:30].requires_grad_()
    found = maxsim_packed(q, d, torch.tensor(bounds), backend="triton")
    assert clean_gradients(found, q, d)
    for place, (start, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if 0 <= start <= end <= 10:
            wanted = maxsim_reference(q, d[start:end][None])[:, 0]
            torch.testing.assert_close(found[:, place], wanted)
        else:
            assert found[:, place].isnan().all()
    assert found.isnan().any() and found.isfinite().any()


@pytest.mark.parametrize("empty", ["zero", "-inf"])
def test_pairs_of_what_does_not_exist_are_nan_and_not_other_memory(empty: str) -> None:
    q, d = torch.randn(2, 3, 8, requires_grad=True), torch.randn(10, 8, requires_grad=True)
    bounds, pairs = torch.tensor([0, 4, 10]), [(0, 1), (2, 0), (-1, 0), (1, 2), (1, -1), (1, 1)]
    pair_q, pair_d = torch.tensor(pairs).unbind(1)
    found = maxsim_packed(q, d, bounds, pair_q=pair_q, pair_d=pair_d, empty=empty, backend="triton")
    assert found.isnan().tolist() == [False, True, True, True, True, False]
    assert clean_gradients(found, q, d)
    wanted = maxsim_reference(q, d[None, 4:])
    torch.testing.assert_close(found[[0, 5]], wanted[:, 0])


def test_a_winner_that_int16_cannot_hold_is_nan_and_not_another_token(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit_kernels.maxsim import triton

    # the interpreter takes 10 ms a tile, whatever its size
    monkeypatch.setattr(triton, "forward_tile", lambda *_: (16, 1, 2048, (4, 2)))
    monkeypatch.setattr(triton, "TOKENS", 2048)
    d = torch.zeros(40_000, 8)
    d[39_000], d[39_500] = 1.0, 2.0
    q, d, bounds = torch.ones(1, 1, 8, requires_grad=True), d.requires_grad_(), torch.tensor([0, 40_000])
    assert maxsim_packed(q, d, bounds, max_seqlen_d=100, backend="triton").isnan().all()
    scores = maxsim_packed(q, d, bounds, backend="triton")
    assert scores.item() == 16.0
    scores.backward()
    assert d.grad is not None and d.grad.sum(1).nonzero().tolist() == [[39_500]]


@pytest.mark.parametrize("ld", [64, 70])
def test_a_scale_that_is_nan_is_seen_unless_masked(ld: int) -> None:
    q, d, q_mask, d_mask = sample("cross", 2, 3, 5, ld, 8, torch.float32)
    rows, scale = steps_of(d)
    clean = maxsim(q, rows, q_mask, d_mask, d_scale=scale, backend="triton")
    soiled = scale.masked_fill(~d_mask, float("nan"))
    assert torch.equal(maxsim(q, rows, q_mask, d_mask, d_scale=soiled, backend="triton"), clean)
    for token in (0, ld - 1):
        soiled = scale.clone()
        soiled[1, token] = float("nan")
        scores = maxsim(q, rows, d_scale=soiled, backend="triton")
        assert scores[:, 1].isnan().all() and scores[:, [0, 2]].isfinite().all()


def test_nothing_is_clamped_at_zero() -> None:
    q, d = torch.ones(1, 2, 3), -torch.ones(2, 70, 3)
    d_mask = torch.ones(2, 70, dtype=torch.bool)
    d_mask[1] = False
    assert maxsim(q, d, backend="triton").tolist() == [[-6.0, -6.0]]
    assert maxsim(q, d, d_mask=d_mask, backend="triton").tolist() == [[-6.0, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_unless_masked(bad: float) -> None:
    q, d, q_mask, d_mask = sample("cross", 2, 3, 5, 70, 8, torch.float32)
    clean = maxsim(q, d, q_mask, d_mask, backend="triton")
    soiled = [one.masked_fill(~mask.unsqueeze(2), bad).requires_grad_() for one, mask in ((q, q_mask), (d, d_mask))]
    scores = maxsim(*soiled, q_mask, d_mask, backend="triton")
    assert torch.equal(scores, clean)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(scores.sum(), soiled))
    d[1, 66, 0] = float("nan")
    scores = maxsim(q, d, backend="triton")
    assert scores[:, 1].isnan().all() and scores[:, [0, 2]].isfinite().all()


def test_nothing_to_do() -> None:
    for shape_q, shape_d in (
        ((0, 2, 4), (3, 5, 4)),
        ((2, 0, 4), (3, 5, 4)),
        ((2, 2, 4), (3, 0, 4)),
        ((2, 2, 4), (0, 5, 4)),
    ):
        q, d = torch.randn(shape_q, requires_grad=True), torch.randn(shape_d, requires_grad=True)
        scores = maxsim(q, d, backend="triton")
        assert scores.shape == (shape_q[0], shape_d[0]) and not scores.any()
        grads = torch.autograd.grad(scores.sum(), (q, d))
        assert not any(grad.any() for grad in grads)


def test_inputs_need_not_be_contiguous() -> None:
    q, d, *masks = sample("cross", 4, 6, 8, 10, 12, torch.float32)
    strided = q[:, ::2, ::3], d.flip(0)[::2, :, ::3]
    masks = [masks[0][:, ::2], masks[1].flip(0)[::2]]
    found = maxsim(*strided, *masks, backend="triton")
    torch.testing.assert_close(found, maxsim_reference(*strided, *masks))


def test_columns_of_a_table_are_read_as_such() -> None:
    q, d, *_ = sample("cross", 3, 1, 4, 108, 16, torch.float32)
    d, bounds = d[0], torch.tensor([[0], [5], [75], [75], [108]]).repeat(1, 2)[:, 0]
    pairs = torch.tensor([[0, 1], [2, 3], [1, 0], [1, 1]])
    listed = {"pair_q": pairs[:, 0], "pair_d": pairs[:, 1]}
    assert not (bounds.is_contiguous() or listed["pair_q"].is_contiguous())
    same(
        lambda q, d: maxsim_packed(q, d, bounds, **listed, backend="triton"),
        lambda q, d: maxsim_packed_reference(q, d, bounds, **listed),
        q,
        d,
    )


@pytest.mark.regression
def test_documents_of_no_tokens_at_all_have_bounds_too() -> None:
    q, none = torch.randn(2, 3, 8), torch.zeros(0, 8)
    for empty, nothing in (("zero", 0.0), ("-inf", -torch.inf)):
        scores = maxsim_packed(q, none, torch.tensor([0, 0, 5, 5]), empty=empty, backend="triton")
        assert (scores[:, 0] == nothing).all() and scores[:, 1:].isnan().all()
