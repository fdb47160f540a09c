"""MaxSim's fallback against its definition in float64: layouts, masks, packing, gradients, and what must not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maxsim_samples import LAYOUTS, blocks_of, naive, packed_call, packed_calls, ragged, sample
from rerankkit_kernels import maxsim, maxsim_packed, pack
from rerankkit_kernels.maxsim import torch as fallback
from rerankkit_kernels.maxsim.api import INT16
from rerankkit_kernels.maxsim.reference import maxsim_packed_reference, maxsim_reference

DIMS = [1, 3, 48, 96, 128]


def test_the_definition_is_the_sentence_in_the_paper() -> None:
    for layout in LAYOUTS:
        q, d, q_mask, d_mask = sample(layout)
        d_mask[0] = False
        scores = maxsim_reference(q, d, q_mask, d_mask, layout=layout)
        for place in torch.cartesian_prod(*map(torch.arange, scores.shape)).view(-1, scores.ndim).tolist():
            i = place[0]
            j = (place[1],) if layout == "cross" else tuple(place)
            wanted = naive(q[i], d[j], q_mask[i], d_mask[j])
            assert scores[tuple(place)].item() == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=120)
@given(
    layout=st.sampled_from(LAYOUTS),
    sizes=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6), st.integers(0, 9), st.sampled_from(DIMS)),
    masked=st.tuples(st.booleans(), st.booleans()),
    empty=st.sampled_from(["zero", "-inf"]),
    elements=st.sampled_from([1, 40, 700, 1 << 20]),
)
def test_it_is_its_definition(layout: str, sizes: Any, masked: Any, empty: str, elements: int) -> None:
    q, d, q_mask, d_mask = sample(layout, *sizes, seed=sum(sizes))
    masks = [mask if wanted else None for mask, wanted in zip((q_mask, d_mask), masked, strict=True)]
    wanted = maxsim_reference(q, d, *masks, layout=layout, empty=empty)
    with blocks_of(elements):
        found = maxsim(q, d, *masks, layout=layout, empty=empty)
    assert found.shape == wanted.shape and found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@settings(max_examples=120)
@packed_calls
def test_packed_is_its_definition(lengths: Any, queries: Any, listed: str, elements: int, seed: int) -> None:
    q, d, cu_seqlens, options = packed_call(lengths, queries, listed, seed)
    wanted = maxsim_packed_reference(q, d, cu_seqlens, **options)
    with blocks_of(elements):
        found = maxsim_packed(q, d, cu_seqlens, **options)
        kept = maxsim_packed(q.requires_grad_(), d, cu_seqlens, **options)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(kept, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("needs_q", "needs_d"), [(True, True), (True, False), (False, True)])
def test_gradients(layout: str, needs_q: bool, needs_d: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "WINNERS", 16)  # several chunks
    q, d, q_mask, d_mask = sample(layout)
    d_mask[-1] = False
    q.requires_grad_(needs_q), d.requires_grad_(needs_d)
    inputs = [tensor for tensor in (q, d) if tensor.requires_grad]
    scores = maxsim(q, d, q_mask, d_mask, layout=layout)
    weight = torch.randn(scores.shape, dtype=torch.float64)
    ours = torch.autograd.grad((scores * weight).sum(), inputs)
    wanted = maxsim_reference(q, d, q_mask, d_mask, layout=layout)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *_: maxsim(q, d, q_mask, d_mask, layout=layout), inputs)


@pytest.mark.parametrize("listed", ["cross", "own", "pairs"])
def test_gradients_of_packed_documents(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "WINNERS", 16)
    q, _, q_mask, _ = sample("cross", nq=3)
    d, cu_seqlens = ragged([4, 0, 17, 1, 33])
    pair_q = {"cross": None, "own": torch.tensor([0, 2, 1, 1, 0]), "pairs": torch.tensor([0, 1, 1, 2, 2, 0, 0])}[listed]
    pair_d = torch.tensor([2, 2, 4, 1, 0, 2, 2]) if listed == "pairs" else None
    q.requires_grad_(), d.requires_grad_()
    options = {"q_mask": q_mask, "pair_q": pair_q, "pair_d": pair_d}
    scores = maxsim_packed(q, d, cu_seqlens, **options)
    weight = torch.randn(scores.shape, dtype=torch.float64)
    ours = torch.autograd.grad((scores * weight).sum(), (q, d))
    theirs = torch.autograd.grad((maxsim_packed_reference(q, d, cu_seqlens, **options) * weight).sum(), (q, d))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_packed_queries() -> None:
    d, cu_seqlens = ragged([4, 9, 1])
    q, cu_queries = ragged([3, 0, 5], seed=1)
    found = maxsim_packed(q, d, cu_seqlens, cu_seqlens_q=cu_queries)
    wanted = [[naive(q[a:b], d[x:y]) for x, y in ((0, 4), (4, 13), (13, 14))] for a, b in ((0, 3), (3, 3), (3, 8))]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("multiple", [1, 16])
def test_packing_changes_no_score(multiple: int) -> None:
    lengths = [5, 16, 0, 33]
    d, bounds = ragged(lengths)
    documents = [d[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    packed, cu_seqlens = pack(documents, multiple)
    assert all(bound % multiple == 0 for bound in cu_seqlens.tolist())
    q = sample("cross")[0]
    wanted = [[naive(one, document) for document in documents] for one in q]
    found = maxsim_packed(q, packed, cu_seqlens)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_is_summed_in_float32(layout: str, dtype: torch.dtype) -> None:
    q, d, q_mask, d_mask = sample(layout, lq=32, ld=60, dim=128)
    q, d = q.to(dtype), d.to(dtype)
    exact = maxsim_reference(q.double(), d.double(), q_mask, d_mask, layout=layout)
    for precision, tolerance in (("default", 0.1 if dtype == torch.bfloat16 else 5e-5), ("highest", 5e-5)):
        found = maxsim(q, d, q_mask, d_mask, layout=layout, precision=precision)
        assert found.dtype == torch.float32
        assert (found.double() - exact).abs().max() < tolerance


def test_rescored_bfloat16_is_as_exact_as_its_winners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fallback, "multiplies_bf16", lambda device: True)  # as a CPU with such instructions does
    q, d, q_mask, d_mask = (t.bfloat16() if t.is_floating_point() else t for t in sample("cross", ld=300, dim=128))
    exact = maxsim_reference(q.double(), d.double(), q_mask, d_mask)
    apart = {
        precision: (maxsim(q, d, q_mask, d_mask, precision=precision) - exact).abs().max().item()
        for precision in ("default", "rescored")
    }
    # a winner that rounding chose can be a little worse than the best, never better
    assert apart["rescored"] < 0.3 * apart["default"]
    packed, cu_seqlens = d.flatten(0, 1), torch.tensor([0, 300, 600, 900, 1200, 1200])  # the last one is empty
    found = maxsim_packed(q, packed, cu_seqlens, q_mask=q_mask, precision="rescored")
    torch.testing.assert_close(found[:, :4], maxsim(q, d, q_mask, precision="rescored"))
    assert not found[:, 4].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_have_their_inputs_types(dtype: torch.dtype) -> None:
    q, d, *masks = sample("cross", lq=6, dim=64)
    q, d = q.to(dtype).requires_grad_(), d.to(dtype).requires_grad_()
    ours = torch.autograd.grad(maxsim(q, d, *masks, precision="highest").sum(), (q, d))
    exact = torch.autograd.grad(maxsim_reference(q.double(), d.double(), *masks).sum(), (q, d))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other)


def test_the_first_of_equal_tokens_wins() -> None:
    q = torch.ones(1, 1, 2)
    d = torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]]).requires_grad_()
    maxsim(q, d).sum().backward()
    assert d.grad is not None and d.grad[0].tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


def test_nothing_is_clamped_at_zero() -> None:
    q, d = torch.ones(1, 2, 3), -torch.ones(2, 4, 3)
    d_mask = torch.tensor([[True, True, True, False], [False] * 4])
    assert maxsim(q, d, d_mask=d_mask).tolist() == [[-6.0, 0.0]]
    assert maxsim(q, d, d_mask=d_mask, empty="-inf").tolist() == [[-6.0, float("-inf")]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_under_its_mask(bad: float) -> None:
    q, d, q_mask, d_mask = sample("cross")
    clean = maxsim(q, d, q_mask, d_mask)
    soiled_q = q.masked_fill(~q_mask.unsqueeze(2), bad).requires_grad_()
    soiled_d = d.masked_fill(~d_mask.unsqueeze(2), bad).requires_grad_()
    scores = maxsim(soiled_q, soiled_d, q_mask, d_mask)
    assert torch.equal(scores, clean)
    scores.sum().backward()
    assert soiled_q.grad is not None and soiled_q.grad.isfinite().all()
    assert soiled_d.grad is not None and soiled_d.grad.isfinite().all()


def test_a_nan_that_is_not_masked_is_seen() -> None:
    q, d, *_ = sample("cross")
    d[1, 2, 0] = float("nan")
    scores = maxsim(q, d)
    assert scores[:, 1].isnan().all() and scores[:, [0, 2, 3]].isfinite().all()


def test_order_padding_and_neighbours_do_not_matter() -> None:
    q, d, q_mask, d_mask = sample("cross", ld=11)
    scores = maxsim(q, d, q_mask, d_mask)
    order, tokens = torch.randperm(len(d)), torch.randperm(11)
    assert torch.allclose(maxsim(q, d[order], q_mask, d_mask[order]), scores[:, order], atol=1e-12)
    assert torch.allclose(maxsim(q, d[:, tokens], q_mask, d_mask[:, tokens]), scores, atol=1e-12)
    longer = torch.nn.functional.pad(d, (0, 0, 0, 5), value=9.0), torch.nn.functional.pad(d_mask, (0, 5))
    assert torch.allclose(maxsim(q, longer[0], q_mask, longer[1]), scores, atol=1e-12)
    parts = [maxsim(q[i : i + 1], d, q_mask[i : i + 1], d_mask) for i in range(len(q))]
    assert torch.allclose(torch.cat(parts), scores, atol=1e-12)


def test_inputs_need_not_be_contiguous() -> None:
    q, d, q_mask, d_mask = sample("cross", nq=4, nd=6, lq=8, ld=10, dim=12)
    strided_q, strided_d = q.transpose(0, 1)[::2].transpose(0, 1), d.flip(0)[::2, :, ::3]
    masks = q_mask[:, ::2], d_mask.flip(0)[::2]
    found = maxsim(strided_q[..., ::3], strided_d, *masks)
    assert torch.allclose(found, maxsim_reference(strided_q[..., ::3], strided_d, *masks), atol=1e-12)


def test_masks_may_be_numbers() -> None:
    q, d, q_mask, d_mask = sample("cross")
    assert torch.equal(maxsim(q, d, q_mask.long(), d_mask.byte()), maxsim(q, d, q_mask, d_mask))


def test_training_keeps_the_winners_and_no_similarity() -> None:
    q, d, *_ = sample("cross", nq=6, nd=9, lq=7, ld=50)
    q.requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        maxsim(q, d)
        small = {tuple(tensor.shape): tensor.dtype for tensor in kept if tensor.dtype not in (q.dtype,)}
        assert small == {(9, 6, 7): torch.int16}
        kept.clear()
        maxsim(q, torch.zeros(1, 40_000, 8, dtype=torch.float64))
    assert torch.int32 in {tensor.dtype for tensor in kept}
    assert max(tensor.numel() for tensor in kept) <= 40_000 * 8


def test_a_long_document_keeps_its_last_token() -> None:
    q = torch.ones(1, 1, 1, requires_grad=True)
    d = torch.zeros(1, 40_000, 1)
    d[0, -1] = 3.0
    maxsim(q, d).backward()
    assert q.grad is not None and q.grad.item() == 3.0


def test_autocast_changes_nothing() -> None:
    q, d, *masks = (t.float() if t.is_floating_point() else t for t in sample("cross"))
    q.requires_grad_()
    wanted = maxsim(q, d, *masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(maxsim(q, d, *masks), wanted)


def test_wrong_arguments_are_refused() -> None:
    q, d, q_mask, d_mask = sample("cross")
    for message, arguments, options in (
        ("layout 'kd' is none of auto, cross, grouped, pairs", (q, d), {"layout": "kd"}),
        ("empty 'nan' is neither 'zero' nor '-inf'", (q, d), {"empty": "nan"}),
        ("precision 'low' is none of", (q, d), {"precision": "low"}),
        ("with layout 'grouped', d must be \\[Nq, K, Ld, dim\\]", (q, d), {"layout": "grouped"}),
        ("with layout 'pairs', d must have as many rows as q: 3, not 4", (q, d), {"layout": "pairs"}),
        ("q has dim 8, d has 7", (q, d[..., :7]), {}),
        ("q must be \\[Nq, Lq, dim\\]", (q[0], d), {}),
        ("d_mask must be \\(4, 7\\)", (q, d, q_mask, d_mask[:, :3]), {}),
        ("q and d must be floats", (q, d.long()), {}),
        ("one of floats could mean the opposite", (q, d, q_mask.float()), {}),
        ("one of floats could mean the opposite", (q, d, None, d_mask.double()), {}),
    ):
        with pytest.raises(ValueError, match=message):
            maxsim(*arguments, **options)
    packed, cu_seqlens = ragged([2, 3])
    with pytest.raises(ValueError, match="pair_q has 3 entries, not one for each of 2 pairs"):
        maxsim_packed(q, packed, cu_seqlens, pair_q=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="pair_d needs pair_q"):
        maxsim_packed(q, packed, cu_seqlens, pair_d=torch.zeros(2, dtype=torch.long))
    for wrong in ([0, 2, 6], [0, 4, 2], [-1, 2, 5]):
        with pytest.raises(ValueError, match="cu_seqlens_d must rise from 0 or more to at most 5"):
            maxsim_packed(q, packed, torch.tensor(wrong))
    long = torch.zeros(INT16 + 1, 8, dtype=q.dtype, requires_grad=True)
    for pairs, message in (
        ({"pair_q": torch.tensor([0, 3])}, "pair_q must be 0 to 2, but has 0 to 3"),
        ({"pair_q": torch.tensor([-1, 0])}, "pair_q must be 0 to 2, but has -1 to 0"),
        ({"pair_q": torch.tensor([0]), "pair_d": torch.tensor([-1])}, "pair_d must be 0 to 1, but has -1 to -1"),
        ({"pair_q": torch.tensor([0]), "pair_d": torch.tensor([2])}, "pair_d must be 0 to 1, but has 2 to 2"),
    ):
        for empty in ("zero", "-inf"):
            with pytest.raises(IndexError, match=message):
                maxsim_packed(q, packed, cu_seqlens, empty=empty, **pairs)
    for of_queries, longest in (([0, 10, 50], None), ([-1, 4], None), ([0, 3, 2, 4], None), ([0, 1, 6], 3)):
        with pytest.raises(ValueError, match="cu_seqlens_q must rise from 0 or more to at most "):
            bounds = torch.tensor(of_queries)
            maxsim_packed(q.flatten(0, 1), packed, cu_seqlens, cu_seqlens_q=bounds, max_seqlen_q=longest)
    with pytest.raises(ValueError, match="a document has 32768 tokens, more than max_seqlen_d said"):
        maxsim_packed(q, long, torch.tensor([0, INT16 + 1]), max_seqlen_d=INT16)


@pytest.mark.regression
def test_places_that_are_no_whole_numbers_are_refused() -> None:
    """PyTorch takes bool and uint8 for masks, and a bound of 2.5 would be cut off."""
    q, packed, bounds, places = torch.ones(2, 3, 8), torch.randn(5, 8), torch.tensor([0, 2, 5]), torch.tensor([1, 1])
    wanted = maxsim_packed(q, packed, bounds, pair_q=places, pair_d=places)
    assert wanted.equal(maxsim_packed(q, packed, bounds.short(), pair_q=places.byte(), pair_d=places.byte()))
    for changed, message in (
        ({"cu_seqlens_d": bounds + 0.5}, "cu_seqlens_d must be int32 or int64, not torch.float32"),
        ({"pair_d": places.bool()}, "pair_d must be int32 or int64, not torch.bool"),
        ({"pair_q": places[:, None]}, r"pair_q must have 1 axis, not the shape \(2, 1\)"),
        ({"d": packed.to(torch.float8_e4m3fn)}, "q and d must be floats, not torch.float32 and torch.float8_e4m3fn"),
    ):
        arguments = {"q": q, "d": packed, "cu_seqlens_d": bounds, "pair_q": places, "pair_d": places, **changed}
        with pytest.raises(ValueError, match=message):
            maxsim_packed(**arguments)
    with pytest.raises(IndexError, match="there are 2 pairs, but 2 queries and 0 documents"):
        maxsim_packed(q, packed, bounds[:1], pair_q=places, pair_d=places)
    for documents, multiple in (([], 1), ([packed], 0), ([packed], -4)):
        with pytest.raises(ValueError, match="multiple must be 1 or more and there must be documents"):
            pack(documents, multiple)
