"""Relevance as a language model's answer: the logit of "yes" against the logit of "no"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Hidden, LanguageModel
from rerankkit.registry import registry


@registry.heads("yes_no.v1")
def yes_no(
    positive: str = " yes",
    negative: str = " no",
    score: Literal["difference", "positive", "probability"] = "difference",
) -> YesNo:
    """Reads two rows of the output layer at the answer's position; the whole vocabulary's logits are never made.

    Recipe:
        [model.head]
        @heads = "yes_no.v1"
        positive = " yes"
        negative = " no"

    Args:
        positive: The answer of a relevant document, to the letter: one token, with its leading space if the answer
            follows text directly.
        score: logit(positive) - logit(negative); the logit of `positive` alone; or the sigmoid of the difference,
            P(yes) of the two. A probability near 1 has few digits left, and the difference ranks the same and finer.
    """
    return YesNo(positive, negative, score)


yes_no.at_once = "one"  # type: ignore[attr-defined]


@dataclass
class YesNo:
    positive: str
    negative: str
    kind: str
    module: Any = None

    def bind(self, backbone: Backbone) -> None:
        if not isinstance(backbone, LanguageModel):
            raise InputError("yes_no.v1 reads a language model's answer, and this backbone is none; use hf_causal.v1")
        self._backbone = backbone
        self._ids = [
            _single_token(text, argument, backbone.tokenizer)
            for argument, text in (("positive", self.positive), ("negative", self.negative))
        ]
        if self._ids[0] == self._ids[1]:
            raise InputError(f"yes_no.v1: positive and negative are the same token, {self.positive!r}")

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        from rerankkit_kernels import pair_score

        vocabulary = self._backbone.vocabulary(self._ids)
        mode = {"difference": "diff", "positive": "yes", "probability": "prob"}[self.kind]
        return pair_score(
            hidden.states,
            vocabulary.rows,
            0,
            1,
            positions=batch.answer,
            bias=vocabulary.bias,
            softcap=vocabulary.softcap,
            scale=vocabulary.scale,
            mode=mode,
        ).unsqueeze(1)  # [rows, 1]


def _single_token(text: str, argument: str, tokenizer: Any) -> int:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return ids[0]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    other = text.removeprefix(" ") if text.startswith(" ") else f" {text}"
    fits = len(tokenizer(other, add_special_tokens=False)["input_ids"]) == 1
    hint = f"; {other!r} is one" if fits else "; choose a word that is"
    raise InputError(f"yes_no.v1: {argument} = {text!r} is {len(ids)} tokens ({', '.join(pieces)}), not one{hint}")
