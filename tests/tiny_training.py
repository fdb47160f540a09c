"""Whole training runs of a tiny model that take a second: data, recipes, and processes that may be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tiny

from rerankkit.folder_cache import sha256_of

GOOD, BAD = "open file python text disk", "cat mat rain quiet hills"
SETTINGS = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "learning_rate": 3e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "max_steps": 9,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "logging_steps": 1,
    "seed": 5,
    "report_to": "none",
}
"""Nine steps over epochs of four, with a checkpoint every three."""


def write_rows(path: Path, count: int, negatives: int = 5, start: int = 0) -> Path:
    """Queries whose relevant document is made of words that the others have not: a tiny model can learn it."""
    rows = [
        {
            "query": tiny.sentence(start + i, 4),
            "positive": [f"{GOOD} {tiny.sentence(5000 + start + i, 2)}"],
            "negative": [f"{BAD} {tiny.sentence(7000 + 31 * (start + i) + j, 2 + j)}" for j in range(negatives)],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def model(at: Path, architecture: str = "llama", **config: Any) -> Path:
    """A tiny checkpoint with some fields of its config changed."""
    shutil.copytree(tiny.folder(architecture), at, dirs_exist_ok=True)
    settings = json.loads((at / "config.json").read_text())
    (at / "config.json").write_text(json.dumps({**settings, **config}))
    return at


def recipe(
    at: Path,
    training: dict[str, Any] | None = None,
    sampling: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
    loss: str = "softmax_cross_entropy.v1",
    architecture: str = "llama",
    groups: int = 15,
    dev: int = 6,
    backbone: dict[str, Any] | None = None,
) -> Path:
    """A recipe with its data and its model in the folder `at`.

    Args:
        training: Laid over SETTINGS; None leaves one out.
        lora: None trains all weights.
        backbone: Fields of the model's config.
    """
    at.mkdir(parents=True, exist_ok=True)
    name = model(at / "model", architecture, **(backbone or {}))
    settings = {key: value for key, value in {**SETTINGS, **(training or {})}.items() if value is not None}
    data = [("train", write_rows(at / "train.jsonl", groups))]
    if dev:
        data.append(("dev", write_rows(at / "dev.jsonl", dev, start=900)))
    extra = "".join(f'[data.{split}]\n@readers = "jsonl.v1"\npath = "{path}"\n' for split, path in data)
    extra += f'[loss]\n@losses = "{loss}"\n' + _section("sampling", {"group_size": 4, **(sampling or {})})
    path = tiny.recipe(at / "recipe.cfg", architecture, "[data]\n" + extra + _section("training", settings))
    text = path.read_text().replace(str(tiny.folder(architecture)), str(name))
    if lora is not None:
        text = text.replace("[model.head]", _section("model.backbone.lora", lora) + "[model.head]")
    path.write_text(text)
    return path


def _section(name: str, values: dict[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def weights(folder: Path) -> str:
    """The hash of a saved model's weights."""
    return sha256_of(folder / "backbone" / "model.safetensors")


def start(work: Callable[..., None], *arguments: Any) -> Any:
    """Run a function in a process of its own, which has torch loaded already; its output goes to `stderr.txt` beside
    the recipe, which is the first argument."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rerankkit.training", "tiny_training"])
    process = context.Process(target=_with_log, args=(work, *arguments))
    process.start()
    return process


def finish(process: Any, timeout: float = 240) -> int:
    """The exit code of a process; negative for the signal that ended it."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the training did not end")
    return process.exitcode


def log(path: Path) -> str:
    """What the processes of a recipe said."""
    return (path.parent / "stderr.txt").read_text()


def _with_log(work: Callable[..., None], path: Path, *arguments: Any) -> None:
    file = os.open(path.parent / "stderr.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    try:
        work(path, *arguments)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def train(path: Path, output: Path, kill_at: Sequence[Any] = (), resume: bool = False, overwrite: bool = False) -> None:
    """Train; `kill_at` is (module, function, which call, before or after it), where the process kills itself."""
    import torch

    from rerankkit import training

    torch.set_num_threads(1)
    if kill_at:
        kill(*kill_at)
    training.train(path, output, resume=resume, overwrite=overwrite)


def kill(owner: str, name: str, call: int, when: str = "before") -> None:
    """Let the process end by SIGKILL at some call of a function."""
    import importlib

    module, _, attribute = owner.partition(":")
    holder: Any = importlib.import_module(module)
    holder = getattr(holder, attribute) if attribute else holder
    original, calls = getattr(holder, name), 0

    def replacement(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, replacement)
