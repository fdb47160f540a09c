"""The data that flows through rerankkit and the Protocol of every part, on one page.

Reader     ->  Group                     a query with its candidates
Strategy   ->  asks                      which documents are looked at together
Formatter  Ask -> Prompt                 text in pieces, each with a role
Collator   Prompts -> Rows -> Batch      tokens cut to fit, then tensors
Backbone   Batch -> Hidden               hidden states
Head       Hidden -> scores              float32, one per asked document
Loss       scores, labels, mask -> number
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from rerankkit.cuts import Cut
from rerankkit.inputs import kept_list, of_each_document, text_of
from rerankkit.lazy import torch
from rerankkit.tensors import Batch as Batch
from rerankkit.tensors import Hidden as Hidden
from rerankkit.tensors import Tokens as Tokens
from rerankkit.tensors import Vocabulary as Vocabulary

Role = Literal["fixed", "query", "document"]
Asked = tuple[int, ...]
"""Positions, in a group, of the documents that one prompt shows."""
Order = list[tuple[int, float]]
"""A ranking: (position in the group, score), best first."""


@dataclass(slots=True)
class Group:
    """One query with its candidate documents: the unit that moves through everything.

    Args:
        labels: Relevance of each document, higher is better; 0 is not relevant.
        teacher_scores: A teacher's score of each document, for distillation.
        first_scores: The first stage's score of each document, for the baseline and for interpolation.
        judged: Every known judgement of the query by document id. Measures count a relevant document that the first
            stage missed; None means that `labels` are all there is.
    """

    query: str
    docs: list[str]
    labels: list[float] | None = None
    teacher_scores: list[float] | None = None
    qid: str = ""
    doc_ids: list[str] | None = None
    first_scores: list[float] | None = None
    judged: dict[str, float] | None = None

    def __post_init__(self) -> None:
        owner = f"group {str(self.qid or self.query)[:40]!r}"
        self.qid = text_of(self.qid, f"the qid of {owner}")
        self.docs = kept_list(self.docs, "docs", owner)
        for name in ("labels", "teacher_scores", "doc_ids", "first_scores"):
            if (values := getattr(self, name)) is not None:
                setattr(self, name, of_each_document(values, name, owner, len(self.docs)))


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking: its position among the given documents, its score, its text."""

    index: int
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to the model: these documents of this group, in this order."""

    group: Group
    docs: Asked


@dataclass(frozen=True, slots=True)
class Piece:
    """Text with a role: `fixed` is the prompt's own and never cut; `query` and `document` are a user's, so they may
    be cut and can never become a special token. Each `document` piece is one document, cut by itself.

    Args:
        scored: Which of the asked documents, by number, the likelihood of this text speaks for; None for text that the
            model only reads.
    """

    text: str
    role: Role
    scored: int | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is shown to the model for one ask: one text, or two that a model reads as a pair or apart.

    Args:
        add_special_tokens: Whether the tokenizer adds its own (such as BOS); False where the pieces hold them already,
            as after a chat template.
        second: Position of the piece that begins the second text; None where all pieces are one text.
        answer: Position of the piece that begins what the model itself is taken to have written, which the decoder of
            an encoder-decoder reads; None where it has written nothing.
        labels: What each asked document is called in the prompt, such as "A" or "1"; empty where they have no names.
        choices: How the model would go on to name each asked document, one token each; empty where no token does.
        answers: What a head reads the likelihood of behind it, in place of documents' names.
        closed: Whether a classifier reads it to its end, with what the tokenizer puts there (such as EOS), rather than
            a language model that goes on from it.
        decoder: Whether this classifier is a decoder, which reads its answer at the last token.
    """

    pieces: tuple[Piece, ...]
    add_special_tokens: bool = True
    second: int | None = None
    answer: int | None = None
    labels: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    closed: bool = False
    decoder: bool = False


@dataclass(slots=True)
class Row:
    """One prompt as tokens, cut to fit. All its tokens are `shared + ids`.

    Args:
        roles: The role of each token of `shared + ids`.
        shared: Tokens that a group's prompts have in common and that are computed once: the beginning of one sequence,
            or the query's own where query and document are read apart.
        stem: How many of `shared` all prompts of the group begin with; 0 where that is all of it, or nothing.
        type_ids: Which of a pair's two texts each token of `ids` belongs to, where the tokenizer tells.
        scored: Which of the asked documents each token of `ids` speaks for by its likelihood, -1 for none; None: none.
        labels: What each asked document is called in the prompt.
        choices: The token that would name each asked document in the answer.
        cut_query: How many tokens of the query were left out.
        cut_document: How many tokens of the document were left out.
        cuts: The query and each document that lost its end.
    """

    ids: list[int]
    roles: list[Role]
    shared: tuple[int, ...] = ()
    stem: int = 0
    type_ids: list[int] | None = None
    scored: list[int] | None = None
    labels: tuple[str, ...] = ()
    choices: tuple[int, ...] = ()
    cut_query: int = 0
    cut_document: int = 0
    cuts: tuple[Cut, ...] = ()

    def as_read(self) -> tuple[tuple[Any, ...], ...]:
        """What rows that are equal to a model and a head have in common: all that a collator makes tensors of. The
        roles of tokens reach no model."""
        given = (self.shared, self.ids, self.type_ids, self.scored, self.labels, self.choices)
        return tuple(tuple(values or ()) for values in given)


@runtime_checkable
class Reader(Protocol):
    """Reads groups from a source; iterating again starts anew."""

    def __iter__(self) -> Iterator[Group]: ...


@runtime_checkable
class Formatter(Protocol):
    """Writes the prompt of one ask. The tokenizer is given for its chat template."""

    def format(self, ask: Ask, tokenizer: Any) -> Prompt: ...


@runtime_checkable
class Collator(Protocol):
    """Turns prompts into rows of tokens, and rows into tensors."""

    def encode(self, prompts: Sequence[Prompt], tokenizer: Any) -> list[Row]: ...

    def collate(self, rows: Sequence[Row], tokenizer: Any, shared: Sequence[tuple[int, ...]] = ()) -> Batch: ...


@runtime_checkable
class Backbone(Protocol):
    """A model with its tokenizer. `module` holds its weights; `shares_prefix` says whether it can go on from a prefix;
    `read_shared` gives what is kept of each row, where given after one of `before`; `hidden` goes on from these."""

    tokenizer: Any
    module: Any
    shares_prefix: bool

    def read_shared(self, shared: Tokens, before: Sequence[Any] = ()) -> list[Any]: ...

    def hidden(self, batch: Batch, states: Sequence[Any] | None = None) -> Hidden: ...

    def save(self, folder: Path) -> None: ...


@runtime_checkable
class Checkpoint(Protocol):
    """What a backbone adds where it was read from files, so that a head can read its own from beside them."""

    def file(self, name: str) -> Path | None: ...


@runtime_checkable
class LanguageModel(Protocol):
    """What a backbone adds to `Backbone` where it has an output layer over its vocabulary: its rows for some tokens, in
    their order, or for all."""

    def vocabulary(self, token_ids: Sequence[int] | None = None) -> Vocabulary: ...


@runtime_checkable
class Writer(Protocol):
    """What a backbone adds to `Backbone` where it can write an answer: the tokens that it goes on with after each row,
    always the likeliest one, without those that end the answer. No row has anything `shared` that is a prefix."""

    def write(self, batch: Batch, max_new_tokens: int) -> list[list[int]]: ...


@runtime_checkable
class Head(Protocol):
    """Reads scores off hidden states. `module` holds its weights, None where it has none."""

    module: Any

    def bind(self, backbone: Backbone) -> None: ...

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor: ...  # [rows, docs asked], float32


@dataclass(frozen=True, slots=True)
class Reading:
    """What was made of an answer that a model wrote.

    Args:
        scores: One for each asked document.
        faults: How often each kind of fault was found, such as {"missing": 2}; empty where the answer was as asked.
    """

    scores: list[float]
    faults: dict[str, int]


@runtime_checkable
class AnswerReader(Protocol):
    """What a head adds to `Head` that ranks by what the model writes; `score` is then for training alone."""

    max_new_tokens: int

    def read(self, answer: str, labels: Sequence[str]) -> Reading: ...


@runtime_checkable
class Taught(Protocol):
    """What a head adds to `Head` that learns to write the right answer: the text that is put behind a prompt in
    training, given what its documents are called and their labels."""

    def target(self, labels: Sequence[str], relevance: Sequence[float], end: str) -> tuple[Piece, ...]: ...


@runtime_checkable
class Answering(Protocol):
    """What a head adds to `Head` that reads how likely a language model is to go on with each of some texts: these,
    where their tokens are those that follow the prompt. A batch's `choices` are theirs."""

    answers: tuple[str, ...]


@runtime_checkable
class Scaled(Protocol):
    """What a head adds to `Head` whose scores are no logits: what they are on a scale of 0 to 1, or an InputError that
    says what they are."""

    def normalized(self, scores: Sequence[float]) -> list[float]: ...


@runtime_checkable
class Pretrained(Protocol):
    """What a head or a backbone adds that refuses to rank with new weights: `untrained` says that some are random."""

    untrained: bool


@runtime_checkable
class LateInteraction(Protocol):
    """What a head adds to `Head` where it compares the vectors of single tokens."""

    def embed(self, states: torch.Tensor) -> torch.Tensor: ...  # [texts, length, width] -> [texts, length, dim]

    def score_all(self, hidden: Hidden, batch: Batch) -> torch.Tensor: ...  # [queries, rows]: each query with each row


@runtime_checkable
class Classifier(Protocol):
    """What a backbone adds to `Backbone` where the checkpoint's own classifier answers in place of hidden states:
    `Hidden.states` is its logits then. [rows, 1, labels]"""

    labels: int


@runtime_checkable
class LastToken(Protocol):
    """What a backbone adds to `Classifier` that may read the answer at the last token: whether it does."""

    reads_last_token: bool


@runtime_checkable
class Loss(Protocol):
    """A number from scores [groups, docs], labels [groups, docs] and a mask of the scores that exist."""

    def __call__(self, scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class Strategy(Protocol):
    """Decides what is asked.

    `rank` is a generator: it yields lists of asks, receives their scores (one list for each ask, one score for each
    of its documents), and returns the order. `training_asks` covers each document of a training group once.
    """

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]: ...

    def training_asks(self, group: Group) -> list[Asked]: ...
