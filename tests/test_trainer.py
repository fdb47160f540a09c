"""What the Trainer is given: the loss of whole prompts, their gradients, ranking measures, trustworthy weights."""

import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from rerankkit import engine
from rerankkit.batches import training_batch
from rerankkit.checkpoints import seal
from rerankkit.engine import Parts
from rerankkit.errors import RunError
from rerankkit.evaluate import measure, prepare, qrels_of, run_of
from rerankkit.lora import Lora
from rerankkit.losses.binary_cross_entropy import BinaryCrossEntropy
from rerankkit.losses.ranknet import RankNet
from rerankkit.losses.softmax_cross_entropy import SoftmaxCrossEntropy
from rerankkit.protocols import Group
from rerankkit.sampling import TrainingGroups
from rerankkit.settings import Engine, Evaluation, Sampling
from rerankkit.training.callbacks import StopOnInterrupt
from rerankkit.training.trainer import GroupTrainer, TrainingModule, _gathered

Rows = list[tuple[list[float], list[float]]]


def labelled(count: int = 8, docs: int = 4) -> list[Group]:
    """Groups whose first document is the relevant one; of different sizes."""
    made = [tiny.group(i, docs - i % 2) for i in range(count)]
    return [replace(group, labels=[1.0] + [0.0] * (len(group.docs) - 1)) for group in made]


def trainer(
    tmp_path: Path, parts: Parts, loss: Any = None, groups: list[Group] | None = None, dev: int = 0, **training: Any
) -> GroupTrainer:
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path / "work"),
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        **{"per_device_train_batch_size": 2, "max_steps": 4, "save_strategy": "no", "learning_rate": 1e-2, **training},
    )
    data = TrainingGroups(groups or labelled(), Sampling(group_size=4), seed=0)
    module = TrainingModule(parts, loss or SoftmaxCrossEntropy())
    return GroupTrainer(module, args, data, prepare(labelled(dev)), Engine(), Evaluation())


def softmax(groups: Rows) -> float:
    def one(scores: list[float], labels: list[float]) -> float:
        log_total = math.log(sum(math.exp(score) for score in scores))
        return -sum(y / sum(labels) * (score - log_total) for score, y in zip(scores, labels, strict=True))

    return sum(one(*group) for group in groups) / len(groups)


def ranknet(groups: Rows) -> float:
    pairs = [
        math.log(1 + math.exp(worse - better))
        for scores, labels in groups
        for better, high in zip(scores, labels, strict=True)
        for worse, low in zip(scores, labels, strict=True)
        if high > low
    ]
    return sum(pairs) / len(pairs)


def cross_entropy(groups: Rows) -> float:
    terms = [
        math.log(1 + math.exp(-score if y else score))
        for scores, labels in groups
        for score, y in zip(scores, labels, strict=True)
    ]
    return sum(terms) / len(terms)


NAIVE: dict[str, tuple[Any, Callable[[Rows], float]]] = {
    "softmax": (SoftmaxCrossEntropy(), softmax),
    "ranknet": (RankNet(), ranknet),
    "binary": (BinaryCrossEntropy(), cross_entropy),
}


@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_loss_is_that_of_single_documents_forwards(architecture: str, lora: Lora | None) -> None:
    backbone = tiny.backbone(architecture, lora=lora)
    for name, weight in backbone.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    parts = tiny.parts(of=backbone)
    groups = TrainingGroups(labelled(), Sampling(group_size=4), seed=0)
    drawn = [groups[1, number] for number in (3, 0, 6)]
    scored = [(tiny.naive_scores(parts, group), group.labels or []) for group in drawn]
    batch = training_batch(parts, drawn)
    assert batch.shared is not None  # what a group's prompts share is read once in training, too
    for loss, naive in NAIVE.values():
        found = TrainingModule(parts, loss)(batch)
        assert found["loss"].item() == pytest.approx(naive(scored), abs=1e-4)
    width = max(len(scores) for scores, _ in scored)
    expected = [[*scores, *[0.0] * (width - len(scores))] for scores, _ in scored]
    torch.testing.assert_close(found["scores"], torch.tensor(expected), atol=1e-4, rtol=0)


def gradients(architecture: str, lora: Lora | None, recompute: dict[str, Any] | None) -> tuple[dict[str, Any], int]:
    """The gradient of every trained weight, and how often a decoder layer was run."""
    torch.manual_seed(3)
    parts = tiny.parts(of=tiny.backbone(architecture, lora=lora))
    module = TrainingModule(parts, SoftmaxCrossEntropy())
    assert parts.backbone.shares_prefix
    if recompute is not None:
        module.activation_checkpointing_enable(recompute or None)
    runs = []
    parts.backbone.model.get_decoder().layers[1].mlp.register_forward_pre_hook(lambda *_: runs.append(1))  # type: ignore[attr-defined]
    batch = training_batch(parts, labelled(3))
    assert (batch.shared is None) == (recompute is not None)
    module.eval()
    module(batch)  # what the backbone checks at its first use is not counted
    module.train()
    runs.clear()
    module(batch)["loss"].backward()
    found = {name: weight.grad for name, weight in module.trained_weights().items() if weight.grad is not None}
    assert any(grad.any() for grad in found.values())
    module.eval()
    assert parts.backbone.shares_prefix  # ranking shares prefixes again
    module.train()
    assert parts.backbone.shares_prefix == (recompute is None)
    return found, len(runs)


@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("kind", [{}, {"use_reentrant": True}], ids=["usual", "reentrant"])
def test_recomputed_activations_give_the_same_gradients(lora: Lora | None, kind: dict[str, Any]) -> None:
    plain, _ = gradients("qwen3", lora, None)
    recomputed, runs = gradients("qwen3", lora, kind)
    assert runs == 2  # forward, and again for the backward pass
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-5, rtol=1e-4)


def test_an_older_transformers_name_for_recomputing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = tiny.parts()
    module, given = TrainingModule(parts, SoftmaxCrossEntropy()), []
    monkeypatch.setattr(parts.backbone.module, "gradient_checkpointing_enable", given.append)
    module.gradient_checkpointing_enable({"use_reentrant": False})
    assert given == [{"use_reentrant": False}]
    assert not parts.backbone.shares_prefix


def test_accumulated_batches_make_the_step_of_one_batch(tmp_path: Path) -> None:
    weights = []
    for number, (size, steps) in enumerate([(4, 1), (2, 2), (1, 4)]):
        made = trainer(
            tmp_path / str(number),
            tiny.parts(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            max_grad_norm=0,
        )
        made.train()
        weights.append({name: weight.detach().clone() for name, weight in made.model.trained_weights().items()})
    before = TrainingModule(tiny.parts(), SoftmaxCrossEntropy()).trained_weights()
    assert any(not torch.equal(weights[0][name], before[name]) for name in before)
    for other in weights[1:]:
        for name, weight in weights[0].items():
            torch.testing.assert_close(other[name], weight, atol=1e-6, rtol=1e-5)


def test_measures_are_those_of_ranking_with_the_weights_as_they_are(tmp_path: Path) -> None:
    backbone = tiny.backbone("qwen3", lora=Lora(r=4, lora_dropout=0.9))
    for name, weight in backbone.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    parts = tiny.parts(of=backbone)
    made = trainer(tmp_path, parts, dev=20)
    made.model.train()
    found = made.evaluate()
    assert made.model.training
    made.model.eval()
    dev = prepare(labelled(20))
    orders, _ = engine.run(parts, dev, Engine())
    expected = measure(run_of(dev, orders), qrels_of(dev), ["nDCG@10", "RR@10"]).means
    assert found == {f"eval_{name}": expected[name] for name in ("nDCG@10", "RR@10")}
    assert 0.3 < found["eval_RR@10"] < 0.9


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_of_all_processes_are_put_back_in_order(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [[(number, 0.5)] for number in range(7)]

    def gather(shares: list[Any], mine: Any) -> None:
        assert mine == orders[::world]
        shares[:] = [orders[rank::world] for rank in range(world)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert _gathered(orders[::world], world) == orders


class BrokenAfter:
    """A loss that is no number from some call on."""

    def __init__(self, calls: int, value: float) -> None:
        self.left, self.value = calls, value

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return scores.sum() * (1.0 if self.left >= 0 else self.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, value: float) -> None:
    made = trainer(tmp_path, tiny.parts(), BrokenAfter(2, value), learning_rate=0.0)
    with pytest.raises(RunError, match=r"the loss became -?(nan|inf) at step 3; lower learning_rate") as caught:
        made.train()
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    made = trainer(tmp_path, tiny.parts(), save_strategy="steps", save_steps=2, learning_rate=1e38, optim="sgd")
    with pytest.raises(RunError, match=r"not finite after step|the loss became") as caught:
        made.train()
    assert "learning_rate" in str(caught.value)
    assert not list((tmp_path / "work").glob("checkpoint-*/complete.json"))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_all_trained_weights_come_back_tied_ones_too(tmp_path: Path, architecture: str) -> None:
    made = trainer(tmp_path, tiny.parts(architecture))
    folder = tmp_path / "checkpoint-1"
    made._save(str(folder))
    seal(folder)
    before = {name: weight.detach().clone() for name, weight in made.model.state_dict().items()}
    for weight in made.model.parameters():
        torch.nn.init.normal_(weight)
    made._load_weights(folder)
    assert made.model.state_dict().keys() == before.keys()
    for name, weight in made.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_weights_of_another_recipe_are_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, tiny.parts(of=tiny.backbone("qwen3", lora=Lora(r=4))))
    folder = tmp_path / "checkpoint-1"
    made._save(str(folder))
    with pytest.raises(RunError, match="checkpoint-1 is damaged or incomplete"):
        made._load_weights(folder)
    seal(folder)
    made._load_weights(folder)
    for lora in (None, Lora(r=1), Lora(r=4, target_modules=["q_proj"])):
        other = trainer(tmp_path, tiny.parts(of=tiny.backbone("qwen3", lora=lora)))
        with pytest.raises(RunError, match="was written for other weights .* was the recipe changed"):
            other._load_weights(folder)


def test_a_second_ctrl_c_stops_at_once(caplog: pytest.LogCaptureFixture) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored
    with StopOnInterrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert not stop.stopped  # the step goes on
        assert "finishing this step" in caplog.text
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_resuming_from_the_last_step_trains_no_further(tmp_path: Path) -> None:
    """Its rate is not nothing, as it would be at the end of a cosine."""
    weights = []
    for checkpoint in (None, tmp_path / "work" / "checkpoint-3"):
        made = trainer(
            tmp_path, tiny.parts(), save_strategy="steps", save_steps=3, max_steps=3, lr_scheduler_type="constant"
        )
        made.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        assert made.state.global_step == 3 < len(made.get_train_dataloader())
        weights.append(made.model.trained_weights())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[1][name], weight) for name, weight in weights[0].items())
