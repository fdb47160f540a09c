"""Whole trainings of tiny encoder rerankers: what is learned, and that settings of the Trainer take effect."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import tiny_training as run
import torch
from test_encoder_training import recipe

from rerankkit import Reranker, train
from rerankkit.errors import InputError
from rerankkit.evaluate import measure, prepare, qrels_of, run_of
from rerankkit.readers.jsonl import Jsonl
from rerankkit.registry import registry
from rerankkit.training import Interrupted
from rerankkit.training.requirements import LIKELIHOOD
from rerankkit.training.trainer import GroupTrainer

KINDS = ["classifier", "linear", "colbert"]
LOSSES = [
    name
    for name in registry.losses.names()
    if name != LIKELIHOOD and registry.origin("losses", name).package == "rerankkit"
]
SHORT: dict[str, Any] = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
IN_BATCH = "in_batch_negatives = true"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[GroupTrainer]:
    """The trainers that were made."""
    made: list[GroupTrainer] = []
    original = GroupTrainer.__init__

    def init(self: GroupTrainer, *args: Any) -> None:
        made.append(self)
        original(self, *args)

    monkeypatch.setattr(GroupTrainer, "__init__", init)
    return made


def history(trainer: GroupTrainer, key: str) -> list[float]:
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def weights(of: Reranker) -> dict[str, torch.Tensor]:
    parts = {"backbone": of.parts.backbone.module, "head": of.parts.head.module}
    return {
        f"{part}.{name}": weight.detach().clone()
        for part, module in parts.items()
        if module is not None
        for name, weight in module.state_dict().items()
    }


def equal(one: Reranker, other: Reranker) -> bool:
    left, right = weights(one), weights(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def measured(of: Reranker, at: Path) -> float:
    groups = prepare(list(Jsonl(str(at / "held_out.jsonl"))))
    return measure(run_of(groups, of.rank_groups(groups)), qrels_of(groups), ["nDCG@10"]).means["nDCG@10"]


@pytest.mark.parametrize(
    ("kind", "sampling", "chunk"),
    [*((kind, "", None) for kind in KINDS), ("colbert", IN_BATCH, None), ("colbert", IN_BATCH, 3), ("linear", "", 3)],
)
def test_held_out_groups_are_ranked_far_better_than_at_the_start(
    kind: str, sampling: str, chunk: int | None, tmp_path: Path, seen: list[GroupTrainer]
) -> None:
    chunked = {"score_chunk": chunk} if chunk else {}
    path = recipe(tmp_path, kind, {**SHORT, "max_steps": 20, **chunked}, sampling=sampling)
    run.write_rows(tmp_path / "held_out.jsonl", 20, negatives=9, start=400)
    torch.manual_seed(5)
    start = Reranker.from_recipe(path)
    start.untrained = False
    before, after = measured(start, tmp_path), measured(train(path, tmp_path / "out"), tmp_path)
    assert before < 0.75
    assert after > max(0.9, before + 0.2)
    losses = history(seen[0], "loss")
    falls = (
        0.95 if kind == "colbert" else 0.6
    )  # the mean of cosines is at most 1, so a softmax of them cannot end near 0
    assert sum(losses[-4:]) < falls * sum(losses[:4])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(kind: str, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((5, 5, 6)):
        path = recipe(tmp_path / str(number), kind, {**SHORT, "seed": seed})
        path.write_text(path.read_text().replace(str(tiny_bert.encoder()), str(tiny_bert.encoder(0.2))))
        found.append(train(path, tmp_path / f"out-{number}"))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_and_recomputed_steps_are_those_of_one_batch(kind: str, tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "gradient_checkpointing": True},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "score_chunk": 3},
    ]
    fixed = {**SHORT, "optim": "sgd", "lr_scheduler_type": "constant", "warmup_steps": 0, "learning_rate": 0.1}
    trained = []
    for number, way in enumerate(ways):
        path = recipe(tmp_path / str(number), kind, {**fixed, **way})
        trained.append(weights(train(path, tmp_path / f"out-{number}")))
    path = recipe(tmp_path / "start", kind, fixed)
    start = weights(Reranker.from_recipe(path))
    moved = [
        name for name in trained[0] if name.startswith("backbone") and not torch.equal(trained[0][name], start[name])
    ]
    assert len(moved) > 10
    for other in trained[1:]:
        for name, weight in trained[0].items():
            torch.testing.assert_close(other[name], weight, atol=2e-5, rtol=1e-4)


def test_autocast_computes_in_bf16_and_compares_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerankkit.heads.maxsim import MaxSim

    kinds: list[tuple[torch.dtype, torch.dtype]] = []
    original = MaxSim.score

    def score(self: MaxSim, hidden: Any, batch: Any) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            probe = self.embed(hidden.states)
        found = original(self, hidden, batch)
        if torch.is_autocast_enabled("cpu"):
            inside = torch.nn.functional.linear(torch.ones(1, 2), torch.ones(1, 2))
            assert inside.dtype == torch.bfloat16
            query = self.embed(hidden.shared)[batch.shared_of]
            with torch.autocast("cpu", enabled=False):
                similar = torch.einsum("rsx,rtx->rst", query, probe)
            similar = similar.masked_fill(~batch.tokens.compared.unsqueeze(1), -torch.inf).amax(2)
            real = batch.shared.compared[batch.shared_of]
            expected = similar.masked_fill(~real, 0.0).sum(1) / real.sum(1)
            torch.testing.assert_close(found[:, 0], expected, atol=1e-6, rtol=1e-6)
            kinds.append((hidden.states.dtype, found.dtype))
        return found

    monkeypatch.setattr(MaxSim, "score", score)
    of = train(recipe(tmp_path, "colbert", {**SHORT, "bf16": True, "use_cpu": True}), tmp_path / "out")
    assert len(kinds) == 4
    assert {found for _, found in kinds} == {torch.float32}
    assert {weight.dtype for weight in of.parts.backbone.module.parameters()} == {torch.float32}


def test_warm_up_and_schedule_are_in_the_log(tmp_path: Path, seen: list[GroupTrainer]) -> None:
    for number, (schedule, expected) in enumerate(
        {
            "linear": [0.0, 0.5, 1.0, 0.75, 0.5, 0.25],
            "constant_with_warmup": [0.0, 0.5, 1.0, 1.0, 1.0, 1.0],
        }.items()
    ):
        settings = {**SHORT, "max_steps": 6, "warmup_steps": 2, "lr_scheduler_type": schedule, "learning_rate": 1e-3}
        train(recipe(tmp_path / str(number), "linear", settings), tmp_path / f"out-{number}")
        assert history(seen[number], "learning_rate") == pytest.approx([1e-3 * part for part in expected])


@pytest.mark.parametrize(("kind", "sampling"), [("classifier", ""), ("linear", ""), ("colbert", IN_BATCH)])
def test_stopped_and_resumed_is_bit_identical(
    kind: str, sampling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_steps": 8, "eval_steps": 4, "save_steps": 4, "score_chunk": 3}
    path = recipe(tmp_path / "recipe", kind, settings, sampling=sampling)
    text = path.read_text()
    for name in (tiny_bert.encoder, tiny_bert.classifier):
        text = text.replace(str(name()), str(name(dropout=0.2)))
    path.write_text(text)
    whole = train(path, tmp_path / "whole")
    steps, original = [0], GroupTrainer.training_step

    def step(self: GroupTrainer, *args: Any, **options: Any) -> torch.Tensor:
        steps[0] += 1
        if steps[0] == 11:  # two batches make a step
            raise Interrupted("stopped")
        return original(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(GroupTrainer, "training_step", step)
        with pytest.raises(Interrupted):
            train(path, tmp_path / "parted")
    assert (tmp_path / "parted.training" / "checkpoint-4").is_dir()
    assert equal(train(path, tmp_path / "parted", resume=True), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_checkpoint_is_what_is_kept(
    kind: str, tmp_path: Path, seen: list[GroupTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_steps": 6, "eval_steps": 2, "save_steps": 2, "save_total_limit": 3}
    path, taken = recipe(tmp_path / "recipe", kind, settings), tmp_path / "taken"
    values = iter([0.2, 0.9, 0.4])

    def evaluate(self: GroupTrainer, *args: Any, **options: Any) -> dict[str, float]:
        metrics = {"eval_nDCG@10": next(values)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(GroupTrainer, "evaluate", evaluate)
    load = GroupTrainer._load_best_model
    monkeypatch.setattr(
        GroupTrainer,
        "_load_best_model",
        lambda self: (shutil.copytree(self.args.output_dir, taken), load(self))[1],
    )
    of = train(path, tmp_path / "out")
    assert seen[0].state.best_global_step == 4
    import safetensors.torch

    for step in (4, 6):
        stored = safetensors.torch.load_file(taken / f"checkpoint-{step}" / "trained.safetensors")
        present = {**dict(of.parts.backbone.module.named_parameters(prefix="backbone"))}
        same = all(torch.equal(stored[name], weight) for name, weight in present.items())
        assert same is (step == 4)


@pytest.mark.parametrize("kind", ["classifier", pytest.param("colbert", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_every_kind(kind: str, loss: str, tmp_path: Path, seen: list[GroupTrainer]) -> None:
    path = recipe(tmp_path, kind, {**SHORT, "score_chunk": 3})
    path.write_text(path.read_text().replace("softmax_cross_entropy.v1", loss))
    start = weights(Reranker.from_recipe(path))
    trained = weights(train(path, tmp_path / "out"))
    assert all(0 < norm < 1e6 for norm in history(seen[0], "grad_norm"))
    assert any(not torch.equal(trained[name], start[name]) for name in start if name.startswith("backbone"))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for number, chunk in enumerate((0, -1)):
        path = recipe(tmp_path / f"chunk-{number}", "linear", {**SHORT, "score_chunk": chunk})
        with pytest.raises(InputError, match=rf"score_chunk = {chunk} must be at least 1"):
            train(path, tmp_path / "out")
    path = recipe(tmp_path / "both", "linear", {**SHORT, "num_train_epochs": 3})
    with pytest.raises(InputError, match=r"max_steps = 2 wins over num_train_epochs = 3"):
        train(path, tmp_path / "out")
    path = recipe(tmp_path / "in-batch", "linear", SHORT, sampling=IN_BATCH)
    with pytest.raises(InputError, match="in_batch_negatives needs a head"):
        train(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.training").exists()


POSITIVES = '{"query": "open a file", "positive": ["a good one"]}\n{"query": "sort a list", "positive": ["another"]}\n'


@pytest.mark.parametrize(
    ("kind", "loss", "sampling", "batch", "learns"),
    [
        ("linear", "softmax_cross_entropy.v1", "", 2, False),
        ("linear", "ranknet.v1", "", 2, False),
        ("linear", "binary_cross_entropy.v1", "", 2, True),
        ("linear", "mse.v1", "", 2, True),
        ("linear", "softmax_cross_entropy.v1", "random_negatives = 1", 2, True),
        ("colbert", "softmax_cross_entropy.v1", IN_BATCH, 2, True),
        ("colbert", "softmax_cross_entropy.v1", IN_BATCH, 1, False),
    ],
)
def test_data_without_any_negative_trains_only_what_can_learn_from_it(
    kind: str, loss: str, sampling: str, batch: int, learns: bool, tmp_path: Path, seen: list[GroupTrainer]
) -> None:
    settings = {**SHORT, "max_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": batch}
    settings["gradient_accumulation_steps"] = 1
    path = recipe(tmp_path, kind, settings, sampling=sampling)
    path.write_text(path.read_text().replace("softmax_cross_entropy.v1", loss))
    (tmp_path / "train.jsonl").write_text(POSITIVES)
    if learns:
        train(path, tmp_path / "out")
        assert history(seen[0], "grad_norm")[0] > 1e-3
        return
    with pytest.raises(
        InputError, match=rf"^\[data.train\] no group has a negative document, and {loss} learns nothing"
    ):
        train(path, tmp_path / "out")
    assert seen == [] and not (tmp_path / "out.training").exists()
