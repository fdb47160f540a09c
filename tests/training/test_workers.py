"""A data loader's processes that are started anew, not forked, as on macOS, on Windows and from Python 3.14."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_training as run
import torch
import transformers

from rerankkit.training import train

SHORT: dict[str, Any] = {"max_steps": 2, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
PROGRAM = """
import multiprocessing, sys
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    from rerankkit.training import train
    train(sys.argv[2], sys.argv[3])
"""


class Sent(Exception):
    """What was pickled, in place of a training."""


@pytest.mark.regression
def test_data_and_batches_can_be_sent_to_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: transformers.Trainer, **options: Any) -> None:
        raise Sent(pickle.dumps((self.train_dataset, self.data_collator)))

    monkeypatch.setattr(transformers.Trainer, "train", send)
    with pytest.raises(Sent) as caught:
        train(run.recipe(tmp_path / "recipe", SHORT, dev=0), tmp_path / "out")
    assert len(caught.value.args[0]) > 1000


@pytest.mark.parametrize("in_batch", [False, True])
def test_what_makes_batches_is_sent_without_the_model(in_batch: bool) -> None:
    from rerankkit.batches import TrainingCollator, training_batch
    from rerankkit.sampling import TrainingGroups
    from rerankkit.settings import Sampling

    parts, groups = tiny.parts(), [replace(tiny.group(i, 3), labels=[0.0, 1.0, 0.0]) for i in range(4)]
    known = TrainingGroups(groups, Sampling(in_batch_negatives=True), 0).known_positives if in_batch else None
    sent = pickle.dumps(TrainingCollator(parts, known))
    weights = sum(weight.numel() * weight.element_size() for weight in parts.backbone.module.parameters())
    assert len(sent) < weights + len(pickle.dumps(parts.backbone.tokenizer))
    made, expected = pickle.loads(sent)(groups)["batch"], training_batch(parts, groups, known)
    assert torch.equal(made.tokens.ids, expected.tokens.ids) and torch.equal(made.labels, expected.labels)
    assert (made.shared is None) == (expected.shared is None)


@pytest.mark.slow
@pytest.mark.regression
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_processes_that_are_started_anew(tmp_path: Path, method: str) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    saved = []
    for workers in (0, 2):
        recipe = run.recipe(tmp_path / f"recipe-{workers}", {**SHORT, "dataloader_num_workers": workers}, dev=0)
        command = [sys.executable, str(tmp_path / "program.py"), method, str(recipe), str(tmp_path / f"out-{workers}")]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        saved.append(run.weights(tmp_path / f"out-{workers}"))
    assert saved[0] == saved[1]
