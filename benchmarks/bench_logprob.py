"""What do yes/no scores and a query's likelihood cost, forward and backward, against all logits of all positions?

The output layer has 150,000 rows and is frozen, as with LoRA, unless a row says otherwise. The usual way computes the
logits of every position of every sequence, as a language model's forward pass does, and looks at a few of them.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import pytest
import torch
from measuring import SMALL, PeakMemory, in_a_process, interleaved, print_table
from rerankkit_kernels import pair_score, sequence_logprob

ROWS, LENGTH, WIDTH, VOCABULARY = (2, 16, 32, 1000) if SMALL else (16, 256, 1024, 150_000)
QUERY = 16
"""Tokens of the query, which are the last of each sequence: those whose likelihood is asked for."""
ROUNDS = 2  # all logits take seconds
YES, NO = 9, 7
pytestmark = pytest.mark.usefixtures("threads")
TASKS = {
    "yes/no": ["full logits", "pair_score"],
    "likelihood of the query": ["full log_softmax", "sequence_logprob"],
    "likelihood of every token": ["full log_softmax everywhere", "sequence_logprob everywhere"],
}


@pytest.mark.parametrize("task", TASKS)
def test_against_full_logits(task: str, benchmark: Any) -> None:
    ways = TASKS[task]
    peaks = {way: in_a_process(__file__, way)["peak"] for way in ways}
    hidden, weight = inputs()

    def check(results: dict[str, list[torch.Tensor]]) -> None:
        usual, ours = results.values()
        for one, other in zip(ours, usual, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)

    seconds = interleaved(benchmark, {way: partial(step, way, hidden, weight) for way in ways}, ROUNDS, check)
    base, lean = ways
    time, memory = seconds[lean] / seconds[base], peaks[lean] / peaks[base]
    print_table(
        f"{task}, {ROWS} x {LENGTH} tokens, hidden {WIDTH}, vocabulary {VOCABULARY:,}, fp32, forward and backward",
        ["way", "seconds", "time", "peak memory, MB", "memory"],
        [
            [base, f"{seconds[base]:.3f}", "1", f"{peaks[base] / 1e6:.0f}", "1"],
            [lean, f"{seconds[lean]:.3f}", f"{time:.4f}", f"{peaks[lean] / 1e6:.0f}", f"{memory:.4f}"],
        ],
        "Peak of resident memory over what was resident before the step, each way in a process of its own.",
    )
    assert SMALL or memory <= 1 / 20
    # Where every token counts, the products are those of full logits, and only what is written in between is saved.
    assert SMALL or time <= (1.2 if "every" in task else 1 / 3)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(ROWS, LENGTH, WIDTH).requires_grad_(), torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5


def step(way: str, hidden: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """Scores, and the gradient of their sum with respect to the hidden states."""
    rows, length = hidden.shape[:2]
    last = torch.full((rows,), length - 1)
    targets = torch.arange(rows * length).view(rows, length) % len(weight)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    mask[:, 0 if "everywhere" in way else -QUERY :] = True
    if way == "pair_score":
        scores = pair_score(hidden, weight, YES, NO, positions=last)
    elif way.startswith("sequence_logprob"):
        scores = sequence_logprob(hidden, weight, targets, mask=mask)
    else:
        logits = hidden @ weight.T  # [rows, length, vocabulary]
        if way == "full logits":
            answer = logits[torch.arange(rows), last]
            scores = answer[:, YES] - answer[:, NO]
        else:
            each = logits.log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2)
            scores = each.masked_fill(~mask, 0.0).sum(1)
    return [scores.detach(), *torch.autograd.grad(scores.sum(), hidden)]


def measure(way: str) -> dict[str, float]:
    """One step's memory, in this process."""
    import psutil

    step(way, torch.randn(2, 20, 8).requires_grad_(), torch.randn(50, 8))  # what a process sets up once
    hidden, weight = inputs()
    resident = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        step(way, hidden, weight)
    return {"peak": memory.peak - resident}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
