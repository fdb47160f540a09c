"""The Triton kernels on a GPU against their definitions in float64: scores, winners, gradients, and what is hostile.

Without a GPU they run in Triton's interpreter, in small sizes, where `TRITON_INTERPRET=1` asks for it: that proves the
tests themselves. Gradients are those of the winners that our own forward pass chose. The definition's winners may be
others where two tokens are all but equally similar, which a GPU's order of summation decides.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from rerankkit_kernels import maxsim, maxsim_packed, pair_score, quantize, sequence_logprob, token_logprob
from rerankkit_kernels.logprob.reference import sequence_logprob_reference, token_logprob_reference
from rerankkit_kernels.maxsim.reference import maxsim_packed_reference, maxsim_reference
from rerankkit_kernels.pair_score.reference import pair_score_reference

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(not GPU and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a CUDA device"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = ["cross", "grouped", "pairs"]
# queries, documents, tokens of each, dim: dims that are split or padded, a lone token, queries longer than a tile
SIZES = [
    (4, 20, 32, 300, 48), (4, 20, 32, 300, 64), (4, 20, 32, 300, 96), (2, 9, 20, 70, 100), (4, 20, 32, 300, 128),
    (1, 20, 32, 300, 128), (2, 9, 32, 180, 256), (2, 9, 20, 65, 300), (2, 9, 32, 180, 768), (2, 9, 32, 180, 1024),
    (2, 9, 130, 180, 128), (1, 5, 1024, 1024, 128), (1, 1, 1, 1, 1), (20, 30, 32, 300, 128),
]  # fmt: skip
DRY_SIZES = [(2, 3, 5, 40, 48), (1, 2, 130, 33, 17), (1, 1, 1, 1, 1)]


def small(*sizes: int) -> tuple[int, ...]:
    """What the interpreter, which takes a millisecond for each tile, can do in a second."""
    return sizes if GPU else tuple(min(size, most) for size, most in zip(sizes, (3, 3, 6, 40, 24), strict=False))


def vectors(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, device=DEVICE), dim=-1).to(dtype)


def documents_of(layout: str, nq: int, nd: int, ld: int) -> tuple[int, ...]:
    return {"cross": (nd, ld), "grouped": (nq, nd, ld), "pairs": (nq, ld)}[layout]


def masks(nq: int, lq: int, documents: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Any pattern, and a document without tokens."""
    d_mask = torch.rand(documents, device=DEVICE) > 0.4
    d_mask.view(-1, documents[-1])[0] = False
    return {"q_mask": torch.rand(nq, lq, device=DEVICE) > 0.2, "d_mask": d_mask}


class Winners:
    """Which token of d each query token chose, as [documents, queries, query tokens]: rows of d, -1 for none."""

    def __init__(self, q: torch.Tensor, d: torch.Tensor, options: dict[str, Any]) -> None:
        bounds, pair_q, pair_d = (options.get(name) for name in ("cu_seqlens_d", "pair_q", "pair_d"))
        q_mask, d_mask = options.get("q_mask"), options.get("d_mask")
        group = {"grouped": d.shape[1], "pairs": 1}.get(options.get("layout", "cross"), 0)
        if d.ndim == 4:
            d, d_mask = d.flatten(0, 1), None if d_mask is None else d_mask.flatten(0, 1)
        chosen = torch.ops.rerankkit.maxsim_forward(
            q=q.detach(), d=d.detach(), d_scale=None, q_mask=q_mask, d_mask=d_mask, cu_seqlens=bounds, pair_q=pair_q,
            pair_d=pair_d, group=group, winner_type=torch.int32, precision=options.get("precision", "default"),
            backend="triton",
        )[1].long()  # fmt: skip
        count = torch.arange(len(chosen), device=q.device)
        document = pair_d if pair_d is not None else count
        first = bounds[document] if bounds is not None else document * d.shape[1]
        self.rows = torch.where(chosen >= 0, chosen + first.long().view(-1, 1, 1), -1)
        if pair_q is not None:
            self.query = pair_q.long().unsqueeze(1)  # [documents, 1]
        elif group:
            self.query = (count // group).unsqueeze(1)
        else:
            self.query = torch.arange(len(q), device=q.device).expand(len(chosen), -1)  # [documents, queries]

    def of(self, scores: torch.Tensor) -> torch.Tensor:
        """What the api returns, [queries, documents] or any shape of pairs, as [documents, queries]."""
        return scores.reshape(self.rows.shape[:2]) if self.rows.shape[1] == 1 else scores.T

    def like(self, scores: torch.Tensor, by_document: torch.Tensor) -> torch.Tensor:
        """The other way round, in the shape of `scores`."""
        return by_document.reshape(scores.shape) if self.rows.shape[1] == 1 else by_document.T

    def gradients(self, q: torch.Tensor, d: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of scores that are the sums of these winners' similarities, in float64; grad is [documents, queries]."""
        q, d = q.detach().double(), d.detach().double()
        rows, kept = d.reshape(-1, d.shape[-1]), self.rows >= 0
        weight = (grad.double().unsqueeze(2) * kept).unsqueeze(3)  # [documents, queries, query tokens, 1]
        best, asked = rows[self.rows.clamp(min=0)], q[self.query]
        grad_q = torch.zeros_like(q).index_add(0, self.query.flatten(), (weight * best).flatten(0, 1))
        grad_d = torch.zeros_like(rows).index_add(0, self.rows.clamp(min=0).flatten(), (weight * asked).flatten(0, 2))
        return grad_q, grad_d.view_as(d)

    def scores(self, q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        """The sums of the winners' similarities, in float64. [documents, queries]"""
        rows = d.detach().double().reshape(-1, d.shape[-1])
        similar = (rows[self.rows.clamp(min=0)] * q.detach().double()[self.query]).sum(-1)
        return (similar * (self.rows >= 0)).sum(-1)


def same(function: Any, reference: Any, options: dict[str, Any], q: torch.Tensor, d: torch.Tensor) -> None:
    """Scores, winners and gradients are right, and a second run has the same gradients to the bit."""
    q, d, dtype, limit = q.requires_grad_(), d.requires_grad_(), q.dtype, 2e-5 * q.shape[-2]
    found = function(q, d, **options, backend="triton")
    wanted = reference(q.detach().double(), d.detach().double(), **without(options, "precision"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.detach().double(), wanted, rtol=0, atol=limit)
    with torch.no_grad():
        ranked = function(q, d, **options, backend="triton")
    torch.testing.assert_close(ranked.double(), wanted, rtol=0, atol=limit)  # other tiles than those of training
    winners = Winners(q, d, options)
    torch.testing.assert_close(winners.like(found, winners.scores(q, d)), wanted, rtol=0, atol=limit)
    weight = torch.randn_like(found)
    grads = torch.autograd.grad((found * weight).sum(), (q, d), retain_graph=True)
    # the interpreter cuts float32 off where it stores bfloat16
    rtol = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for one, other in zip(grads, winners.gradients(q, d, winners.of(weight)), strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=rtol, atol=1e-4 if dtype == torch.float32 else 1e-3)
    again = torch.autograd.grad((function(q, d, **options, backend="triton") * weight).sum(), (q, d))
    assert all(torch.equal(one, other) for one, other in zip(grads, again, strict=True))


def without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_kernel_once(dtype: torch.dtype) -> None:
    """What a tool that slows everything down, such as a memory checker, is given."""
    nq, nd, lq, ld, dim = small(4, 5, 32, 70, 96)
    q, d = vectors(nq, lq, dim, dtype=dtype), vectors(nd, ld, dim, dtype=dtype)
    same(maxsim, maxsim_reference, masks(nq, lq, (nd, ld)), q, d)
    rows, scale = quantize(d.detach())
    found = maxsim(q.detach(), rows, d_scale=scale, backend="triton")
    wanted = maxsim_reference(q.detach().double(), rows, d_scale=scale.double())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5 * lq)
    heads(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_layouts_and_masks(layout: str, masked: bool, dtype: torch.dtype) -> None:
    nq, nd, lq, ld, dim = small(9, 7, 32, 180, 128)
    shape = documents_of(layout, nq, nd, ld)
    options = {"layout": layout, **(masks(nq, lq, shape) if masked else {})}
    same(maxsim, maxsim_reference, options, vectors(nq, lq, dim, dtype=dtype), vectors(*shape, dim, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("nq", "nd", "lq", "ld", "dim"), SIZES if GPU else DRY_SIZES)
def test_sizes(nq: int, nd: int, lq: int, ld: int, dim: int, dtype: torch.dtype) -> None:
    q, d = vectors(nq, lq, dim, dtype=dtype), vectors(nd, ld, dim, dtype=dtype)
    same(maxsim, maxsim_reference, {}, q, d)


@pytest.mark.parametrize("layout", ["cross", "pairs"])
@pytest.mark.parametrize("dim", [48, 96, 128, 1024] if GPU else [24])
def test_highest_precision_rounds_nothing(layout: str, dim: int) -> None:
    nq, nd, lq, ld, _ = small(9, 7, 32, 180, 128)
    shape = documents_of(layout, nq, nd, ld)
    q, d = vectors(nq, lq, dim, dtype=torch.float32), vectors(*shape, dim, dtype=torch.float32)
    same(maxsim, maxsim_reference, {"layout": layout, "precision": "highest", **masks(nq, lq, shape)}, q, d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("listed", ["cross", "own", "pairs"])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_ragged_documents_and_listed_pairs(listed: str, index: torch.dtype, dtype: torch.dtype) -> None:
    lengths = [4, 0, 130, 64, 1, 300, 299, 5] if GPU else [4, 0, 34, 16, 1]
    nq, _, lq, _, dim = small(3, 1, 32, 1, 128)
    q, d = vectors(nq, lq, dim, dtype=dtype), vectors(sum(lengths) + 3, dim, dtype=dtype)
    bounds = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).to(index) + 2
    options: dict[str, Any] = {"cu_seqlens_d": bounds.to(index), "q_mask": masks(nq, lq, (1, 1))["q_mask"]}
    if listed != "cross":
        count = len(lengths) if listed == "own" else 11
        options["pair_q"] = torch.randint(nq, (count,), device=DEVICE).to(index)
    if listed == "pairs":
        options["pair_d"] = torch.randint(len(lengths), (11,), device=DEVICE).to(index)

    def by_name(op: Any) -> Any:
        return lambda q, d, cu_seqlens_d, **rest: op(q, d, cu_seqlens_d, **rest)

    same(by_name(maxsim_packed), by_name(maxsim_packed_reference), options, q, d)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_int8_documents(layout: str, masked: bool, dtype: torch.dtype) -> None:
    for sizes in ((9, 7, 32, 180, 128), (2, 9, 20, 70, 100), (2, 9, 130, 180, 256))[: 3 if GPU else 1]:
        nq, nd, lq, ld, dim = small(*sizes)
        shape = documents_of(layout, nq, nd, ld)
        options: dict[str, Any] = {"layout": layout, **(masks(nq, lq, shape) if masked else {})}
        q = vectors(nq, lq, dim, dtype=dtype)
        rows, scale = quantize(vectors(*shape, dim, dtype=torch.float32))
        found = maxsim(q, rows, d_scale=scale, backend="triton", **options)
        wanted = maxsim_reference(q.double(), rows, d_scale=scale.double(), **options)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5 * lq)


@pytest.mark.parametrize("masked", [False, True])
def test_of_equal_tokens_the_first_wins(masked: bool) -> None:
    nq, nd, lq, ld, dim = small(5, 4, 32, 150, 64)
    q, d = vectors(nq, lq, dim, dtype=torch.bfloat16), vectors(nd, ld, dim, dtype=torch.bfloat16).repeat(1, 2, 1)
    options = masks(nq, lq, (nd, ld)) if masked else {}
    if masked:
        options["d_mask"] = options["d_mask"].repeat(1, 2)
    rows = Winners(q, d, options).rows  # [documents, queries, query tokens]
    assert ((rows < 0) | (rows % (2 * ld) < ld)).all() and (rows >= 0).any()
    if masked:
        assert (rows[0] == -1).all() and (rows[:, ~options["q_mask"]] == -1).all()


def test_nothing_to_do() -> None:
    for nq, lq, nd, ld in ((0, 2, 3, 5), (2, 0, 3, 5), (2, 2, 3, 0), (2, 2, 0, 5)):
        q, d = torch.randn(nq, lq, 4, device=DEVICE), torch.randn(nd, ld, 4, device=DEVICE)
        scores = maxsim(q.requires_grad_(), d.requires_grad_(), backend="triton")
        assert scores.shape == (nq, nd) and not scores.any()
        assert not any(grad.any() for grad in torch.autograd.grad(scores.sum(), (q, d)))
    empty = torch.zeros(3, dtype=torch.long, device=DEVICE)
    assert not maxsim_packed(torch.randn(2, 3, 4, device=DEVICE), torch.randn(0, 4, device=DEVICE), empty).any()


def test_what_is_not_finite_is_seen_unless_masked() -> None:
    nq, nd, lq, ld, dim = small(2, 3, 5, 70, 64)
    q, d = vectors(nq, lq, dim, dtype=torch.float32), vectors(nd, ld, dim, dtype=torch.float32)
    hidden = masks(nq, lq, (nd, ld))
    clean = maxsim(q, d, **hidden, backend="triton")
    soiled = [
        one.masked_fill(~mask.unsqueeze(2), torch.nan).requires_grad_()
        for one, mask in ((q, hidden["q_mask"]), (d, hidden["d_mask"]))
    ]
    scores = maxsim(*soiled, **hidden, backend="triton")
    assert torch.equal(scores, clean)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(scores.sum(), soiled))
    d[1, ld - 1, 0] = torch.nan
    assert maxsim(q, d, backend="triton").isnan().any(0).tolist() == [False, True, False]


def test_bounds_and_pairs_that_do_not_exist_are_nan_and_not_other_memory() -> None:
    q, d = vectors(2, 5, 16, dtype=torch.float32), vectors(40, 16, dtype=torch.float32)
    bounds = torch.tensor([0, 10, 50], device=DEVICE)
    scores = maxsim_packed(q, d, bounds, backend="triton")
    assert scores.isnan().tolist() == [[False, True], [False, True]]
    torch.testing.assert_close(scores[:, :1], maxsim_packed_reference(q, d, bounds[:2]))
    pair_q, pair_d = torch.tensor([[0, 2, -1, 1], [0, 0, 0, 2]], device=DEVICE)
    bounds = torch.tensor([0, 10, 40], device=DEVICE)
    found = maxsim_packed(q, d, bounds, pair_q=pair_q, pair_d=pair_d, backend="triton")
    assert found.isnan().tolist() == [False, True, True, True]


@pytest.mark.skipif(not GPU, reason="takes 5 GB")
def test_more_than_32_bits_of_documents() -> None:
    """More than 2^31 elements; the last of them has the only tokens that are like the query."""
    d = torch.zeros(57_000, 300, 128, dtype=torch.bfloat16, device=DEVICE)
    q = vectors(1, 32, 128, dtype=torch.bfloat16)
    d[-1, -32:] = q[0]
    scores = maxsim(q, d, backend="triton")
    assert d.numel() > 2**31 and not scores[0, :-1].any()
    assert (scores[0, -1] - q.float().square().sum()).abs() < 1e-3


def heads(dtype: torch.dtype, width: int = 128, vocabulary: int = 3000, **options: Any) -> None:
    """pair_score, sequence_logprob and token_logprob, with their gradients."""
    if not GPU:
        width, vocabulary = 24, 50
    hidden, weight = torch.randn(3, 4, width, device=DEVICE).to(dtype), vectors(vocabulary, width, dtype=dtype)
    exact = {key: value.double() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    leaves = hidden.requires_grad_(), weight.requires_grad_()
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    positions = {"positions": torch.tensor([3, 0, 2], device=DEVICE)}
    targets = torch.randint(vocabulary, (3, 4), device=DEVICE)
    mask = {"mask": torch.tensor([[True, False, True, True]] * 3, device=DEVICE)}
    ids = torch.randint(vocabulary, (3, 4, 2), device=DEVICE)
    for name, found, wanted in (
        ("pair_score", pair_score(*leaves, 3, 7, **positions, **options, backend="triton"),
         pair_score_reference(*doubles, 3, 7, **positions, **exact)),
        ("sequence_logprob", sequence_logprob(*leaves, targets, **mask, **options, backend="triton"),
         sequence_logprob_reference(*doubles, targets, **mask, **exact)),
        ("token_logprob", token_logprob(*leaves, ids, **options, backend="triton"),
         token_logprob_reference(*doubles, ids, **exact)),
    ):  # fmt: skip
        # products of log-probabilities are rounded to the inputs' type before a kernel sees them
        off = 2e-4 if dtype == torch.float32 or name == "pair_score" else 0.15
        torch.testing.assert_close(found.detach().double(), wanted.detach(), rtol=1e-4, atol=off)
        grads, right = torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(wanted.sum(), doubles)
        for one, other in zip(grads, right, strict=True):
            rounding = 1e-3 if dtype == torch.float32 else 0.03 * float(other.abs().max())
            torch.testing.assert_close(one.double(), other, rtol=0.02, atol=rounding)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"scale": 0.25}])
@pytest.mark.parametrize(("width", "vocabulary"), [(128, 3000), (1024, 151_669)])
def test_heads_of_language_models(options: Any, dtype: torch.dtype, width: int, vocabulary: int) -> None:
    heads(dtype, width, vocabulary, **options)


def test_an_answer_that_does_not_exist_is_nan_and_not_other_memory() -> None:
    hidden, weight = torch.randn(3, 5, 16, device=DEVICE), torch.randn(9, 16, device=DEVICE)
    positions = torch.tensor([-1, 4, 5], device=DEVICE)
    found = pair_score(hidden, weight, 3, 7, positions=positions, backend="triton")
    assert found.isnan().tolist() == [True, False, True]


def test_the_ops_compile_into_one_graph() -> None:
    """On a GPU by inductor, which brings its own kernels; in the interpreter the graph is run as it is."""
    nq, nd, lq, ld, dim = small(4, 5, 32, 70, 64)
    q, d = vectors(nq, lq, dim, dtype=torch.float32), vectors(nd, ld, dim, dtype=torch.float32)

    def score(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return maxsim(2 * q, d, backend="triton").tanh()

    compiled = torch.compile(score, fullgraph=True, backend="inductor" if GPU else "aot_eager")
    leaves = q.requires_grad_(), d.requires_grad_()
    torch.testing.assert_close(compiled(*leaves), score(*leaves))
    ours, plain = (torch.autograd.grad(way(*leaves).sum(), leaves) for way in (compiled, score))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)
