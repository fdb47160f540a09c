"""The five parts that make a reranker, and the prompts that they make of what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rerankkit.protocols import (
    Answering,
    Ask,
    Backbone,
    Classifier,
    Collator,
    Formatter,
    Head,
    LastToken,
    Row,
    Strategy,
)


@dataclass(frozen=True)
class Parts:
    """The five parts that make a reranker."""

    formatter: Formatter
    collator: Collator
    backbone: Backbone
    head: Head
    strategy: Strategy


def rows_of(parts: Parts, asks: Sequence[Ask]) -> list[Row]:
    """The tokens of each ask, with what its answer is read from."""
    tokenizer, closed = parts.backbone.tokenizer, isinstance(parts.backbone, Classifier)
    answers = parts.head.answers if isinstance(parts.head, Answering) else ()
    prompts = [parts.formatter.format(ask, tokenizer) for ask in asks]
    if answers or closed:
        decoder = isinstance(parts.backbone, LastToken) and parts.backbone.reads_last_token
        prompts = [replace(prompt, answers=answers, closed=closed, decoder=decoder) for prompt in prompts]
    return parts.collator.encode(prompts, tokenizer)
