"""The rows of a Hugging Face dataset, as they are written.

`datasets` guesses types where a file has none: in JSON a text like "2024-01-01" becomes a timestamp, in CSV "007" a 7
and "NA" nothing. So it only finds such files, and they are read as text; typed files it memory-maps.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rerankkit.csv_lines import read_csv, read_tsv_table
from rerankkit.errors import InputError, RunError
from rerankkit.files import PACKED, is_stream, without_packing
from rerankkit.json_arrays import read_objects
from rerankkit.jsonl_lines import Line, nearest
from rerankkit.weights import hub_or_cache, is_hub_id

Rows = Callable[[], Iterator[Line]]
JSON = (".json", ".jsonl")
TYPED = ("parquet", "arrow")


def dataset_rows(path: str, config: str | None, split: str, numbers: Collection[str]) -> Rows:
    """What reads the rows of a split, anew at each call.

    Args:
        numbers: The columns of a CSV that hold numbers.
    """
    source = Path(path).expanduser()
    saved = any((source / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if config is not None and (saved or source.is_file()):
        raise InputError(f"{path} has no configs; leave config = {config!r} out")
    if saved:
        return _saved_rows(path, source, split)
    if is_stream(source):
        raise InputError(f"{path} is no regular file, and hf_dataset.v1 knows a file's form by its name; use jsonl.v1")
    if source.is_file():
        return _file_rows(path, source, split, numbers)
    if not source.is_dir() and not is_hub_id(path):
        raise InputError(f"no file or folder {path!r} (looked for {source.absolute()}); give one, or a hub id")
    return _found_rows(path, source if source.is_dir() else None, config, split, numbers)


def _saved_rows(path: str, source: Path, split: str) -> Rows:
    """Of a folder that save_to_disk wrote: of one dataset, or of a dict of them."""
    import datasets

    folder = source
    with _explained(path):
        if (source / "dataset_dict.json").is_file():
            _require_split(path, split, json.loads((source / "dataset_dict.json").read_text("utf-8"))["splits"])
            folder = source / split
        state = json.loads((folder / "state.json").read_text("utf-8"))
        if folder == source:
            _require_split(path, split, [state["_split"] or "train"])
        # without a file of rows, datasets would only say that an index is out of range
        dataset = datasets.load_from_disk(str(folder)) if state["_data_files"] else ()
        return _typed_rows(path, dataset)


def _file_rows(path: str, file: Path, split: str, numbers: Collection[str]) -> Rows:
    _require_split(path, split, ["train"])
    name = without_packing(file.name.lower())
    if name.endswith(JSON):
        return partial(read_objects, file)
    if name.endswith((".csv", ".tsv")):
        return partial(read_tsv_table if name.endswith(".tsv") else read_csv, file, numbers)
    kind = file.suffix.lower().removeprefix(".")
    if kind not in TYPED:
        known = [*(f".{typed}" for typed in TYPED), *JSON, ".csv", ".tsv"]
        raise InputError(
            f"{path}: hf_dataset.v1 reads files that end in {', '.join(known)}, text also with {', '.join(PACKED)}"
        )
    import datasets

    with _explained(path):
        return _typed_rows(path, datasets.load_dataset(kind, data_files={"train": str(file)}, split="train"))


def _found_rows(path: str, folder: Path | None, config: str | None, split: str, numbers: Collection[str]) -> Rows:
    """Of a folder or a repository of the hub, in which `datasets` finds configs, splits and files."""
    import datasets

    with _explained(path), hub_or_cache() if folder is None else contextlib.nullcontext():
        builder = datasets.load_dataset_builder(str(folder or path), config)
        kind = type(builder).__module__.rsplit(".", 1)[-1]
        files = {str(name): found for name, found in (builder.config.data_files or {}).items()}
        _require_split(path, split, files or map(str, builder.info.splits or ()))
        if kind in (*TYPED, "cache"):
            builder.download_and_prepare()
            return _typed_rows(path, builder.as_dataset(split=split))
        if kind not in ("json", "csv"):
            raise InputError(f"{path} holds {kind} files; hf_dataset.v1 reads parquet, arrow, JSON and CSV")
        local = datasets.DownloadManager().download([str(file) for file in files[split]])
    table = read_tsv_table if kind == "csv" and builder.config.sep == "\t" else read_csv
    read: Any = read_objects if kind == "json" else partial(table, numbers=numbers)
    return partial(_text_rows, read, list(zip(map(Path, local), map(str, files[split]), strict=True)))


def _text_rows(read: Callable[[Path], Iterable[Line]], files: list[tuple[Path, str]]) -> Iterator[Line]:
    """The rows of some files; a downloaded file goes by the name that it has on the hub."""
    for file, name in files:
        for line in read(file):
            yield replace(line, path=name)


def _typed_rows(path: str, dataset: Any) -> Rows:
    if not len(dataset):
        raise InputError(f"{path}: this split has no rows")
    return lambda: (Line(path, number, row, ", row ") for number, row in enumerate(dataset))


def _require_split(path: str, split: str, splits: Iterable[str]) -> None:
    if split not in (known := sorted(splits)):
        raise InputError(f"{path}: no split {split!r}; splits: {', '.join(known)}{nearest(known, [split])}")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """What `datasets` says of a source, in one sentence with its remedy."""
    from datasets import exceptions
    from datasets.data_files import EmptyDatasetError
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    except (InputError, RunError):
        raise
    except (EmptyDatasetError, exceptions.DataFilesNotFoundError) as error:
        raise InputError(f"{path} holds no data files that `datasets` knows") from error
    except exceptions.DatasetNotFoundError as error:
        raise InputError(
            f"the hub has no dataset {path!r}, or it is private or gated: check the spelling, ask for access at its "
            "page, and log in with `hf auth login`"
        ) from error
    except Exception as error:
        raise _in_words(path, error) from error
    finally:
        if bars:
            enable_progress_bars()


def _in_words(path: str, error: Exception) -> InputError | RunError:
    text = str(error)
    if "scripts are no longer supported" in text:
        return InputError(f"{path} brings code of its own, which is not run; use it in a form such as parquet")
    if isinstance(error, ValueError) and "onfig" in text and (names := re.search(r"\[.*?\]", text)):
        return InputError(f"{path} has several configs, of which `config` must name one: {names[0]}")
    if "corresponds to no data" in text:
        return InputError(f"{path}: this split has no rows")
    if isinstance(error, ConnectionError) or "offline" in text.lower():
        return RunError(
            f"{path!r} is neither a file, nor a folder, nor in the cache, and the hub cannot be reached: check "
            "the network, or give a file or a folder"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return RunError(f"no space left on the disk while reading {path}; free some and try again")
    cause = error.__cause__ or error
    return RunError(f"{path} could not be read: {type(cause).__name__}: {(str(cause).splitlines() or [''])[0][:200]}")
