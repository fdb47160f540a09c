"""Relevance as a new linear layer on one vector of a sequence."""

from __future__ import annotations

from typing import Any, Literal

from rerankkit.architectures import FromFirst
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Classifier, Hidden
from rerankkit.registry import registry


@registry.heads("linear.v1")
class Linear:
    """Pools the hidden states of a prompt into one vector and learns the direction of relevance in it.

    Recipe:
        [model.head]
        @heads = "linear.v1"
        pooling = "mean"
        dropout = 0.1

    Args:
        pooling: "cls" the first token, as encoders are mostly trained; "mean" of all tokens; "last" the last token, the
            only one of a causal language model that has seen the whole prompt.
        dropout: On the pooled vector, in training.
    """

    at_once = "one"

    def __init__(
        self, pooling: Literal["cls", "mean", "last"] = "cls", dropout: float = 0.0, bias: bool = True
    ) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"linear.v1, dropout: must be at least 0 and below 1, got {dropout}")
        self.pooling, self.dropout, self.bias = pooling, dropout, bias
        self.module: Any = None
        self.untrained = True

    def bind(self, backbone: Backbone) -> None:
        if isinstance(backbone, Classifier):
            raise InputError("linear.v1 reads hidden states, and hf_classifier.v1 gives logits; use hf_encoder.v1")
        if self.pooling == "cls" and backbone.tokenizer.cls_token is None:
            raise InputError(
                'linear.v1, pooling: this model\'s tokenizer has no token that stands for a whole text, as "cls" '
                'wants; use "last" with a causal language model, or "mean"'
            )
        if self.pooling != "last" and backbone.shares_prefix:
            raise InputError(
                f'linear.v1, pooling: "{self.pooling}" needs every token of a prompt, and this backbone computes what '
                'prompts share apart; use hf_encoder.v1, share_prefix = false or "last"'
            )
        if self.pooling == "cls" and isinstance(backbone, FromFirst):
            backbone.attend_from_first()
        width = backbone.module.config.hidden_size
        linear = torch.nn.Linear(width, 1, self.bias, dtype=torch.float32)
        self.module = torch.nn.Sequential(torch.nn.Dropout(self.dropout), linear)
        torch.nn.init.normal_(self.module[1].weight, std=0.02)

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        states = hidden.states
        with torch.autocast(states.device.type, enabled=False):  # one number per prompt is not worth rounding
            if self.pooling == "mean":
                mask = batch.tokens.mask.unsqueeze(-1).float()
                pooled = (states.float() * mask).sum(1) / mask.sum(1)
            else:
                place = batch.answer if self.pooling == "last" else torch.zeros_like(batch.answer)
                pooled = states[torch.arange(len(place), device=place.device), place].float()
            return self.module(pooled)  # [rows, 1]
