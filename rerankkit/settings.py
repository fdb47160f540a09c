"""The plain sections of a recipe: what may stand in [engine], [sampling] and [evaluation]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from rerankkit.errors import InputError


@dataclass(frozen=True)
class Engine:
    """How prompts are batched when ranking; it changes speed and memory, never scores.

    Args:
        batch_tokens: Tokens in one batch, padding included.
        prefix_tokens: Tokens of shared beginnings whose state is kept at once.
    """

    batch_tokens: int = 2048
    prefix_tokens: int = 16384

    def __post_init__(self) -> None:
        for argument, message in self.check(self.batch_tokens, self.prefix_tokens):
            raise InputError(f"[engine] {argument}: {message}")

    @staticmethod
    def check(batch_tokens: int = batch_tokens, prefix_tokens: int = prefix_tokens) -> Iterator[tuple[str, str]]:
        """Say which numbers make no sense."""
        if batch_tokens < 1:
            yield "batch_tokens", f"must be at least 1, got {batch_tokens}"
        if prefix_tokens < 0:
            yield "prefix_tokens", f"must be at least 0, which keeps nothing, got {prefix_tokens}"


@dataclass(frozen=True)
class Sampling:
    """How a training group is drawn from a reader's group, anew in every epoch, from the seed.

    Args:
        group_size: Documents of a training group: a positive, and negatives or documents of other grades.
        random_negatives: How many of the negatives are other queries' documents; the rest are the query's own.
        in_batch_negatives: Also compare each query with the documents of the batch's other groups (late interaction).
            Documents that are known to be relevant to a query are left out.
        hardest: Only the first so many of a query's own negatives are drawn from; None takes all.
        unfold_each_positive: Make a training group of each positive, in place of one of each reader's group, whose
            positive is another one in every epoch.
        grades: Where a query has positives of several labels: "several" draws documents of each of these beside a
            positive, and irrelevant ones as one grade more; "one" draws irrelevant ones alone. "auto" is "several" for
            losses that tell a label of 2 from a label of 1.
        learn_from: What the loss is given as labels; auto takes the labels where there are some, else the teacher's
            scores. Which documents are positive is for the labels to say, where there are some, in any case.
    """

    group_size: int = 8
    random_negatives: int = 0
    in_batch_negatives: bool = False
    hardest: int | None = None
    unfold_each_positive: bool = False
    grades: Literal["auto", "one", "several"] = "auto"
    learn_from: Literal["auto", "labels", "teacher_scores"] = "auto"


@dataclass(frozen=True)
class Evaluation:
    """What is measured during training and by `rerankkit evaluate`.

    Args:
        measures: In ir-measures' spelling; the first one chooses the best checkpoint.
    """

    measures: list[str] = field(default_factory=lambda: ["nDCG@10", "RR@10"])
