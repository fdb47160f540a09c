"""The vectors that late interaction compares, one for each token of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rerankkit import engine
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.evaluation_mode import evaluation_mode
from rerankkit.pretrained import padded
from rerankkit.protocols import Ask, Group, LateInteraction
from rerankkit.settings import Engine
from rerankkit.truncation import TruncationWarnings


def embed(parts: Parts, texts: Sequence[str], kind: str, settings: Engine) -> list[torch.Tensor]:
    """Token vectors [tokens, dim] of each text, in the order given; for late interaction."""
    head = parts.head
    if not isinstance(head, LateInteraction):
        raise InputError(
            "token vectors are what late interaction compares, and this reranker's head reads one score off a prompt"
        )
    asks = [Ask(Group(text, [text]), (0,)) for text in texts]
    rows, truncation = engine.encode(parts, asks), TruncationWarnings()
    for ask, own in zip(asks, rows, strict=True):
        for cut in own.cuts:
            if (cut.document is None) == (kind == "query"):
                truncation.tell_of(ask, cut)
    lengths = [len(row.shared if kind == "query" else row.ids) for row in rows]
    found: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for numbers in engine.batches(lengths, settings.batch_tokens):
        batch = engine.collate(parts, [rows[number] for number in numbers]).to(engine.device(parts))
        tokens, of = batch.tokens, list(range(len(numbers)))
        if kind == "query" and batch.shared is not None and batch.shared_of is not None:
            tokens, of = batch.shared, batch.shared_of.tolist()
        if tokens.compared is None:
            raise InputError("token vectors need query and document read apart; use late_interaction.v1")
        with evaluation_mode(parts.backbone.module, head.module):
            vectors = head.embed(padded(parts.backbone.read_shared(tokens))).float().cpu()
        compared = tokens.compared.cpu()
        for number, row in zip(numbers, of, strict=True):
            found[number] = vectors[row][compared[row]]
    return found
