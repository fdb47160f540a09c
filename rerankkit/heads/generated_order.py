"""The order that a language model writes down, such as "[2] > [1] > [3]"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from rerankkit.causal_lm import token_likelihoods
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Hidden, LanguageModel, Piece, Reading
from rerankkit.registry import registry
from rerankkit.written_orders import faulty_patterns, find_answer, named


@registry.heads("generated_order.v1")
class GeneratedOrder:
    """Lets the model write an answer and reads the documents' labels in it; trained, it learns to write the order by
    the labels of the data.

    Documents come in the order in which they are named, then the others as they were given. What was not as asked is
    counted: labels "repeated", "missing" or "out_of_range", and answers "refused", which name no document.

    Recipe:
        [model.head]
        @heads = "generated_order.v1"
        max_new_tokens = 32
        pattern = "<answer>(.*?)</answer>"
        taught = "<answer>[{label}]</answer>"
        one = true

    Args:
        max_new_tokens: Where an answer is broken off; the order of 20 is about 100 tokens, and 129 where each
            character is one.
        pattern: A regular expression whose first group holds the answer; empty where all that is written is one.
        taught: How the model learns to name a document; several are joined by " > ".
        one: The answer is the one best document, as setwise prompts ask; the first one named counts.

    Source: Sun et al. 2023, "Is ChatGPT Good at Search?", arXiv 2304.09542.
    """

    at_once = "several"

    def __init__(
        self, max_new_tokens: int = 144, pattern: str = "", taught: str = "[{label}]", one: bool = False
    ) -> None:
        for argument, message in self.check(max_new_tokens, pattern, taught):
            raise InputError(f"generated_order.v1, {argument}: {message}")
        self.max_new_tokens, self.pattern, self.taught, self.one = max_new_tokens, pattern, taught, one
        self.module: Any = None

    @staticmethod
    def check(max_new_tokens: int = 144, pattern: str = "", taught: str = "[{label}]") -> Iterator[tuple[str, str]]:
        """Say what makes no sense without building anything."""
        if max_new_tokens < 1:
            yield "max_new_tokens", f"must be at least 1, got {max_new_tokens}"
        yield from faulty_patterns(pattern, taught)

    def bind(self, backbone: Backbone) -> None:
        if not isinstance(backbone, LanguageModel):
            raise InputError("generated_order.v1 reads what a language model writes, and this backbone is none")
        self._backbone = backbone

    def read(self, answer: str, labels: Sequence[str]) -> Reading:
        found, faults = list[int](), Counter[str]()
        for number in named(find_answer(self.pattern, answer), labels, self.one):
            if number is None:
                faults["out_of_range"] += 1
            elif number in found:
                faults["repeated"] += 1
            else:
                found.append(number)
        if not found:
            faults["refused"] += 1
        elif not self.one and len(found) < len(labels):
            faults["missing"] += len(labels) - len(found)
        if self.one:
            del faults["repeated"]  # a sentence may well name its one document twice
            return Reading([float(found[:1] == [number]) for number in range(len(labels))], dict(faults))
        order = found + [number for number in range(len(labels)) if number not in found]
        return Reading([float(len(labels) - order.index(number)) for number in range(len(labels))], dict(faults))

    def target(self, labels: Sequence[str], relevance: Sequence[float], end: str) -> tuple[Piece, ...]:
        order = sorted(range(len(labels)), key=lambda number: -relevance[number])[: 1 if self.one else None]
        names = [self.taught.replace("{label}", labels[number]) for number in order]
        texts = [names[0], *(f" > {name}" for name in names[1:])]
        written = "".join(texts)
        if named(find_answer(self.pattern, written), labels, self.one) != order:
            raise InputError(
                f"generated_order.v1, taught: the model would learn to write {written!r}, and that is not read as the "
                f"documents' order with pattern = {self.pattern!r}; write in `taught` what is to be read"
            )
        pieces = [Piece(text, "fixed", scored=number) for text, number in zip(texts, order, strict=True)]
        return (*pieces, Piece(end, "fixed", scored=order[-1]))

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        """Log-likelihood of what names each document in the right answer, for training."""
        assert batch.scored is not None
        each = token_likelihoods(hidden, batch, self._backbone.vocabulary(), batch.scored >= 0, "none")
        document = batch.scored[:, 1:]  # [rows, length - 1]
        asked = int(batch.scored.max()) + 1 if batch.place is None else batch.place.shape[1]
        scores = each.new_zeros(len(each), asked)
        return scores.scatter_add(1, document.clamp(min=0), each)  # [rows, docs asked]
