"""No training that teaches nothing: what is required before a model is built, and before it is saved."""

from __future__ import annotations

import torch
import transformers

from rerankkit.batches import Known, targets, training_batch, training_rows
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.protocols import Group, Loss, Taught
from rerankkit.recipe import Recipe, build
from rerankkit.registry import registry
from rerankkit.sampling import TrainingGroups
from rerankkit.training.callbacks import NOTHING
from rerankkit.training.trainer import TrainingModule
from rerankkit.truncation import TruncationWarnings
from rerankkit.warnings import warn

LIKELIHOOD = "negative_log_likelihood.v1"
LOOKED_AT = 500
"""How many groups' tokens are looked at before the first step, to say what is cut and what looks alike."""


def require_lessons(recipe: Recipe, groups: TrainingGroups, batch_size: int, known: Known | None) -> None:
    """Refuse data and a loss that learns nothing from any group of it, before a model is built.

    Args:
        batch_size: How many groups are seen at once, which matters to in-batch negatives.
        known: As for `training_batch`.
    """
    loss, name = build(recipe, "loss"), recipe.get("loss")["@losses"]
    if groups.alike and not (known is not None and batch_size > 1):
        one = torch.ones(1, 1)
        if not _teaches(loss, one, one.bool()):
            raise InputError(
                f"[data.train] no group has a negative document, and {name} learns nothing from a document by itself "
                "or documents of one label; give the data some, or let [sampling] random_negatives draw them from "
                "other queries"
            )
        return
    for start in range(0, len(groups), batch_size):
        drawn = [groups[0, number] for number in range(start, min(start + batch_size, len(groups)))]
        if _teaches(loss, *targets(drawn, known)):
            return
    raise InputError(
        f"[data.train] {name} has no gradient for the labels of any of the {len(groups)} groups to train on, so "
        "nothing would be learned; give documents of a group different labels, or use another loss"
    )


def _teaches(loss: Loss, labels: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether scores, any that tell documents apart, would be changed."""
    scores = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = loss(scores, labels, mask)
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value, scores, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def require_fitting(recipe: Recipe, parts: Parts, group: Group) -> None:
    """Refuse, before the first step, groups that no prompt can show and a loss that would learn something else."""
    size = recipe.settings("sampling").group_size
    try:
        parts.strategy.training_asks(Group("", [""] * size))
    except InputError as error:
        raise InputError(f"[sampling] group_size = {size}: {error}") from error
    loss, taught = recipe.get("loss")["@losses"], isinstance(parts.head, Taught)
    if loss == LIKELIHOOD and not taught:
        raise InputError(
            f"[loss] {LIKELIHOOD} is for heads that learn to write the right answer, such as generated_order.v1; with "
            "this one it would give high scores to everything, so use softmax_cross_entropy.v1"
        )
    if taught and loss != LIKELIHOOD and registry.origin("losses", loss).package == "rerankkit":
        raise InputError(
            f"[loss] {loss} compares the scores of documents, and the head learns to write the right answer, where "
            f"scores are log-likelihoods of its parts; use {LIKELIHOOD}"
        )
    training_batch(parts, [group])


def require_documents(parts: Parts, groups: TrainingGroups, known: Known | None) -> None:
    """Warn of what is cut of the first groups; refuse groups whose documents all look alike to the model, equal or cut
    to nothing, and warn of some that do.

    Args:
        known: As for `training_batch`: where it is given, there are other documents to tell a group's from.
    """
    first = range(min(len(groups), LOOKED_AT))
    alike = [group for group in (groups[0, number] for number in first) if _looks_alike(parts, group, warned=True)]
    if known is not None:
        return
    others = range(len(first), len(groups))
    if alike and len(alike) == len(first) and all(_looks_alike(parts, groups[0, number]) for number in others):
        raise InputError(
            f"[data.train] all documents of a query have the same prompt, in each of {len(groups)} groups: their texts "
            "are equal, or max_length leaves no token of them; see rerankkit preview, and raise [model.collator] "
            "max_length or cap the query by query_max_length"
        )
    if alike:
        example = f"that of query {alike[0].qid or alike[0].query[:60]!r}, of {len(first)} looked at"
        warn("groups_alike", example, len(alike))


def _looks_alike(parts: Parts, group: Group, warned: bool = False) -> bool:
    """Whether no document can be told from another by its tokens; `warned` says of what is cut, too."""
    asks, rows = training_rows(parts, group)
    if warned:
        TruncationWarnings().tell(asks, rows)
    if all("document" not in row.roles for row in rows):
        return len(group.docs) > 1
    return len(rows) > 1 and all(row.as_read() == rows[0].as_read() for row in rows)


def require_weights(module: TrainingModule, args: transformers.TrainingArguments) -> None:
    """Refuse a model without weights to train, and warn of weights in which small steps are lost."""
    weights = module.trained_weights()
    if not weights:
        raise InputError("nothing to train: every weight is frozen")
    halves = {name: weight for name, weight in weights.items() if weight.dtype in (torch.float16, torch.bfloat16)}
    if not halves:
        return
    name, weight = next(iter(halves.items()))
    if args.fp16 and any(weight.dtype == torch.float16 for weight in halves.values()):
        raise InputError(
            '[training] fp16 = true computes in half precision from weights in fp32; set dtype = "fp32" in '
            "[model.backbone], or train an adapter with [model.backbone.lora]"
        )
    warn("half_precision_training", f"{name} in {str(weight.dtype).removeprefix('torch.')}", count=len(halves))


def require_learned(steps: int, gradients: bool, moved: bool) -> None:
    """Refuse to save as trained what learned nothing, whatever the reason.

    Args:
        gradients: Whether any weight had a gradient other than 0 at any step.
        moved: Whether any weight is another than at the start.
    """
    if not steps:
        raise RunError("the training took no step, so nothing is saved")
    if not gradients:
        raise RunError(NOTHING.format(steps=steps))
    if not moved:
        raise RunError(
            f"after {steps} steps all weights are what they were, so nothing is saved: the learning rate is too small "
            "for the precision of the weights, or, with load_best_model_at_end, nothing measured better than the start"
        )
