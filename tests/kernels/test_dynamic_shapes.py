"""Under torch.compile with dynamic shapes every op is one graph, forward and backward, whatever the batch's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rerankkit_kernels import maxsim, maxsim_packed, pair_score, sequence_logprob, token_logprob
from torch._dynamo.backends.common import aot_autograd

SIZES = range(13, 23)
"""Ten, none of them equal to another size below, which a compiler would take for the same."""


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def every(size: int, step: int) -> torch.Tensor:
    return torch.arange(0, size * step + 1, step)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(11, shape)


def mask(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


OPS: dict[str, tuple[Callable[..., torch.Tensor], Callable[[int], tuple[torch.Tensor, ...]]]] = {
    "maxsim": (
        lambda q, d, q_mask, d_mask: maxsim(q, d, q_mask, d_mask, empty="-inf"),
        lambda n: (leaf(3, 4, 8), leaf(n, 7, 8), mask(3, 4), mask(n, 7)),
    ),
    "maxsim of queries": (maxsim, lambda n: (leaf(n, n + 1, 8), leaf(2 * n, n + 9, 8))),
    "maxsim grouped": (maxsim, lambda n: (leaf(n, 4, 8), leaf(n, n + 3, 7, 8))),
    "maxsim pairs": (lambda q, d: maxsim(q, d, layout="pairs"), lambda n: (leaf(n, 4, 8), leaf(n, 7, 8))),
    "maxsim_packed": (maxsim_packed, lambda n: (leaf(3, 4, 8), leaf(5 * n, 8), every(n, 5))),
    "maxsim_packed of packed queries": (
        lambda q, d, of_d, of_q: maxsim_packed(q, d, of_d, cu_seqlens_q=of_q, max_seqlen_q=3),
        lambda n: (leaf(3 * n, 8), leaf(5 * n, 8), every(n, 5), every(n, 3)),
    ),
    "maxsim_packed pairs": (
        lambda q, d, bounds, pair_q, pair_d: maxsim_packed(q, d, bounds, pair_q=pair_q, pair_d=pair_d, empty="-inf"),
        lambda n: (leaf(3, 4, 8), leaf(5 * n, 8), every(n, 5), torch.arange(n + 2) % 3, torch.arange(n + 2) % n),
    ),
    "pair_score": (
        lambda hidden, weight, mask: pair_score(hidden, weight, 3, 7, attention_mask=mask, softcap=2.0),
        lambda n: (leaf(n, 4, 8), leaf(11, 8), mask(n, 4)),
    ),
    "pair_score packed": (
        lambda hidden, weight, bounds, norm: pair_score(hidden, weight, 3, 7, cu_seqlens=bounds, norm=norm),
        lambda n: (leaf(4 * n, 8), leaf(11, 8), every(n, 4), leaf(8)),
    ),
    "token_logprob": (token_logprob, lambda n: (leaf(n, 4, 8), leaf(11, 8), tokens(n, 4, 2))),
    "sequence_logprob": (
        lambda hidden, weight, ids, mask: sequence_logprob(hidden, weight, ids, mask=mask, reduction="mean"),
        lambda n: (leaf(n, 4, 8), leaf(11, 8), tokens(n, 4), mask(n, 4)),
    ),
    "sequence_logprob frozen": (
        lambda hidden, weight, ids, mask: sequence_logprob(hidden, weight, ids, mask=mask),
        lambda n: (leaf(n, 4, 8), torch.randn(11, 8), tokens(n, 4), mask(n, 4)),
    ),
    "sequence_logprob packed": (
        lambda hidden, weight, ids, bounds: sequence_logprob(hidden, weight, ids, cu_seqlens=bounds),
        lambda n: (leaf(4 * n, 8), torch.randn(11, 8), tokens(4 * n), every(n, 4)),
    ),
}


SLOW = ("maxsim of queries", "maxsim_packed of packed queries", "pair_score packed", "sequence_logprob packed")
"""Those that share an operator's call with another."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in OPS])
def test_ten_sizes_are_one_graph(name: str) -> None:
    op, arguments = OPS[name]
    graphs = {"forward": 0, "backward": 0}

    def counted(which: str) -> Callable[[torch.fx.GraphModule, Any], Any]:
        def compiler(module: torch.fx.GraphModule, _: Any) -> Any:
            graphs[which] += 1
            return module.forward

        return compiler

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=counted("forward"), bw_compiler=counted("backward"))
    compiled = torch.compile(lambda *given: op(*given), dynamic=True, fullgraph=True, backend=backend)
    for size in SIZES:
        given = arguments(size)
        leaves = [one for one in given if one.requires_grad]
        wanted = op(*given)
        found = compiled(*given)
        torch.testing.assert_close(found, wanted)
        ours, theirs = (torch.autograd.grad(scores.square().sum(), leaves) for scores in (found, wanted))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)
    assert graphs == {"forward": 1, "backward": 1}
