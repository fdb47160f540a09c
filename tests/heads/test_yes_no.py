"""The yes/no head: its tokens, its scores, and the logits that it never makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rerankkit import engine
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.heads.yes_no import YesNo, yes_no
from rerankkit.protocols import Ask
from rerankkit.testing import check_head

ASKS = [Ask(tiny.group(1, 6), (i,)) for i in range(6)]


def bound(head: YesNo, share_prefix: bool = False) -> Parts:
    of = tiny.parts("llama", share_prefix)
    head.bind(of.backbone)
    return Parts(of.formatter, of.collator, of.backbone, head, of.strategy)


def scores(of: Parts) -> list[float]:
    with torch.no_grad():
        found = engine.forward(of, engine.collate(of, engine.encode(of, ASKS)))
    assert found.dtype == torch.float32 and found.shape == (6, 1)
    return found[:, 0].tolist()


@pytest.mark.parametrize("words", [(" yes", " no"), ("Yes", "No"), (" cat", " mat")])
@pytest.mark.parametrize("kind", ["difference", "positive", "probability"])
def test_every_score_is_read_off_all_logits(words: tuple[str, str], kind: Any) -> None:
    of = bound(yes_no(*words, score=kind))
    yes, no = (of.backbone.tokenizer(word)["input_ids"][0] for word in words)
    wanted = []
    for row in engine.encode(of, ASKS):
        with torch.no_grad():
            logits = of.backbone.module(input_ids=torch.tensor([row.ids])).logits[0, -1]
        values = {"difference": logits[yes] - logits[no], "positive": logits[yes]}
        values["probability"] = logits[[yes, no]].softmax(0)[0]
        wanted.append(values[kind].item())
    assert scores(of) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("certainly", " no"), "positive = 'certainly' is 6 tokens (c, er, t, ain, l, y), not one; choose a word"),
        ((" yes", "nowhere"), "negative = 'nowhere' is"),
        ((" yes", ""), "negative = '' is 0 tokens (), not one"),
        (("yes!", " no"), "positive = 'yes!' is"),
        ((" yes", " yes"), "positive and negative are the same token, ' yes'"),
    ],
)
def test_an_answer_that_is_not_one_token_is_refused(words: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        yes_no(*words).bind(tiny.backbone())
    assert str(refused.value).startswith("yes_no.v1: ") and message in str(refused.value)


@pytest.mark.parametrize(("given", "better"), [("relevant", " relevant"), (" Document", "Document")])
def test_the_leading_space_is_hinted_at(given: str, better: str) -> None:
    words = tiny.tokenizer()
    assert len(words(given)["input_ids"]) > 1 == len(words(better)["input_ids"])
    with pytest.raises(InputError, match=f"not one; '{better}' is one"):
        yes_no(given, " no").bind(tiny.backbone())


class Largest(TorchDispatchMode):
    """Notes every shape that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else [made]:
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
        return made


@pytest.mark.parametrize("share_prefix", [True, False])
def test_the_vocabularys_logits_are_never_made(share_prefix: bool) -> None:
    of = bound(yes_no(), share_prefix)
    scores(of)  # the architecture's formula is checked once, on the two answers
    called: list[Any] = []
    of.backbone.module.get_output_embeddings().register_forward_hook(lambda *_: called.append(1))
    batch = engine.collate(of, engine.encode(of, ASKS))
    with Largest() as seen:
        engine.forward(of, batch).sum().backward()
    vocabulary, width = of.backbone.module.get_output_embeddings().weight.shape
    assert called == []
    assert {shape for shape in seen.shapes if vocabulary in shape} <= {(vocabulary, width)}  # weights and gradients

    with Largest() as usual:
        of.backbone.module(input_ids=batch.tokens.ids)
    assert called == [1] and (*batch.tokens.ids.shape, vocabulary) in usual.shapes  # so it would have been seen


def test_it_keeps_the_protocol() -> None:
    check_head(yes_no)
