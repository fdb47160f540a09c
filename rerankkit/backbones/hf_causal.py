"""A causal language model of transformers, with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerankkit import causal_lm, generation, pretrained
from rerankkit import quantization as quantizing
from rerankkit.architectures import NOT_CAUSAL, REFUSED, Passes, refuse_type
from rerankkit.causal_lm import PrefixState
from rerankkit.lazy import torch, transformers
from rerankkit.lora import Lora, add_lora
from rerankkit.pretrained import Attention, Dtype
from rerankkit.protocols import Batch, Hidden, Tokens, Vocabulary
from rerankkit.quantization import Quantization
from rerankkit.registry import registry


@registry.backbones("hf_causal.v1")
def hf_causal(
    name: str,
    dtype: Dtype = "fp32",
    attention: Attention = "auto",
    revision: str | None = None,
    native_class: bool = False,
    share_prefix: bool = True,
    quantization: Quantization | None = None,
    lora: Lora | None = None,
) -> HFCausal:
    """A causal language model, such as Qwen3, Llama or SmolLM2. Code from a model's repository is never run.

    Answers that it writes are always the likeliest token after token: the sampling, penalties and forced tokens that a
    checkpoint may ask for are left out.

    Recipe:
        [model.backbone]
        @backbones = "hf_causal.v1"
        name = "embedded:smollm2-135m-instruct"
        dtype = "fp32"

        [model.backbone.lora]
        r = 16

    Args:
        name: A hub id, a folder, or `embedded:NAME` for weights that an installed package carries.
        dtype: "auto" is the checkpoint's own.
        attention: "auto" is "sdpa" where the architecture can, else "eager".
        revision: Branch, tag or commit of a hub id.
        native_class: Accept transformers' own class where the repository has code for the model (`auto_map`).
        share_prefix: Compute the tokens that a query's prompts begin with once. Only where every layer attends to
            everything before it; elsewhere it is left off.
        quantization: Weights in eight or four bits through bitsandbytes; to be trained with LoRA and `merge = false`.
    """
    config = pretrained.load_config(name, revision, native_class)
    refuse_type(name, config, "hf_causal.v1", REFUSED | NOT_CAUSAL)
    causal_lm.refuse_other_tasks(name, config)
    auto, settings = transformers.AutoModelForCausalLM, quantizing.settings(quantization, dtype)
    model, tokenizer, _ = pretrained.load(
        auto, "language model", name, config, dtype, attention, revision, native_class, lora, settings
    )
    causal_lm.refuse_other_architectures(name, model)
    return HFCausal(name, tokenizer, add_lora(model, lora) if lora else model, share_prefix, lora, quantization)


def _without_weights(name: str, revision: str | None, share_prefix: bool, native_class: bool = False) -> HFCausal:
    """The tokenizer and the shape of the model, for what needs no weights."""
    config = pretrained.load_config(name, revision, native_class)
    refuse_type(name, config, "hf_causal.v1", REFUSED | NOT_CAUSAL)
    causal_lm.refuse_other_tasks(name, config)
    tokenizer, model = pretrained.load_shape(transformers.AutoModelForCausalLM, name, revision, config, native_class)
    causal_lm.refuse_other_architectures(name, model)
    return HFCausal(name, tokenizer, model, share_prefix, None)


hf_causal.check = quantizing.check  # type: ignore[attr-defined]
hf_causal.without_weights = _without_weights  # type: ignore[attr-defined]


class HFCausal:
    def __init__(
        self,
        name: str,
        tokenizer: Any,
        module: Any,
        share_prefix: bool,
        lora: Lora | None,
        quantization: Quantization | None = None,
    ) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.module = module
        self.lora = lora
        self._has_adapter = lora is not None
        self._quantization = quantization
        self._passes = Passes(self.model)
        self.shares_prefix = share_prefix and causal_lm.attends_to_everything(self.model)
        self._vocabulary_checked = False

    @property
    def model(self) -> Any:
        """The transformers model, inside its adapters where it has some."""
        return self.module.get_base_model() if self._has_adapter else self.module

    def read_shared(self, shared: Tokens, before: Sequence[PrefixState] = ()) -> list[PrefixState]:
        decoder = causal_lm.stack(self.model)
        if before:
            output = causal_lm.go_on(decoder, shared, before)
        else:
            output = decoder(input_ids=shared.ids, attention_mask=shared.mask, use_cache=True)
        return causal_lm.cached(output, shared, before)

    def hidden(self, batch: Batch, states: Sequence[PrefixState] | None = None) -> Hidden:
        """Final hidden states, as the output layer reads them."""
        decoder, tokens = causal_lm.stack(self.model), batch.tokens
        if batch.shared is None or batch.shared_of is None:
            return Hidden(self._passes.states(self._states, tokens))
        states = self.read_shared(batch.shared) if states is None else states
        output = causal_lm.go_on(decoder, tokens, [states[number] for number in batch.shared_of.tolist()])
        return Hidden(causal_lm.final_states(self.model, output.last_hidden_state))

    def _states(self, tokens: Tokens) -> torch.Tensor:
        output = causal_lm.stack(self.model)(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False)
        return causal_lm.final_states(self.model, output.last_hidden_state)

    def vocabulary(self, token_ids: Sequence[int] | None = None) -> Vocabulary:
        vocabulary = causal_lm.output_rows(self.model, token_ids)
        if not self._vocabulary_checked:
            some = range(8) if token_ids is None else token_ids
            causal_lm.check_vocabulary(self.name, self.model, some, causal_lm.output_rows(self.model, some))
            self._vocabulary_checked = True
        return vocabulary

    def write(self, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        return generation.write_after(self.model, self.tokenizer, batch.tokens, max_new_tokens, self._passes)

    def save(self, folder: Path) -> None:
        """Write `backbone/`, or `adapter/` where LoRA is to stay apart."""
        adapter = self.lora if self._has_adapter else None
        quantizing.require_apart(self._quantization, adapter)
        self.module = pretrained.save_model(self.module, self.tokenizer, self.name, adapter, folder)
        self._has_adapter = adapter is not None and not adapter.merge
