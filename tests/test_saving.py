"""A saved reranker: its folder, what a new process makes of it, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import catalogue
import pytest
import safetensors.torch
import tiny
import torch
import transformers

from rerankkit import Reranker, saving
from rerankkit.errors import InputError, RunError
from rerankkit.recipe import read
from rerankkit.registry import load_code, registry

ROOT = Path(__file__).parents[1]
GROUP = tiny.group(1, 4)
PAIRS = [[GROUP.query, doc] for doc in GROUP.docs]
HEAD = '''
import torch

from rerankkit.registry import registry


@registry.heads("test.{name}.v1")
def linear(scale: float = 2.0):
    """A head with weights of its own."""
    return Linear(scale)


class Linear:
    module = None

    def __init__(self, scale):
        self.scale = scale

    def bind(self, backbone):
        self.module = torch.nn.Linear(backbone.module.config.hidden_size, 1)

    def score(self, hidden, batch):
        return self.scale * self.module(hidden.states[torch.arange(len(batch.answer)), batch.answer].float())
'''
ELSEWHERE = """
import importlib, json, sys, time
from rerankkit import Reranker, saving

tasks = json.load(open(sys.argv[1]))
found = {}
for name, (folder, path, module, trust) in tasks["load"].items():
    sys.path[:0] = path
    try:
        if module:
            importlib.import_module(module)
        found[name] = Reranker.from_pretrained(folder, trust_code=trust).compute_score(tasks["pairs"])
    except ValueError as error:
        found[name] = str(error)
    sys.path[:] = sys.path[len(path):]
json.dump(found, open(sys.argv[2], "w"))
model = Reranker.from_pretrained(tasks["again"])
saving._card = lambda *_: print("half-way", flush=True) or time.sleep(60)
model.save_pretrained(tasks["killed"])
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, list[float]]]]:
    """Rerankers saved by this process: where, and their scores in memory after saving."""
    home = tmp_path_factory.mktemp("saved")
    for file in ("code_head", "program_head"):
        (home / f"{file}.py").write_text(HEAD.format(name=file))
    site = home / "site"
    (site / "plugin_head-1.2.dist-info").mkdir(parents=True)
    (site / "plugin_head.py").write_text(HEAD.format(name="plugin_head"))
    (site / "plugin_head-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: plugin-head\nVersion: 1.2\n"
    )
    points = "[rerankkit_heads]\ntest.plugin_head.v1 = plugin_head:linear\n"
    (site / "plugin_head-1.2.dist-info" / "entry_points.txt").write_text(points)

    path, code, modules = list(sys.path), dict(registry._code), set(sys.modules)
    sys.path[:0] = [str(home), str(site)]
    __import__("program_head")
    load_code(home / "code_head.py")
    lora = '[model.backbone.lora]\nr = 4\ntarget_modules = ["q_proj", "up_proj"]\n'
    overrides: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("", {}),
        "merged": (lora, {"model.backbone.name": str(tiny.folder("qwen3"))}),
        "apart": (lora + "merge = false\n", {}),
        "code": ("", {"model.head": {"@heads": "test.code_head.v1", "scale": 3.0}}),
        "program": ("", {"model.head": {"@heads": "test.program_head.v1"}}),
        "plugin": ("", {"model.head": {"@heads": "test.plugin_head.v1"}}),
    }
    made = {}
    for name, (extra, changes) in overrides.items():
        recipe = tiny.recipe(home / f"{name}.cfg", extra=extra)
        head = changes.pop("model.head", None)
        if head:
            text = recipe.read_text().replace('"yes_no.v1"', f'"{head["@heads"]}"\nscale = {head.get("scale", 2.0)}')
            recipe.write_text(text)
        model = Reranker.from_recipe(recipe, changes)
        for parameter, weight in model.parts.backbone.module.named_parameters():
            if "lora_" in parameter:
                torch.nn.init.normal_(weight, std=0.1)
        model.save_pretrained(home / "models" / name, notes=f"Measured: {name}.")
        made[name] = (home / "models" / name, model.compute_score(PAIRS))
    yield made
    for keys in [keys for keys in catalogue.REGISTRY if keys[-1].startswith("test.")]:
        del catalogue.REGISTRY[keys]
    for module in set(sys.modules) - modules:
        if module.endswith("_head"):
            del sys.modules[module]
    sys.path[:], registry._code = path, code
    for namespace in registry.namespaces().values():
        namespace._loaded.clear()


@pytest.fixture(scope="module")
def elsewhere(models: dict[str, tuple[Path, list[float]]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a new process makes of them; it is killed while it saves one."""
    home = models["plain"][0].parents[1]
    load: dict[str, Any] = {name: (str(folder), [], "", False) for name, (folder, _) in models.items()}
    load["code trusted"] = (*load["code"][:3], True)
    load["program imported"] = (load["program"][0], [str(home)], "program_head", False)
    load["plugin installed"] = (load["plugin"][0], [str(home / "site")], "", False)
    folder = tmp_path_factory.mktemp("elsewhere")
    tasks = {"load": load, "pairs": PAIRS, "again": load["merged"][0], "killed": str(folder / "target" / "model")}
    (folder / "tasks.json").write_text(json.dumps(tasks))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    process = subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, folder / "tasks.json", folder / "found.json"],
        env=environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert line == "half-way\n", said
    return {**json.loads((folder / "found.json").read_text()), "killed": folder / "target" / "model"}


@pytest.mark.parametrize(
    ("loaded", "saved"),
    [
        ("plain", "plain"), ("merged", "merged"), ("apart", "apart"), ("code trusted", "code"),
        ("program imported", "program"), ("plugin installed", "plugin"),
    ],
)  # fmt: skip
def test_a_new_process_gives_the_same_scores(models: Any, elsewhere: Any, loaded: str, saved: str) -> None:
    assert elsewhere[loaded] == models[saved][1]  # bit for bit
    assert len(set(elsewhere[loaded])) == 4


def test_what_is_missing_elsewhere_is_named(models: Any, elsewhere: Any) -> None:
    assert (
        "ships its own Python code, code/code_head.py. Read it, then load the model with trust_code"
        in elsewhere["code"]
    )
    assert "no heads named 'test.plugin_head.v1'" in elsewhere["plugin"]
    assert elsewhere["plugin"].endswith("this model needs: pip install plugin-head==1.2")
    assert elsewhere["program"].endswith("this model needs parts of program_head.py; import it first")


def test_a_killed_save_leaves_no_model(elsewhere: Any) -> None:
    assert not elsewhere["killed"].exists()
    (left,) = elsewhere["killed"].parent.iterdir()
    assert left.name.startswith(".model.") and not (left / "origin.json").exists()


def test_the_folder(models: Any) -> None:
    def names(model: str) -> set[str]:
        return {path.name for path in models[model][0].iterdir()}

    always = {"recipe.cfg", "origin.json", "README.md"}
    assert names("plain") == names("merged") == {*always, "backbone"}
    assert names("apart") == {*always, "adapter"}
    assert names("plugin") == {*always, "backbone", "head.safetensors"}
    assert names("code") == {*always, "backbone", "head.safetensors", "code"}
    files = [path for folder, _ in models.values() for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".cfg", ".json", ".md", ".safetensors", ".jinja", ".py"}  # no pickle
    assert models["plain"][0].stat().st_mode & 0o777 == 0o755


def test_recipe_origin_and_card(models: Any) -> None:
    folder = models["code"][0]
    assert read(folder / "recipe.cfg").get("model.head") == {"@heads": "test.code_head.v1", "scale": 3.0}
    origin = json.loads((folder / "origin.json").read_text())
    assert origin["parts"]["heads:test.code_head.v1"] == "code code_head.py" and origin["code"] == ["code/code_head.py"]
    assert origin["parts"]["backbones:hf_causal.v1"].startswith("rerankkit==")
    held = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"origin.json"}
    assert set(origin["files"]) == held and "backbone/model.safetensors" in held
    card = (folder / "README.md").read_text()
    assert "Measured: code." in card and "| heads:test.code_head.v1 | code code_head.py |" in card


def test_transformers_alone_loads_the_backbone(models: Any) -> None:
    folder, scores = models["merged"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "backbone").eval()
    words = transformers.AutoTokenizer.from_pretrained(folder / "backbone")
    template = "Query: {}\nDocument: {}\nDoes the document answer the query? Answer yes or no:"
    yes, no = (words(word)["input_ids"][0] for word in (" yes", " no"))
    for pair, score in zip(PAIRS, scores, strict=True):
        with torch.no_grad():
            logits = model(**words(template.format(*pair), return_tensors="pt")).logits[0, -1]
        assert (logits[yes] - logits[no]).item() == pytest.approx(score, abs=1e-4)


def test_overrides_apply_to_a_saved_model(models: Any) -> None:
    folder, scores = models["plain"]
    loaded = Reranker.from_pretrained(folder, {"engine.batch_tokens": 1, "model.head.score": "positive"})
    assert loaded.settings.batch_tokens == 1 and loaded.compute_score(PAIRS) != scores
    with pytest.raises(InputError, match="did you mean 'score'"):
        Reranker.from_pretrained(folder, {"model.head.scor": "positive"})


def test_saved_again_it_is_the_same(models: Any, tmp_path: Path) -> None:
    for name in ("merged", "apart"):
        folder, scores = models[name]
        Reranker.from_pretrained(folder).save_pretrained(tmp_path / name)
        again = Reranker.from_pretrained(tmp_path / name)
        assert again.compute_score(PAIRS) == scores


def damaged(models: Any, tmp_path: Path, name: str = "plugin") -> Path:
    shutil.copytree(models[name][0], tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "file",
    ["recipe.cfg", "head.safetensors", "backbone/model.safetensors", "backbone/tokenizer.json", "backbone/config.json"],
)
@pytest.mark.parametrize("fault", ["flipped", "cut", "missing", "empty"])
def test_a_damaged_file_is_refused(models: Any, tmp_path: Path, file: str, fault: str) -> None:
    path = damaged(models, tmp_path) / file
    held = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    elif fault == "flipped":
        held[len(held) // 2] ^= 1
        path.write_bytes(held)
    else:
        path.write_bytes(held[: len(held) // 2] if fault == "cut" else b"")
    with pytest.raises(RunError, match="copy the model again") as refused:
        Reranker.from_pretrained(tmp_path / "model")
    assert file in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": [], "parts": {}, "code": []}', '"x"'])
def test_a_damaged_origin_is_refused(models: Any, tmp_path: Path, text: str) -> None:
    (damaged(models, tmp_path) / "origin.json").write_text(text)
    with pytest.raises(RunError, match="origin.json is damaged"):
        Reranker.from_pretrained(tmp_path / "model")


def test_a_folder_that_is_no_model_is_refused(models: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder .*nothing.*; give an existing folder or a hub id"):
        Reranker.from_pretrained(tmp_path / "nothing")
    with pytest.raises(InputError, match="backbone is a language model, and nothing in it says what to ask it"):
        Reranker.from_pretrained(models["plain"][0] / "backbone")
    (damaged(models, tmp_path) / "README.md").write_text("A card may be edited.")
    assert Reranker.from_pretrained(tmp_path / "model").compute_score(PAIRS) == models["plugin"][1]


def test_a_head_of_another_shape_is_refused(models: Any, tmp_path: Path) -> None:
    folder = damaged(models, tmp_path)
    safetensors.torch.save_file({"weight": torch.zeros(1, 3)}, folder / "head.safetensors")
    origin = json.loads((folder / "origin.json").read_text())
    origin["files"]["head.safetensors"] = saving.sha256_of(folder / "head.safetensors")
    (folder / "origin.json").write_text(json.dumps(origin))
    with pytest.raises(RunError, match="head.safetensors does not fit this head"):
        Reranker.from_pretrained(folder)


def test_a_folder_that_holds_something_is_left_alone(models: Any, tmp_path: Path) -> None:
    model = Reranker.from_pretrained(models["plain"][0])
    (tmp_path / "note.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(InputError, match="already exists and is not empty; give another --output, or remove"):
            model.save_pretrained(taken)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    assert Reranker.from_pretrained(tmp_path / "empty").compute_score(PAIRS) == models["plain"][1]
    with pytest.raises(RunError, match="model cannot be written: .*File exists"):
        model.save_pretrained(tmp_path / "note.txt" / "model")


@pytest.mark.parametrize("limit", [100, 3_000, 60_000])
def test_no_room_leaves_nothing_behind(models: Any, tmp_path: Path, limit: int) -> None:
    model = Reranker.from_pretrained(models["plain"][0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RunError, match="model cannot be written: .*File too large"):
            model.save_pretrained(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(tmp_path / "model")
    assert Reranker.from_pretrained(tmp_path / "model").compute_score(PAIRS) == models["plain"][1]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # what tokenizers raises
    ],
)
def test_a_full_disk_is_said_to_be_full(
    models: Any, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Reranker.from_pretrained(models["plain"][0])

    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(model.parts.backbone, "save", full)
    with pytest.raises(RunError, match="the disk of .* is full; free some space and save again"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_save_leaves_nothing_behind(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Reranker.from_pretrained(models["plain"][0]).save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_code_that_changed_since_is_pointed_out(models: Any, tmp_path: Path, caplog: Any) -> None:
    code = models["code"][0].parents[1] / "code_head.py"
    kept = code.read_text()
    model = Reranker.from_pretrained(models["code"][0], trust_code=True)
    code.write_text(kept + "# more\n")
    try:
        with caplog.at_level(logging.WARNING, logger="rerankkit"):
            model.save_pretrained(tmp_path / "model")
    finally:
        code.write_text(kept)
    assert "1 code file changed since it was loaded, shipped as it is now, such as " in caplog.text
