"""KL divergence: the scores' softmax over the group should be the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rerankkit.bounds import above_zero
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.listwise import log_softmax
from rerankkit.registry import registry


@registry.losses("kl_divergence.v1")
@dataclass(frozen=True)
class KLDivergence:
    """T^2 * KL(softmax(labels / T) || softmax(scores / T)), averaged over the groups of two or more documents.

    The labels are a teacher's scores. Only their differences within a group matter.

    Recipe:
        [loss]
        @losses = "kl_divergence.v1"
        temperature = 2.0

    Args:
        temperature: T. Above 1 the teacher's lesser documents count more; T^2 keeps the gradients' size.
        teacher_temperature: Divides the labels in place of T, for a teacher whose scores have another scale.

    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    temperature: float = 1.0
    teacher_temperature: float | None = None

    def __post_init__(self) -> None:
        for argument, message in self.check(self.temperature, self.teacher_temperature):
            raise InputError(f"kl_divergence.v1, {argument}: {message}")

    @staticmethod
    def check(temperature: float, teacher_temperature: float | None) -> Iterator[tuple[str, str]]:
        """Say which temperatures make no sense."""
        return above_zero({"temperature": temperature, "teacher_temperature": teacher_temperature})

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        teacher = log_softmax(labels.to(scores.dtype) / (self.teacher_temperature or self.temperature), mask)
        student = log_softmax(scores / self.temperature, mask)  # [groups, docs]
        losses = (teacher.exp() * (teacher - student)).sum(-1)  # [groups]
        return self.temperature**2 * losses.sum() / (mask.sum(-1) > 1).sum().clamp(min=1)
