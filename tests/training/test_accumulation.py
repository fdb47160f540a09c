"""Batches that are accumulated give the step of one batch, whatever their groups have in unequal numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_training as run
import torch
import transformers

from rerankkit import registry
from rerankkit.training import train

SHORT: dict[str, Any] = {
    "max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "optim": "sgd",
    "learning_rate": 0.1, "lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0,
}  # fmt: skip
LOSSES = [name for name in registry.losses.names() if registry.origin("losses", name).package == "rerankkit"]
OPTIONS: dict[str, dict[str, Any]] = {"lambda_loss.v1": {"weighting": "ndcg_loss2"}, "margin_mse.v1": {"pairs": "all"}}


def trained(at: Path, size: int, loss: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The weights after two steps of four groups each, and the losses that were logged."""
    accumulated = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
    recipe = run.recipe(at / "recipe", {**SHORT, **accumulated}, loss=loss, dev=0, sampling={"group_size": 6})
    rows = [
        {"query": tiny.sentence(i, 4), "docs": [tiny.sentence(90 * i + j, 3 + j) for j in range(2 + i % 5)],
         "labels": [2, 1, *[0] * 5][: 2 + i % 5]}
        for i in range(8)
    ]  # fmt: skip
    (at / "recipe" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    logged: list[float] = []

    class Note(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            logged.extend([logs["loss"]] if "loss" in logs else [])

    with pytest.MonkeyPatch.context() as patch:
        original = transformers.Trainer.train

        def with_note(self: transformers.Trainer, **options: Any) -> Any:
            self.add_callback(Note())
            return original(self, **options)

        patch.setattr(transformers.Trainer, "train", with_note)
        train(recipe, at / "out")
    return transformers.AutoModelForCausalLM.from_pretrained(at / "out" / "backbone").state_dict(), logged


@pytest.mark.regression
@pytest.mark.parametrize(
    "loss",
    ["binary_cross_entropy.v1", "ranknet.v1"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("lambda_loss.v1", "margin_mse.v1", "adr_mse.v1")],
)
def test_four_batches_of_one_are_one_batch_of_four(tmp_path: Path, loss: str) -> None:
    start = transformers.AutoModelForCausalLM.from_pretrained(run.model(tmp_path / "start")).state_dict()
    (whole, logged), (apart, logged_apart) = (trained(tmp_path / str(size), size, loss) for size in (4, 1))
    moved = max(float((whole[name] - start[name]).abs().max()) for name in start)
    differing = max(float((whole[name] - apart[name]).abs().max()) for name in start)
    assert moved > 1e-3
    assert differing < 1e-3 * moved
    assert len(logged) == 2 and logged == pytest.approx(logged_apart, rel=1e-3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (1, 3), (2, 1, 1)])
def test_shares_of_a_step_add_up_to_it(name: str, sizes: tuple[int, ...]) -> None:
    from rerankkit.batches import Step
    from rerankkit.protocols import Batch

    loss, draw = registry.losses.get(name)(**OPTIONS.get(name, {})), torch.Generator().manual_seed(4)
    lengths = torch.tensor([5, 2, 6, 3])
    mask = torch.arange(6) < lengths.unsqueeze(1)
    labels = torch.tensor([[2, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 3, 0, 1, 0], [1, 1, 1, 0, 0, 0.0]])
    scores = torch.randn(4, 6, generator=draw)
    whole = scores.clone().requires_grad_()
    value = loss(whole, labels, mask)
    value.backward()
    first, shares, batches = 0, [], []
    for size in sizes:
        rows = slice(first, first + size)
        width = int(lengths[rows].max())  # a batch is as wide as its widest group
        shares.append(scores[rows, :width].clone().requires_grad_())
        empty: Any = None
        batches.append(Batch(empty, empty, labels=labels[rows, :width], mask=mask[rows, :width]))
        first += size
    values = [step.share(loss, own) for step, own in zip(Step.of_batches(batches), shares, strict=True)]
    mean = torch.stack(values).mean()
    mean.backward()
    assert mean.item() == pytest.approx(value.item(), rel=1e-5)
    assert whole.grad is not None
    padded = [torch.nn.functional.pad(own.grad, (0, 6 - own.shape[1])) for own in shares if own.grad is not None]
    torch.testing.assert_close(torch.cat(padded), whole.grad, rtol=1e-5, atol=1e-7)
