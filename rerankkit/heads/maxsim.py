"""Relevance as late interaction: every query token finds its most similar document token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.projection import Projection, find_projection
from rerankkit.protocols import Backbone, Batch, Checkpoint, Classifier, Hidden, Tokens
from rerankkit.registry import registry


@registry.heads("maxsim.v1")
class MaxSim:
    """Projects token vectors, normalises them, and adds up each query token's highest cosine with the document.

    A projection that lies beside the checkpoint, in the layout of PyLate, Stanford's ColBERT or open-retrievals, is
    read; else a new one is made, which has to be trained.

    Recipe:
        [model.head]
        @heads = "maxsim.v1"
        dim = 96
        similarity = "sum"

    Args:
        dim: Length of the compared vectors; null compares the hidden states themselves.
        similarity: "sum" or "mean" over the query's tokens.
        start: "checkpoint" takes the checkpoint's projection where there is one, "new" never.

    Source: Khattab and Zaharia 2020, "ColBERT", arXiv 2004.12832.
    """

    at_once = "one"

    def __init__(
        self,
        dim: int | None = 128,
        bias: bool = False,
        similarity: Literal["sum", "mean"] = "sum",
        start: Literal["checkpoint", "new"] = "checkpoint",
    ) -> None:
        if dim is not None and dim < 1:
            raise InputError(f"maxsim.v1, dim: must be at least 1, or null for no projection; got {dim}")
        self.dim, self.bias, self.similarity, self.start = dim, bias, similarity, start
        self.module: Any = None
        self.untrained = False

    def bind(self, backbone: Backbone) -> None:
        if isinstance(backbone, Classifier):
            raise InputError("maxsim.v1 compares hidden states, and hf_classifier.v1 gives logits; use hf_encoder.v1")
        if self.dim is None:
            return
        self.module = torch.nn.Linear(backbone.module.config.hidden_size, self.dim, self.bias, dtype=torch.float32)
        beside = isinstance(backbone, Checkpoint) and self.start == "checkpoint"
        found = find_projection(backbone.file) if beside else None  # type: ignore[attr-defined]
        self.untrained = found is None
        if found is not None:
            self._take(found)

    def embed(self, states: torch.Tensor) -> torch.Tensor:
        with torch.autocast(states.device.type, enabled=False):  # cosines near one another need their bits
            vectors = states.float() if self.module is None else self.module(states.float())
            return torch.nn.functional.normalize(vectors, dim=-1)

    def normalized(self, scores: Sequence[float]) -> list[float]:
        raise InputError(
            "normalize = True: maxsim.v1 scores by cosines of the query's tokens, added up or averaged, which are no "
            "logits, so that their sigmoid would say nothing; take the scores as they are"
        )

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        from rerankkit_kernels import maxsim

        query, query_mask, document, mask = self._both(hidden, batch)
        query, query_mask = query[batch.shared_of], query_mask[batch.shared_of]
        scores = maxsim(query, document, query_mask, mask, layout="pairs")
        return self._scaled(scores, query_mask).unsqueeze(1)  # [rows, 1]

    def score_all(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        from rerankkit_kernels import maxsim

        query, query_mask, document, mask = self._both(hidden, batch)
        scores = maxsim(query, document, query_mask, mask, layout="cross")  # [queries, rows]
        return self._scaled(scores, query_mask.unsqueeze(1))

    def _both(self, hidden: Hidden, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors and masks of queries and documents."""
        if hidden.shared is None or batch.shared is None:
            raise InputError("maxsim.v1 needs query and document read apart; use late_interaction.v1 and hf_encoder.v1")
        query, document = self.embed(hidden.shared), self.embed(hidden.states)
        return query, _compared(batch.shared), document, _compared(batch.tokens)

    def _scaled(self, scores: torch.Tensor, query_mask: torch.Tensor) -> torch.Tensor:
        return scores if self.similarity == "sum" else scores / query_mask.sum(-1).clamp(min=1)

    def _take(self, found: Projection) -> None:
        wanted = (self.dim, self.module.in_features, self.bias)
        given = (*found.weight.shape, found.bias is not None)
        if wanted != given:
            raise InputError(
                f"maxsim.v1: the projection in {found.file} has dim = {given[0]} and bias = {str(given[2]).lower()}, "
                f"for a width of {given[1]}; the recipe says dim = {self.dim} and bias = {str(self.bias).lower()}, for "
                f'{wanted[1]}. Write what the checkpoint has, or start = "new" to train a new one'
            )
        with torch.no_grad():
            self.module.weight.copy_(found.weight)
            if found.bias is not None:
                self.module.bias.copy_(found.bias)


def _compared(tokens: Tokens) -> torch.Tensor:
    assert tokens.compared is not None
    return tokens.compared
