"""What can be known about an encoder with a decoder of transformers, whatever its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerankkit import causal_lm
from rerankkit.architectures import refuse_type
from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Vocabulary

UNLIMITED = int(1e30)
"""What transformers writes as a tokenizer's `model_max_length` where there is no limit."""


@dataclass
class EncoderState:
    """What an encoder makes of the texts that rows share."""

    states: torch.Tensor  # [texts, length, width]
    mask: torch.Tensor  # [texts, length]

    def take(self, texts: torch.Tensor) -> EncoderState:
        """The given ones, without the padding that only the others needed; copied only where they are not all."""
        if torch.equal(texts, torch.arange(len(self.mask), device=texts.device)):
            return self
        mask = self.mask[texts]
        longest = int(mask.sum(1).max())
        return EncoderState(self.states[:, :longest][texts], mask[:, :longest])


def refuse_other_architectures(name: str, config: Any) -> None:
    """Refuse what has no decoder, and two models put together, which transformers takes apart in ways of its own."""
    if not config.is_encoder_decoder:
        raise InputError(
            f"{name} is of type {config.model_type}, which is no encoder with a decoder; hf_causal.v1 reads causal "
            "language models, and hf_encoder.v1 encoders"
        )
    refuse_type(name, config, "hf_encoder_decoder.v1")
    kinds = config.architectures or []
    if kinds and not any(kind.endswith("ForConditionalGeneration") or "MTModel" in kind for kind in kinds):
        raise InputError(f"{name} is a {kinds[0]}, which hf_encoder_decoder.v1 cannot use: it has no output layer")


def start_token(name: str, model: Any) -> int:
    """The token that a decoder's text begins with."""
    for settings in (model.config, model.generation_config):
        found = getattr(settings, "decoder_start_token_id", None)
        if isinstance(found, int):
            return found
    raise InputError(f"{name} does not say what its decoder begins with; add decoder_start_token_id to its config.json")


def decoder_start(tokenizer: Any) -> int:
    """The token that `hf_encoder_decoder.v1` left with its tokenizer, by which alone a collator knows a model."""
    found = getattr(tokenizer, "decoder_start_token_id", None)
    if found is None:
        raise InputError("encoder_decoder.v1 is for the backbone hf_encoder_decoder.v1; give this model sequence.v1")
    return found


def output_rows(model: Any, token_ids: Sequence[int] | None = None) -> Vocabulary:
    """The output layer's rows for some tokens, or for all, with the scale of T5's kin and the bias of BART's."""
    found = causal_lm.output_rows(model, token_ids)
    bias = dict(model.named_buffers()).get("final_logits_bias")
    if bias is not None:
        bias = bias[0, slice(None) if token_ids is None else list(token_ids)].to(found.rows.device)
        found = replace(found, bias=bias if found.bias is None else found.bias + bias)
    if _scales_states(model.config):
        found = replace(found, scale=model.config.d_model**-0.5)
    return found


def _scales_states(config: Any) -> bool:
    """Whether hidden states are scaled before the output layer. T5 v1.1 has an output layer of its own and does not,
    and its config says so in a field of its own, since `tie_word_embeddings` is true in any case by now."""
    if config.model_type in ("t5", "longt5"):
        return config.scale_decoder_outputs
    return config.model_type in ("umt5", "switch_transformers") and config.tie_word_embeddings


def check_vocabulary(name: str, model: Any, start: int, token_ids: Sequence[int], vocabulary: Vocabulary) -> None:
    """Some architectures transform their logits in ways of their own: compare ours with the model's."""
    read = torch.tensor([list(token_ids)], device=vocabulary.rows.device)
    written = torch.tensor([[start, *token_ids]], device=vocabulary.rows.device)
    training = model.training
    model.eval()  # two passes are compared, and dropout would tell them apart
    with torch.no_grad():
        logits = model(input_ids=read, decoder_input_ids=written, use_cache=False).logits[0, -1].float()
        states = model.get_encoder()(input_ids=read).last_hidden_state
        decoder = model.get_decoder()
        hidden = decoder(input_ids=written, encoder_hidden_states=states, use_cache=False).last_hidden_state[0, -1]
        ours = causal_lm.token_logits(hidden, vocabulary)
    model.train(training)
    causal_lm.require_same_logits(name, "hf_encoder_decoder.v1", ours, logits, token_ids)
