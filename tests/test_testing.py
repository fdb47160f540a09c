"""The checks for third parties: every part of ours passes, and every way of breaking a protocol is named."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rerankkit import testing
from rerankkit.protocols import Ask, Hidden, Piece, Prompt
from rerankkit.registry import registry

CHECKS = {
    "losses": testing.check_loss,
    "heads": testing.check_head,
    "formatters": testing.check_formatter,
    "strategies": testing.check_strategy,
}
OURS = [
    (namespace, name)
    for namespace in CHECKS
    for name in registry.namespace(namespace).names()
    if registry.origin(namespace, name).package == "rerankkit"
]


@pytest.mark.parametrize(("namespace", "name"), OURS)
def test_our_own_parts_pass(namespace: str, name: str) -> None:
    calls = []

    def factory() -> Any:
        calls.append(name)
        return registry.namespace(namespace).get(name)()

    if name == "logit.v1":
        testing.check_head(factory, classifier())
    else:
        CHECKS[namespace](factory)
    assert calls == [name]


def classifier() -> Any:
    """A backbone whose hidden states are its one logit."""
    backbone = testing.stand_in_backbone(width=1)
    backbone.labels = 1
    return backbone


def test_a_chat_prompt_and_a_lone_positive_pass() -> None:
    calls: list[str] = []
    testing.check_formatter(lambda: calls.append("chat") or registry.formatters.get("pointwise.v1")(chat=True))
    testing.check_head(lambda: calls.append("head") or registry.heads.get("yes_no.v1")(score="positive"))
    assert calls == ["chat", "head"]


def mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return values.masked_fill(~mask, 0.0).sum() / mask.sum()


def distance(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mean((scores - labels) ** 2, mask)


PLACES = torch.arange(5.0)
LOSSES: dict[str, Callable[..., Any]] = {
    "is no loss": SimpleNamespace,
    "reduce it to one number": lambda: lambda s, y, m: ((s - y) ** 2).masked_fill(~m, 0.0),
    "the loss is nan": lambda: lambda s, y, m: (s * 0 / y).sum(),
    "the loss has no gradient": lambda: lambda s, y, m: distance(s.detach(), y, m),
    "the gradient is not finite": lambda: lambda s, y, m: mean((s - s).abs().sqrt(), m),
    "must depend on `scores`": lambda: lambda s, y, m: distance(s * 0, y, m),
    "a masked score has a gradient": lambda: lambda s, y, m: ((s - y) ** 2).mean(),
    "masked documents change the loss": lambda: lambda s, y, m: distance(s, y, m) + y.mean(),
    "the order of the documents": lambda: lambda s, y, m: mean((s - y) ** 2 * PLACES, m),
    "turn the sign": lambda: lambda s, y, m: distance(s, -y, m),
}


@pytest.mark.parametrize("message", LOSSES)
def test_a_wrong_loss_is_named(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_loss(LOSSES[message])


def test_a_right_loss_passes_where_the_wrong_ones_fail() -> None:
    assert testing.check_loss(lambda: distance) is None


@dataclass
class Head:
    """Right, except for what a test replaces."""

    read: Callable[[torch.Tensor, Any], torch.Tensor]
    module: Any = None

    def bind(self, backbone: Any) -> None:
        pass

    def score(self, hidden: Hidden, batch: Any) -> torch.Tensor:
        return self.read(hidden.states, batch)


def last(hidden: torch.Tensor, batch: Any) -> torch.Tensor:
    return hidden[torch.arange(len(hidden)), batch.answer].float().sum(-1, keepdim=True)


HEADS: dict[str, Callable[[], Any]] = {
    "is no head": SimpleNamespace,
    "make it a torch.nn.Module, or None": lambda: Head(last, module=3),
    "make them \\[rows, docs asked\\]": lambda: Head(lambda h, b: last(h, b).squeeze(1)),
    "convert them with .float": lambda: Head(lambda h, b: last(h, b).to(h.dtype)),
    "a score is not finite": lambda: Head(lambda h, b: last(h, b) / 0),
    "the order of the rows": lambda: Head(lambda h, b: last(h, b).cumsum(0)),
    "the other rows": lambda: Head(lambda h, b: last(h, b) - last(h, b).mean()),
    "padding changes a score": lambda: Head(lambda h, b: h.float().sum((1, 2)).unsqueeze(1)),
    "no finite gradient": lambda: Head(lambda h, b: last(h, b) * 0),
}


@pytest.mark.parametrize("message", HEADS)
def test_a_wrong_head_is_named(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_head(HEADS[message])
    assert testing.check_head(lambda: Head(last)) is None


@dataclass
class Late(Head):
    """Sums of products of all tokens that are compared, right except for what a test replaces."""

    read: Callable[[torch.Tensor, Any], torch.Tensor] = last
    every: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores
    vectors: Callable[[torch.Tensor], torch.Tensor] = lambda states: states
    documents: bool = True
    queries: bool = True
    attached: bool = True

    def embed(self, states: torch.Tensor) -> torch.Tensor:
        return self.vectors(states)

    def score_all(self, hidden: Hidden, batch: Any) -> torch.Tensor:
        return self.every(self._all(hidden, batch))

    def score(self, hidden: Hidden, batch: Any) -> torch.Tensor:
        return self._all(hidden, batch)[batch.shared_of, torch.arange(len(batch.shared_of))].unsqueeze(1)

    def _all(self, hidden: Hidden, batch: Any) -> torch.Tensor:
        assert hidden.shared is not None
        documents = hidden.states.float() if self.attached else hidden.states.float().detach()
        if self.documents:
            documents = documents.masked_fill(~batch.tokens.compared.unsqueeze(2), 0.0)
        queries = hidden.shared.float()
        if self.queries:
            queries = queries.masked_fill(~batch.shared.compared.unsqueeze(2), 0.0)
        return torch.einsum("qsx,rtx->qr", queries, documents)


LATE: dict[str, Callable[[], Any]] = {
    r"read where batch.tokens.compared is 1": lambda: Late(documents=False),
    r"read where batch.shared.compared is 1": lambda: Late(queries=False),
    r"make it \[queries, rows\]": lambda: Late(every=lambda scores: scores.T),
    r"score_all\(\) differs from score": lambda: Late(every=lambda scores: scores.flip(0)),
    r"make it \[texts, length, dim\]": lambda: Late(vectors=lambda states: states.mean(1)),
    "no finite gradient": lambda: Late(attached=False),
}


@pytest.mark.parametrize("message", LATE)
def test_a_wrong_head_of_late_interaction_is_named(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_head(LATE[message])
    assert testing.check_head(Late) is None


@dataclass
class Formatter:
    write: Callable[[str, str], Any]

    def format(self, ask: Ask, tokenizer: Any) -> Any:
        return self.write(ask.group.query, ask.group.docs[ask.docs[0]])


def prompt(*pieces: tuple[str, Any]) -> Prompt:
    return Prompt(tuple(Piece(*piece) for piece in pieces))


FORMATTERS: dict[str, Callable[[], Any]] = {
    "is no formatter": SimpleNamespace,
    "return a Prompt of pieces": lambda: Formatter(lambda q, d: f"{q} {d}"),
    "a role must be": lambda: Formatter(lambda q, d: prompt((q, "query"), (d, "doc"))),
    "the whole query as one piece": lambda: Formatter(lambda q, d: prompt((q.strip(), "query"), (d, "document"))),
    "unchanged": lambda: Formatter(lambda q, d: prompt((q, "query"), (d[:9], "document"))),
    "keep a user's text out": lambda: Formatter(lambda q, d: prompt((q, "query"), (d, "document"), (d[:3], "fixed"))),
}


@pytest.mark.parametrize("message", FORMATTERS)
def test_a_wrong_formatter_is_named(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_formatter(FORMATTERS[message])


def test_a_formatter_of_pairs_sees_two_documents() -> None:
    class Pair:
        def format(self, ask: Ask, tokenizer: Any) -> Prompt:
            return prompt((ask.group.query, "query"), *((ask.group.docs[i], "document") for i in ask.docs))

    assert testing.check_formatter(Pair, docs=2) is None
    with pytest.raises(AssertionError, match="document pieces"):
        testing.check_formatter(lambda: Formatter(lambda q, d: prompt((q, "query"), (d, "document"))), docs=2)


def strategy(ask: Callable[[int], Any], answer: Callable[[list[float]], Any], train: Any = None) -> Any:
    class Strategy:
        def rank(self, group: Any) -> Any:
            scores = yield ask(len(group.docs))
            return answer([score for (score,) in scores])

        def training_asks(self, group: Any) -> Any:
            return (train or single)(len(group.docs))

    return Strategy


def single(count: int) -> list[tuple[int, ...]]:
    return [(i,) for i in range(count)]


def falling(scores: list[float]) -> list[tuple[int, float]]:
    return sorted(enumerate(scores), key=lambda ranked: -ranked[1])


def endless() -> Any:
    def rank(group: Any) -> Any:
        while True:
            yield []

    return SimpleNamespace(rank=rank, training_asks=lambda group: single(len(group.docs)))


STRATEGIES: dict[str, Any] = {
    "is no strategy": SimpleNamespace,
    "return each once": strategy(single, lambda scores: falling(scores)[:1]),
    "ask for positions that exist": strategy(lambda n: [(i + 1,) for i in range(n)], falling),
    "it must end": endless,
    "must fall along the order": strategy(single, lambda scores: falling(scores)[::-1]),
    "the best of": strategy(single, lambda scores: [(i, 0.0) for i in range(len(scores))]),
    "equal documents came": strategy(single, lambda scores: sorted(enumerate(scores), key=lambda r: (-r[1], -r[0]))),
    "training_asks covers": strategy(single, falling, lambda n: single(n) * 2),
}


@pytest.mark.parametrize("message", STRATEGIES)
def test_a_wrong_strategy_is_named(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        testing.check_strategy(STRATEGIES[message])
    assert testing.check_strategy(strategy(single, falling)) is None
