"""A reranker: five parts that a recipe names, ready to rank, score, save and load."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from rerankkit import engine, saving
from rerankkit.bill import Bill, Costs
from rerankkit.engine import Parts, Scoring
from rerankkit.errors import InputError
from rerankkit.inputs import (
    DOCUMENTS,
    GROUPS,
    PAIRS,
    TEXTS,
    document_of,
    documents_of,
    listed,
    name_of,
    overrides_of,
    query_of,
    top_of,
)
from rerankkit.model_fingerprint import model_fingerprint
from rerankkit.passages import Passages, by_best_passage
from rerankkit.progress import quiet_libraries
from rerankkit.protocols import Ask, Group, Pretrained, Ranked, Scaled
from rerankkit.published import published_recipe
from rerankkit.recipe import Recipe, build, load_recipe
from rerankkit.score_cache import ScoreCache
from rerankkit.settings import Engine
from rerankkit.token_vectors import embed
from rerankkit.warnings import Mode, checked, collecting_as

PARTS = ("formatter", "collator", "backbone", "head", "strategy")


class Reranker:
    """Puts the best documents of a query first.

    There are no families of rerankers: they differ in the parts that their recipes name.

    Args:
        parts: Formatter, collator, backbone, head and strategy. The head is bound to the backbone here.
        settings: How prompts are batched.
        recipe: What the parts were built from; needed to save the reranker.
        warnings: Whether what is cut, replaced or left out is logged, once a process, or an error ("error"); each call
            may say otherwise.
    """

    def __init__(
        self, parts: Parts, settings: Engine | None = None, recipe: Recipe | None = None, warnings: Mode = "log"
    ) -> None:
        self.parts = parts
        self.settings = settings or Engine()
        self.recipe = recipe
        self.warnings = checked(warnings)
        self.bill = Bill.blank(0)
        """What the last call cost, of each query and in total."""
        parts.head.bind(parts.backbone)
        self.untrained = any(isinstance(p, Pretrained) and p.untrained for p in (parts.backbone, parts.head))
        """Whether weights that scores depend on are random: such a reranker can be trained, and does not rank."""
        self.to("cuda" if torch.cuda.is_available() else "cpu")

    @classmethod
    def from_recipe(
        cls, recipe: str | Path | Recipe, overrides: dict[str, Any] | None = None, warnings: Mode = "log"
    ) -> Reranker:
        """Build a reranker from a recipe file, with dotted overrides such as {"model.backbone.dtype": "bf16"}."""
        with collecting_as(warnings), quiet_libraries():
            if not isinstance(recipe, Recipe):
                recipe = load_recipe(recipe, overrides)
            elif overrides:
                raise InputError(
                    "overrides go into load_recipe(path, overrides), not beside a recipe that is read already"
                )
            parts = Parts(*(build(recipe, f"model.{name}") for name in PARTS))
            return cls(parts, recipe.settings("engine"), recipe, warnings)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        overrides: dict[str, Any] | None = None,
        trust_code: bool = False,
        warnings: Mode = "log",
    ) -> Reranker:
        """Load a saved reranker, or a published checkpoint: a cross-encoder of transformers, or late interaction in the
        layout of PyLate, sentence-transformers, Stanford's ColBERT or open-retrievals.

        Args:
            model: A folder, a hub id, or `embedded:NAME`.
            trust_code: Run the Python code that was saved with the model. Read it first.
        """
        overrides = overrides_of(overrides)
        with collecting_as(warnings):
            if saving.is_saved(Path(name_of(model, "a model"))):
                reranker = saving.load(cls, Path(model), overrides, trust_code)
            else:
                reranker = cls.from_recipe(published_recipe(str(model), overrides))
            reranker.warnings = warnings
            return reranker

    def save_pretrained(self, folder: str | Path, notes: str = "") -> None:
        """Write a folder that `from_pretrained` reads: recipe, weights, where each part came from, a model card.

        The folder must not exist or be empty. LoRA is folded into the backbone, in memory too, unless the recipe says
        `merge = false`.

        Args:
            notes: Markdown for the model card, such as what was measured.
        """
        with collecting_as(None, self.warnings):
            saving.save(self, Path(folder), notes)

    def export(self, folder: str | Path, layout: str) -> None:
        """Write a folder that another project loads and that scores the same there; this reranker stays as it is.

        Args:
            layout: "pylate" (read by sentence-transformers, too), "stanford" or "open_retrievals" for late interaction;
                "transformers" for a cross-encoder with its own classifier, or the language model behind a yes or no.
        """
        from rerankkit import exporting

        self._require_trained()
        with collecting_as(None, self.warnings), quiet_libraries():
            exporting.export(self.parts, Path(folder), layout)

    def to(self, device: str | torch.device) -> Reranker:
        """Move all weights to a device; their type stays what [model.backbone] dtype says.

        Raises:
            InputError: It is no device of this machine.
        """
        device = _device(device)
        for part in (self.parts.backbone, self.parts.head):
            if part.module is not None:
                part.module.to(device)
                part.module.eval()
        return self

    @property
    def costs(self) -> Costs:
        """What the last call cost in total."""
        return self.bill.total

    def fingerprint(self) -> str:
        """What the model is, weights included; the score cache knows its answers by it."""
        modules = [part.module for part in (self.parts.backbone, self.parts.head) if part.module is not None]
        return model_fingerprint(self.recipe, modules)

    def rank(
        self,
        query: str,
        docs: Iterable[str],
        top_k: int | None = None,
        passages: Passages | None = None,
        warnings: Mode | None = None,
    ) -> list[Ranked]:
        """The documents, best first; equal scores keep the given order.

        Args:
            top_k: How many of the best, a whole number of at least 1; all where None.
            passages: Cut long documents so; the best passage speaks for its document.
            warnings: Whether what is cut or replaced is logged or an error; None is the reranker's own.
        """
        group = Group(query, listed(docs, DOCUMENTS))
        return self.rank_groups([group], top_k, passages=passages, warnings=warnings)[0]

    def rank_groups(
        self,
        groups: Iterable[Group],
        top_k: int | None = None,
        finished: Callable[[], None] = lambda: None,
        cache: ScoreCache | None = None,
        answered: Callable[[int], None] = lambda prompts: None,
        passages: Passages | None = None,
        warnings: Mode | None = None,
    ) -> list[list[Ranked]]:
        """Rank many queries, batched together; `finished` is called as each query is done.

        Args:
            top_k: How many of the best, a whole number of at least 1; all where None.
            answered: Is told after each batch how many prompts it had; queries that are sorted all end late.
            cache: Nothing is asked that this model has answered in it; new answers are added to it as they come, so an
                interrupted call can be made again.
            passages: Cut long documents so; the best passage speaks for its document.
            warnings: Whether what is cut or replaced is logged or an error; None is the reranker's own.
        """
        top_k = top_of(top_k)
        for name, value, kind in (("passages", passages, Passages), ("cache", cache, ScoreCache)):
            if value is not None and not isinstance(value, kind):
                raise InputError(f"{name} = {value!r:.120} must be {kind.__name__}(…)")
        with collecting_as(warnings, self.warnings) as counted:
            given = listed(groups, GROUPS)
            asked = [_readable(group, number) for number, group in enumerate(given)]
            self._require_trained()
            answers, owners = cache.of(self.fingerprint()) if cache is not None else None, list[list[int]]()
            if passages is not None:
                cut = [passages.cut(group, self.parts.backbone.tokenizer) for group in asked]
                asked, owners = [group for group, _ in cut], [owner for _, owner in cut]
            of_passages = passages is not None
            orders, bill = engine.run(self.parts, asked, self.settings, finished, answers, answered, of_passages)
            if passages is not None:
                orders = [by_best_passage(order, owner) for order, owner in zip(orders, owners, strict=True)]
            bill.total.warnings = dict(counted.counts)
            self.bill = bill
        return [
            [Ranked(position, score, group.docs[position]) for position, score in order[:top_k]]
            for group, order in zip(given, orders, strict=True)
        ]

    def compute_score(
        self, pairs: Iterable[Sequence[str]], normalize: bool = False, warnings: Mode | None = None
    ) -> list[float]:
        """Scores of (query, document) pairs in the order given; one flat pair is accepted. A reranker that compares
        documents with one another has none.

        Args:
            normalize: Sigmoid of the scores, for display; scores that are probabilities stay as they are, and those
                that are no logits are refused. Rankings never use it.
            warnings: Whether what is cut or replaced is logged or an error; None is the reranker's own.
        """
        given = listed(pairs, PAIRS)
        if len(given) == 2 and all(isinstance(text, str) for text in given):
            given = [given]
        self._require_trained()
        scaled = self.parts.head if normalize and isinstance(self.parts.head, Scaled) else None
        if scaled is not None:
            scaled.normalized([])  # what cannot be is refused before the work
        with collecting_as(warnings, self.warnings) as counted:
            groups: dict[str, Group] = {}
            asks = []
            for number, pair in enumerate(given):
                query, document = _texts_of_pair(pair, number)
                group = groups.setdefault(query, Group(query, []))
                asks.append(Ask(group, (len(group.docs),)))
                group.docs.append(document)
            if asks and self.parts.formatter.format(asks[0], self.parts.backbone.tokenizer).labels:
                raise InputError(
                    "this reranker compares documents with one another, so a pair has no score of its own; use rank or "
                    "rank_groups"
                )
            bill, start = Bill.blank(len(groups)), time.perf_counter()  # of this call: other threads have theirs
            place = {query: i for i, query in enumerate(groups)}
            queries = [place[ask.group.query] for ask in asks]
            scores = [score for (score,) in Scoring(self.parts, self.settings, bill).score(asks, queries)]
            bill.total.seconds = time.perf_counter() - start
            for costs in (bill.total, *bill.queries) if asks else ():
                costs.depth = 1
            bill.total.warnings = dict(counted.counts)
            self.bill = bill
        if scaled is not None:
            return scaled.normalized(scores)
        return torch.tensor(scores, dtype=torch.float64).sigmoid().tolist() if normalize else scores

    def encode(
        self,
        texts: Iterable[str],
        kind: Literal["query", "document"] = "document",
        warnings: Mode | None = None,
    ) -> list[torch.Tensor]:
        """Token vectors of each text, for late interaction: one [tokens, dim] a text, normalised, float32, without
        padding and without the tokens that are not compared.

        Args:
            kind: Queries and documents are encoded differently: their markers, lengths and expansion.
            warnings: Whether what is cut or replaced is logged or an error; None is the reranker's own.
        """
        given = listed(texts, TEXTS)
        if kind not in ("query", "document"):
            raise InputError(f"kind = {kind!r} must be 'query' or 'document'")
        self._require_trained()
        with collecting_as(warnings, self.warnings), torch.no_grad():
            # tensors of inference_mode could be neither changed nor trained on
            plain = [document_of(text, f"text {number}") for number, text in enumerate(given)]
            return embed(self.parts, plain, kind, self.settings)

    def _require_trained(self) -> None:
        if not self.untrained:
            return
        parts = {"classifier": self.parts.backbone, "head": self.parts.head}
        new = " and ".join(name for name, part in parts.items() if isinstance(part, Pretrained) and part.untrained)
        raise InputError(
            f"the {new or 'head or classifier'} of this reranker is new and random, so its scores would mean nothing: "
            "train it first (rerankkit train), or name a checkpoint that has one; `reranker.untrained = False` ranks "
            "all the same"
        )


def _readable(group: Any, number: int) -> Group:
    """A group whose texts any tokenizer reads."""
    if not isinstance(group, Group):
        raise InputError(f"group {number} must be a Group(query, docs); got {group!r:.120}")
    name = group.qid or str(number)
    return replace(
        group, query=query_of(group.query, f"the query of group {name}"), docs=documents_of(group.docs, name)
    )


def _texts_of_pair(pair: Any, number: int) -> tuple[str, str]:
    """Query and document of a pair."""
    said = f"pair {number} must be two texts, [query, document]; got {pair!r:.120}"
    if isinstance(pair, Mapping):
        raise InputError(f'{said}; give its values, such as [pair["query"], pair["document"]]')
    if isinstance(pair, str | Set) or not isinstance(pair, Collection) or len(pair) != 2:
        raise InputError(said)
    query, document = pair
    if not isinstance(query, str) or not isinstance(document, str):
        raise InputError(said)
    return query_of(query, f"the query of pair {number}"), document_of(document, f"the document of pair {number}")


def _device(device: str | torch.device) -> torch.device:
    """A device of this machine that holds weights."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (TypeError, RuntimeError, AssertionError) as error:
        hint = "; set [model.backbone] dtype for the weights' type" if isinstance(device, torch.dtype) else ""
        raise InputError(f"to({device!r:.120}): expected a device of this machine, such as 'cpu'{hint}") from error
    if found.type == "meta":
        raise InputError("to('meta') would throw the weights away; name a device that holds them")
    return found
