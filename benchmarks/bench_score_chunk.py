"""How does the memory of a training step grow with the group, with and without `score_chunk`?

One group of documents of 128 tokens, a softmax over all of them, every weight trained. Each step runs in a process of
its own; see bench_training_memory.py for how its peak is taken.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from measuring import SMALL, PeakMemory, in_a_process, print_table

SIZES = (4, 8) if SMALL else (8, 32, 128)
CHUNK = 2 if SMALL else 8
LENGTH = 32 if SMALL else 128
RECIPES = ("cross_encoder", "colbert")


@pytest.mark.parametrize("recipe", RECIPES)
def test_memory_of_groups(recipe: str) -> None:
    rows, plain_peaks, chunked_peaks = [], [], []
    for size in SIZES:
        plain, chunked = (in_a_process(__file__, recipe, str(size), chunk) for chunk in ("", str(CHUNK)))
        assert chunked["loss"] == pytest.approx(plain["loss"], rel=1e-5)
        assert chunked["gradient"] == pytest.approx(plain["gradient"], rel=1e-4)
        plain_peaks.append(plain["peak"])
        chunked_peaks.append(chunked["peak"])
        seconds = chunked["seconds"] / plain["seconds"]
        rows.append([str(size), f"{plain['peak']:.2f}", f"{chunked['peak']:.2f}", f"{seconds:.2f}x"])
    print_table(
        f"Memory of a training step of {recipe}, one group, documents of {LENGTH} tokens, fp32",
        ["documents", "all at once, GB", f"score_chunk = {CHUNK}, GB", "time"],
        rows,
        "Peak of resident memory over what was resident before the step.",
    )
    assert SMALL or plain_peaks[-1] / plain_peaks[0] > 4
    # the smallest group is one chunk, which keeps no gradients beside another's activations
    assert SMALL or chunked_peaks[-1] / chunked_peaks[1] < 1.25


def measure(recipe: str, size: int, chunk: int | None) -> dict[str, float]:
    """One training step, in this process."""
    import psutil
    import torch

    from rerankkit import Group, Reranker
    from rerankkit.batches import training_batch
    from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
    from rerankkit.training.trainer import TrainingModule

    torch.manual_seed(0)
    collator = "max_length" if recipe == "cross_encoder" else "document_max_length"
    parts = Reranker.from_recipe(recipe, {f"model.collator.{collator}": LENGTH}).parts
    module = TrainingModule(parts, SoftmaxCrossEntropy(), chunk)  # in evaluation mode, as dropout differs by chunk

    def batch_of(documents: int) -> Any:
        texts = [" ".join(f"word{i * LENGTH + place}" for place in range(LENGTH)) for i in range(documents)]
        group = Group("what is word 1?", texts, [1.0] + [0.0] * (documents - 1))
        return training_batch(parts, [group])

    module(batch_of(2))["loss"].backward()
    module.zero_grad()
    batch = batch_of(size)
    resident = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        start = time.perf_counter()
        output = module(batch)
        output["loss"].backward()
        seconds = time.perf_counter() - start
    gradients = [weight.grad.norm() for weight in module.parameters() if weight.grad is not None]
    return {
        "peak": (memory.peak - resident) / 1e9,
        "seconds": seconds,
        "loss": output["loss"].item(),
        "gradient": torch.stack(gradients).norm().item(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if sys.argv[3] else None)))
