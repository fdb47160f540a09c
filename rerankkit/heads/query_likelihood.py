"""Relevance as the likelihood that a language model writes the query after the document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rerankkit.causal_lm import token_likelihoods
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Hidden, LanguageModel
from rerankkit.registry import registry


@registry.heads("query_likelihood.v1")
class QueryLikelihood:
    """Adds up the log-probabilities of the query's tokens, with a part of the vocabulary's logits at a time.

    What comes before the query, a start token too, is read and not scored. In fp32 a sum of 128 tokens was measured
    within 2e-6 a token of a model in float64, and as near as float32 can write it; in bf16 some tenths off.

    Recipe:
        [model.head]
        @heads = "query_likelihood.v1"
        reduction = "mean"

    Args:
        reduction: "sum" is the log-likelihood; "mean", by token, ranks a query's documents the same and compares
            queries of different lengths.

    Source: Ponte and Croft 1998, "A Language Modeling Approach to Information Retrieval", SIGIR; with a pre-trained
        language model Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question Generation", arXiv
        2204.07496.
    """

    at_once = "one"

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        self.reduction = reduction
        self.module: Any = None

    def bind(self, backbone: Backbone) -> None:
        if not isinstance(backbone, LanguageModel):
            raise InputError(
                "query_likelihood.v1 asks a language model how likely a text is, and this backbone is none; use "
                "hf_causal.v1"
            )
        self._backbone = backbone

    def normalized(self, scores: Sequence[float]) -> list[float]:
        raise InputError(
            "normalize = True: query_likelihood.v1 scores by the log-probability of the query's tokens, which is no "
            "logit, and nothing between 0 and 1 says from it how relevant a document is; take the scores as they are"
        )

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        if batch.scored is None:
            raise InputError(
                "query_likelihood.v1 needs a prompt that ends with the query, and this formatter marks no text whose "
                "likelihood is asked; use the formatter query_generation.v1"
            )
        scored = batch.scored == 0  # [rows, length]
        if scored[:, 0].any() or not scored.any(1).all():
            raise InputError(
                "query_likelihood.v1: the query must have a token, and something must stand before it; write a "
                "template of more than {document}, or an answer_prefix"
            )
        found = token_likelihoods(hidden, batch, self._backbone.vocabulary(), scored, self.reduction)
        return found.unsqueeze(1)  # [rows, 1]
