"""The command line: one thin function per command.

Options of a recipe are given as `--section.key value`; they are taken out before the rest is parsed, and reach the
command in `context.obj`. Heavy imports stand inside the commands, so that `--help`, `check` and `list` answer at once.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import traceback
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rerankkit import files
from rerankkit.errors import InputError, Interrupted, RunError
from rerankkit.warnings import be_strict, collecting, counts, forget, say, summary

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
OVERRIDE = re.compile(r"--[^.=\s]+\.[^=\s]+(=.*)?", re.DOTALL)

RecipeName = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe.")]
Code = Annotated[list[str] | None, typer.Option(help="A Python file whose decorators register parts; repeatable.")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run the Python code that a saved model ships.")]
Top = Annotated[int, typer.Option("--top", "--hits", min=1, help="How many documents of the first stage are reranked.")]
Order = Annotated[
    Literal["given", "inverse", "random"],
    typer.Option(help="In which order the first stage's documents are shown to the reranker."),
]
IgnoreIdenticalIds = Annotated[
    bool | None,
    typer.Option(help="Leave out a query's own document, of the same id; by default for data in BEIR's form."),
]
KEYS = "What the JSON lines call their parts, such as id={},text={}."
Seed = Annotated[int, typer.Option(help="Decides the random order.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        callback=lambda value: be_strict() if value else None,
        help="Make an error of what is warned of: texts cut, escaped or replaced, and what is refused or left out.",
    ),
]


def main() -> None:
    """Run a command; what goes wrong is one message, and a traceback only with --debug."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    _log_to_stderr()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character still gets the rest
    try:
        rest, overrides = _split([argument for argument in arguments if argument != "--debug"])
        if overrides and rest[:1] and rest[0] in ("list", "find", "doctor"):
            raise InputError(f"{overrides[0]} belongs to a recipe, and {rest[0]} reads none")
        _require_values(rest)
        forget()
        with collecting():
            app(rest, prog_name="rerankkit", obj=overrides)
    except (InputError, RunError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}" if "\n" not in str(error) else error, file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(130)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # typer makes 130 of Ctrl-C, and says nothing
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        print(f"error: {type(error).__name__}: {error}\n(--debug shows where)", file=sys.stderr)
        sys.exit(1)


@app.command()
def train(
    context: typer.Context,
    recipe: RecipeName,
    output: Annotated[Path, typer.Option(help="The folder of the trained model.")] = Path("models/reranker"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last complete checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is at the output.")] = False,
    code: Code = None,
    strict: Strict = False,
) -> None:
    """Train what a recipe describes, and save it.

    Any value of the recipe can be given: --training.learning_rate 1e-5 --loss.@losses ranknet.v1
    """
    loaded = _recipe(recipe, context, code, "train")
    from rerankkit.training import train as train_

    train_(loaded, output, resume=resume, overwrite=overwrite)
    _done(f"saved to {output}")


@app.command()
def rank(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A saved model, a published checkpoint, or a recipe.")],
    query: Annotated[str | None, typer.Option(help="One query, whose ranking is shown.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="JSONL with _id and text, a BEIR folder, TSV or TREC topics.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="JSONL with _id, text and title?, a BEIR folder, TSV or TREC.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="A first stage as a TREC run; BM25 without.")] = None,
    top: Top = 100,
    first_stage_order: Order = "given",
    seed: Seed = 0,
    output: Annotated[Path | None, typer.Option(help="The TREC run to write.")] = None,
    tag: Annotated[str, typer.Option(help="The name of the system in the run's last column.")] = "rerankkit",
    cache: Annotated[Path | None, typer.Option(help="Keep the model's answers here for later commands.")] = None,
    costs: Annotated[Path | None, typer.Option(help="Write what each query cost as JSON.")] = None,
    interpolate: Annotated[float | None, typer.Option(help="Weight of the reranker beside the first stage.")] = None,
    passages: Annotated[
        int | None, typer.Option(min=1, help="Cut documents into passages of so many tokens; the best one counts.")
    ] = None,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    queries_keys: Annotated[str | None, typer.Option(help=KEYS.format("qid", "title"))] = None,
    docs_keys: Annotated[str | None, typer.Option(help=KEYS.format("docno", "abstract,title=heading"))] = None,
    show: Annotated[int, typer.Option(min=1, help="How many documents of a --query are shown.")] = 5,
    code: Code = None,
    trust_code: TrustCode = False,
    strict: Strict = False,
) -> None:
    """Rank documents for one query, or for a file of queries into a TREC run.

    A query without a candidate is left out with a warning. Answers are kept in OUTPUT.answers until the run is written:
    after an interrupt the same command goes on from there. Any value of the recipe can be given, such as the tokens of
    a document that the model reads: --model.collator.document_max_length 128 --model.collator.query_max_length 32
    """
    overrides = _overrides(context)
    from rerankkit import ranking

    keys = ranking.check_options(context.params)
    if query is not None:
        group = ranking.live_group(query, docs, top, keys[1]) if docs else None
        reranker = _load(model, overrides, code, trust_code)
        groups = ranking.in_order(group or ranking.own_group(query, top, reranker), first_stage_order, seed)
        ranking.show(ranking.rerank(reranker, groups, interpolate, None, ranking.in_passages(passages)), groups, show)
        _done_with(f"ranked {len(groups[0].docs)} documents")
    elif queries is not None and docs is not None and output is not None:
        groups = ranking.file_groups(queries, docs, run, top, ignore_identical_ids, keys)
        groups = ranking.in_order(groups, first_stage_order, seed)
        reranker = _load(model, overrides, code, trust_code)
        ranking.rank_into(output, reranker, groups, interpolate, tag, cache, costs, ranking.in_passages(passages))
        _done(f"wrote {output}", err=any(map(files.is_standard_output, (output, costs))))


@app.command()
def evaluate(
    context: typer.Context,
    systems: Annotated[list[str], typer.Argument(help="Saved models, recipes or TREC runs, to be compared.")],
    data: Annotated[Path | None, typer.Option(help="A BEIR folder or JSONL; else the recipe's [data.test].")] = None,
    split: Annotated[str, typer.Option(help="Which qrels of a BEIR folder.")] = "test",
    top: Top = 20,
    run: Annotated[Path | None, typer.Option(help="A first stage as a TREC run, instead of BM25.")] = None,
    first_stage_order: Order = "given",
    seed: Seed = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many queries.")] = None,
    ignore_identical_ids: IgnoreIdenticalIds = None,
    measures: Annotated[str | None, typer.Option(help='Such as "nDCG@10 RR@10"; else the recipe\'s.')] = None,
    interpolate: Annotated[str | None, typer.Option(help="Weight of the reranker beside the first stage.")] = None,
    baseline: Annotated[str | None, typer.Option(help="What differences are taken to; else the first stage.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the last system's ranking as a TREC run.")] = None,
    as_json: AsJson = False,
    code: Code = None,
    trust_code: TrustCode = False,
    strict: Strict = False,
) -> None:
    """Measure rankings beside the first stage, with the difference of each and its significance."""
    from rerankkit import evaluating, ranking

    names, overrides = evaluating.labels(systems), _overrides(context)
    weight, wanted = evaluating.parse_weight(interpolate), evaluating.parse_measures(measures)
    ranking.require_apart(context.params)
    if files.is_standard_output(output):
        raise InputError(f"--output {output}: the comparison is printed there; give the name of a file")
    given = evaluating.read_groups(data, split, top, run, limit, ignore_identical_ids is not False) if data else None
    evaluating.require_used(context.params, context.get_parameter_source, given)
    models = {
        name: Path(system) if evaluating.is_run(system) else _load(system, overrides, code, trust_code)
        for name, system in zip(names, systems, strict=True)
    }
    groups = ranking.in_order(given or evaluating.own_groups(models, limit), first_stage_order, seed)
    ignored = evaluating.ignores_identical_ids(models, data, ignore_identical_ids)
    comparison = evaluating.evaluate(models, groups, wanted, weight, baseline, output, ignored)
    if as_json:
        _print_json(comparison.as_dict())
        return
    evaluating.show(comparison, names)
    _done_with(f"measured {comparison.queries} queries")


@app.command()
def export(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A saved model, a published checkpoint, or a recipe.")],
    layout: Annotated[str, typer.Option(help="pylate, stanford, open_retrievals or transformers.")],
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    code: Code = None,
    trust_code: TrustCode = False,
    strict: Strict = False,
) -> None:
    """Write a model in the layout of another project, where it scores the same."""
    _load(model, _overrides(context), code, trust_code).export(output, layout)
    _done(f"written to {output}")


@app.command()
def check(context: typer.Context, recipe: RecipeName, code: Code = None, strict: Strict = False) -> None:
    """Report everything that is wrong with a recipe; nothing is built."""
    _recipe(recipe, context, code, "train")
    _done(f"{recipe}: no problems")


@app.command()
def fill(context: typer.Context, recipe: RecipeName, code: Code = None, strict: Strict = False) -> None:
    """Print a recipe with what it extends laid flat and every default written out."""
    from rerankkit.recipe import fill as fill_

    typer.echo(fill_(_recipe(recipe, context, code, "rank")), nl=False)


@app.command()
def preview(
    context: typer.Context,
    recipe: RecipeName,
    example: Annotated[int, typer.Option(min=0, help="Which example, counted from 0.")] = 0,
    as_json: AsJson = False,
    code: Code = None,
    strict: Strict = False,
) -> None:
    """Show the exact tokens of a training and an inference example."""
    loaded = _recipe(recipe, context, code, "rank")
    from rerankkit import preview as preview_

    if as_json:
        _print_json(preview_.as_dict(loaded, example))
    else:
        _print(preview_.preview(loaded, example))


@app.command("list")
def list_(namespace: Annotated[str | None, typer.Argument()] = None, code: Code = None, strict: Strict = False) -> None:
    """List the parts that a recipe can name."""
    from rerankkit.registry import registry

    _load_code(code)
    chosen = {namespace: registry.namespace(namespace)} if namespace else registry.namespaces()
    for name, catalogue in chosen.items():
        if not namespace:
            typer.echo(f"@{name}")
        for part in catalogue.names():
            typer.echo(part if namespace else f"  {part}")


@app.command()
def find(namespace: str, name: str, code: Code = None, strict: Strict = False) -> None:
    """Say in which file and line a part is written."""
    from rerankkit.registry import registry

    _load_code(code)
    place = registry.namespace(namespace).find(name)
    typer.echo(f"{place.file}:{place.line}")


@app.command()
def doctor(as_json: AsJson = False, strict: Strict = False) -> None:
    """Show versions, device, kernels, embedded models and the cache, and what to do about what is missing."""
    from rerankkit import doctor as doctor_

    sections = doctor_.report()
    if as_json:
        _print_json(doctor_.as_dict(sections))
    else:
        _print(doctor_.render(sections))


def _recipe(name: str, context: typer.Context, code: list[str] | None, purpose: Any) -> Any:
    from rerankkit.recipe import load_recipe

    _load_code(code)
    return load_recipe(name, _overrides(context), purpose)


def _load(name: str, overrides: dict[str, Any], code: list[str] | None, trust_code: bool) -> Any:
    _load_code(code)
    from rerankkit.evaluating import model_of
    from rerankkit.reranker import Reranker
    from rerankkit.resolving import shipped_recipe

    path = Path(name)
    if folder := model_of(path):
        raise InputError(f"{name} is a file of a model; give its folder, {folder}")
    is_recipe = files.is_stream(path) or path.is_file() or path.suffix == ".cfg" or shipped_recipe(path) is not None
    if path.is_dir() or (not is_recipe and (name.startswith("embedded:") or "/" in name)):
        return Reranker.from_pretrained(name, overrides, trust_code)
    return Reranker.from_recipe(name, overrides)


def _overrides(context: typer.Context) -> dict[str, Any]:
    from rerankkit.recipe import parse_overrides

    return parse_overrides(context.obj)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the overrides of a recipe with their values."""
    own, overrides, rest = [], [], arguments[::-1]
    while rest:
        argument = rest.pop()
        match = OVERRIDE.fullmatch(argument)
        if match is None:
            own.append(argument)
            continue
        overrides.append(argument)
        if match.group(1) is None and rest and not rest[-1].startswith("--"):
            overrides.append(rest.pop())
    return own, overrides


def _require_values(arguments: list[str]) -> None:
    """Refuse an empty argument: a shell's variable that is not set would name the folder at hand, or nothing."""
    for before, argument in pairwise(["", *arguments]):
        option, sign, value = argument.partition("=")
        if not argument or (option.startswith("--") and sign and not value):
            name = option or (before if before.startswith("--") else "an argument")
            raise InputError(f"{name} is empty; give it a value (is a variable of the shell not set?), or leave it out")


def _load_code(files: list[str] | None) -> None:
    from rerankkit.registry import load_code

    for file in files or []:
        load_code(file)


def _done(line: str, err: bool = False) -> None:
    """Print a command's last line, with the counts of what was warned of; the warnings themselves come before it.

    Args:
        err: Print it on stderr, as stdout has the output itself.
    """
    say()
    typer.echo(f"{line}{summary()}", err=err)


def _done_with(line: str) -> None:
    """Print a last line below a table, where something was warned of."""
    if counts():
        _done(line)


def _print_json(report: dict[str, Any]) -> None:
    """Print a report for programs, with the counts of what was warned of."""
    import json

    typer.echo(json.dumps({**report, "warnings": counts()}, indent=1))


def _print(screen: Any) -> None:
    """Print a report for people."""
    from rerankkit.screen import console

    console().print(screen)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logger = logging.getLogger("rerankkit")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        return prefix + record.getMessage()
