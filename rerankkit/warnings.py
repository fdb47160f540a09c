"""What a user should know and no score tells: counted by kind, and each kind said once.

    with collecting() as counted:              # a command, or one call of the Python API
        ...
        warn("documents_cut", "document 'd7' of query 'q1' (1,204 tokens, 64 read)")

When the outermost block ends, each kind is logged with its count, an example and what to do: once in a command, and
once in the life of a Python process. With `strict`, the first warning is an InputError where it happens. Blocks of
different threads know nothing of one another; a thread that works for a call runs in a copy of the call's context
(`contextvars.copy_context`), and its warnings are the call's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rerankkit.errors import InputError

logger = logging.getLogger("rerankkit")
Mode = Literal["log", "error"]
"""Whether what is warned of is logged, or an error."""


class Kind(NamedTuple):
    """What may have to be said: `{count} {noun} {done}, such as {example}; {remedy}`, and `{count} {noun} {done}` alone
    on a command's last line.

    Args:
        noun: What is counted, in the singular, such as "document".
        done: What befell it, such as "cut" or "left out".
        remedy: What to do.
    """

    noun: str
    done: str
    remedy: str


KINDS = {
    "documents_cut": Kind(
        "document", "cut", "raise [model.collator] max_length or document_max_length, or rank passages"
    ),
    "documents_unread": Kind(
        "document",
        "left without a token",
        "raise [model.collator] max_length, or cap the query by query_max_length",
    ),
    "queries_cut": Kind("query", "cut", "raise [model.collator] max_length or query_max_length"),
    "control_characters_left_out": Kind(
        "character",
        "left out that the tokenizer makes control tokens of",
        "take them out of the text, or they are not read",
    ),
    "answers_improbable": Kind(
        "prompt",
        "behind which the model hardly writes any of the answers",
        "let it answer at once (chat_template_kwargs, answer_prefix), or spell the answers as it writes them",
    ),
    "checkpoints_unread": Kind(
        "checkpoint",
        "trained on otherwise than it was made to be read",
        "give [model.collator] and [model.formatter] its markers, lengths and prompts",
    ),
    "checkpoint_settings_overridden": Kind(
        "setting",
        "of the checkpoint overridden",
        "leave the setting out to train the checkpoint on as `rerankkit rank` reads it",
    ),
    "windows_apart": Kind(
        "query",
        "ranked in windows that share no document, so that none passes from one to the next",
        "set [model.strategy] step below window",
    ),
    "documents_undecoded": Kind(
        "document", "read with U+FFFD for half a surrogate pair", "decode the file that it is from as what it is"
    ),
    "passages_cut": Kind("passage", "cut", "give passages fewer tokens (Passages.tokens, --passages)"),
    "documents_beyond_passages": Kind(
        "document",
        "read up to its last passage alone",
        "raise Passages.most, or give passages more tokens (Passages.tokens, --passages)",
    ),
    "answers_odd": Kind(
        "answer",
        "not as asked",
        "documents that it does not name keep their order; a larger [model.head] max_new_tokens gives it room",
    ),
    "queries_left_out": Kind("query", "left out", "give each query candidates (--run, --docs)"),
    "queries_without_candidates": Kind(
        "query", "without a candidate", "measures count it as 0; give a first stage that finds something (--run)"
    ),
    "rows_without_negative": Kind("row", "without a negative, kept", "let [sampling] random_negatives draw some"),
    "rows_with_unused_keys": Kind(
        "row", "with keys that are not used", "leave them out, or name them by arguments of the reader (query_key …)"
    ),
    "documents_empty": Kind("document", "empty, kept", "give the text that is missing, or leave the document out"),
    "labels_contrary": Kind(
        "document", "of two different labels for one query, kept", "give a document once to a query, with one label"
    ),
    "judged_queries_unknown": Kind("judged query", "unknown and left out", "give the queries that were judged"),
    "judged_documents_unknown": Kind(
        "judgement", "of no known document", "measures count these as missed; give the corpus that was judged"
    ),
    "groups_alike": Kind(
        "training group",
        "with the same prompt for all documents, which teaches nothing",
        "raise [model.collator] max_length, or cap the query by query_max_length",
    ),
    "half_precision_training": Kind(
        "trained weight",
        "in half precision, where steps below 1/256 of its value are lost",
        'set dtype = "fp32" in [model.backbone] and bf16 = true in [training], or train an adapter '
        "([model.backbone.lora]), whose weights are fp32",
    ),
    "trainings_unlocked": Kind(
        "training",
        "without a lock, so another one of the same output would not be noticed",
        "start one at a time for each output",
    ),
    "groups_without_positive": Kind(
        "training group", "without a positive document and left out", "give a document of each a label above 0"
    ),
    "groups_without_negative": Kind(
        "training group",
        "without a negative document, which teaches nothing about the order",
        "[sampling] random_negatives draws some from other queries",
    ),
    "groups_of_one_label": Kind(
        "training group",
        "with one label for all documents, which teaches nothing about the order",
        "leave it out, or grade its documents",
    ),
    "groups_labelled_twice": Kind(
        "training group",
        "with labels and teacher_scores, of which the labels are learned from",
        "[sampling] learn_from says otherwise",
    ),
    "ranks_contradicted": Kind(
        "query", "with ranks that contradict the scores, which count", "give scores that fall from rank to rank"
    ),
    "lines_repeated": Kind("line", "repeated, taken once", "remove the copies"),
    "own_documents_left_out": Kind(
        "query",
        "whose own document, of the same id, is left out as in BEIR's evaluation",
        "keep it by ignore_identical_ids = false (--no-ignore-identical-ids)",
    ),
    "own_documents_kept": Kind(
        "query", "among its own candidates, under its own id", "leave it out by --ignore-identical-ids"
    ),
    "document_ids_shared": Kind(
        "data set",
        "with document ids of several texts",
        "documents of one id count as the same; give each an id of its own, or leave the ids out",
    ),
    "checkpoints_passed_over": Kind(
        "checkpoint", "incomplete or damaged, passed over", "an older one is gone on from; --overwrite starts anew"
    ),
    "best_checkpoints_lost": Kind(
        "best checkpoint", "lost", "the best of the steps from here on is kept; --overwrite starts anew"
    ),
    "random_states_missing": Kind(
        "random state",
        "missing",
        "this training will differ from an uninterrupted one; resume with as many processes as it had",
    ),
    "recipe_lines_changed": Kind(
        "recipe line",
        "changed since this training began",
        "the result will be neither recipe's; --overwrite starts anew",
    ),
    "quotes_kept": Kind("TSV cell", "taken with its double quotes", "save as .csv what is quoted as CSV is"),
    "skiplist_unknown": Kind("skiplist word", "left out, being no token", "its vectors are compared as any other's"),
    "layout_leaves_out": Kind(
        "setting", "left out by the layout", "whoever reads it has to say so again, or it scores otherwise"
    ),
    "code_changed": Kind(
        "code file", "changed since it was loaded, shipped as it is now", "load the reranker anew and save it again"
    ),
}
"""Every kind there is, by the name that costs and JSON carry."""


@dataclass
class Warnings:
    """What was warned of, by kind.

    Args:
        strict: Whether a warning is an error.
    """

    strict: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    remedies: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1, remedy: str = "") -> None:
        with _lock:
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.examples.setdefault(kind, example)
            self.remedies.setdefault(kind, remedy or KINDS[kind].remedy)

    def pass_on(self) -> None:
        """Warn of what was counted apart from any block."""
        for kind, count in self.counts.items():
            warn(kind, self.examples[kind], count, self.remedies[kind])

    def brief(self, kind: str) -> str:
        """How many, and what befell them: "3 documents cut"."""
        count, (noun, done, _) = self.counts[kind], KINDS[kind]
        return f"{count:,} {noun if count == 1 else _plural(noun)} {done}"

    def sentence(self, kind: str) -> str:
        return f"{self.brief(kind)}, such as {self.examples[kind]}; {self.remedies[kind]}"


_lock = threading.Lock()
_current: ContextVar[Warnings | None] = ContextVar("warnings", default=None)
_said: set[str] = set()


def warn(kind: str, example: str, count: int = 1, remedy: str = "") -> None:
    """Count a warning; outside a collecting block it is said at once, if its kind was not yet said.

    Args:
        kind: A name of KINDS.
        example: Which one, and its numbers, as a piece of a sentence.
        count: How many there are.
        remedy: What to do, where the kind's own remedy does not fit.

    Raises:
        InputError: In a strict block.
    """
    warnings = _current.get()
    if warnings is not None and not warnings.strict:
        warnings.add(kind, example, count, remedy)
        return
    own = Warnings()
    own.add(kind, example, count, remedy)
    if warnings is not None:
        raise InputError(own.sentence(kind))
    _say(own)


def counts() -> dict[str, int]:
    """What the block at hand has counted so far, by kind; what its inner blocks counted is added as they end."""
    warnings = _current.get()
    return {} if warnings is None else dict(warnings.counts)


def summary() -> str:
    """What the block at hand has counted, as a command's last line carries it: " (3 documents cut, 1 query left out)";
    empty where there is nothing."""
    warnings = _current.get()
    if warnings is None or not warnings.counts:
        return ""
    return f" ({', '.join(map(warnings.brief, warnings.counts))})"


def be_strict() -> None:
    """Make errors of what the block at hand warns of from here on."""
    if (warnings := _current.get()) is not None:
        warnings.strict = True


@contextlib.contextmanager
def collecting(strict: bool = False, passed_on: bool = True) -> Iterator[Warnings]:
    """Count what is warned of inside; what an inner block counted is its outer's too.

    Args:
        strict: Raise an InputError at the first warning. An outer block's strictness holds inside, too.
        passed_on: False where the same data was or will be counted elsewhere: nothing is said, nor told an outer block.
    """
    outer = _current.get()
    warnings = Warnings(strict or (outer is not None and outer.strict))
    token = _current.set(warnings)
    try:
        yield warnings
    finally:
        _current.reset(token)
        if passed_on and outer is None:
            _say(warnings)
        elif passed_on and outer is not None:
            warnings.pass_on()


def collecting_as(mode: Mode | None, default: Mode = "log") -> contextlib.AbstractContextManager[Warnings]:
    """The block of one call of the Python API.

    Args:
        mode: What the caller asked for; None leaves it to `default`.

    Raises:
        InputError: `mode` is none.
    """
    return collecting(strict=checked(default if mode is None else mode) == "error")


def checked(mode: Mode) -> Mode:
    """The mode, if it is one."""
    if mode not in ("log", "error"):
        raise InputError(f"warnings = {mode!r} must be 'log' or 'error'")
    return mode


def say() -> None:
    """Say at once what the block at hand has counted, as before long work; what is counted later is not said again."""
    if (warnings := _current.get()) is not None:
        _say(warnings)


def forget() -> None:
    """Say every kind anew: another command begins in this process."""
    with _lock:
        _said.clear()


def _say(warnings: Warnings) -> None:
    for kind in warnings.counts:
        with _lock:
            new = kind not in _said
            _said.add(kind)
        if new:
            logger.warning(warnings.sentence(kind))


def _plural(noun: str) -> str:
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
