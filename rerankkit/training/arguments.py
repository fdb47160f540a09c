"""What [training] says, as transformers' arguments, and what of it could not train."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from rerankkit.errors import InputError
from rerankkit.recipe import Recipe

OURS = {
    "remove_unused_columns": "leave it out; there are no columns",
    "logging_nan_inf_filter": "leave it out; a loss that is no number ends the training",
    "disable_tqdm": "leave it out; the bar is rerankkit's own, and appears in terminals only",
    "resume_from_checkpoint": "give --resume",
    "save_only_model": "leave it out; a checkpoint without the optimizer's state cannot be resumed",
    "ignore_data_skip": "leave it out; a resumed training would see some data twice",
    "push_to_hub": "leave it out; upload the saved folder instead",
    "auto_find_batch_size": "set per_device_train_batch_size, and gradient_accumulation_steps to make up for it",
    "label_smoothing_factor": "leave it out; a [loss] decides what is learned",
    "neftune_noise_alpha": "leave it out; it is for embeddings that the Trainer can reach",
    "train_sampling_strategy": "leave it out; the order is drawn anew in every epoch",
    "use_liger_kernel": "leave it out; the loss never forms the logits that it saves",
    "include_num_input_tokens_seen": "leave it out",
    "per_device_eval_batch_size": "set batch_tokens in [engine]",
    "bf16_full_eval": "set dtype in [model.backbone]",
    "fp16_full_eval": "set dtype in [model.backbone]",
    **dict.fromkeys(("prediction_loss_only", "batch_eval_metrics", "include_for_metrics"), "set [evaluation] measures"),
    **dict.fromkeys(("label_names", "length_column_name"), "leave it out; there are no columns"),
    "eval_accumulation_steps": "set batch_tokens in [engine]",
    "hub_model_id": "leave it out; upload the saved folder instead",
    "fsdp": "leave it out; torchrun trains with one whole model in each process",
    "deepspeed": "leave it out; torchrun trains with one whole model in each process",
}
"""Arguments of the Trainer that would do nothing here, or harm, and what to do instead."""


TINY = 1e-300
"""Above nothing: what must not be 0 is at least this."""
NO_END = math.inf
BOUNDS: dict[str, tuple[float, float, str]] = {
    "learning_rate": (TINY, NO_END, "no weight would move; give a number above 0, such as 2e-5"),
    "num_train_epochs": (TINY, NO_END, "no step would be taken; give a number above 0"),
    "per_device_train_batch_size": (1, NO_END, "give at least 1"),
    "gradient_accumulation_steps": (1, NO_END, "give at least 1"),
    "dataloader_num_workers": (0, NO_END, "give at least 0"),
    "max_grad_norm": (0, NO_END, "give a number above 0, or 0 to leave gradients as they are"),
    "warmup_steps": (0, NO_END, "give at least 0"),
    "max_steps": (-1, NO_END, "give how many steps to take, or -1 to train by num_train_epochs"),
    "weight_decay": (0, NO_END, "weights would grow at each step; give at least 0"),
    "seed": (0, 2**32 - 1, "give a number from 0 to 4294967295 (2**32 - 1)"),
    "data_seed": (0, 2**63 - 1, "give a number from 0 to 2**63 - 1"),
}
"""The lowest and the highest value of arguments that the Trainer would take as they are, and what to give instead."""


def training_arguments(recipe: Recipe, work: Path) -> transformers.TrainingArguments:
    """The Trainer's arguments of a recipe's [training]; InputError for what could not train, before anything is built.

    Args:
        work: Where checkpoints go.
    """
    given = dict(recipe.section("training"))
    if (chunk := given.pop("score_chunk", None)) is not None and chunk < 1:
        raise InputError(f"[training] score_chunk = {chunk} must be at least 1; leave it out to score a batch at once")
    if given.get("max_steps") == 0:
        raise InputError(
            "[training] max_steps = 0 takes no step; give how many to take, or -1 to train by num_train_epochs"
        )
    if given.get("max_steps", -1) > 0 and "num_train_epochs" in given:
        raise InputError(
            f"[training] max_steps = {given['max_steps']} wins over num_train_epochs = {given['num_train_epochs']}; to "
            "train by epochs, set max_steps = -1 (--training.max_steps -1)"
        )
    for name, (lowest, highest, remedy) in BOUNDS.items():
        if (value := given.get(name)) is not None and not lowest <= value <= highest:
            raise InputError(f"[training] {name} = {value} cannot be: {remedy}")
    measures = recipe.settings("evaluation").measures
    for name, remedy in OURS.items():
        if given.get(name):
            raise InputError(f"[training] {name} = {given[name]!r} cannot be: {remedy}")
    if given.get("save_strategy") == "best":
        raise InputError(
            '[training] save_strategy = "best" could not be resumed from where it stopped; use "steps" or "epoch" with '
            "load_best_model_at_end = true, which keeps the best checkpoint too"
        )
    if not recipe.has("data.dev"):
        given |= {"eval_strategy": "no", "load_best_model_at_end": False}
    elif (best := given.get("metric_for_best_model", measures[0])) not in measures:
        raise InputError(
            f"[training] metric_for_best_model = {best!r} is not among the measures of [evaluation]: "
            f"{', '.join(measures)}"
        )
    defaults = {
        "metric_for_best_model": measures[0] if recipe.has("data.dev") else None,
        "greater_is_better": True,
        "use_cpu": not torch.accelerator.is_available(),  # else bf16 is taken to need a GPU
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    fixed = {
        "output_dir": str(work),
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }
    try:
        args = transformers.TrainingArguments(**{**defaults, **given, **fixed})
        for report in get_reporting_integration_callbacks(args.report_to):
            report()  # says what has to be installed for it
        _optimizer(args)
    except (ValueError, ImportError, RuntimeError) as error:
        raise InputError(f"[training] {str(error).strip()}") from error
    if args.fp16 and args.device.type == "cpu":
        raise InputError("[training] fp16 = true needs a GPU; on a CPU set bf16 = true, or leave it out")
    return args


def require_steps(args: transformers.TrainingArguments, groups: int) -> None:
    """Refuse, with the numbers, what would take no step, or none with a learning rate above 0.

    A share of one step is made no warm-up.

    Args:
        groups: How many groups there are to train on.
    """
    size, world, dropping = args.train_batch_size, args.world_size, args.dataloader_drop_last
    if dropping and groups < size * world:
        each = f"{size} groups" + (f" on each of {world} processes" if world > 1 else "")
        raise InputError(
            f"[data.train] gives {groups} groups to train on, less than one batch of {each}, and dataloader_drop_last "
            "leaves incomplete batches out, so no step would be taken; set it to false, or a smaller "
            "per_device_train_batch_size"
        )
    batches = groups // size // world if dropping else math.ceil(math.ceil(groups / size) / world)
    epoch = math.ceil(batches / args.gradient_accumulation_steps)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch)
    if steps == 1 and 0 < args.warmup_steps < 1:  # the Trainer rounds a share of it up, to a step of a rate of 0
        args.warmup_steps = 0
    optimizer = _optimizer(args)
    if optimizer is None:
        return
    try:
        schedule = transformers.get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            args.get_warmup_steps(steps),
            steps,
            args.lr_scheduler_kwargs,
        )
    except (ValueError, TypeError) as error:
        raise InputError(f"[training] lr_scheduler_type = {str(args.lr_scheduler_type)!r}: {error}") from error
    if not isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
        return
    if not any(rate(step) > 0 for rate in schedule.lr_lambdas for step in range(steps)):
        raise InputError(
            f"[training] warmup_steps = {args.warmup_steps} of {steps} step(s) leave no step with a learning rate "
            "above 0, so no weight would move; set warmup_steps = 0, or take more steps"
        )


def _optimizer(args: transformers.TrainingArguments) -> torch.optim.Optimizer | None:
    """The optimizer as it would be, of one weight, which says what is wrong with its arguments; None for one that needs
    the model to be made."""
    weight: Any = torch.nn.Parameter(torch.zeros(1))
    try:
        cls, options = transformers.Trainer.get_optimizer_cls_and_kwargs(args)
    except ValueError as error:
        if "pass a" in str(error):  # one made of a model's layers
            return None
        raise
    options = {name: value for name, value in options.items() if name != "optimizer_dict"}
    return cls([weight], **options)
