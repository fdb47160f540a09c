"""What is done beside the steps: the epoch's draw, lines for the user, Ctrl-C, and whether anything is learned."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.trainer_callback import ExportableState

from rerankkit.checkpoints import is_complete
from rerankkit.errors import RunError
from rerankkit.progress import Bar
from rerankkit.sampling import EpochSampler
from rerankkit.warnings import warn

logger = logging.getLogger("rerankkit")
PATIENCE = 100
"""After how many steps without any gradient a training ends."""
NOTHING = (
    "all gradients were 0 in each of {steps} steps, so nothing was learned and nothing is saved: do documents keep "
    "tokens of their own in the prompts (rerankkit preview), and do their labels differ?"
)


class BeforeEpoch(transformers.TrainerCallback):
    """Tells the sampler which epoch begins, and a resumed training when its best checkpoint is lost."""

    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if not (args.load_best_model_at_end and state.best_global_step):
            return
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if is_complete(best):
            state.best_model_checkpoint = str(best)  # the folder may have moved since it was written
            return
        warn("best_checkpoints_lost", str(best))
        state.best_global_step = state.best_metric = state.best_model_checkpoint = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._sampler.epoch = int(state.epoch or 0)


class StopOnInterrupt(transformers.TrainerCallback):
    """Ctrl-C ends training after the step under way, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.stopped = False
        self._asked = False
        self._saved = -1
        self._process = os.getpid()
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> StopOnInterrupt:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *reason: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: Any) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, self._before)
        if os.getpid() == self._process:  # a data loader's worker inherits the handler
            logger.warning("finishing this step, then saving a checkpoint; press Ctrl-C again to stop at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if _anywhere(self._asked, args):
            self.stopped = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._saved = state.global_step

    def on_epoch_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The Trainer says so wherever it stops; inside an epoch, an uninterrupted training would not measure here."""
        if self.stopped:
            if state.epoch != int(state.epoch) and state.global_step < state.max_steps:
                control.should_evaluate = False
            control.should_save = self._saved != state.global_step


def _anywhere(flag: bool, args: Any) -> bool:
    """Whether any process was told to stop: all have to stop after the same step."""
    if args.world_size == 1:
        return flag
    flags = torch.tensor(float(flag), device=args.device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)


class Report(transformers.TrainerCallback):
    """One line for each log and each evaluation."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._bar.start(state.max_steps, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._bar.move_to(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        self._bar.say(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  "
            f"learning rate {logs['learning_rate']:.2e}  gradient norm {logs.get('grad_norm', float('nan')):.2f}"
        )

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **rest: Any) -> None:
        if state.is_world_process_zero:
            values = "  ".join(f"{name.removeprefix('eval_')} {value:.4f}" for name, value in metrics.items())
            self._bar.say(f"step {state.global_step}/{state.max_steps}  validation  {values}")


class Gradients(transformers.TrainerCallback, ExportableState):
    """Whether any step had a gradient, before a resume too; ends a training whose gradients are no numbers."""

    def __init__(self) -> None:
        self.some = False

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"some": self.some}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        kept = state.stateful_callbacks.setdefault("Gradients", {"args": {}, "attributes": {"some": True}})
        if state.global_step:  # a checkpoint of an older version does not say
            self.some = kept["attributes"]["some"]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        norm = float(torch.nn.utils.get_total_norm([w.grad for w in model.parameters() if w.grad is not None]))
        self.some |= math.isfinite(norm) and norm > 0
        if not self.some and state.global_step >= PATIENCE and not args.fp16:
            raise RunError(NOTHING.format(steps=state.global_step))
        if not math.isfinite(norm) and not args.fp16:  # where it is the scaler that steps over such
            raise RunError(
                f"the gradients became {norm} at step {state.global_step + 1}; lower learning_rate, or use fp32. The "
                "last checkpoint, if there is one, is from before it"
            )
