"""What `rerankkit evaluate` does: systems over the same groups, one table."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerankkit import files
from rerankkit.collection import leaves_out_own_documents, without_own_documents
from rerankkit.errors import InputError
from rerankkit.evaluate import (
    MEASURES,
    Comparison,
    compare,
    difference,
    first_run,
    interpolate,
    parse_measure,
    prepare,
    qrels_of,
    tune_weight,
)
from rerankkit.files import is_stream
from rerankkit.inputs import GROUPS, listed
from rerankkit.protocols import Group
from rerankkit.recipe import build
from rerankkit.registry import registry
from rerankkit.screen import console
from rerankkit.tables import describe, render
from rerankkit.trec import Run, read_run, write_run
from rerankkit.warnings import Mode, collecting_as

logger = logging.getLogger("rerankkit")
MODEL_FILES = ("config.json", "origin.json", "modules.json", "adapter_config.json")
"""What tells that a folder is a model."""
FIRST_STAGE = {"split": "split", "top": "candidates", "run": "run", "ignore_identical_ids": "ignore_identical_ids"}
"""The options of a first stage, and what the reader of BEIR folders calls them."""
Models = dict[str, Any]
"""What is compared, by its name in the table: rerankers, and the paths of TREC runs."""


def is_run(name: str) -> bool:
    """Whether a name is a TREC run rather than a model or a recipe."""
    path = Path(name)
    is_file = is_stream(path) or path.is_file()
    return is_file and path.suffix != ".cfg" and model_of(path) is None


def labels(names: Sequence[str]) -> list[str]:
    """The systems' names in the table: the last part of each path, the whole of it where that is not enough."""
    twice = {name for name in names if list(names).count(name) > 1}
    if twice:
        raise InputError(f"{', '.join(sorted(twice))} is given twice")
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(short) else list(names)


def parse_weight(text: str | None) -> float | str | None:
    """A weight between 0 and 1, or "tune": the best on the recipe's [data.dev]."""
    if text is None or text == "tune":
        return text
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 1:
        raise InputError(f"--interpolate {text}: expected a weight between 0 and 1, or the word tune")
    return weight


def parse_measures(text: str | None) -> list[str] | None:
    """Names of measures, separated by spaces or commas."""
    names = [name for name in re.split(r"[\s,]+(?![^()]*\))", text) if name] if text else None
    for name in names or []:
        parse_measure(name)
    return names


def model_of(path: Path) -> Path | None:
    """The folder of the model that a file is a part of, such as its config.json; None for any other file."""
    beside = {"recipe.cfg": ("origin.json",)}.get(path.name, MODEL_FILES)
    is_part = path.is_file() and (path.suffix in (".json", ".safetensors", ".bin") or path.name == "recipe.cfg")
    return path.parent if is_part and any((path.parent / name).is_file() for name in beside) else None


def read_groups(
    data: Path, split: str, top: int, run: Path | None, limit: int | None, ignore_identical_ids: bool = True
) -> list[Group]:
    """What to rank: a BEIR folder, or JSONL."""
    if data.is_dir() and not (data / "qrels").is_dir() and not any(data.glob("*.jsonl")):
        raise InputError(
            f"{data} is neither a BEIR folder (corpus.jsonl, queries.jsonl, qrels/) nor holds .jsonl files"
        )
    if (data / "qrels").is_dir():
        reader = registry.readers.get("beir.v1")
        found = reader(
            path=str(data),
            split=split,
            candidates=top,
            limit=limit,
            run=str(run) if run else None,
            ignore_identical_ids=ignore_identical_ids,
        )
    elif run:
        raise InputError(f"--run {run}: {data} is no BEIR folder, and JSONL groups bring their own candidates")
    else:
        found = registry.readers.get("jsonl.v1")(path=str(data), limit=limit)
    return prepare(list(found))


def require_used(options: Mapping[str, Any], source: Callable[[str], Any], groups: Sequence[Group] | None) -> None:
    """Refuse options of a first stage where none is made: the recipe's test data and groups in JSONL bring theirs.

    Args:
        options: What the command was given, by the options' names.
        source: Says where an option's value is from.
        groups: What was read of --data.
    """
    places = {name: source(name) for name in FIRST_STAGE}
    given = [name for name, place in places.items() if place is not None and place.name == "COMMANDLINE"]
    data, top = options["data"], options["top"]
    if groups is None and given:
        raise InputError(
            f"--{given[0].replace('_', '-')} is for --data; without it the recipe's [data.test] is read, which says "
            f"the same by --data.test.{FIRST_STAGE[given[0]]}"
        )
    if groups is None or (data / "qrels").is_dir():
        return
    if "split" in given:
        raise InputError(f"--split {options['split']}: {data} is no BEIR folder; give the file of that split as --data")
    if "top" in given and (longer := [group for group in groups if len(group.docs) > top]):
        raise InputError(
            f"--top {top}: {len(longer)} queries of {data}, such as {longer[0].query[:60]!r}, bring more candidates, "
            "which no first stage has ranked; leave --top out, or candidates there"
        )


def own_groups(models: Models, limit: int | None) -> list[Group]:
    """The test data of the first model's recipe."""
    recipe = next((model.recipe for model in models.values() if not isinstance(model, Path)), None)
    if recipe is None or not recipe.has("data.test"):
        raise InputError("give --data DIR: no recipe with a [data.test] is among the systems")
    return prepare(list(build(recipe, "data.test"))[:limit])


def evaluate(
    models: Models,
    groups: Iterable[Group],
    measures: Sequence[str] | None = None,
    weight: float | str | None = None,
    baseline: str | None = None,
    output: Path | None = None,
    ignore_identical_ids: bool = False,
    warnings: Mode = "log",
) -> Comparison:
    """Rank the groups with every model and compare the runs, the first stage's beside them.

    Args:
        weight: Of the reranker beside the first stage, or "tune".
        ignore_identical_ids: Whether the candidates are without queries' own documents; given runs are measured so.
        warnings: Whether what is cut, replaced or left out is logged or an error.
    """
    with collecting_as(warnings):
        prepared = prepare(listed(groups, GROUPS))
        return _evaluated(models, prepared, measures, weight, baseline, output, ignore_identical_ids)


def _evaluated(
    models: Models,
    groups: list[Group],
    measures: Sequence[str] | None,
    weight: float | str | None,
    baseline: str | None,
    output: Path | None,
    ignore_identical_ids: bool,
) -> Comparison:
    from rerankkit.ranking import rerank

    first = first_run(groups)
    if weight is not None and first is None:
        raise InputError("--interpolate needs a first stage's scores, and this data has none")
    # what can be wrong is found before the work
    given = {name: read_run(model) for name, model in models.items() if isinstance(model, Path)}
    if ignore_identical_ids:
        given = {name: without_own_documents(run, qrels_of(groups)) for name, run in given.items()}
    runs: dict[str, Run] = {"first stage": first} if first else {}
    if not isinstance(weight, str):
        mixed = [] if weight is None else [_mixed(name, weight) for name in models if name not in given]
        _among(baseline, [*runs, *models, *mixed])
    files.require_place(output)
    for name, model in models.items():
        runs[name] = given[name] if name in given else rerank(model, groups, None)
        if weight is not None and first is not None and name not in given:
            share = _tuned(model) if isinstance(weight, str) else weight
            runs[_mixed(name, share)] = interpolate(runs[name], first, share)
    recipe = next((model.recipe for model in models.values() if not isinstance(model, Path)), None)
    wanted = measures or (recipe.settings("evaluation").measures if recipe else MEASURES)
    comparison = compare(runs, qrels_of(groups), wanted, _among(baseline, list(runs)))
    if output is not None:
        write_run(list(runs.values())[-1], output)
    return comparison


def ignores_identical_ids(models: Models, data: Path | None, asked: bool | None) -> bool:
    """Whether queries' own documents are left out: as asked, else where the data is in BEIR's form."""
    if asked is not None:
        return asked
    if data is not None:
        return (data / "qrels").is_dir()
    recipe = next((model.recipe for model in models.values() if not isinstance(model, Path)), None)
    return recipe is not None and leaves_out_own_documents(recipe.get("data.test"))


def _mixed(name: str, share: float) -> str:
    return f"{name} ({share:g}) + first stage"


def _among(baseline: str | None, systems: Sequence[str]) -> str:
    """The baseline as the systems are called, empty where none is given."""
    name = Path(baseline).name if baseline and baseline not in systems else baseline
    if name and name not in systems:
        raise InputError(f"--baseline {baseline}: none of the systems, which are {', '.join(systems)}")
    return name or ""


def show(comparison: Comparison, models: Sequence[str]) -> None:
    """Print a comparison, and how the last model differs from each model before it."""
    terminal = console()
    terminal.print(render(comparison))
    *before, last = models
    for name in before:
        for measure in comparison.measures:
            new, old = (comparison.systems[system].values[measure] for system in (last, name))
            found = describe(difference([new[qid] - old[qid] for qid in new])).replace("\n", "  ")
            terminal.print(f"{last} against {name}, {measure}: {found}", soft_wrap=True)


def _tuned(model: Any) -> float:
    """The weight that is best on the validation data, which is not what is reported on."""
    from rerankkit.ranking import rerank

    if model.recipe is None or not model.recipe.has("data.dev"):
        raise InputError("--interpolate tune needs a [data.dev] in the model's recipe; give a weight instead")
    dev = prepare(list(build(model.recipe, "data.dev")))
    first = first_run(dev)
    if first is None:
        raise InputError("--interpolate tune: the recipe's [data.dev] has no first stage; give a weight instead")
    weight = tune_weight(rerank(model, dev, None), first, qrels_of(dev))
    logger.info("interpolation weight %.1f, the best on the validation data", weight)
    return weight
