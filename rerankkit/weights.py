"""Where a backbone's weights come from, and what to say when they do not load.

name = "embedded:smollm2-135m-instruct"     carried by an installed package
name = "./my-model"                         a folder
name = "Qwen/Qwen3-0.6B"                    a model of the hub
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rerankkit.embedded import MODELS, PREFIX, embedded_model, find, folder_of, locate
from rerankkit.errors import InputError, RunError
from rerankkit.problems import did_you_mean

_HUB_ID = re.compile(r"[a-z0-9][\w.-]*(/[a-z0-9][\w.-]*)?", re.ASCII | re.IGNORECASE)
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_PATIENCE = 5.0  # seconds for the hub to take a connection


def resolve_model(name: str) -> Path | str:
    """The folder that a backbone's `name` stands for, or the hub id unchanged."""
    if name.startswith(PREFIX):
        return embedded_model(name)
    check_model_name(name)
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else name


def check_model_name(name: str) -> None:
    """Refuse a `name` that cannot be loaded, as far as can be seen without reading weights or asking the hub."""
    if name.startswith(PREFIX):
        find(name)
        locate(name)
        return
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        _require_config(folder)
    elif folder.is_file():
        raise InputError(f"{name!r} is a file; give the folder that holds it and its config.json")
    elif name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1:
        raise InputError(f"no folder {name!r} (looked for {folder.absolute()}); give an existing folder or a hub id")
    elif not _HUB_ID.fullmatch(name) or name in MODELS:
        hint = did_you_mean(f"{PREFIX}{name.split(':')[-1]}", [f"{PREFIX}{model}" for model in MODELS])
        raise InputError(
            f"{name!r} names no model{hint} (write {PREFIX}NAME, an existing folder, or a hub id such as org/model)"
        )


@contextlib.contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Wraps `from_pretrained`: any failure is explained in one sentence, and without a network it comes at once."""
    with hub_or_cache() if is_hub_id(name) else contextlib.nullcontext():
        try:
            yield
        except (InputError, RunError):
            raise
        except Exception as error:
            raise explain_loading_failure(name, error) from error


@contextlib.contextmanager
def hub_or_cache() -> Iterator[None]:
    """Where the hub does not answer, its cache alone is asked.

    Left alone, the hub's client tries each file six times, which takes minutes, even for what lies in its cache.
    """
    with contextlib.nullcontext() if _hub_answers() else _cache_alone():
        yield


def explain_loading_failure(name: str | Path, error: BaseException) -> InputError | RunError:
    """One sentence, with its remedy, for what `from_pretrained` raised on a model."""
    if isinstance(error, InputError | RunError):
        return error
    name, chain = str(name), _chain(error)
    for link in chain:
        if isinstance(link, OSError) and link.errno == errno.ENOSPC:
            return RunError(f"no space left on the disk while loading {name!r} ({link}); free some and try again")
    folder = _folder(name)
    if folder is None or (is_hub_id(name) and not _is_corrupt(chain)):
        explained = _explain_hub(name, chain)
        if explained is not None:
            return explained
    if folder is not None:
        explained = _explain_folder(name, folder, chain)
        if explained is not None:
            return explained
    return _explain_words(name, error)


def _explain_hub(name: str, chain: list[BaseException]) -> InputError | RunError | None:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    for link in chain:
        if isinstance(link, errors.GatedRepoError):
            return InputError(
                f"{name!r} is gated: ask for access at {page}, then log in with `hf auth login` or set HF_TOKEN"
            )
        if isinstance(link, errors.RepositoryNotFoundError):
            return InputError(
                f"the hub has no model {name!r}: check the spelling at {page}, or, if it is private, "
                "log in with `hf auth login`; for a folder write ./ in front"
            )
        if isinstance(link, errors.RevisionNotFoundError):
            return InputError(f"{name!r} has no such revision: choose a branch, tag or commit at {page}/commits/main")
    for link in chain:
        if isinstance(link, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            if constants.HF_HUB_OFFLINE and not _offline_by_us:
                why = "HF_HUB_OFFLINE is set: unset it to download the model"
            else:
                why = f"{constants.ENDPOINT} cannot be reached: check the network"
            return RunError(
                f"{name!r} is neither a folder nor in the cache ({constants.HF_HUB_CACHE}), and {why}, "
                f"or name a folder or an {PREFIX} model"
            )
        if isinstance(link, errors.HfHubHTTPError) and not isinstance(link, errors.EntryNotFoundError):
            return RunError(f"the hub could not give {name!r} ({_first_line(link)}); try again later")
    return None


def _explain_folder(name: str, folder: Path, chain: list[BaseException]) -> InputError | RunError | None:
    again = "remove that folder, it is made again" if name.startswith(PREFIX) else "copy or download it again"
    try:
        _require_config(folder)
    except InputError as error:
        return error
    if _is_corrupt(chain):
        return RunError(f"{_corrupt_file(folder)}; {again}")
    missing = next((link for link in chain if isinstance(link, FileNotFoundError)), None)
    if missing is not None and ".safetensors" in str(missing):
        return RunError(f"{folder}: its weights are incomplete ({_first_line(missing)}); {again}")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.safetensors.index.json")):
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        if pickled:
            return InputError(
                f"{folder} has its weights only in {pickled[0]}, a pickle, which may run code when it is read and is "
                "refused; save the model as safetensors (transformers' save_pretrained does)"
            )
        return InputError(f"{folder} holds no weights: expected model.safetensors beside its config.json")
    if not any((folder / file).is_file() for file in ("model.safetensors", "model.safetensors.index.json")):
        return InputError(
            f"{folder} has {min(path.name for path in folder.glob('*.safetensors*'))} and neither model.safetensors "
            "nor model.safetensors.index.json, which says what is in which file; copy or download it again"
        )
    return None


def _explain_words(name: str, error: BaseException) -> InputError | RunError:
    """What only the text of the exception tells."""
    text = str(error)
    if "file named" in text and ("safetensors" in text or "pytorch_model" in text):
        return InputError(f"{name!r} has no weights in safetensors; pickled ones may run code and are refused")
    if "does not recognize this architecture" in text:
        kind = re.search(r"model type `([^`]*)`", text)
        return InputError(
            f"{name!r} is of type {kind[1] if kind else 'unknown'!r}, which the installed transformers does not know; "
            "upgrade transformers or choose another model"
        )
    if "Unrecognized configuration class" in text:
        kind = re.search(r"transformers\.models\.(\w+)\.", text)
        return InputError(
            f"{name!r} is a model of the kind {kind[1] if kind else 'unknown'!r}, which this backbone does not read: "
            "hf_causal.v1 is for causal language models, hf_encoder_decoder.v1 for T5's kin, hf_classifier.v1 for "
            "cross-encoders, hf_encoder.v1 for encoders"
        )
    if "model_type" in text:
        return InputError(f"{name!r}: its config.json lacks model_type, so it is not a model for transformers")
    if "custom code" in text or "trust_remote_code" in text:
        return InputError(f"{name!r} brings code of its own, which is not run; choose a model that transformers knows")
    if "ignore_mismatched_sizes" in text or "size mismatch" in text:
        return InputError(f"{name!r}: the weights do not have the shapes that its config.json describes")
    if "tokenizer" in text.lower():
        return InputError(f"{name!r} has no tokenizer that can be read: expected tokenizer.json beside its config.json")
    return RunError(f"{name!r} could not be loaded: {type(error).__name__}: {_first_line(error)}")


def _require_config(folder: Path) -> None:
    if (folder / "recipe.cfg").is_file() and (folder / "backbone").is_dir():
        raise InputError(f"{folder} is a saved reranker, not a backbone; its backbone is {folder / 'backbone'}")
    config = next((folder / name for name in ("config.json", "adapter_config.json") if (folder / name).is_file()), None)
    if config is None:
        raise InputError(f"{folder} has no config.json: give a folder that transformers' save_pretrained wrote")
    try:
        json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{config} is not JSON ({error}); copy or download it again") from error


def _corrupt_file(folder: Path) -> str:
    """Names the weight file that cannot be read, and how."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            if file.read(24).startswith(b"version https://git-lfs"):
                return f"{path} is a git-lfs pointer instead of the weights (`git lfs pull` fetches them)"
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path} is corrupt or cut short ({path.stat().st_size:,} bytes; {_first_line(error)})"
    return f"a weight file in {folder} is corrupt"


def _is_corrupt(chain: list[BaseException]) -> bool:
    from safetensors import SafetensorError

    return any(isinstance(link, SafetensorError) for link in chain)


def _folder(name: str) -> Path | None:
    """Where the files of a model lie on this machine, if they do."""
    if name.startswith(PREFIX):
        return folder_of(name)
    if not is_hub_id(name):
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def is_hub_id(name: str | Path) -> bool:
    """Whether a name can be one of the hub's, and is no file or folder here."""
    text = str(name)
    return bool(_HUB_ID.fullmatch(text)) and not Path(text).expanduser().exists()


def _chain(error: BaseException) -> list[BaseException]:
    """The exception and those that it was raised from."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


_offline_by_us = False


@contextlib.contextmanager
def _cache_alone() -> Iterator[None]:
    """Keep the hub's client from the network."""
    global _offline_by_us
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE, _offline_by_us = True, not before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, _offline_by_us = before, False


def _hub_answers() -> bool:
    """Whether the hub, or the proxy on the way to it, takes a connection."""
    import urllib.request  # slow to import, and needed only here

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    hub = urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(hub.scheme)
    target = urlsplit(proxy) if proxy and not urllib.request.proxy_bypass(hub.hostname or "") else hub
    answers: list[bool] = []

    def connect() -> None:
        port = target.port or (443 if target.scheme == "https" else 80)
        with contextlib.suppress(OSError), socket.create_connection((target.hostname, port), _PATIENCE):
            answers.append(True)

    # in a thread, because looking up a name knows no time limit
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return bool(answers)
