"""A query and a document as two sequences that meet only in their scores: ColBERT's tokens."""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rerankkit.cuts import Cut
from rerankkit.errors import InputError
from rerankkit.frames import frame_of, framed, marker_ids, tokenize_texts, vocabulary_id
from rerankkit.lazy import torch
from rerankkit.limits import require_room
from rerankkit.prompt_tokens import padded
from rerankkit.protocols import Batch, Prompt, Row, Tokens
from rerankkit.registry import registry
from rerankkit.vocabulary import foreign_marker

_NAME = "late_interaction.v1"


@registry.collators("late_interaction.v1")
@dataclass(frozen=True)
class LateInteractionCollator:
    """Tokenizes query and document apart: `[CLS] [Q] query [SEP] [MASK] …` and `[CLS] [D] document [SEP]`.

    A query is encoded once, however many documents it meets. The defaults are those of ColBERTv2.

    Recipe:
        [model.collator]
        @collators = "late_interaction.v1"
        query_max_length = 32
        document_max_length = 300
        query_expansion = false

    Args:
        query_max_length: Tokens of a query, marker and frame included.
        document_max_length: Tokens of a document, likewise.
        query_marker: Put behind the first special token: an entry of the vocabulary, or text; empty for none.
        document_marker: The same for documents.
        query_expansion: Fill queries up to their length with mask tokens, whose vectors are compared too.
        attend_to_expansion: Let the other tokens attend to the mask tokens.
        skiplist: Document tokens that are not compared: entries of the vocabulary, or "punctuation".
        compare_first: Compare the first special token, such as `[CLS]`, too.

    Source: Khattab and Zaharia 2020, "ColBERT", arXiv 2004.12832; Santhanam et al. 2022, "ColBERTv2", arXiv 2112.01488.
    """

    query_max_length: int = 32
    document_max_length: int = 180
    query_marker: str = "[unused0]"
    document_marker: str = "[unused1]"
    query_expansion: bool = True
    attend_to_expansion: bool = False
    skiplist: list[str] | Literal["punctuation"] | None = "punctuation"
    compare_first: bool = True

    def __post_init__(self) -> None:
        for argument, message in self.check(self.query_max_length, self.document_max_length):
            raise InputError(f"late_interaction.v1, {argument}: {message}")

    @staticmethod
    def check(
        query_max_length: int = query_max_length, document_max_length: int = document_max_length
    ) -> Iterator[tuple[str, str]]:
        """Say which limits make no sense."""
        for name, limit in {"query_max_length": query_max_length, "document_max_length": document_max_length}.items():
            if limit < 4:
                yield name, f"must be at least 4, to hold a token beside marker and frame; got {limit}"

    @staticmethod
    def check_vocabulary(
        entries: Collection[str], query_marker: str = query_marker, document_marker: str = document_marker
    ) -> Iterator[tuple[str, str]]:
        """Say which markers the vocabulary of the recipe's model has not."""
        for name, marker in {"query_marker": query_marker, "document_marker": document_marker}.items():
            if problem := foreign_marker(marker, entries):
                yield name, problem

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]:
        require_room(self.query_max_length, tokenizer.model_max_length, _NAME, "query_max_length")
        require_room(self.document_max_length, tokenizer.model_max_length, _NAME, "document_max_length")
        if any(prompt.second is None for prompt in prompts):
            raise InputError(f"{_NAME} needs prompts of two texts, and this formatter writes one; use pair.v1")
        query, document = (marker_ids(text, tokenizer) for text in (self.query_marker, self.document_marker))
        filler = self._filler(tokenizer)
        found = []
        for first, second in tokenize_texts(prompts, tokenizer, (self.query_marker, self.document_marker)):
            ids, roles, cut_query = framed(first, query, self.query_max_length, tokenizer)
            document_ids, document_roles, cut_document = framed(second, document, self.document_max_length, tokenizer)
            fill = self.query_max_length - len(ids) if self.query_expansion else 0
            ids, roles = [*ids, *[filler] * fill], [*roles, *["fixed"] * fill]  # type: ignore[list-item]
            row = Row(document_ids, [*roles, *document_roles], tuple(ids))
            row.cut_query, row.cut_document = cut_query, cut_document
            row.cuts = self._cuts(row)
            found.append(row)
        return found

    def _cuts(self, row: Row) -> tuple[Cut, ...]:
        limits = f"query_max_length = {self.query_max_length}", f"document_max_length = {self.document_max_length}"
        left_out = row.cut_query, row.cut_document
        read = row.roles.count("query"), row.roles.count("document")
        texts = zip((None, 0), left_out, read, limits, strict=True)
        return tuple(Cut(text, kept + cut, kept, limit) for text, cut, kept, limit in texts if cut)

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch:
        documents = padded([row.ids for row in rows], tokenizer)
        documents.compared = documents.mask.bool() & ~torch.isin(documents.ids, self._skipped(tokenizer))
        number = {ids: i for i, ids in enumerate(shared)}
        batch = Batch(
            documents,
            answer=torch.tensor([len(row.ids) - 1 for row in rows]),
            shared=self._queries(shared, tokenizer),
            shared_of=torch.tensor([number[row.shared] for row in rows]),
        )
        for tokens in (batch.tokens, batch.shared):
            if tokens is not None and tokens.compared is not None and not self.compare_first:
                tokens.compared[:, : len(frame_of(tokenizer, 1).fixed[0])] = False
        return batch

    def _queries(self, queries: Sequence[tuple[int, ...]], tokenizer: Any) -> Tokens:
        tokens = padded(queries, tokenizer)
        tokens.compared = tokens.mask.bool()
        if self.query_expansion and not self.attend_to_expansion:
            filler, closing = self._filler(tokenizer), frame_of(tokenizer, 1).fixed[1]
            added = (tokens.ids != filler).flip(1).cumsum(1).flip(1) == 0  # nothing but fillers from here to the end
            own = closing.count(filler)  # a tokenizer may close every text with the token that fills up
            tokens.mask[:, own:] &= ~added[:, : added.shape[1] - own].long()
        return tokens

    def _filler(self, tokenizer: Any) -> int:
        """What a query is filled up with."""
        filler = next((i for i in (tokenizer.mask_token_id, tokenizer.eos_token_id) if i is not None), None)
        if filler is None and self.query_expansion:
            raise InputError(f"{_NAME}: this tokenizer has no mask token to expand with; set query_expansion = false")
        return -1 if filler is None else filler

    def _skipped(self, tokenizer: Any) -> torch.Tensor:
        entries = list(string.punctuation) if self.skiplist == "punctuation" else self.skiplist or []
        ids = {entry: vocabulary_id(entry, tokenizer) for entry in entries}
        unknown = [entry for entry, number in ids.items() if number is None]
        if unknown and self.skiplist != "punctuation":
            raise InputError(f"{_NAME}: skiplist has {unknown[0]!r}, which is no entry of this model's vocabulary")
        return torch.tensor([number for number in ids.values() if number is not None], dtype=torch.long)
