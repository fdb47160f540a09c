"""An encoder with a decoder of transformers, with its tokenizer: T5, mT5, BART and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerankkit import generation, pretrained, seq2seq
from rerankkit import quantization as quantizing
from rerankkit.architectures import Passes
from rerankkit.errors import InputError
from rerankkit.lazy import torch, transformers
from rerankkit.lora import Lora, add_lora
from rerankkit.pretrained import Attention, Dtype
from rerankkit.protocols import Batch, Hidden, Tokens, Vocabulary
from rerankkit.quantization import Quantization
from rerankkit.registry import registry
from rerankkit.seq2seq import EncoderState


@registry.backbones("hf_encoder_decoder.v1")
def hf_encoder_decoder(
    name: str,
    dtype: Dtype = "fp32",
    attention: Attention = "auto",
    revision: str | None = None,
    native_class: bool = False,
    quantization: Quantization | None = None,
    lora: Lora | None = None,
) -> HFEncoderDecoder:
    """A text-to-text model, such as T5, Flan-T5, mT5 or BART. Code from a model's repository is never run.

    Its encoder reads the prompt, each distinct one once, and its decoder what the answer begins with. Answers that it
    writes are always the likeliest token after token: the sampling, penalties and forced tokens that a checkpoint
    may ask for are left out.

    Recipe:
        [model.backbone]
        @backbones = "hf_encoder_decoder.v1"
        name = "google/flan-t5-base"
        dtype = "bf16"

        [model.backbone.lora]
        r = 16

    Args:
        name: A hub id, a folder, or `embedded:NAME` for weights that an installed package carries.
        dtype: "auto" is the checkpoint's own.
        attention: "auto" is "sdpa" where the architecture can, else "eager".
        revision: Branch, tag or commit of a hub id.
        native_class: Accept transformers' own class where the repository has code for the model (`auto_map`).
        quantization: Weights in eight or four bits through bitsandbytes; to be trained with LoRA and `merge = false`.
    """
    config = pretrained.load_config(name, revision, native_class)
    seq2seq.refuse_other_architectures(name, config)
    auto, settings = transformers.AutoModelForSeq2SeqLM, quantizing.settings(quantization, dtype)
    model, tokenizer, _ = pretrained.load(
        auto, "language model", name, config, dtype, attention, revision, native_class, lora, settings
    )
    return HFEncoderDecoder(name, tokenizer, add_lora(model, lora) if lora else model, lora, quantization)


def _without_weights(name: str, revision: str | None, native_class: bool = False) -> HFEncoderDecoder:
    """The tokenizer and the shape of the model, for what needs no weights."""
    config = pretrained.load_config(name, revision, native_class)
    seq2seq.refuse_other_architectures(name, config)
    tokenizer, model = pretrained.load_shape(transformers.AutoModelForSeq2SeqLM, name, revision, config, native_class)
    return HFEncoderDecoder(name, tokenizer, model, None)


hf_encoder_decoder.check = quantizing.check  # type: ignore[attr-defined]
hf_encoder_decoder.without_weights = _without_weights  # type: ignore[attr-defined]


class HFEncoderDecoder:
    shares_prefix = False

    def __init__(
        self, name: str, tokenizer: Any, module: Any, lora: Lora | None, quantization: Quantization | None = None
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.module = module
        self.lora = lora
        self._has_adapter = lora is not None
        self._quantization = quantization
        self._vocabulary_checked = False
        self._passes = Passes(self.model)
        tokenizer.decoder_start_token_id = seq2seq.start_token(name, self.model)
        if pretrained.positions(self.model.config) is None:  # relative ones, however long a text
            tokenizer.model_max_length = seq2seq.UNLIMITED

    @property
    def model(self) -> Any:
        """The transformers model, inside its adapters where it has some."""
        return self.module.get_base_model() if self._has_adapter else self.module

    def read_shared(self, shared: Tokens, before: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """The encoder's hidden states of each prompt [length, width]."""
        return pretrained.unpadded(self._encoder_states(shared), shared)

    def hidden(self, batch: Batch, states: Sequence[torch.Tensor] | None = None) -> Hidden:
        """Final hidden states of the decoder, after its last norm."""
        encoded = self._encoded(batch, states)
        output = self.model.get_decoder()(
            input_ids=batch.tokens.ids,
            attention_mask=batch.tokens.mask,
            encoder_hidden_states=encoded.states,
            encoder_attention_mask=encoded.mask,
            use_cache=False,
        )
        return Hidden(output.last_hidden_state)

    def vocabulary(self, token_ids: Sequence[int] | None = None) -> Vocabulary:
        vocabulary = seq2seq.output_rows(self.model, token_ids)
        if not self._vocabulary_checked:
            start = self.tokenizer.decoder_start_token_id
            some = range(8) if token_ids is None else token_ids
            seq2seq.check_vocabulary(self.name, self.model, start, some, seq2seq.output_rows(self.model, some))
            self._vocabulary_checked = True
        return vocabulary

    def write(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        with torch.no_grad():  # what `generate` does by itself, and for its encoder too
            encoded = self._encoded(batch, None)
        return generation.write_decoded(self.model, self.tokenizer, batch.tokens, encoded, max_new_tokens)

    def save(self, folder: Path) -> None:
        """Write `backbone/`, or `adapter/` where LoRA is to stay apart."""
        adapter = self.lora if self._has_adapter else None
        quantizing.require_apart(self._quantization, adapter)
        self.module = pretrained.save_model(self.module, self.tokenizer, self.name, adapter, folder)
        self._has_adapter = adapter is not None and not adapter.merge

    def _encoder_states(self, tokens: Tokens) -> torch.Tensor:
        encoder = self.model.get_encoder()
        return self._passes.states(lambda some: encoder(input_ids=some.ids, attention_mask=some.mask)[0], tokens)

    def _encoded(self, batch: Batch, states: Sequence[torch.Tensor] | None) -> EncoderState:
        """What the encoder makes of each row's prompt."""
        if batch.shared is None or batch.shared_of is None:
            raise InputError(
                "hf_encoder_decoder.v1 needs prompts in two parts, for its encoder and for its decoder; use the "
                "collator encoder_decoder.v1"
            )
        shared = self._encoder_states(batch.shared) if states is None else pretrained.padded(states)
        return EncoderState(shared, batch.shared.mask).take(batch.shared_of)
