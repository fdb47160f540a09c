"""The hidden states of a transformers model, with its tokenizer: for new heads and for late interaction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerankkit import pretrained
from rerankkit.architectures import Passes, refuse_unfit
from rerankkit.lazy import torch, transformers
from rerankkit.lora import Lora, add_lora
from rerankkit.pretrained import Attention, Dtype
from rerankkit.protocols import Batch, Hidden, Tokens
from rerankkit.registry import registry


@registry.backbones("hf_encoder.v1")
def hf_encoder(
    name: str,
    dtype: Dtype = "fp32",
    attention: Attention = "auto",
    revision: str | None = None,
    native_class: bool = False,
    lora: Lora | None = None,
) -> HFEncoder:
    """A transformers model without its task's head: an encoder such as BERT, ModernBERT or XLM-R, or the body of a
    causal language model. Code from a model's repository is never run.

    Recipe:
        [model.backbone]
        @backbones = "hf_encoder.v1"
        name = "embedded:minilm-l6"

        [model.backbone.lora]
        r = 16

    Args:
        name: A hub id, a folder, or `embedded:NAME` for weights that an installed package carries.
        dtype: "auto" is the checkpoint's own.
        attention: "auto" is "sdpa" where the architecture can, else "eager".
        revision: Branch, tag or commit of a hub id.
        native_class: Accept transformers' own class where the repository has code for the model (`auto_map`).
    """
    config = pretrained.load_config(name, revision, native_class)
    refuse_unfit(name, config, "hf_encoder.v1")
    auto = transformers.AutoModel
    model, tokenizer, _ = pretrained.load(auto, "encoder", name, config, dtype, attention, revision, native_class, lora)
    return HFEncoder(name, revision, tokenizer, _without_pooler(model), lora)


def _without_weights(name: str, revision: str | None, native_class: bool = False) -> HFEncoder:
    """The tokenizer and the shape of the model, for what needs no weights."""
    config = pretrained.load_config(name, revision, native_class)
    refuse_unfit(name, config, "hf_encoder.v1")
    tokenizer, model = pretrained.load_shape(transformers.AutoModel, name, revision, config, native_class)
    return HFEncoder(name, revision, tokenizer, _without_pooler(model), None)


hf_encoder.check = pretrained.check_sources  # type: ignore[attr-defined]
hf_encoder.without_weights = _without_weights  # type: ignore[attr-defined]


class HFEncoder:
    shares_prefix = False

    def __init__(self, name: str, revision: str | None, tokenizer: Any, model: Any, lora: Lora | None) -> None:
        self.name, self.revision = name, revision
        self.tokenizer = tokenizer
        self.module = add_lora(model, lora) if lora else model
        self._adapter = lora
        self._model = model
        self._passes = Passes(model)
        self._from_first = False

    def read_shared(self, shared: Tokens, before: Sequence[torch.Tensor] = ()) -> list[torch.Tensor]:
        """Hidden states of each query [length, width]."""
        return pretrained.unpadded(self._states(shared), shared)

    def hidden(self, batch: Batch, states: Sequence[torch.Tensor] | None = None) -> Hidden:
        if batch.shared is None:
            return Hidden(self._states(batch.tokens))
        shared = self._states(batch.shared) if states is None else pretrained.padded(states)
        return Hidden(self._states(batch.tokens), shared)

    def attend_from_first(self) -> None:
        """Let the first token see the whole text where other tokens see a window alone, as Longformer's classifiers
        do."""
        self._from_first = self._model.config.model_type == "longformer"

    def _states(self, tokens: Tokens) -> torch.Tensor:
        return self._passes.states(self._forward, tokens)

    def _forward(self, tokens: Tokens) -> torch.Tensor:
        inputs = pretrained.model_inputs(self._model, tokens)
        if self._from_first:
            inputs["global_attention_mask"] = torch.zeros_like(tokens.mask)
            inputs["global_attention_mask"][:, 0] = 1
        return self.module(**inputs).last_hidden_state

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint."""
        return pretrained.file_beside(self.name, self.revision, name)

    def save(self, folder: Path) -> None:
        """Write `backbone/`, or `adapter/` where LoRA is to stay apart."""
        self.module = pretrained.save_model(self.module, self.tokenizer, self.name, self._adapter, folder)
        if self._adapter is not None and self._adapter.merge:
            self._adapter = None


def _without_pooler(model: Any) -> Any:
    """A pooler that nothing reads would be computed, and be an unused weight in training."""
    if "pooler" in dict(model.named_children()):
        model.pooler = torch.nn.Identity()  # not None, which some call all the same
    return model
