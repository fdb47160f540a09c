"""Documents of int8 with a scale for each token: MaxSim's fallback against its definition, and what rounding costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maxsim_samples import LAYOUTS, blocks_of, naive, packed_call, packed_calls, ragged, sample, steps_of
from rerankkit_kernels import maxsim, maxsim_packed, pack, quantize
from rerankkit_kernels.maxsim import torch as fallback
from rerankkit_kernels.maxsim.reference import maxsim_packed_reference, maxsim_reference
from torch.nn.functional import normalize


def test_the_definition_multiplies_each_token_by_its_scale() -> None:
    q, d, q_mask, d_mask = sample("grouped")
    rows, scale = steps_of(d)
    scores = maxsim_reference(q, rows, q_mask, d_mask, d_scale=scale, layout="grouped")
    for i, j in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        tokens = torch.stack([rows[i, j, t].double() * scale[i, j, t].item() for t in range(rows.shape[2])])
        assert scores[i, j].item() == pytest.approx(naive(q[i], tokens, q_mask[i], d_mask[i, j]), abs=1e-12)


@settings(max_examples=80)
@given(
    layout=st.sampled_from(LAYOUTS),
    sizes=st.tuples(
        st.integers(0, 4), st.integers(0, 5), st.integers(0, 6), st.integers(0, 9), st.sampled_from([1, 8])
    ),
    masked=st.tuples(st.booleans(), st.booleans()),
    empty=st.sampled_from(["zero", "-inf"]),
    elements=st.sampled_from([1, 40, 700, 1 << 20]),
)
def test_it_is_its_definition(layout: str, sizes: Any, masked: Any, empty: str, elements: int) -> None:
    q, d, *both = sample(layout, *sizes, seed=sum(sizes))
    masks = [mask if wanted else None for mask, wanted in zip(both, masked, strict=True)]
    rows, scale = steps_of(d, seed=sum(sizes))
    wanted = maxsim_reference(q, rows, *masks, d_scale=scale, layout=layout, empty=empty)
    with blocks_of(elements):
        found = maxsim(q, rows, *masks, d_scale=scale, layout=layout, empty=empty)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@settings(max_examples=80)
@packed_calls
def test_packed_is_its_definition(lengths: Any, queries: Any, listed: str, elements: int, seed: int) -> None:
    q, d, cu_seqlens, options = packed_call(lengths, queries, listed, seed)
    rows, options["d_scale"] = steps_of(d, seed)
    wanted = maxsim_packed_reference(q, rows, cu_seqlens, **options)
    with blocks_of(elements):
        found = maxsim_packed(q, rows, cu_seqlens, **options)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_queries_of_any_type(layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "multiplies_bf16", lambda device: True)  # as a CPU with such instructions does
    q, d, *masks = sample(layout, lq=32, ld=60, dim=128)
    q, (rows, scale) = q.to(dtype), quantize(d.float())
    options: Any = {"d_scale": scale, "layout": layout}
    exact = maxsim_reference(q.double(), rows, *masks, **{**options, "d_scale": scale.double()})
    apart = {}
    for precision in ("default", "rescored", "highest"):
        found = maxsim(q, rows, *masks, precision=precision, **options)
        assert found.dtype == torch.float32
        apart[precision] = (found - exact).abs().max().item()
    assert apart["highest"] < 5e-5
    rounds = dtype == torch.bfloat16
    assert apart["default"] < (0.1 if rounds else 5e-5) and apart["rescored"] < (0.3 * apart["default"] + 5e-5)


def test_similarities_in_bfloat16_are_scaled_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "multiplies_bf16", lambda device: True)
    q, d, *_ = sample("cross", nq=1, lq=4, nd=5, ld=30, dim=64)
    q, (rows, scale) = q.bfloat16(), quantize(d.float())
    products = (rows.bfloat16().flatten(0, 1) @ q[0].T).view(5, 30, 4)
    wanted = (products.float() * scale.unsqueeze(2)).amax(1).sum(1)
    torch.testing.assert_close(maxsim(q, rows, d_scale=scale)[0], wanted, rtol=0, atol=1e-6)


def test_packed_documents_are_rescored_with_their_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "multiplies_bf16", lambda device: True)
    q, d = sample("cross", dim=128)[0].bfloat16(), ragged([70, 0, 33], 128)[0]
    rows, scale = steps_of(d)
    bounds, options = torch.tensor([0, 70, 70, 103]), {"d_scale": scale, "pair_q": torch.tensor([2, 0, 1])}
    exact = maxsim_packed_reference(q.double(), rows, bounds, **options)
    apart = {p: (maxsim_packed(q, rows, bounds, precision=p, **options) - exact).abs() for p in ("default", "rescored")}
    assert apart["rescored"].max() < 0.3 * apart["default"].max() < 0.1


def test_what_quantizing_costs() -> None:
    """Documents of random directions, whose scores spread by 0.2: what 32 added similarities lose by rounding."""
    generator = torch.Generator().manual_seed(0)
    q, d = (normalize(torch.randn(*shape, 128, generator=generator), dim=-1) for shape in ((4, 32), (1000, 60)))
    exact = maxsim(q, d)
    rows, scale = quantize(d)
    found = maxsim(q, rows, d_scale=scale)
    apart = found - exact
    assert 1e-3 < apart.abs().max() < 1.5e-2 and apart.square().mean().sqrt() < 4e-3
    for ours, best in zip(found.topk(10).indices.tolist(), exact.topk(10).indices.tolist(), strict=True):
        assert len({*ours} & {*best}) >= 9
    assert (rows.nbytes + scale.nbytes) / d.nbytes == pytest.approx(0.258, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_no_component_is_more_than_half_a_step_off(dtype: torch.dtype) -> None:
    d = (torch.randn(5, 9, 24) * torch.logspace(-3, 3, 9).unsqueeze(1)).to(dtype)
    d[0, 0] = 0.0
    rows, scale = quantize(d)
    assert rows.dtype == torch.int8 and scale.dtype == torch.promote_types(dtype, torch.float32)
    assert rows.shape == d.shape and scale.shape == d.shape[:-1]
    assert ((rows * scale.unsqueeze(-1) - d).abs() <= 0.5001 * scale.unsqueeze(-1)).all()
    assert (rows.abs().amax(-1) == 127).view(-1)[1:].all() and not rows[0, 0].any() and scale[0, 0] == 0


def test_extreme_tokens() -> None:
    smallest = torch.finfo(torch.float32).smallest_normal * 2**-23
    d = torch.tensor([[180 * smallest, -smallest], [1.0, torch.nan], [torch.inf, 1.0], [3e38, -3e38], [0.0, 0.0]])
    rows, scale = quantize(d)
    assert rows.tolist()[3:] == [[127, -127], [0, 0]] and rows[0, 0] == 127  # rather than -76, which wraps around
    scores = maxsim(torch.ones(1, 1, 2), rows.unsqueeze(1), d_scale=scale.unsqueeze(1))[0]
    assert scores.isnan().tolist() == [False, True, True, False, False] and scores[4] == 0
    mask = torch.tensor([[True, False]] * 5)
    hidden = torch.stack([rows[4].expand(5, 2), rows], 1), torch.stack([scale[4].expand(5), scale], 1)
    assert not maxsim(torch.ones(1, 1, 2), hidden[0], d_mask=mask, d_scale=hidden[1]).any()


def test_only_a_block_at_a_time_is_a_float(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    buffer = fallback.Product.buffer

    def watched(self: Any, name: str, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        made.append(torch.Size(shape).numel())
        return buffer(self, name, shape, dtype)

    monkeypatch.setattr(fallback.Product, "buffer", watched)
    monkeypatch.setattr(fallback, "CPU_ELEMENTS", 4096)
    q, d, *_ = sample("cross", nq=1, nd=50, lq=4, ld=20, dim=64)
    rows, scale = quantize(d)
    maxsim(q, rows, d_scale=scale)
    packed = rows.flatten(0, 1), torch.arange(0, 1001, 20)
    maxsim_packed(q, *packed, d_scale=scale.flatten())
    assert len(made) > 50 and max(made) <= 4096


def test_packed_with_repetitions_and_without_contiguity() -> None:
    d, bounds = ragged([5, 16, 1, 33])
    documents = [d[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    q = sample("cross")[0]
    rows, scale = quantize(d)
    wanted = maxsim_packed(q, rows, bounds, d_scale=scale)
    packed, aligned = pack(documents, 16)
    found = maxsim_packed(q, quantize(packed)[0], aligned, d_scale=quantize(packed)[1])
    torch.testing.assert_close(found, wanted)
    wide, column = torch.zeros(55, 16, dtype=torch.int8), torch.zeros(55, 2, dtype=torch.float64)
    wide[:, ::2], column[:, 1] = rows, scale
    torch.testing.assert_close(maxsim_packed(q, wide[:, ::2], bounds, d_scale=column[:, 1]), wanted)


def test_gradients_are_refused() -> None:
    q, d, *_ = sample("cross")
    rows, scale = quantize(d)
    wanted = maxsim(q, rows, d_scale=scale)
    for one in (q, scale):
        one.requires_grad_()
        with pytest.raises(NotImplementedError, match="int8 documents have no gradients: score them under torch.no_gr"):
            maxsim(q, rows, d_scale=scale)
        with pytest.raises(NotImplementedError, match="int8 documents have no gradients"):
            maxsim_packed(q, rows.flatten(0, 1), torch.tensor([0, 28]), d_scale=scale.flatten())
        with torch.no_grad():
            assert torch.equal(maxsim(q, rows, d_scale=scale), wanted)
        one.requires_grad_(False)


def test_wrong_arguments_are_refused() -> None:
    q, d, *_ = sample("cross")
    rows, scale = quantize(d)
    for message, documents, given_scale in (
        ("floats, not torch.float64 and torch.int8; int8 documents need d_scale, as quantize makes both", rows, None),
        ("with d_scale, d must be int8 and q floats, not torch.float64 and torch.float64", d, scale),
        (r"d_scale must be floats \(4, 7\), as d is, not torch.float64 \(4, 6\)", rows, scale[:, :6]),
        (r"d_scale must be floats \(4, 7\), as d is, not torch.int64 \(4, 7\)", rows, scale.long()),
    ):
        with pytest.raises(ValueError, match=message):
            maxsim(q, documents, d_scale=given_scale)
    with pytest.raises(ValueError, match="d must be int8 and q floats, not torch.int8 and torch.int8"):
        maxsim(q.to(torch.int8), rows, d_scale=scale)
    with pytest.raises(ValueError, match="int8 documents need d_scale"):
        maxsim_packed(q, rows.flatten(0, 1), torch.tensor([0, 28]))


@pytest.mark.parametrize("packed", [False, True])
def test_it_compiles_into_one_graph_and_keeps_to_its_declaration(packed: bool) -> None:
    q, d, q_mask, d_mask = sample("cross")
    rows, scale = quantize(d)
    bounds = torch.tensor([0, 10, 10, 28])

    def score(q: torch.Tensor, rows: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if packed:
            return maxsim_packed(q, rows.flatten(0, 1), bounds, d_scale=scale.flatten(), q_mask=q_mask)
        return maxsim(q, rows, q_mask, d_mask, d_scale=scale)

    torch._dynamo.reset()
    found = torch.compile(score, fullgraph=True, backend="aot_eager")(q, rows, scale)
    assert torch.equal(found, score(q, rows, scale))
    with torch.inference_mode():
        assert torch.equal(score(q, rows, scale), found)
    where = (
        (rows.flatten(0, 1), scale.flatten(), q_mask, None, bounds) if packed else (rows, scale, q_mask, d_mask, None)
    )
    arguments = (q, *where, None, None, 0, None, "default", "auto")
    torch.library.opcheck(
        torch.ops.rerankkit.maxsim_forward.default, arguments, test_utils=("test_schema", "test_faketensor")
    )
