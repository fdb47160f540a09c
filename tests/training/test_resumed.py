"""A resumed training: the recipe's rates are in force, and other data or another optimizer are refused."""

from pathlib import Path
from typing import Any

import pytest
import tiny_training as run

from rerankkit.errors import InputError, RunError
from rerankkit.training import train


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe of a training that ended after its first checkpoint, that of step 3."""
    import transformers

    recipe = run.recipe(tmp_path / "recipe")
    original, calls = transformers.Trainer.training_step, 0

    def step(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise RunError("stopped here")
        return original(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(RunError, match="stopped here"):
        patch.setattr(transformers.Trainer, "training_step", step)
        train(recipe, tmp_path / "out")
    return recipe


@pytest.mark.regression
def test_another_learning_rate_is_in_force(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    rates: list[float] = []
    original = transformers.Trainer.log

    def log(self: transformers.Trainer, logs: dict[str, float], *rest: Any) -> None:
        rates.extend([logs["learning_rate"]] if "learning_rate" in logs else [])
        original(self, logs, *rest)

    monkeypatch.setattr(transformers.Trainer, "log", log)
    changed = {"training.learning_rate": 1e-4, "training.weight_decay": 0.5}
    train(stopped, stopped.parent.parent / "out", changed, resume=True)
    import math

    expected = [1e-4 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 7)) for step in range(3, 9)]
    assert rates == pytest.approx(expected, rel=1e-6)


@pytest.mark.regression
def test_another_optimizer_is_refused(stopped: Path) -> None:
    with pytest.raises(InputError, match="was trained by optim = 'adamw_.*whose state 'sgd' cannot go on with"):
        train(stopped, stopped.parent.parent / "out", {"training.optim": "sgd"}, resume=True)


@pytest.mark.regression
@pytest.mark.parametrize("split", ["train", "dev"])
def test_changed_data_is_refused(stopped: Path, split: str) -> None:
    path = stopped.parent / f"{split}.jsonl"
    text = path.read_text()
    path.write_text(text.replace("open", "opens", 1))
    with pytest.raises(InputError, match=rf"\[data.{split}\] gives other groups than those"):
        train(stopped, stopped.parent.parent / "out", resume=True)
    path.write_text(text)
    assert not train(stopped, stopped.parent.parent / "out", resume=True).untrained
