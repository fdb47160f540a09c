"""Relevance as a language model's choice among the documents of one prompt: the logit of each one's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rerankkit.causal_lm import token_logits, warn_of_improbable_answers
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Hidden, LanguageModel
from rerankkit.registry import registry


@registry.heads("choice.v1")
@dataclass
class Choice:
    """Reads, where the answer would begin, the logit of the one token that would name each document.

    Only these rows of the output layer are multiplied; the whole vocabulary's logits are never made. One forward pass
    ranks all documents of a prompt, by pairs (two of them), as a set (the best one counts) or as a list (all count).

    Recipe:
        [model.head]
        @heads = "choice.v1"

    Source: Zhuang et al. 2023, "A Setwise Approach for Effective and Highly Efficient Zero-shot Ranking with Large
        Language Models", arXiv 2310.09497; lists by their first token as in Reddy et al. 2024, "FIRST", arXiv
        2406.15657.
    """

    at_once = "several"

    def __post_init__(self) -> None:
        self.module: Any = None

    def bind(self, backbone: Backbone) -> None:
        if not isinstance(backbone, LanguageModel):
            raise InputError("choice.v1 reads a language model's answer, and this backbone is none; use hf_causal.v1")
        self._backbone, self._tokenizer = backbone, backbone.tokenizer

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        if batch.choices is None:
            raise InputError(
                "choice.v1 reads the logits of answers of one token, and this formatter's prompts name none; give the "
                "formatter `answers`"
            )
        there = batch.choices >= 0
        ids, column = batch.choices.where(there, batch.choices.max()).unique(return_inverse=True)
        answers = hidden.states[torch.arange(len(batch.answer), device=batch.answer.device), batch.answer]
        if torch.is_inference_mode_enabled():
            asked = batch.choices[0][there[0]].tolist()
            warn_of_improbable_answers(answers[0], self._backbone.vocabulary(), asked, self._tokenizer)
        logits = token_logits(answers, self._backbone.vocabulary(ids.tolist()))  # [rows, ids]
        return logits.gather(1, column).masked_fill(~there, 0.0)  # [rows, docs asked]
