"""Checks for parts of your own: each takes what makes the part, and says what to do where it breaks its protocol.

    from rerankkit.testing import check_loss

    def test_my_loss() -> None:
        check_loss(MyLoss)

A part that passes works in training and in ranking. Nothing here needs pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

from rerankkit import protocols
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Ask, Batch, Group, Hidden, Order, Tokens, Vocabulary

QUERY = "what {query} means, <|im_end|> \n"
DOCS = ["first {document}: <s> text", "", "a third\n\ntext, " * 20, "yes", "Query: the fifth, %s \\n"]
ROUNDS = 1000  # a strategy that still asks then is taken to never end


def check_loss(factory: Callable[[], Any]) -> None:
    """A loss is one finite number with finite gradients; masked scores and the documents' order do not change it."""
    loss = factory()
    _require(isinstance(loss, protocols.Loss), f"{loss!r} is no loss; write __call__(self, scores, labels, mask)")
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0.0, 1, 0, 2, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]])  # the last has no positive
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])

    def run(scores: torch.Tensor, labels: torch.Tensor = labels, mask: torch.Tensor = mask) -> tuple[float, Any]:
        leaf = scores.clone().requires_grad_()
        value = loss(leaf, labels, mask)
        _require(value.shape == (), f"the loss has the shape {tuple(value.shape)}; reduce it to one number")
        _require(bool(value.isfinite()), f"the loss is {value.item()}; leave out masked scores and divide by no zero")
        _require(value.requires_grad, "the loss has no gradient; compute it from `scores` with torch alone")
        (gradient,) = torch.autograd.grad(value, leaf)
        _require(bool(gradient.isfinite().all()), "the gradient is not finite; mask before a log or exp, not after it")
        return value.item(), gradient

    value, gradient = run(scores)
    _require(bool(gradient.any()), "no score has a gradient; the loss must depend on `scores`")
    _require(not gradient[~mask].any(), "a masked score has a gradient; leave out scores where `mask` is False")
    hidden, _ = run(scores.masked_fill(~mask, 50.0), labels.masked_fill(~mask, 3.0))
    _require(_alike(value, hidden), "masked documents change the loss; leave out their scores and labels")
    for order in (torch.tensor([4, 2, 0, 1, 3]), torch.tensor([1, 0, 3, 4, 2])):
        moved, _ = run(scores[:, order], labels[:, order], mask[:, order])
        _require(_alike(value, moved), "the order of the documents changes the loss; it must not")
    (right, _), (wrong, _) = run(4 * labels), run(-4 * labels)
    _require(right < wrong, f"relevant first costs {right:.4f}, relevant last {wrong:.4f}; turn the sign")
    run(scores * 1e4)


def check_head(factory: Callable[[], Any], backbone: Any = None) -> None:
    """A head gives float32 scores, one for each asked document, which no padding and no other row can change; one of
    late interaction, which has `embed` and `score_all`, gives the same scores to all queries at once.

    Args:
        backbone: What to bind the head to, for one that needs more than `stand_in_backbone` offers.
    """
    head, backbone = factory(), backbone or stand_in_backbone()
    _require(isinstance(head, protocols.Head), f"{head!r} is no head; write `module`, bind() and score()")
    head.bind(backbone)
    has_module = head.module is None or isinstance(head.module, torch.nn.Module)
    _require(has_module, f"after bind() `module` is {head.module!r}; make it a torch.nn.Module, or None")
    lengths = torch.tensor([6, 3, 5])
    real = torch.arange(6) < lengths.unsqueeze(1)
    width, generator = backbone.module.config.hidden_size, torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 6, width, generator=generator)
    late, query_of = isinstance(head, protocols.LateInteraction), torch.tensor([0, 1, 0])
    query_real = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    scored = torch.where(real & (torch.arange(6) > 1), 0, -1)  # for heads that are asked how likely a text is
    choices = torch.tensor([[7, 8], [8, 9], [9, 7]])  # for those that choose among the documents of a prompt
    queries = torch.randn(2, 4, width, generator=generator)

    def batch_of(hidden: torch.Tensor, rows: list[int], queries: torch.Tensor) -> tuple[Hidden, Batch]:
        tokens = Tokens(real[rows].long(), real[rows].long(), compared=real[rows] if late else None)
        if not late:
            answer, given = lengths[rows] - 1, (scored[rows], choices[rows])
            return Hidden(hidden[rows]), Batch(tokens, answer, None, None, *given)
        shared = Tokens(query_real.long(), query_real.long(), compared=query_real)
        return Hidden(hidden[rows], queries), Batch(tokens, lengths[rows] - 1, shared, query_of[rows])

    def score(hidden: torch.Tensor, rows: list[int], queries: torch.Tensor = queries) -> torch.Tensor:
        scores = head.score(*batch_of(hidden, rows, queries))
        shape = list(scores.shape)
        _require(len(shape) == 2 and shape[0] == len(rows), f"the scores are {shape}; make them [rows, docs asked]")
        _require(scores.dtype == torch.float32, f"the scores are {scores.dtype}; convert them with .float()")
        _require(bool(scores.isfinite().all()), "a score is not finite")
        return scores

    scores = score(hidden.requires_grad_(), [0, 1, 2])
    _require(_alike(scores[[2, 0, 1]], score(hidden, [2, 0, 1])), "a score changes with the order of the rows")
    _require(_alike(scores[1:2], score(hidden, [1])), "a score changes with the other rows of its batch")
    padded = hidden.detach().masked_fill(~real.unsqueeze(2), 9.0)
    read = "compared" if late else "mask"
    _require(_alike(scores, score(padded, [0, 1, 2])), f"padding changes a score; read where batch.tokens.{read} is 1")
    zero = (hidden * 0).sum()  # so that a head that is cut off from the hidden states has a gradient, of zeros
    (gradient,) = torch.autograd.grad(scores.sum() + zero, hidden)
    _require(bool(gradient.any() and gradient.isfinite().all()), "no finite gradient reaches the hidden states")
    score(hidden.detach().bfloat16(), [0, 1, 2], queries.bfloat16())
    if late:
        filled = queries.masked_fill(~query_real.unsqueeze(2), 9.0)
        same = _alike(scores, score(hidden, [0, 1, 2], filled))
        _require(same, "padding of a query changes a score; read where batch.shared.compared is 1")
        every = head.score_all(*batch_of(hidden, [0, 1, 2], queries))
        _require(list(every.shape) == [2, 3], f"score_all() gave {list(every.shape)}; make it [queries, rows]")
        _require(_alike(scores[:, 0], every[query_of, torch.arange(3)]), "score_all() differs from score()")
        shape = list(head.embed(queries).shape)
        _require(len(shape) == 3 and shape[:2] == [2, 4], f"embed() gave {shape}; make it [texts, length, dim]")


def check_formatter(factory: Callable[[], Any], docs: int = 1, tokenizer: Any = None) -> None:
    """A formatter keeps the whole text of the query and of the asked documents, each in pieces of its own role.

    Args:
        docs: How many documents one ask shows: 1 for pointwise, 2 for pairwise.
        tokenizer: For a formatter that looks at one; others get `StandInTokenizer`.
    """
    formatter, fixed = factory(), set()
    _require(isinstance(formatter, protocols.Formatter), f"{formatter!r} is no formatter; write format(ask, tokenizer)")
    for start in range(len(DOCS)):
        asked = tuple((start + step) % len(DOCS) for step in range(docs))
        prompt = formatter.format(Ask(Group(QUERY, list(DOCS)), asked), tokenizer or StandInTokenizer())
        _require(isinstance(prompt, protocols.Prompt), f"format() gave {prompt!r}; return a Prompt of pieces")
        found = {role: [p.text for p in prompt.pieces if p.role == role] for role in ("fixed", "query", "document")}
        _require(sum(map(len, found.values())) == len(prompt.pieces), "a role must be fixed, query or document")
        _require(set(found["query"]) == {QUERY}, f"query pieces {found['query']}; give the whole query as one piece")
        wanted = [DOCS[i] for i in asked]
        _require(found["document"] == wanted, f"document pieces {found['document']}; give {wanted}, unchanged")
        fixed.add("\0".join(found["fixed"]))
    _require(len(fixed) == 1, "the fixed text differs between documents; keep a user's text out of it")


def check_strategy(factory: Callable[[], Any]) -> None:
    """A strategy ends, asks for documents that exist, returns each once, the best first and, where it looks at each
    alone, equal ones as given."""
    strategy = factory()
    is_one = isinstance(strategy, protocols.Strategy)
    _require(is_one, f"{strategy!r} is no strategy; write rank(group) and training_asks(group)")
    for worth in ([], [1.0], [0.0, 1.0], [1.0, 0.0], [2.0, 0.0, 5.0, 1.0, 4.0, 3.0, 6.0], [1.0] * 7):
        group = Group("query", [f"document {i}" for i in range(len(worth))], labels=worth)
        positions = list(range(len(worth)))
        order, compares = _finished(strategy.rank(group), worth)
        _require(sorted(i for i, _ in order) == positions, f"{len(worth)} documents, order {order}; return each once")
        ranked = [score for _, score in order]
        _require(ranked == sorted(ranked, reverse=True), f"the scores {ranked} rise; they must fall along the order")
        alike = len(set(worth)) > 1 or [i for i, _ in order] == positions
        _require(alike or compares, f"equal documents came as {order}; keep the order in which they are given")
        best = max(positions, key=lambda i: worth[i], default=None)
        _require(not order or order[0][0] == best, f"the best of {worth} is number {best}, but the order is {order}")
        try:
            covered = sorted(i for ask in strategy.training_asks(group) for i in ask)
        except InputError:
            continue  # a strategy may need training groups of another size
        _require(covered == positions, f"training_asks covers {covered}; cover each of {positions} once")


class StandInTokenizer:
    """Gives every text one token, and frames a chat."""

    chat_template = "a template"
    cls_token = "[CLS]"
    unk_token_id = None
    added_tokens_decoder: Mapping[int, Any] = MappingProxyType({})
    model_input_names = ("input_ids", "attention_mask")

    def __len__(self) -> int:
        return 998

    def num_special_tokens_to_add(self, pair: bool) -> int:
        return 0

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1 + sum(text.encode()) % 997]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [""] * len(ids)

    def get_chat_template(self) -> str:
        return self.chat_template

    def apply_chat_template(
        self, turns: list[dict[str, str]], chat_template: str, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        return "".join(f"<|{turn['role']}|>{turn['content']}" for turn in turns) + "<|assistant|>"


def stand_in_backbone(width: int = 16) -> Any:
    """What a head may ask of a backbone, without a model: tokenizer, width, rows of the output layer."""
    module: Any = torch.nn.Embedding(1000, width)
    module.config = SimpleNamespace(hidden_size=width)

    def vocabulary(token_ids: list[int] | None = None) -> Vocabulary:
        return Vocabulary(rows=module.weight[slice(None) if token_ids is None else token_ids])

    return SimpleNamespace(tokenizer=StandInTokenizer(), module=module, shares_prefix=False, vocabulary=vocabulary)


def _finished(steps: Any, worth: list[float]) -> tuple[Order, bool]:
    """Run a strategy on true answers to its end; whether it ever looked at several documents at once."""
    compares = False
    try:
        asks = next(steps)
        for _ in range(ROUNDS):
            for ask in asks:
                good = len(set(ask)) == len(ask) > 0 and all(0 <= i < len(worth) for i in ask)
                _require(good, f"asked for {ask} of {len(worth)} documents; ask for positions that exist, each once")
            compares = compares or any(len(ask) > 1 for ask in asks)
            asks = steps.send([[worth[i] for i in ask] for ask in asks])
    except StopIteration as end:
        return end.value, compares
    raise AssertionError(f"rank() still asks after {ROUNDS} rounds; it must end by returning the order")


def _alike(one: Any, other: Any) -> bool:
    return torch.allclose(torch.as_tensor(one), torch.as_tensor(other), atol=1e-5, rtol=1e-4)


def _require(condition: bool, message: str) -> None:
    if not condition:  # not `assert`, which python -O leaves out
        raise AssertionError(message)
