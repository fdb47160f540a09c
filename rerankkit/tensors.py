"""What models read and give: tokens, batches, hidden states and rows of the output layer, all tensors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from rerankkit.lazy import torch


@dataclass(slots=True)
class Tokens:
    """Token sequences padded on the right, all [rows, length].

    Args:
        mask: 1 on tokens that the model attends to.
        type_ids: Which of a pair's two texts a token belongs to, where the tokenizer tells.
        compared: Whose vectors late interaction compares; None where nothing is compared token by token.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    type_ids: torch.Tensor | None = None
    compared: torch.Tensor | None = None

    def real(self) -> torch.Tensor:
        """Which tokens are attended to or compared, and so no padding. [rows, length], bool"""
        return self.mask.bool() if self.compared is None else self.mask.bool() | self.compared

    def take(self, rows: torch.Tensor) -> Tokens:
        """Some of the rows, without the padding that only the others needed."""
        width = int(self.real()[rows].sum(1).max()) if len(rows) else 0
        types, compared = (value if value is None else value[rows, :width] for value in (self.type_ids, self.compared))
        return Tokens(self.ids[rows, :width], self.mask[rows, :width], types, compared)

    def to(self, device: Any, **options: Any) -> Tokens:
        return _moved(self, device, options)


@dataclass(slots=True)
class Batch:
    """What a backbone reads at once, and where the answers are.

    Args:
        tokens: The rows, without what they share.
        answer: Position, in each row of `tokens`, whose hidden state gives the answer. [rows]
        shared: What rows share, each distinct one once; None when nothing is shared.
        shared_of: Which row of `shared` each row goes with. [rows]
        scored: Which of the asked documents each token's likelihood speaks for, -1 for none. [rows, length]
        choices: The token that would name each asked document in the answer, -1 where a row asks for fewer documents
            than others. [rows, docs asked]
        place: Where each score belongs in the flattened [groups * docs] matrix, for training. [rows, docs asked]
        labels: [groups, docs], for training; [groups, groups * docs] with in-batch negatives.
        mask: Which scores exist, shaped like `labels`.
    """

    tokens: Tokens
    answer: torch.Tensor
    shared: Tokens | None = None
    shared_of: torch.Tensor | None = None
    scored: torch.Tensor | None = None
    choices: torch.Tensor | None = None
    place: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def to(self, device: Any, **options: Any) -> Batch:
        return _moved(self, device, options)

    def take(self, rows: torch.Tensor, all_shared: bool = False) -> Batch:
        """Some of the rows for a forward pass of their own, with what they share, or with all that is shared; labels
        and mask stay behind."""
        shared, shared_of = self.shared, self.shared_of
        if shared is not None and shared_of is not None:
            shared_of = shared_of[rows]
            if not all_shared:
                needed, shared_of = shared_of.unique(return_inverse=True)
                shared = shared.take(needed)
        tokens = self.tokens.take(rows)
        place, scored, choices = (t if t is None else t[rows] for t in (self.place, self.scored, self.choices))
        scored = None if scored is None else scored[:, : tokens.ids.shape[1]]
        return Batch(tokens, self.answer[rows], shared, shared_of, scored, choices, place)


@dataclass(slots=True)
class Hidden:
    """What a backbone makes of a batch.

    Args:
        states: Hidden states after the last layer. [rows, length, width]
        shared: Those of the batch's shared tokens, where a backbone reads them apart. [shared, length, width]
    """

    states: torch.Tensor
    shared: torch.Tensor | None = None


def _moved(value: Any, device: Any, options: dict[str, Any]) -> Any:
    parts = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(value, **{k: v if v is None else v.to(device, **options) for k, v in parts.items()})


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The rows of a language model's output layer for some tokens, and what turns their products into logits.

    logit = softcap * tanh(scale * (rows @ hidden + bias) / softcap), without the tanh where `softcap` is None.
    """

    rows: torch.Tensor  # [tokens, width]
    bias: torch.Tensor | None = None  # [tokens]
    scale: float = 1.0
    softcap: float | None = None
