"""Relevance as the one logit of a checkpoint's own classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Classifier, Hidden
from rerankkit.registry import registry


@registry.heads("logit.v1")
@dataclass
class Logit:
    """Takes the logit that the backbone's classifier gives; it has no weights of its own.

    Recipe:
        [model.head]
        @heads = "logit.v1"
    """

    at_once = "one"

    def __post_init__(self) -> None:
        self.module: Any = None

    def bind(self, backbone: Backbone) -> None:
        if not isinstance(backbone, Classifier):
            raise InputError(
                "logit.v1 reads the logit of a checkpoint's classifier, and this backbone has none; use "
                "hf_classifier.v1, or linear.v1 for a new head"
            )
        if backbone.labels != 1:
            raise InputError(
                f"logit.v1 needs a classifier with one logit, and this one has {backbone.labels}: which of them means "
                "relevant is not known; train a new head on it with hf_encoder.v1 and linear.v1"
            )

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        return hidden.states[:, 0].float()  # [rows, 1]
