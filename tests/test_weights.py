"""Every way in which a model does not load, provoked for real, gives one sentence with its remedy."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import constants

from rerankkit.embedded import embedded_model, locate
from rerankkit.errors import InputError, RunError
from rerankkit.weights import check_model_name, explain_loading_failure, loading, resolve_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of a few thousand weights, with a tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copyfile(locate("minilm-l6").parent / "tokenizer.json", folder / "tokenizer.json")
    return folder


def load(name: str | Path, what: str = "model") -> object:
    """Loads as a backbone does."""
    with loading(name):
        if what == "tokenizer":
            return transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        return transformers.AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def a_missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 32}))


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def writing(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123\n"
CODE = '{"model_type": "zork", "auto_map": {"AutoConfig": "x.Config", "AutoModelForCausalLM": "x.Model"}}'
DAMAGE = {
    "cut": (
        cut,
        RunError,
        r"model\.safetensors is corrupt or cut short \([\d,]+ bytes; .*\); copy or download it again",
    ),
    "garbage": (
        writing("model.safetensors", "weights " * 100),
        RunError,
        r"model\.safetensors is corrupt or cut short",
    ),
    "empty": (writing("model.safetensors", ""), RunError, r"model\.safetensors is corrupt or cut short \(0 bytes"),
    "pointer": (writing("model.safetensors", POINTER), RunError, r"is a git-lfs pointer instead of .*git lfs pull"),
    "no config": (lambda f: (f / "config.json").unlink(), InputError, "has no config.json: give a folder that"),
    "broken config": (writing("config.json", '{"a": 1,\n'), InputError, r"config\.json is not JSON \(.* line 2"),
    "no type": (writing("config.json", "{}"), InputError, "its config.json lacks model_type"),
    "unknown type": (writing("config.json", '{"model_type": "zork"}'), InputError, "type 'zork', which the installed"),
    "own code": (writing("config.json", CODE), InputError, "brings code of its own, which is not run"),
    "pickled": (
        only_pickled,
        InputError,
        r"only in pytorch_model\.bin, a pickle, which may run code .* as safetensors",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), InputError, "holds no weights: expected model.safet"),
    "shard": (a_missing_shard, RunError, r"its weights are incomplete \(.*model-00001-of-00002\.safetensors"),
    "shapes": (another_width, InputError, "do not have the shapes that its config.json describes"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_explained(tiny: Path, tmp_path: Path, damage: str) -> None:
    spoil, kind, sentence = DAMAGE[damage]
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    assert load(folder)
    spoil(folder)
    with pytest.raises(kind, match=sentence) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_folder_without_tokenizer_is_explained(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="has no tokenizer that can be read: expected tokenizer.json"):
        load(folder, "tokenizer")


def test_a_corrupt_conversion_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKKIT_CACHE", str(tmp_path))
    folder = embedded_model("bge-small")
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"garbage!")
    sentence = rf"{folder}/model.safetensors is corrupt .*; remove that folder, it is made again"
    with pytest.raises(RunError, match=sentence), loading("embedded:bge-small"):
        transformers.AutoModel.from_pretrained(folder, use_safetensors=True)


ANSWERS = {
    "gated": (403, "GatedRepo"),
    "none": (401, "RepoNotFound"),
    "busy": (429, ""),
    "empty": (404, "EntryNotFound"),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """A model hub on this machine, which refuses each model in its own way."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = next(answer for name, answer in ANSWERS.items() if f"org/{name}" in self.path)
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str) -> None:
    """Let the hub's client talk to this address, with an empty cache."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("org/gated", InputError, "'org/gated' is gated: ask for access at http.*/org/gated, then log in"),
        ("org/none", InputError, "the hub has no model 'org/none': check the spelling"),
        ("org/empty", InputError, "'org/empty'"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    hub: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: type[Exception], sentence: str
) -> None:
    ask(monkeypatch, tmp_path, hub)
    with pytest.raises(kind, match=sentence) as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_without_a_network_a_missing_model_fails_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    ask(monkeypatch, tmp_path, "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(
        RunError, match=r"'org/none' is neither a folder nor in the cache .* http://127.0.0.1:9 cannot be reached"
    ):
        load("org/none", what)
    assert time.monotonic() - began < 8
    assert constants.HF_HUB_OFFLINE is False


def test_a_name_that_cannot_be_looked_up_fails_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ask(monkeypatch, tmp_path, "http://hub.invalid")
    monkeypatch.setattr("rerankkit.weights._PATIENCE", 1.0)
    monkeypatch.setattr("socket.create_connection", lambda *args: time.sleep(30))
    began = time.monotonic()
    with pytest.raises(RunError, match="cannot be reached"):
        load("org/none")
    assert time.monotonic() - began < 8


def test_offline_by_wish_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ask(monkeypatch, tmp_path, "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        RunError, match=r"'org/none' is neither a folder nor in the cache \(.*\), and HF_HUB_OFFLINE is set: unset it"
    ):
        load("org/none")


def test_a_cached_model_loads_without_a_network(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ask(monkeypatch, tmp_path, "http://127.0.0.1:9")
    repository = tmp_path / "models--org--cached"
    shutil.copytree(tiny, repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    assert load("org/cached")
    cut(repository / "snapshots" / "0123abc")
    with pytest.raises(RunError, match=r"0123abc/model.safetensors is corrupt or cut short .* download it again"):
        load("org/cached")


def test_what_was_explained_is_not_explained_again() -> None:
    error = InputError("no folder")
    assert explain_loading_failure("x", error) is error
    with pytest.raises(InputError, match="^no folder$"), loading("./x"):
        raise error


def test_the_unforeseen_keeps_its_first_line(tiny: Path) -> None:
    explained = explain_loading_failure(tiny, ZeroDivisionError("division\nby zero"))
    assert isinstance(explained, RunError)
    assert str(explained) == f"'{tiny}' could not be loaded: ZeroDivisionError: division"


def test_names_are_resolved(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    monkeypatch.chdir(tiny.parent)
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve_model("gpt2") == "gpt2"
    assert resolve_model("model") == Path("model")
    assert resolve_model("./model/") == Path("model")
    assert resolve_model("~/model") == resolve_model(str(tiny)) == tiny
    assert resolve_model("embedded:minilm-l6") == locate("minilm-l6").parent


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("./none", r"no folder './none' \(looked for /.*none\); give an existing folder or a hub id"),
        ("none/", "no folder 'none/'"),
        ("/a/b", "no folder '/a/b'"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("model/config.json", "'model/config.json' is a file; give the folder that holds it"),
        ("saved", "saved is a saved reranker, not a backbone; its backbone is saved/backbone"),
        (".", "has no config.json"),
        ("", "'' names no model"),
        ("org/a b", r"'org/a b' names no model \(write embedded:NAME, an existing folder, or a hub id"),
        ("embeded:minilm-l6", "did you mean 'embedded:minilm-l6'?"),
        ("bge-small", "did you mean 'embedded:bge-small'?"),
        ("embedded:bge-smal", "did you mean 'bge-small'?"),
    ],
)
def test_a_name_that_names_nothing_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "saved" / "backbone").mkdir(parents=True)
    (tmp_path / "saved" / "recipe.cfg").touch()
    monkeypatch.chdir(tmp_path)
    for refuse in (resolve_model, check_model_name):
        with pytest.raises(InputError, match=sentence):
            refuse(name)
