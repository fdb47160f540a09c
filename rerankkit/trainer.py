"""Binds a reranker to transformers' Trainer: groups in, ranking measures out, checkpoints that can be trusted."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from transformers.trainer_utils import rotate_checkpoints

from rerankkit import engine
from rerankkit.checkpoints import is_complete, seal
from rerankkit.engine import Parts
from rerankkit.errors import RunError
from rerankkit.evaluate import measure, qrels_of, run_of
from rerankkit.protocols import Batch, Group, Loss, Order, Ranked
from rerankkit.sampling import EpochSampler, TrainingGroups, score_matrix, training_batch
from rerankkit.settings import Engine, Evaluation

logger = logging.getLogger("rerankkit")
WEIGHTS = "trained.safetensors"


class TrainingModule(torch.nn.Module):
    """The weights of a reranker's parts as one module, whose forward is the loss."""

    def __init__(self, parts: Parts, loss: Loss) -> None:
        super().__init__()
        self.parts = parts
        self.backbone = parts.backbone.module
        if parts.head.module is not None:
            self.head = parts.head.module
        self.loss = loss

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        assert batch.labels is not None and batch.mask is not None
        scores = score_matrix(engine.forward(self.parts, batch), batch)
        return {"loss": self.loss(scores, batch.labels, batch.mask), "scores": scores}

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute activations in the backward pass; a prefix's state cannot be kept then, so none is shared."""
        self.parts.backbone.shares_prefix = False
        self.backbone.enable_input_require_grads()
        self.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    def trained_weights(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}


class GroupTrainer(transformers.Trainer):
    """transformers' Trainer on groups: it draws them by epoch, measures rankings, and seals its checkpoints."""

    def __init__(
        self,
        module: TrainingModule,
        args: transformers.TrainingArguments,
        train: TrainingGroups,
        dev: Sequence[Group],
        settings: Engine,
        evaluation: Evaluation,
    ) -> None:
        self._sampler = EpochSampler(len(train), args.data_seed if args.data_seed is not None else args.seed)
        self._dev, self._settings, self._evaluation = dev, settings, evaluation
        super().__init__(
            model=module,
            args=args,
            train_dataset=train,
            eval_dataset=train if dev else None,  # only says that there is something to evaluate on
            data_collator=lambda groups: {"batch": training_batch(module.parts, groups)},
        )
        self.remove_callback(transformers.PrinterCallback)
        self.add_callback(_SetEpoch(self._sampler))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = model(**inputs)["loss"]
        if not torch.isfinite(loss):
            raise RunError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; lower learning_rate, or use bf16 "
                "or fp32 instead of fp16. The last checkpoint is from before it"
            )
        return loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rank the dev groups with the weights as they are now."""
        module = self.accelerator.unwrap_model(self.model)
        module.eval()
        rank, world = self.args.process_index, self.args.world_size
        orders, _ = engine.run(module.parts, list(self._dev)[rank::world], self._settings)
        module.train()
        rankings = [[Ranked(*ranked, "") for ranked in order] for order in _gathered(orders, world)]
        measures = self._evaluation.measures
        found = measure(run_of(self._dev, rankings), qrels_of(self._dev), measures)
        metrics = {f"{metric_key_prefix}_{name}": found.means[name] for name in measures}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[has-type]
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self._sampler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights = self.accelerator.unwrap_model(self.model).trained_weights()
        safetensors.torch.save_file({n: w.detach().cpu().contiguous() for n, w in weights.items()}, folder / WEIGHTS)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Seal the new checkpoint before an older one may go: at every moment one complete checkpoint exists."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")
            rotate_checkpoints(
                output_dir=self.args.output_dir,
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._load_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_weights(self, folder: Path) -> None:
        if not is_complete(folder):
            raise RunError(f"{folder} is damaged or incomplete; remove it and resume from an older checkpoint")
        stored = safetensors.torch.load_file(folder / WEIGHTS)
        present = self.accelerator.unwrap_model(self.model).trained_weights()
        if stored.keys() != present.keys():
            odd = sorted(stored.keys() ^ present.keys())
            raise RunError(
                f"{folder} was written for other weights ({len(odd)} differ, such as {odd[0]}); was the recipe changed?"
            )
        with torch.no_grad():
            for name, weight in present.items():
                weight.copy_(stored[name])


def _gathered(orders: list[Order], world: int) -> list[Order]:
    """Every process's orders, in the order of the groups they were dealt from."""
    if world == 1:
        return orders
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, orders)
    return [shares[i % world][i // world] for i in range(sum(map(len, shares)))]


class _SetEpoch(transformers.TrainerCallback):
    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._sampler.epoch = int(state.epoch or 0)


class StopOnInterrupt(transformers.TrainerCallback):
    """Ctrl-C ends training after the step under way, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> StopOnInterrupt:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *reason: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._before)
        logger.warning("finishing this step, then saving a checkpoint; press Ctrl-C again to stop at once")

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True
