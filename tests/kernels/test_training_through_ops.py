"""Training through the ops has the loss curve of training through their definitions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from rerankkit_kernels import maxsim, pair_score, sequence_logprob
from rerankkit_kernels.logprob.reference import sequence_logprob_reference
from rerankkit_kernels.maxsim.reference import maxsim_reference
from rerankkit_kernels.pair_score.reference import pair_score_reference

STEPS = 12
BACKENDS = ["torch", pytest.param("triton", marks=pytest.mark.interpreted)]


def curve(loss: Callable[[torch.nn.Module, Any], torch.Tensor], op: Any) -> list[float]:
    """The losses of a layer that is trained from the same weights on the same data."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 16)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.03)
    seen = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(layer, op)
        value.backward()
        optimizer.step()
        seen.append(value.item())
    return seen


def late_interaction(layer: torch.nn.Module, op: Any) -> torch.Tensor:
    """Queries find their documents, which are noisy copies, among the batch."""
    source = torch.Generator().manual_seed(1)
    q = torch.randn(6, 4, 12, generator=source)
    d = torch.cat([q, torch.randn(6, 5, 12, generator=source)], 1) + torch.randn(6, 9, 12, generator=source)
    mask = torch.rand(6, 9, generator=source) > 0.2
    scores = op(layer(q), layer(d), d_mask=mask)
    return torch.nn.functional.cross_entropy(scores, torch.arange(6))


def yes_no(layer: torch.nn.Module, op: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(8, 3, 12, generator=source), torch.randn(20, 16, generator=source)
    scores = op(layer(hidden), weight, 3, 7, positions=torch.arange(8) % 3, softcap=5.0)
    return torch.nn.functional.binary_cross_entropy_with_logits(scores, (torch.arange(8) % 2).float())


def likelihood(layer: torch.nn.Module, op: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(4, 3, 12, generator=source), torch.randn(20, 16, generator=source)
    targets = torch.randint(20, (4, 3), generator=source)
    return -op(layer(hidden), weight, targets, mask=torch.arange(3).expand(4, 3) > 0).mean()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("loss", "op", "reference"),
    [
        (late_interaction, maxsim, maxsim_reference),
        (yes_no, pair_score, pair_score_reference),
        (likelihood, sequence_logprob, sequence_logprob_reference),
    ],
)
def test_the_loss_curve_is_the_same(loss: Any, op: Any, reference: Any, backend: str) -> None:
    ours, theirs = curve(loss, partial(op, backend=backend)), curve(loss, reference)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours[-1] < 0.8 * ours[0]
