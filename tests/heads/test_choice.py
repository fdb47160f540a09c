"""The choice head: the logit of each document's name, of only those names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import tiny
import tiny_rankers
import tiny_t5
import torch

from rerankkit import engine
from rerankkit.collators.encoder_decoder import EncoderDecoderCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.heads.choice import Choice
from rerankkit.protocols import Ask, Prompt
from rerankkit.testing import check_head

GROUP = tiny.group(3, 8, longest=20)
ASKS = [Ask(GROUP, docs) for docs in [(0, 1, 2, 3), (5,), (4, 2), (7, 6, 5, 4, 3, 2, 1, 0)]]


@pytest.mark.parametrize("lora", ["", "output"])
@pytest.mark.parametrize("architecture", tiny.NAMES)
def test_scores_are_read_off_all_logits(architecture: str, lora: str) -> None:
    of = tiny_rankers.parts(Choice(), architecture, lora=lora)
    rows, found = tiny_rankers.scored(of, ASKS)
    assert found.dtype == torch.float32 and found.shape == (4, 8)
    for ask, row, values in zip(ASKS, rows, found.tolist(), strict=True):
        with torch.no_grad():
            after = tiny_rankers.logits(of, row)[-1]
        names = [of.backbone.tokenizer(tiny_rankers.LETTERS[i])["input_ids"][0] for i in range(len(ask.docs))]
        assert values[: len(ask.docs)] == pytest.approx(after[names].tolist(), abs=1e-4)
        assert values[len(ask.docs) :] == [0.0] * (8 - len(ask.docs))


def test_a_score_does_not_depend_on_the_other_rows() -> None:
    of = tiny_rankers.parts(Choice())
    _, together = tiny_rankers.scored(of, ASKS)
    for ask, values in zip(ASKS, together, strict=True):
        _, alone = tiny_rankers.scored(of, [ask])
        assert torch.allclose(alone[0], values[: len(ask.docs)], atol=1e-5)


def test_only_the_names_rows_of_the_output_layer_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    of = tiny_rankers.parts(Choice())
    taken: list[list[int]] = []
    vocabulary = of.backbone.vocabulary  # type: ignore[attr-defined]

    def watched(token_ids: Any = None) -> Any:
        taken.append(list(token_ids))
        return vocabulary(token_ids)

    monkeypatch.setattr(of.backbone, "vocabulary", watched)
    tiny_rankers.scored(of, ASKS[:3])
    names = [of.backbone.tokenizer(letter)["input_ids"][0] for letter in "ABCD"]
    assert taken == [sorted(names)]


def test_padding_has_no_gradient() -> None:
    of = tiny_rankers.parts(Choice())
    batch = engine.collate(of, engine.encode(of, [ASKS[1], ASKS[0]]))
    hidden = of.backbone.hidden(batch)
    hidden.states.retain_grad()
    of.head.score(hidden, batch)[0, 1:].sum().backward()
    assert not hidden.states.grad.any()  # type: ignore[union-attr]


def test_a_prompt_without_names_is_refused() -> None:
    of = tiny_rankers.parts(Choice(), formatter=tiny_rankers.Listed(choices=False))
    with pytest.raises(InputError, match="prompts name none; give the formatter `answers`"):
        tiny_rankers.scored(of, ASKS)


def test_it_keeps_the_protocol() -> None:
    check_head(Choice)


@pytest.mark.parametrize("architecture", tiny_t5.NAMES)
def test_a_decoder_chooses_after_its_start_token(architecture: str) -> None:
    backbone, head, formatter = tiny_t5.backbone(architecture), Choice(), tiny_rankers.Listed(choices=False)
    head.bind(backbone)
    of = Parts(Named(formatter), EncoderDecoderCollator(256), backbone, head, tiny_rankers.Together(3))
    asks = [Ask(GROUP, (0, 1, 2)), Ask(GROUP, (4, 3))]
    rows, found = tiny_rankers.scored(of, asks)
    names = [backbone.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ABC"]
    for ask, row, values in zip(asks, rows, found.tolist(), strict=True):
        read = "".join(piece.text for piece in formatter.format(ask, None).pieces)
        every = tiny_t5.naive_logits(backbone, read, row.ids)[-1]
        assert row.ids == [backbone.module.config.decoder_start_token_id]
        assert values == pytest.approx([*every[names[: len(ask.docs)]].tolist(), 0.0][:3], abs=1e-4)


@dataclass(frozen=True)
class Named:
    """The decoder begins with a document's name."""

    formatter: tiny_rankers.Listed

    def format(self, ask: Ask, tokenizer: Any) -> Prompt:
        return replace(self.formatter.format(ask, tokenizer), choices=tuple("ABCD"[: len(ask.docs)]))
