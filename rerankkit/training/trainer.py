"""Binds a reranker to transformers' Trainer: groups in, ranking measures out, checkpoints that can be trusted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch.utils.checkpoint import checkpoint

from rerankkit import engine
from rerankkit.batches import Known, Step, TrainingCollator, chunks_of_rows, score_matrix, wide_score_matrix
from rerankkit.checkpoints import ORIGIN, is_complete, rotate, seal
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import measure, qrels_of, run_of
from rerankkit.protocols import Batch, Group, LateInteraction, Loss, Order
from rerankkit.sampling import EpochSampler, TrainingGroups
from rerankkit.settings import Engine, Evaluation
from rerankkit.training.callbacks import BeforeEpoch
from rerankkit.warnings import collecting, warn

WEIGHTS = "trained.safetensors"
RATES = ("initial_lr", "weight_decay", "betas", "eps", "momentum")
"""What of an optimizer's groups is the recipe's; the rest may be its state."""


class TrainingModule(torch.nn.Module):
    """The weights of a reranker's parts as one module, whose forward is the loss.

    Args:
        score_chunk: How many prompts are scored at once. Each chunk's activations are dropped once it is scored, and
            computed again, with the same random state, when the loss has said what each score is worth: GradCache
            (Gao et al. 2021, arXiv 2101.06983) for any loss. None keeps the whole batch's.
        in_batch: Score every query with the documents of all groups.
    """

    def __init__(self, parts: Parts, loss: Loss, score_chunk: int | None = None, in_batch: bool = False) -> None:
        super().__init__()
        if in_batch and not isinstance(parts.head, LateInteraction):
            raise InputError(
                "[sampling] in_batch_negatives needs a head that compares every query with every document, such as "
                "maxsim.v1; for other heads random_negatives draws documents of other queries"
            )
        self._score_chunk, self._in_batch = score_chunk, in_batch
        self.parts = parts
        self.backbone = parts.backbone.module
        if parts.head.module is not None:
            self.head = parts.head.module
        self.loss = loss
        self._can_share = parts.backbone.shares_prefix
        self._recomputes = False

    def forward(self, batch: Batch, step: Step | None = None) -> dict[str, torch.Tensor]:
        """The loss of a batch and its scores [groups, docs].

        Args:
            step: What the batch is a part of, where more than one makes an optimizer's step.
        """
        assert batch.labels is not None and batch.mask is not None
        scores = self._scores(batch)
        matrix = wide_score_matrix(scores, batch) if self._in_batch else score_matrix(scores, batch)
        loss = self.loss(matrix, batch.labels, batch.mask) if step is None else step.share(self.loss, matrix)
        return {"loss": loss, "scores": matrix}

    def _scores(self, batch: Batch) -> torch.Tensor:
        """[rows, docs asked], or with in-batch negatives [queries, rows]."""
        if self._score_chunk is None:
            return self._score(batch)
        chunks = list(chunks_of_rows(batch, self._score_chunk))
        found = []
        for rows in chunks:
            chunk = batch.take(rows, all_shared=self._in_batch)
            # the tensor beside it tells checkpoint which device's random state to keep
            found.append(checkpoint(lambda _, some: self._score(some), chunk.tokens.ids, chunk, use_reentrant=False))
        return torch.cat(found, int(self._in_batch)).index_select(int(self._in_batch), torch.cat(chunks).argsort())

    def _score(self, batch: Batch) -> torch.Tensor:
        return engine.forward_all(self.parts, batch) if self._in_batch else engine.forward(self.parts, batch)

    def train(self, mode: bool = True) -> TrainingModule:
        """Where activations are recomputed, a prefix's state cannot be kept: training shares none, ranking does."""
        self.parts.backbone.shares_prefix = self._can_share and not (mode and self._recomputes)
        super().train(mode)
        return self

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recompute activations in the backward pass."""
        self._recompute()
        self.backbone.activation_checkpointing_enable(activation_checkpointing_kwargs, every_n_layers, offload)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """The same under the name that transformers knew before 5.23."""
        self._recompute()
        self.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    def _recompute(self) -> None:
        self._recomputes = True
        self.train()  # the first batch is made before the Trainer's first step says so
        self.backbone.enable_input_require_grads()

    def trained_weights(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def digest(self) -> list[float]:
        """Two sums of each weight that is trained: weights that were moved have others."""
        sums = [
            (weight.sum(dtype=torch.float64), torch.linalg.vector_norm(weight, dtype=torch.float64))
            for weight in (weight.detach() for weight in self.trained_weights().values())
        ]
        return [float(value) for pair in sums for value in pair]

    def require_finite(self, step: int) -> None:
        """Refuse weights that are no numbers, which a finite loss may have led to."""
        for name, weight in self.trained_weights().items():
            if not torch.isfinite(weight).all():
                raise RunError(f"the weights {name} are not finite after step {step}; lower learning_rate")


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
        known: Known | None = None,
        origin: Mapping[str, str] | None = None,
    ) -> None:
        self._origin = dict(origin or {})
        self._sampler = EpochSampler(len(train), args.data_seed if args.data_seed is not None else args.seed)
        self._dev, self._settings, self._evaluation = dev, settings, evaluation
        self._measured = False
        # left to the Trainer, it would delete older checkpoints before the new one is sealed
        self._save_total_limit, args.save_total_limit = args.save_total_limit, None
        super().__init__(
            model=module,
            args=args,
            train_dataset=train,
            eval_dataset=train if dev else None,  # only says that there is something to evaluate on
            data_collator=TrainingCollator(module.parts, known),
        )
        self.remove_callback(transformers.PrinterCallback)
        self.add_callback(BeforeEpoch(self._sampler))

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        """The batches of one step; where they are several, each learns of the others what a mean over all takes."""
        samples, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if samples and len(samples) * self.args.world_size > 1:
            steps = Step.of_batches([sample["batch"] for sample in samples], self.args.world_size)
            samples = [{**sample, "step": step} for sample, step in zip(samples, steps, strict=True)]
        return samples, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(**inputs)
        if not torch.isfinite(outputs["loss"]):
            raise RunError(
                f"the loss became {outputs['loss'].item()} at step {self.state.global_step + 1}; lower learning_rate, "
                "or use bf16 or fp32 instead of fp16. The last checkpoint, if there is one, is from before it"
            )
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rank the dev groups with the weights as they are now; each process ranks its share."""
        module = self.accelerator.unwrap_model(self.model)
        rank, world = self.args.process_index, self.args.world_size
        module.eval()
        with collecting(passed_on=not self._measured):  # each time of the same documents
            orders, _ = engine.run(module.parts, list(self._dev)[rank::world], self._settings)
        self._measured = True
        module.train()
        measures = self._evaluation.measures
        found = measure(run_of(self._dev, _gathered(orders, world)), qrels_of(self._dev), measures)
        metrics = {f"{metric_key_prefix}_{name}": found.means[name] for name in measures}
        self.log(dict(metrics))  # the Trainer adds to what it logs
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)  # type: ignore[has-type]
        return metrics

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self._sampler

    def _run_epoch(self, **rest: Any) -> None:
        """The Trainer would train on when resumed from the checkpoint of its last step, inside an epoch."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**rest)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        module = self.accelerator.unwrap_model(self.model)
        module.require_finite(self.state.global_step)
        weights = {name: weight.detach().cpu().contiguous() for name, weight in module.trained_weights().items()}
        safetensors.torch.save_file(weights, folder / WEIGHTS)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Seal the new checkpoint before an older one may go: at every moment one complete checkpoint exists."""
        folder = self._checkpoint(self.state.global_step)
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)  # an earlier training's, found incomplete
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / ORIGIN).write_text(json.dumps(self._origin, indent=1), encoding="utf-8")
                seal(folder)
        except RunError:
            raise
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"the checkpoint {folder} could not be written ({str(error).splitlines()[0]}); is the disk full? "
                "Older checkpoints are as they were: free some space, then the same command and --resume"
            ) from error
        if self.args.should_save:
            best = self.state.best_global_step if self.args.load_best_model_at_end else None
            rotate(folder, self._checkpoint(best) if best else None, self._save_total_limit)

    def _checkpoint(self, step: int) -> Path:
        return Path(self.args.output_dir) / f"checkpoint-{step}"

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the checkpoint's state of each weight, and with the recipe's own rates, which may be others."""
        if checkpoint is None:
            return
        rates = [{key: group[key] for key in RATES if key in group} for group in self.optimizer.param_groups]
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (KeyError, ValueError) as error:
            raise RunError(
                f"the optimizer's state in {checkpoint} is another optimizer's ({error}); resume with the same "
                "[training] optim and optim_args, or start anew with --overwrite"
            ) from error
        for group, own in zip(self.optimizer.param_groups, rates, strict=True):
            group.update(own)
        schedule = self.lr_scheduler
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):
            schedule.base_lrs = [group["initial_lr"] for group in self.optimizer.param_groups]
            rate_of = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            schedule._last_lr = [base * factor(schedule.last_epoch) for base, factor in rate_of]
            for group, rate in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        world = self.args.world_size
        name = f"rng_state_{self.args.process_index}.pth" if world > 1 else "rng_state.pth"
        if checkpoint is not None and not (Path(checkpoint) / name).is_file():
            warn("random_states_missing", f"that of process {self.args.process_index} of {world} in {checkpoint}")
        super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        if self.state.global_step >= self.state.max_steps:  # else it was interrupted, and will go on from its last
            self._load_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_weights(self, folder: Path) -> None:
        if not is_complete(folder):
            raise RunError(f"{folder} is damaged or incomplete; remove it, then the same command and --resume")
        stored = safetensors.torch.load_file(folder / WEIGHTS)
        present = self.accelerator.unwrap_model(self.model).trained_weights()
        odd = [
            name
            for name in sorted(stored.keys() | present.keys())
            if name not in stored or name not in present or stored[name].shape != present[name].shape
        ]
        if odd:
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
