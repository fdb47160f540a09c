"""Two processes under torchrun: one result, written once, killed and interrupted as one process would be."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_bert
import tiny_training as run
import torch
from safetensors.torch import load_file

from rerankkit.checkpoints import checkpoints, is_complete, step
from rerankkit.recipe import read

pytestmark = pytest.mark.slow
SCRIPT = """
import hashlib, os, sys
from pathlib import Path
import torch
import tiny_training as run
import rerankkit

recipe, output, resume, kill = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "resume", int(sys.argv[4])
rank = os.environ.get("RANK", "0")
if kill and rank == "1":
    run.kill("rerankkit.training.trainer:GroupTrainer", "compute_loss", kill)
if __name__ == "__main__":
    reranker = rerankkit.train(recipe, output, resume=resume)
    digest = hashlib.sha256()
    for name, weight in sorted(reranker.parts.backbone.module.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    (output.parent / f"{output.name}-{rank}.hash").write_text(digest.hexdigest())
    assert (output / "origin.json").is_file()  # no process goes on before the model is there
"""


def start(
    at: Path, recipe: Path, name: str, processes: int, resume: bool = False, kill: int = 0, launched: bool = False
) -> subprocess.Popen:
    """Under torchrun where there are several processes, or one is to be `launched` so."""
    script = at / "train.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parent.parent
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    arguments = [str(recipe), str(at / name), "resume" if resume else "anew", str(kill)]
    paths = os.pathsep.join([str(root), str(root / "kernels"), str(root / "tests")])
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 or launched else []), str(script), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    said = process.communicate(timeout=300)[1]
    return process.returncode, said


def recipe_of(at: Path, **training: Any) -> Path:
    return run.recipe(at / "recipe", {"gradient_accumulation_steps": 1, **training}, groups=16, dev=7)


RATES = {"causal": 0.02, "classifier": 0.2, "linear": 1.0, "colbert": 0.1}
"""Learning rates at which nine steps move the weights by far more than sums differ."""


@pytest.mark.parametrize("kind", RATES)
def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path, kind: str) -> None:
    """To 1e-5 in every weight after nine steps of gradient descent: only the order of sums differs."""
    sgd = {"optim": "sgd", "learning_rate": RATES[kind]}
    found, before = {}, {}
    for processes, size in ((2, 2), (1, 4)):
        recipe = recipe_of(tmp_path / str(processes), **sgd, per_device_train_batch_size=size)
        if kind != "causal":
            text = recipe.read_text()
            recipe.write_text(tiny_bert.model_sections(kind) + text[text.index("[data]") :])
        before = stored(Path(read(recipe).get("model.backbone")["name"]))
        code, said = finish(start(tmp_path, recipe, f"out-{processes}", processes))
        assert code == 0, said
        found[processes] = (
            stored(tmp_path / f"out-{processes}"),
            re.findall(r"^step .*  validation  .*$", said, re.MULTILINE),
        )
        assert len(re.findall(r"^step \d+/9  loss ", said, re.MULTILINE)) == 9  # the second process says nothing
    hashes = [(tmp_path / f"out-2-{rank}.hash").read_text() for rank in (0, 1)]
    assert hashes[0] == hashes[1]
    assert found[2][1] == found[1][1] and len(found[1][1]) == 3  # measures of halves put together
    assert found[1][0].keys() == found[2][0].keys()
    for name, weight in found[1][0].items():
        assert (found[2][0][name] - weight).abs().max() < 1e-5, name
    moved = [(found[1][0][name] - before[name]).abs().max() for name in found[1][0].keys() & before.keys()]
    assert len(moved) > 10 and max(moved) > 1e-2
    assert sorted(path.name for path in tmp_path.glob("out-*")) == [
        "out-1",
        "out-1-0.hash",
        "out-2",
        "out-2-0.hash",
        "out-2-1.hash",
    ]


def test_one_process_under_torchrun_is_a_plain_run(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, lr_scheduler_type="cosine")
    for name, launched in (("plain", False), ("launched", True)):
        code, said = finish(start(tmp_path, recipe, name, 1, launched=launched))
        assert code == 0, said
        assert len(re.findall(r"^step \d+/9  loss ", said, re.MULTILINE)) == 9
    assert run.weights(tmp_path / "launched") == run.weights(tmp_path / "plain")
    other = recipe_of(tmp_path / "other", lr_scheduler_type="linear")
    assert finish(start(tmp_path, other, "linear", 1))[0] == 0
    assert run.weights(tmp_path / "linear") != run.weights(tmp_path / "plain")


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight in the files of a folder, in `backbone/` and beside it."""
    files = sorted(folder.rglob("*.safetensors"))
    return {name: weight for file in files for name, weight in load_file(file).items()}


def test_two_processes_killed_interrupted_and_resumed(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, load_best_model_at_end=False, save_steps=2, eval_steps=2, logging_steps=1)
    code, said = finish(start(tmp_path, recipe, "whole", 2))
    assert code == 0, said
    expected = run.weights(tmp_path / "whole")
    code, said = finish(start(tmp_path, recipe, "killed", 2, kill=6))
    assert code != 0
    whole = [step(path) for path in checkpoints(tmp_path / "killed.training") if is_complete(path)]
    assert whole and not (tmp_path / "killed").exists()
    process = start(tmp_path, recipe, "killed", 2, resume=True)
    assert process.stderr is not None
    line = ""
    while not re.match(r"step \d/9  loss", line):
        line = process.stderr.readline()
        assert line, "it ended before its first step"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # to torchrun, which passes it on
    code, said = finish(process)
    if code != 0:
        assert "Interrupted: stopped at step" in said
        code, said = finish(start(tmp_path, recipe, "killed", 2, resume=True))
    assert code == 0, said
    assert run.weights(tmp_path / "killed") == expected
