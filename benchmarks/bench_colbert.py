"""How fast, and in how much memory, does late interaction rerank 100 documents a query, against a plain loop?

The plain loop does what PyLate's `rank.rerank` does: documents in batches of 32, sorted by characters, then one padded
einsum over all of a query's documents. Both begin with the texts, encode each query once, and give the same scores (the
loop masks padding, which PyLate does not).
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from typing import Any

import pytest
import torch
from measuring import SMALL, THREADS, PeakMemory, in_a_process, interleaved, print_table

from rerankkit import Group, Reranker
from rerankkit.engine import collate, encode
from rerankkit.pretrained import padded
from rerankkit.protocols import Ask, Row
from rerankkit.readers.stdlib_docs import StdlibDocs

QUERIES, DOCUMENTS = (2, 10) if SMALL else (4, 100)
BATCH = 32
ROUNDS = 3


pytestmark = pytest.mark.usefixtures("threads")


def test_reranking(benchmark: Any) -> None:
    contestants = {"batches of 32 and einsum": plain, "rerankkit": ours}

    def check(results: dict[str, torch.Tensor]) -> None:
        one, other = results.values()
        assert (one - other).abs().max() < 1e-4

    seconds = interleaved(benchmark, contestants, ROUNDS, check)
    peaks = {name: in_a_process(__file__, name)["peak"] for name in contestants}
    base = seconds["batches of 32 and einsum"]
    print_table(
        f"Late interaction, {QUERIES} queries x {DOCUMENTS} documents, answerai-colbert-small's trunk, fp32",
        ["way", "seconds", "documents/s", "ratio", "peak memory, GB"],
        [
            [name, f"{s:.1f}", f"{QUERIES * DOCUMENTS / s:.0f}", f"{base / s:.2f}x", f"{peaks[name]:.2f}"]
            for name, s in seconds.items()
        ],
        "Peak of resident memory over what was resident before, each way in a process of its own.",
    )
    assert SMALL or base / seconds["rerankkit"] >= 1.1
    assert SMALL or peaks["rerankkit"] <= peaks["batches of 32 and einsum"]


def ours() -> torch.Tensor:
    ranked = reranker().rank_groups(groups())
    scores = torch.zeros(QUERIES, DOCUMENTS)
    for row, order in enumerate(ranked):
        for found in order:
            scores[row, found.index] = found.score
    return scores


@torch.inference_mode()
def plain() -> torch.Tensor:
    parts = reranker().parts
    found = []
    for group in groups():
        order = sorted(range(DOCUMENTS), key=lambda i: -len(group.docs[i]))
        rows: list[Row] = encode(parts, [Ask(group, (i,)) for i in order])
        vectors, masks, query, query_mask = [], [], None, None
        for start in range(0, DOCUMENTS, BATCH):
            batch = collate(parts, rows[start : start + BATCH])
            assert batch.shared is not None and batch.tokens.compared is not None
            if query is None:
                query = parts.head.embed(parts.backbone.read_shared(batch.shared)[0][None])[0]  # type: ignore[attr-defined]
                query_mask = batch.shared.compared[0]
            vectors += list(parts.head.embed(padded(parts.backbone.read_shared(batch.tokens))))  # type: ignore[attr-defined]
            masks += list(batch.tokens.compared)
        documents, mask = padded(vectors), padded(masks)  # [documents, tokens, dim], [documents, tokens]
        similarity = torch.einsum("qd,ntd->nqt", query, documents).masked_fill(~mask.unsqueeze(1), -torch.inf)
        scores = (similarity.amax(-1) * query_mask).sum(-1)
        found.append(scores[torch.tensor(order).argsort()])
    return torch.stack(found)


@cache
def reranker() -> Reranker:
    torch.manual_seed(0)
    found = Reranker.from_recipe("colbert")
    found.untrained = False  # speed does not depend on what the projection has learned
    return found


@cache
def groups() -> list[Group]:
    found = StdlibDocs(split="test", candidates=DOCUMENTS, limit=3 * QUERIES)
    return [group for group in found if len(group.docs) == DOCUMENTS][:QUERIES]


if __name__ == "__main__":
    import psutil

    way = {"batches of 32 and einsum": plain, "rerankkit": ours}[sys.argv[1]]
    torch.set_num_threads(THREADS)
    reranker().rank("a query", ["a document"])
    groups()
    resident = psutil.Process().memory_info().rss
    with PeakMemory() as memory:
        start = time.perf_counter()
        way()
    print(json.dumps({"peak": (memory.peak - resident) / 1e9, "seconds": time.perf_counter() - start}))
