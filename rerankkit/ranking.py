"""What `rerankkit rank` does: groups from files, a run out of them, one ranking on the screen."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from rerankkit import files
from rerankkit.collection import (
    Collection,
    candidates_from_bm25,
    first_stage,
    parse_keys,
    read_corpus,
    read_queries,
)
from rerankkit.errors import InputError, Interrupted
from rerankkit.evaluate import first_run, interpolate, prepare, reordered, run_of
from rerankkit.passages import Passages
from rerankkit.progress import Bar
from rerankkit.protocols import Group
from rerankkit.recipe import build
from rerankkit.reranker import Reranker
from rerankkit.score_cache import ScoreCache
from rerankkit.screen import console, line_of
from rerankkit.trec import Run, best_first, read_run, require_word, write_run
from rerankkit.warnings import counts, warn

logger = logging.getLogger("rerankkit")
FirstStageOrder = Literal["given", "inverse", "random"]
BEIR_FILES = ("corpus.jsonl", "queries.jsonl")
READ, WRITTEN = ("model", "systems", "queries", "docs", "data", "run"), ("output", "cache", "costs")
"""The options that name files."""


def file_groups(
    queries: Path,
    docs: Path,
    run: Path | None,
    top: int,
    ignore_identical_ids: bool | None = None,
    keys: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> list[Group]:
    """The candidates of every query of a file: by a TREC run, else by BM25 over all documents. A query without one is
    left out with a warning, as a run has no line for it.

    Args:
        ignore_identical_ids: Leave out a query's own document, of the same id; None does it for BEIR folders.
        keys: What the lines of queries, and those of documents, call their parts.
    """
    ignored = docs.is_dir() if ignore_identical_ids is None else ignore_identical_ids
    first = read_run(run) if run else None
    named = {docid for scores in first.values() for docid in scores} if first else None
    asked, corpus = read_queries(queries, keys[0]), read_corpus(docs, named, keys[1])
    found = first_stage(Collection(corpus, asked), asked, top, run, ignored, first)
    without = [qid for qid in asked if not found.get(qid)]
    if len(without) == len(asked):
        raise InputError(f"{docs}: no document has a word of any query of {queries}, so there is nothing to rank")
    groups = Collection(corpus, asked).groups(found, [qid for qid in asked if found.get(qid)])
    for group in groups:  # before the work, as the run could not be written after it
        require_word(group.qid, f"{queries}: the query id")
        for docid in group.doc_ids or []:
            require_word(docid, f"{docs}: the document id")
    if not ignored:
        _warn_of_own_documents(groups)
    if without:
        source = f"{run} has no line for it" if run else "BM25 finds nothing for it"
        warn("queries_left_out", f"query {without[0]!r} of {len(asked):,} ({source})", len(without))
    return groups


def _warn_of_own_documents(groups: Sequence[Group]) -> None:
    """A query that stands among the documents comes first, and says nothing of the others."""
    for group in groups:
        own = [text for docid, text in zip(group.doc_ids or [], group.docs, strict=True) if docid == group.qid]
        if own and " ".join(group.query.split()) in " ".join(own[0].split()):
            warn("own_documents_kept", f"{group.qid!r}")


def in_order(groups: Iterable[Group], order: FirstStageOrder, seed: int) -> list[Group]:
    """The groups with their documents in the order that a strategy is to see, which may be another than the first
    stage's; its scores stay with the documents."""
    groups = list(groups)
    if order == "given":
        return groups
    if any(group.first_scores is None for group in groups):
        raise InputError(f"--first-stage-order {order}: this data has no first stage whose order could be changed")
    found = []
    for group in groups:
        positions = list(range(len(group.docs)))[::-1]
        if order == "random":
            random.Random(f"{seed} {group.qid}").shuffle(positions)  # whichever other queries there are
        found.append(reordered(group, positions))
    return found


def live_group(query: str, docs: Path, top: int, keys: Mapping[str, str] | None = None) -> list[Group]:
    """One query against a file of documents, whose lines may have keys of their own."""
    return _best_of(query, read_corpus(docs, keys=keys), top)


def own_group(query: str, top: int, reranker: Reranker) -> list[Group]:
    """One query against the documents of the model's own test data."""
    if reranker.recipe is None or not reranker.recipe.has("data.test"):
        raise InputError("give --docs FILE: the model's recipe has no [data.test] to take documents from")
    groups = prepare(list(build(reranker.recipe, "data.test")))
    corpus: dict[str, str] = {}
    for group in groups:
        for docid, text in zip(group.doc_ids or [], group.docs, strict=True):
            if corpus.setdefault(docid, text) != text:  # where ids are of one query each, as `d1` is
                corpus[f"{group.qid}:{docid}"] = text
    return _best_of(query, corpus, top)


def _best_of(query: str, corpus: dict[str, str], top: int) -> list[Group]:
    if not query.strip():
        raise InputError("the query is empty; give it some text")
    found = candidates_from_bm25(corpus, {"query": query}, top)
    if not found["query"]:
        raise InputError(f"no document has a word of the query {query!r}; ask in words that the documents have")
    return Collection(corpus, {"query": query}).groups(found)


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Refuse what does not go together, an interpolation weight that is none, a tag that cannot stand in a run, and
    files that must not be one.

    Args:
        options: What `rank` was given, by the options' names.

    Returns:
        What the lines of queries, and those of documents, call their parts.
    """
    query = options["query"] is not None
    if not query and any(options[name] is None for name in ("queries", "docs", "output")):
        raise InputError("give --query TEXT, or --queries FILE, --docs FILE and --output FILE")
    if query and any(options[name] for name in ("queries", "run", "output", "cache", "costs")):
        raise InputError(
            "--query shows one ranking: leave --queries, --run, --output, --cache and --costs out, or leave --query out"
        )
    require_word(options["tag"], "--tag")
    weight = options["interpolate"]
    if weight is not None and not 0 <= weight <= 1:
        raise InputError(f"--interpolate {weight}: expected a weight between 0 and 1")
    require_apart(options)
    queries, docs = options["queries_keys"], options["docs_keys"]
    return parse_keys(queries, "--queries-keys"), parse_keys(docs, "--docs-keys")


def in_passages(tokens: int | None) -> Passages | None:
    """Passages of so many tokens, a quarter of which overlap."""
    return None if tokens is None else Passages(tokens, tokens // 4)


def rerank(
    reranker: Reranker,
    groups: Iterable[Group],
    weight: float | None,
    cache: ScoreCache | None = None,
    passages: Passages | None = None,
) -> Run:
    """The reranker's run over prepared or first-stage groups, interpolated with the first stage where asked."""
    groups = prepare(groups)
    with Bar("ranking") as bar:
        bar.start(len(groups))
        answered = functools.partial(bar.count, what="prompts")
        ranked = reranker.rank_groups(groups, finished=bar.advance, cache=cache, answered=answered, passages=passages)
    run = run_of(groups, ranked)
    if weight is None:
        return run
    first = first_run(groups)
    if first is None:
        raise InputError("--interpolate needs a first stage's scores, and these groups have none")
    return interpolate(run, first, weight)


def rank_into(
    output: Path,
    reranker: Reranker,
    groups: Sequence[Group],
    weight: float | None,
    tag: str,
    kept: Path | None,
    costs: Path | None,
    passages: Passages | None = None,
) -> None:
    """Rank into a run. Every answer of the model is kept in a file until the run is written, so that the same command
    goes on after an interrupt.

    Args:
        kept: A file of answers that stays; else one beside the output, which goes when the run is there.
        costs: A file for what each query cost.
    """
    files.require_place(output)
    path = kept
    if kept is None and not files.is_stream(output):  # beside a pipe or a device there is no place for answers
        path = output.with_name(f"{output.name}.answers")
    require_apart({"cache": path, "costs": costs})
    for file in (path, costs):
        files.require_place(file)
    before = 0
    try:
        with contextlib.nullcontext() if path is None else contextlib.closing(ScoreCache(path)) as cache:
            if before := len(cache or ()):
                logger.info("going on with the %d answers in %s", before, path)
            try:
                run = rerank(reranker, groups, weight, cache, passages)
            finally:
                if path is not None and kept is None and not len(cache or ()):
                    path.unlink(missing_ok=True)  # nothing was answered, so nothing can be gone on from
    except KeyboardInterrupt:
        again = "the same command goes on from here" if path else "--cache FILE keeps answers, to go on from there"
        raise Interrupted(f"interrupted; {again}") from None
    write_run(run, output, tag)
    if costs is not None:
        bill = reranker.bill.as_dict([group.qid for group in groups], counts())
        files.write(costs, [json.dumps(bill, indent=1), "\n"])
    if path is not None and kept is None:
        path.unlink(missing_ok=True)
    if before:
        logger.info("%d answers were at hand, %d prompts were asked", reranker.costs.cached, reranker.costs.prompts)
    if sys.stdout.isatty():
        console(stderr=True).print(reranker.bill.table())


def require_apart(options: Mapping[str, Any]) -> None:
    """Refuse to write a file over one that is read, or two into one.

    Args:
        options: What a command was given, by the options' names.
    """
    taken: dict[str, str] = {}
    for option in READ:
        given = options.get(option) or ()
        for path in map(Path, [given] if isinstance(given, str | Path) else given):
            taken |= {files.same_place(file, written=False): option for file in _files_of(path)}
    for option in WRITTEN:
        if chosen := options.get(option):
            place = files.same_place(chosen, written=True)
            if (other := taken.get(place)) and place != os.devnull:
                raise InputError(f"{option} and {other} are one file, {chosen}; give the {option} a name of its own")
            taken[place] = option


def _files_of(path: Path) -> Iterator[Path]:
    """A file, or those that are read of a BEIR folder."""
    yield path
    yield from (path / f"{name}{ending}" for name in BEIR_FILES for ending in ("", *files.PACKED))
    yield from (path / "qrels").glob("*.tsv")


def show(run: Run, groups: Sequence[Group], count: int) -> None:
    """Print the best documents of one query, with where the first stage had put them."""
    (group,) = prepare(groups)
    ids, first = group.doc_ids or [], group.first_scores or []
    before = sorted(range(len(first)), key=lambda position: -first[position])
    table = Table(title=Text(line_of(group.query)), title_justify="left", show_lines=True)
    for column, justify in (("rank", "right"), ("was", "right"), ("score", "right"), ("document", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    scores = run[group.qid]
    for rank, docid in enumerate(best_first(scores)[:count], start=1):
        position = ids.index(docid)
        text = Text(f"{line_of(docid)}\n{line_of(group.docs[position])[:200]}")
        table.add_row(str(rank), str(before.index(position) + 1), f"{scores[docid]:.2f}", text)
    console().print(table)
