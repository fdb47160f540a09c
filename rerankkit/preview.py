"""What the model is shown: the exact tokens of a training and an inference example, and figures over some hundred.

Everything here comes out of the functions that train and rank; nothing is formatted, tokenized or cut a second way.
The model's weights are not read where its backbone can do without them.
"""

from __future__ import annotations

import copy
import inspect
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from rerankkit import engine
from rerankkit.batches import training_batch
from rerankkit.checking import component_keys
from rerankkit.engine import Parts
from rerankkit.errors import InputError, RunError
from rerankkit.evaluate import prepare
from rerankkit.preview_screen import Example, Figures, Preview, Shown, Token
from rerankkit.protocols import AnswerReader, Ask, Backbone, Batch, Collator, Group, Prompt, Role, Row, Tokens
from rerankkit.recipe import Recipe, build, require
from rerankkit.registry import registry
from rerankkit.sampling import EpochSampler, training_groups
from rerankkit.stored_groups import StoredGroups
from rerankkit.typecheck import arguments

SAMPLE = 200
"""How many prompts the figures are taken over."""
IN_FULL = {"training": 3, "inference": 2}
"""How many prompts of a group are shown token by token."""
MADE_UP = Group(
    "how do I open a file?",
    ["The function open() returns a file object.", "Whales are mammals that live in the sea."],
)


def preview(recipe: Recipe, example: int = 0) -> Preview:
    """What the model is shown, for the terminal.

    Args:
        example: Which example, counted from 0: of training in the order of its first epoch, of inference in the
            reader's.
    """
    if example < 0:
        raise InputError(f"example = {example}: examples are counted from 0")
    require(recipe, "rank")
    parts = Parts(
        build(recipe, "model.formatter"),
        build(recipe, "model.collator"),
        _backbone(recipe),
        build(recipe, "model.head"),
        build(recipe, "model.strategy"),
    )
    parts.head.bind(parts.backbone)
    found = Preview(str(recipe.path), _described(recipe, "model.collator"), _described(recipe, "model.head"))
    if recipe.has("data.train"):
        with tempfile.TemporaryDirectory() as scratch:
            _training(recipe, parts, example, found, Path(scratch))
    else:
        found.missing.append("no training example: the recipe has no [data.train]")
    _inference(recipe, parts, example, found)
    if not found.examples:
        raise InputError("; ".join(found.missing))
    return found


def as_dict(recipe: Recipe, example: int = 0) -> dict[str, Any]:
    """What the model is shown, for JSON."""
    return asdict(preview(recipe, example))


class _Recorder:
    """A collator that keeps the rows that it was last given."""

    rows: list[Row]

    def __init__(self, collator: Collator) -> None:
        self._collator = collator

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        return self._collator.encode(prompts, tokenizer)

    def collate(self, rows: Sequence[Row], tokenizer: Any, prefixes: Sequence[tuple[int, ...]] = ()) -> Batch:
        self.rows = list(rows)
        return self._collator.collate(rows, tokenizer, prefixes)


def _backbone(recipe: Recipe) -> Backbone:
    """The backbone, without its weights where its factory has a `without_weights`: a function of some of its plain
    arguments."""
    block = recipe.get("model.backbone")
    factory = registry.backbones.get(block["@backbones"])
    light = getattr(factory, "without_weights", None)
    if light is None:
        return build(recipe, "model.backbone")
    given = {name: argument.default for name, argument in arguments(factory).items()} | block
    try:
        return light(**{name: given[name] for name in inspect.signature(light).parameters})
    except RunError as error:
        raise RunError(f"[model.backbone] {error}") from error
    except ValueError as error:
        raise InputError(f"[model.backbone] {error}") from error


def _described(recipe: Recipe, section: str) -> str:
    """A part in its recipe's words: its name and all its arguments."""
    values = dict(recipe.get(section))
    (key,) = component_keys(values)
    name = values.pop(key)
    defaults = arguments(registry.namespace(key[1:]).get(name)).items()
    values = {known: argument.default for known, argument in defaults} | values
    listed = (f"{known} = {json.dumps(value, ensure_ascii=False, default=str)}" for known, value in values.items())
    return f"{name} ({', '.join(listed)})"


def _training(recipe: Recipe, parts: Parts, example: int, found: Preview, scratch: Path) -> None:
    """The batches of the first steps: the example out of its own batch, the figures over the first of them."""
    given = recipe.section("training")
    seed, data_seed, size, accumulated = (
        given[name] if name in given else getattr(transformers.TrainingArguments, name)
        for name in ("seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps")
    )
    seed = seed if data_seed is None else data_seed
    groups = training_groups(recipe, StoredGroups(recipe.groups("train"), scratch / "train.jsonl"), seed)
    keys = list(EpochSampler(len(groups), seed))
    if example >= len(keys):
        found.missing.append(f"no training example {example}: [data.train] has {len(keys)}")
        return
    if given.get("activation_checkpointing") or given.get("gradient_checkpointing"):
        # as in training, which keeps no prefix's state then
        parts = replace(parts, backbone=copy.copy(parts.backbone))
        parts.backbone.shares_prefix = False
    recorder = _Recorder(parts.collator)
    parts = replace(parts, collator=recorder)
    rows: list[Row] = []
    computed: list[tuple[int, int]] = []
    for start in range(0, len(keys), size):
        computed.append(_computed(training_batch(parts, [groups[key] for key in keys[start : start + size]])))
        rows += recorder.rows
        if len(rows) >= SAMPLE:
            break
    group, first = groups[keys[example]], example // size * size
    batch = training_batch(parts, [groups[key] for key in keys[first : first + size]])
    shown = _rows_of(batch, example - first)
    source = f"[data.train], query {group.qid or keys[example][1]}, drawn with seed {seed} in epoch 0"
    prompts = _prompts(group, IN_FULL["training"], recorder.rows, batch, shown, parts)
    found.examples.append(_example("training", example, source, group, parts, prompts))
    real, padding = (accumulated * statistics.mean(values) for values in zip(*computed, strict=True))
    figures = _figures("training", rows)
    found.figures.append(replace(figures, step_groups=size * accumulated, step_tokens=real, step_padding=padding))


def _rows_of(batch: Batch, number: int) -> list[tuple[int, list[int]]]:
    """Which rows of a training batch are one group's, and which documents each of them shows."""
    assert batch.place is not None and batch.mask is not None
    width = batch.mask.shape[1]
    places = [[position for position in row if position >= 0] for row in batch.place.tolist()]
    return [(i, [p % width for p in row]) for i, row in enumerate(places) if row[0] // width == number]


def _inference(recipe: Recipe, parts: Parts, example: int, found: Preview) -> None:
    """What the strategy asks first of a group; no later ask can be known without the model's scores."""
    section = next((s for s in ("data.test", "data.dev", "data.train") if recipe.has(s)), None)
    if section is None:
        found.missing.append("no data: the recipe has no [data]; the inference example is made up")
    groups = prepare(list(recipe.groups(section.removeprefix("data."))) if section else [MADE_UP])
    if example >= len(groups):
        found.missing.append(
            f"no inference example {example}: {f'[{section}]' if section else 'what is made up'} has {len(groups)}"
        )
        return
    rows: list[Row] = []
    for group in groups:
        rows += engine.encode(parts, _first_asks(parts, group))
        if len(rows) >= SAMPLE:
            break
    group = groups[example]
    asks = _first_asks(parts, group)
    if not asks:
        found.missing.append(f"no inference example: nothing is asked about group {group.qid!r} of [{section}]")
        return
    own = engine.encode(parts, asks)
    shown = [(number, list(ask.docs)) for number, ask in enumerate(asks)]
    source = f"[{section}], query {group.qid}" if section else "made up"
    batch = engine.collate(parts, own)
    prompts = _prompts(group, IN_FULL["inference"], own, batch, shown, parts)
    found.examples.append(_example("inference", example, source, group, parts, prompts))
    found.figures.append(_figures("inference", rows))


def _first_asks(parts: Parts, group: Group) -> list[Ask]:
    return [Ask(group, docs) for docs in next(parts.strategy.rank(group), [])]


def _example(kind: str, number: int, source: str, group: Group, parts: Parts, prompts: list[Shown]) -> Example:
    shares = parts.backbone.shares_prefix
    return Example(kind, number, source, group.qid, group.query, len(group.docs), shares, prompts)


def _prompts(
    group: Group,
    in_full: int,
    rows: Sequence[Row],
    batch: Batch,
    shown: Sequence[tuple[int, list[int]]],
    parts: Parts,
) -> list[Shown]:
    """The prompts of one group: their tokens are the batch's, and the rows say what each one is.

    Args:
        in_full: How many are shown token by token.
        shown: The number of each prompt's row, and the documents that it shows.
    """
    prompts: list[Shown] = []
    tokenizer, written = parts.backbone.tokenizer, isinstance(parts.head, AnswerReader)
    for number, documents in shown:
        row = rows[number]
        prefix, own = _ids(batch, number)
        scored = [len(prefix) + i for i, document in enumerate(row.scored or ()) if document >= 0]
        compared = batch.tokens.compared is not None
        prompts.append(
            Shown(
                documents=documents,
                labels=[group.labels[position] for position in documents] if group.labels else None,
                counts={role: row.roles.count(role) for role in ("fixed", "query", "document")},
                shared=len(prefix),
                cut_query=row.cut_query,
                cut_document=row.cut_document,
                answer=None if compared or scored else len(prefix) + int(batch.answer[number]),
                tokens=_tokens(prefix + own, row.roles, tokenizer) if len(prompts) < in_full else None,
                scored=scored,
                written=written and not scored,
            )
        )
    return prompts


def _ids(batch: Batch, number: int) -> tuple[list[int], list[int]]:
    """The real tokens of a batch's row: those of its prefix, and its own."""
    own = _without_padding(batch.tokens, number)
    if batch.shared is None or batch.shared_of is None:
        return [], own
    return _without_padding(batch.shared, int(batch.shared_of[number])), own


def _without_padding(tokens: Tokens, row: int) -> list[int]:
    """What a query is filled up with is no padding: it is compared, though nothing attends to it."""
    return tokens.ids[row][tokens.real()[row]].tolist()


def _tokens(ids: list[int], roles: Sequence[Role], tokenizer: Any) -> list[Token]:
    template = str(tokenizer.chat_template or "")
    control = {i for i, t in tokenizer.added_tokens_decoder.items() if t.special or t.content in template}
    texts = _texts(ids, tokenizer)
    return [Token(i, text, role, i in control) for i, text, role in zip(ids, texts, roles, strict=True)]


def _texts(ids: list[int], tokenizer: Any) -> list[str]:
    """The text that each token adds; where it takes several to spell a character, the first has it."""

    def decoded(begin: int, end: int) -> str:
        return tokenizer.decode(ids[begin:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def added(begin: int, end: int) -> str:
        # some tokenizers drop the space before a first token, so the one before comes along
        before, whole = decoded(max(begin - 1, 0), begin), decoded(max(begin - 1, 0), end)
        return whole[len(before) :] if whole.startswith(before) else decoded(begin, end)

    texts: list[str] = []
    while len(texts) < len(ids):
        begin = len(texts)
        ends = range(begin + 1, min(begin + 6, len(ids)) + 1)
        end = next((end for end in ends if "\ufffd" not in added(begin, end)), begin + 1)
        texts += [added(begin, end), *[""] * (end - begin - 1)]
    return texts


def _computed(batch: Batch) -> tuple[int, int]:
    """Real tokens and padding of a batch, shared prefixes once."""
    masks = [tokens.mask for tokens in (batch.tokens, batch.shared) if tokens is not None]
    real = sum(int(mask.sum()) for mask in masks)
    return real, sum(mask.numel() for mask in masks) - real


def _figures(kind: str, rows: Sequence[Row]) -> Figures:
    lengths = torch.tensor([float(len(row.shared) + len(row.ids)) for row in rows])
    at = {"5 %": 0.05, "50 %": 0.5, "95 %": 0.95, "longest": 1.0}
    return Figures(
        kind,
        len(rows),
        {name: int(lengths.quantile(share, interpolation="nearest")) for name, share in at.items()},
        sum(row.cut_document > 0 for row in rows) / len(rows),
        sum(row.cut_query > 0 for row in rows) / len(rows),
        statistics.fmean(len(row.shared) for row in rows),
    )
