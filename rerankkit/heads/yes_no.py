"""Relevance as a language model's answer: the logit of "yes" against the logit of "no"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rerankkit.causal_lm import warn_of_improbable_answers
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Backbone, Batch, Hidden, LanguageModel
from rerankkit.registry import registry


@registry.heads("yes_no.v1")
def yes_no(
    positive: str = " yes",
    negative: str = " no",
    score: Literal["difference", "positive", "probability"] = "difference",
    in_context: bool = True,
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
        in_context: Read the token that goes on from the prompt's end, which need not be the one that the answer is by
            itself; False reads that one, as BGE's rerankers are read.
    """
    return YesNo(positive, negative, score, in_context)


yes_no.at_once = "one"  # type: ignore[attr-defined]


@dataclass
class YesNo:
    positive: str
    negative: str
    kind: str
    in_context: bool = True
    module: Any = None

    @property
    def answers(self) -> tuple[str, ...]:
        """What is asked for in a prompt's own context."""
        return (self.positive, self.negative) if self.in_context else ()

    def bind(self, backbone: Backbone) -> None:
        if not isinstance(backbone, LanguageModel):
            raise InputError("yes_no.v1 reads a language model's answer, and this backbone is none; use hf_causal.v1")
        self._backbone, self._tokenizer = backbone, backbone.tokenizer
        self._ids = [
            _single_token(text, argument, self.in_context, backbone.tokenizer)
            for argument, text in (("positive", self.positive), ("negative", self.negative))
        ]
        if self._ids[0] == self._ids[1]:
            raise InputError(f"yes_no.v1: positive and negative are the same token, {self.positive!r}")

    def score(self, hidden: Hidden, batch: Batch) -> torch.Tensor:
        if batch.choices is None:
            return self._score(hidden, batch.answer, self._ids)
        pairs, of = batch.choices.unique(dim=0, return_inverse=True)
        if len(pairs) == 1:  # as long as all prompts end alike
            return self._score(hidden, batch.answer, pairs[0].tolist())
        found = hidden.states.new_zeros(len(of), 1, dtype=torch.float32)
        for number, pair in enumerate(pairs.tolist()):
            rows = (of == number).nonzero().flatten()
            own = self._score(Hidden(hidden.states[rows]), batch.answer[rows], pair)
            found = found.index_copy(0, rows, own.float())
        return found

    def normalized(self, scores: Sequence[float]) -> list[float]:
        """Probabilities stay as they are; of logits the sigmoid."""
        if self.kind == "probability":
            return list(scores)
        return torch.tensor(scores, dtype=torch.float64).sigmoid().tolist()

    def _score(self, hidden: Hidden, answer: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        from rerankkit_kernels import pair_score

        if torch.is_inference_mode_enabled():
            state = hidden.states[0, answer[0]]
            warn_of_improbable_answers(state, self._backbone.vocabulary(), ids, self._tokenizer)
        vocabulary = self._backbone.vocabulary(ids)
        mode = {"difference": "diff", "positive": "yes", "probability": "prob"}[self.kind]
        return pair_score(
            hidden.states,
            vocabulary.rows,
            0,
            1,
            positions=answer,
            bias=vocabulary.bias,
            softcap=vocabulary.softcap,
            scale=vocabulary.scale,
            mode=mode,
        ).unsqueeze(1)  # [rows, 1]


def _single_token(text: str, argument: str, in_context: bool, tokenizer: Any) -> int:
    """The token that an answer is by itself or, where no tokenizer writes it so, behind another word or line."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return ids[0]
    for before in ("a", "\n") if in_context else ():
        ahead, after = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (before, before + text))
        if after[:-1] == ahead:
            return after[-1]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    other = text.removeprefix(" ") if text.startswith(" ") else f" {text}"
    fits = len(tokenizer(other, add_special_tokens=False)["input_ids"]) == 1
    hint = f"; {other!r} is one" if fits else "; choose a word that is"
    raise InputError(f"yes_no.v1: {argument} = {text!r} is {len(ids)} tokens ({', '.join(pieces)}), not one{hint}")
