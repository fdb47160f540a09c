"""Prompts of several documents, and of a query that is scored, as simple as they can be; and their naive readings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tiny
import torch

from rerankkit import engine
from rerankkit.engine import Parts
from rerankkit.lora import Lora
from rerankkit.protocols import Ask, Asked, Group, Piece, Prompt, Row

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Listed:
    """All asked documents, each behind its label."""

    labels: str = LETTERS
    choices: bool = True

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        labels = tuple(self.labels[: len(ask.docs)])
        pieces = [Piece("Query: ", "fixed"), Piece(ask.group.query, "query"), Piece("\n", "fixed")]
        for label, position in zip(labels, ask.docs, strict=True):
            pieces += [Piece(f"[{label}] ", "fixed"), Piece(ask.group.docs[position], "document"), Piece("\n", "fixed")]
        return Prompt((*pieces, Piece("Answer:", "fixed")), labels=labels, choices=labels if self.choices else ())


@dataclass(frozen=True)
class QueryAfter:
    """One document, then the query, which the model might have written."""

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        document, query = Piece(ask.group.docs[ask.docs[0]], "document"), Piece(ask.group.query, "query", scored=0)
        return Prompt((Piece("Document: ", "fixed"), document, Piece("\nQuestion:", "fixed"), query), answer=3)


@dataclass(frozen=True)
class Together:
    """Shows some documents at once, in the order given: the first ones, then the next, and so on."""

    shown: int = 4

    def rank(self, group: Group) -> Any:
        asks = self.training_asks(group)
        scores = yield asks
        order = [pair for docs, values in zip(asks, scores, strict=True) for pair in zip(docs, values, strict=True)]
        return sorted(order, key=lambda pair: -pair[1])

    def training_asks(self, group: Group) -> list[Asked]:
        positions = range(len(group.docs))
        return [tuple(positions[start : start + self.shown]) for start in range(0, len(positions), self.shown)]


def parts(head: Any, architecture: str = "llama", formatter: Any = None, shown: int = 4, lora: str = "") -> Parts:
    """A tiny reranker with a head of one's own.

    Args:
        lora: "output" puts a random adapter on the output layer too, "body" elsewhere alone.
    """
    adapter = None
    if lora:
        body = ["c_attn"] if architecture == "gpt2" else ["q_proj"]
        adapter = Lora(r=2, target_modules=body + ["lm_head"] * (lora == "output"), merge=False)
    backbone = tiny.backbone(architecture, share_prefix=False, lora=adapter)
    for name, weight in backbone.module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    head.bind(backbone)
    of = tiny.parts(of=backbone)
    return Parts(formatter or Listed(), of.collator, backbone, head, Together(shown))


def logits(of: Parts, row: Row) -> torch.Tensor:
    """All logits after every token of a row by itself. [length, vocabulary]"""
    found = of.backbone.module(input_ids=torch.tensor([[*row.shared, *row.ids]])).logits[0]
    return found if found.dtype == torch.float64 else found.float()


def likelihoods(of: Parts, row: Row) -> dict[int, list[torch.Tensor]]:
    """The log-probability of every scored token, by the document that it speaks for."""
    found: dict[int, list[torch.Tensor]] = {}
    every = logits(of, row).log_softmax(-1)
    ids, scored = [*row.shared, *row.ids], [-1] * len(row.shared) + (row.scored or [])
    for place in range(1, len(ids)):
        if scored[place] >= 0:
            found.setdefault(scored[place], []).append(every[place - 1, ids[place]])
    return found


def scored(of: Parts, asks: list[Ask]) -> tuple[list[Row], torch.Tensor]:
    """The rows of some asks, and what the head makes of them in one batch."""
    rows = engine.encode(of, asks)
    with torch.no_grad():
        return rows, engine.forward(of, engine.collate(of, rows))
