"""A reranker: five parts that a recipe names, ready to rank, score, save and load."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from rerankkit import engine, saving
from rerankkit.bill import Bill, Costs
from rerankkit.engine import Parts, Scoring
from rerankkit.errors import InputError
from rerankkit.model_fingerprint import model_fingerprint
from rerankkit.passages import Passages, by_best_passage
from rerankkit.progress import quiet_libraries
from rerankkit.protocols import Ask, Group, Pretrained, Ranked
from rerankkit.published import published_recipe
from rerankkit.recipe import Recipe, build, load_recipe
from rerankkit.score_cache import ScoreCache
from rerankkit.settings import Engine
from rerankkit.token_vectors import embed

logger = logging.getLogger("rerankkit")
PARTS = ("formatter", "collator", "backbone", "head", "strategy")


class Reranker:
    """Puts the best documents of a query first.

    There are no families of rerankers: they differ in the parts that their recipes name.

    Args:
        parts: Formatter, collator, backbone, head and strategy. The head is bound to the backbone here.
        settings: How prompts are batched.
        recipe: What the parts were built from; needed to save the reranker.
    """

    def __init__(self, parts: Parts, settings: Engine | None = None, recipe: Recipe | None = None) -> None:
        self.parts = parts
        self.settings = settings or Engine()
        self.recipe = recipe
        self.bill = Bill.blank(0)
        """What the last call cost, of each query and in total."""
        parts.head.bind(parts.backbone)
        self.untrained = any(isinstance(p, Pretrained) and p.untrained for p in (parts.backbone, parts.head))
        """Whether weights that scores depend on are random: such a reranker can be trained, and does not rank."""
        self.to("cuda" if torch.cuda.is_available() else "cpu")

    @classmethod
    def from_recipe(cls, recipe: str | Path | Recipe, overrides: dict[str, Any] | None = None) -> Reranker:
        """Build a reranker from a recipe file, with dotted overrides such as {"model.backbone.dtype": "bf16"}."""
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(recipe, overrides)
        elif overrides:
            raise InputError("overrides go into load_recipe(path, overrides), not beside a recipe that is read already")
        with quiet_libraries():
            parts = Parts(*(build(recipe, f"model.{name}") for name in PARTS))
        return cls(parts, recipe.settings("engine"), recipe)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, overrides: dict[str, Any] | None = None, trust_code: bool = False
    ) -> Reranker:
        """Load a saved reranker, or a published checkpoint: a cross-encoder of transformers, or late interaction in the
        layout of PyLate, sentence-transformers, Stanford's ColBERT or open-retrievals.

        Args:
            model: A folder, a hub id, or `embedded:NAME`.
            trust_code: Run the Python code that was saved with the model. Read it first.
        """
        if saving.is_saved(Path(model)):
            return saving.load(cls, Path(model), overrides or {}, trust_code)
        return cls.from_recipe(published_recipe(str(model), overrides))

    def save_pretrained(self, folder: str | Path, notes: str = "") -> None:
        """Write a folder that `from_pretrained` reads: recipe, weights, where each part came from, a model card.

        The folder must not exist or be empty. LoRA is folded into the backbone, in memory too, unless the recipe says
        `merge = false`.

        Args:
            notes: Markdown for the model card, such as what was measured.
        """
        saving.save(self, Path(folder), notes)

    def export(self, folder: str | Path, layout: str) -> None:
        """Write a folder that another project loads and that scores the same there; this reranker stays as it is.

        Args:
            layout: "pylate" (read by sentence-transformers, too), "stanford" or "open_retrievals" for late interaction;
                "transformers" for a cross-encoder with its own classifier, or the language model behind a yes or no.
        """
        from rerankkit import exporting

        self._require_trained()
        with quiet_libraries():
            exporting.export(self.parts, Path(folder), layout)

    def to(self, device: str | torch.device) -> Reranker:
        """Move all weights to a device."""
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
        self, query: str, docs: Sequence[str], top_k: int | None = None, passages: Passages | None = None
    ) -> list[Ranked]:
        """The documents, best first; equal scores keep the given order.

        Args:
            passages: Cut long documents so; the best passage speaks for its document.
        """
        if isinstance(docs, str):
            raise InputError("rank takes a list of documents; put the one text into a list")
        return self.rank_groups([Group(query, list(docs))], top_k, passages=passages)[0]

    def rank_groups(
        self,
        groups: Sequence[Group],
        top_k: int | None = None,
        finished: Callable[[], None] = lambda: None,
        cache: ScoreCache | None = None,
        answered: Callable[[int], None] = lambda prompts: None,
        passages: Passages | None = None,
    ) -> list[list[Ranked]]:
        """Rank many queries, batched together; `finished` is called as each query is done.

        Args:
            answered: Is told after each batch how many prompts it had; queries that are sorted all end late.
            cache: Nothing is asked that this model has answered in it; new answers are added to it as they come, so an
                interrupted call can be made again.
            passages: Cut long documents so; the best passage speaks for its document.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k = {top_k} must be at least 1")
        for number, group in enumerate(groups):
            _require_texts(group, group.qid or str(number))
        self._require_trained()
        answers = cache.of(self.fingerprint()) if cache is not None else None
        asked, owners = list(groups), list[list[int]]()
        if passages is not None:
            cut = [passages.cut(group, self.parts.backbone.tokenizer) for group in groups]
            asked, owners = [group for group, _ in cut], [owner for _, owner in cut]
        orders, self.bill = engine.run(self.parts, asked, self.settings, finished, answers, answered)
        if passages is not None:
            orders = [by_best_passage(order, owner) for order, owner in zip(orders, owners, strict=True)]
            if self.costs.cut_documents:
                logger.warning(
                    "%d passages were cut to fit, so part of their text was not read; give them fewer than %d tokens",
                    self.costs.cut_documents,
                    passages.tokens,
                )
        return [
            [Ranked(position, score, group.docs[position]) for position, score in order[:top_k]]
            for group, order in zip(groups, orders, strict=True)
        ]

    def compute_score(self, pairs: Sequence[Sequence[str]], normalize: bool = False) -> list[float]:
        """Scores of (query, document) pairs in the order given; one flat pair is accepted. A reranker that compares
        documents with one another has none.

        Args:
            normalize: Sigmoid of the scores, for display. Rankings never use it.
        """
        if isinstance(pairs, str):
            raise InputError("compute_score takes pairs of texts, [[query, document]]; it was given one text")
        if len(pairs) == 2 and all(isinstance(text, str) for text in pairs):
            return self.compute_score([[str(text) for text in pairs]], normalize)
        self._require_trained()
        groups: dict[str, Group] = {}
        asks = []
        for number, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise InputError(f"pair {number} must be two texts, [query, document]; got {pair!r:.120}")
            query, document = pair
            if not query.strip():
                raise InputError(f"the query of pair {number} is empty; give it some text")
            group = groups.setdefault(query, Group(query, []))
            asks.append(Ask(group, (len(group.docs),)))
            group.docs.append(document)
        if asks and self.parts.formatter.format(asks[0], self.parts.backbone.tokenizer).labels:
            raise InputError(
                "this reranker compares documents with one another, so a pair has no score of its own; use rank or "
                "rank_groups"
            )
        self.bill, start = Bill.blank(len(groups)), time.perf_counter()
        place = {query: i for i, query in enumerate(groups)}
        queries = [place[ask.group.query] for ask in asks]
        scores = [score for (score,) in Scoring(self.parts, self.settings, self.bill).score(asks, queries)]
        self.costs.seconds = time.perf_counter() - start
        for costs in (self.costs, *self.bill.queries) if asks else ():
            costs.depth = 1
        return torch.tensor(scores, dtype=torch.float64).sigmoid().tolist() if normalize else scores

    def encode(self, texts: Sequence[str], kind: Literal["query", "document"] = "document") -> list[torch.Tensor]:
        """Token vectors of each text, for late interaction: one [tokens, dim] a text, normalised, float32, without
        padding and without the tokens that are not compared.

        Args:
            kind: Queries and documents are encoded differently: their markers, lengths and expansion.
        """
        if isinstance(texts, str):
            raise InputError("encode takes a list of texts; put the one text into a list")
        if kind not in ("query", "document"):
            raise InputError(f"kind = {kind!r} must be 'query' or 'document'")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"text {number} must be a text; got {text!r:.120}")
        self._require_trained()
        with torch.no_grad():  # tensors of inference_mode could be neither changed nor trained on
            return embed(self.parts, texts, kind, self.settings)

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


def _require_texts(group: Group, name: str) -> None:
    if not isinstance(group.query, str):
        raise InputError(f"the query of group {name} must be a text; got {group.query!r:.120}")
    if not group.query.strip():
        raise InputError(f"the query of group {name} is empty; give it some text")
    for position, text in enumerate(group.docs):
        if not isinstance(text, str):
            raise InputError(f"document {position} of group {name} must be a text; got {text!r:.120}")
