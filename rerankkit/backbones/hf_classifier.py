"""A transformers model with a classifier of its own, with its tokenizer: a published cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerankkit import pretrained
from rerankkit.architectures import Passes, refuse_unfit
from rerankkit.classifiers import head_names, in_float32, last_token_logits, new_poolers, require_one_label
from rerankkit.lazy import torch, transformers
from rerankkit.lora import Lora, add_lora
from rerankkit.pretrained import Attention, Dtype
from rerankkit.protocols import Batch, Hidden, Tokens
from rerankkit.registry import registry


@registry.backbones("hf_classifier.v1")
def hf_classifier(
    name: str,
    dtype: Dtype = "fp32",
    attention: Attention = "auto",
    revision: str | None = None,
    native_class: bool = False,
    lora: Lora | None = None,
) -> HFClassifier:
    """A sequence classifier with one logit, such as cross-encoder/ms-marco-MiniLM-L-12-v2 or bge-reranker-v2-m3. Code
    from a model's repository is never run.

    A checkpoint without a classifier gets a new one, which has to be trained. The classifier computes in float32,
    whatever `dtype` is: rounded logits would tie.

    Recipe:
        [model.backbone]
        @backbones = "hf_classifier.v1"
        name = "embedded:ms-marco-minilm-l12"
        dtype = "fp32"

    Args:
        name: A hub id, a folder, or `embedded:NAME` for weights that an installed package carries.
        dtype: "auto" is the checkpoint's own.
        attention: "auto" is "sdpa" where the architecture can, else "eager".
        revision: Branch, tag or commit of a hub id.
        native_class: Accept transformers' own class where the repository has code for the model (`auto_map`).
        lora: Low-rank adapters on all but the classifier, which is trained whole, as is a pooler that the
            checkpoint lacks.
    """
    config = pretrained.load_config(name, revision, native_class)
    refuse_unfit(name, config, "hf_classifier.v1")
    require_one_label(name, config)
    auto = transformers.AutoModelForSequenceClassification
    model, tokenizer, new = pretrained.load(
        auto, "classifier", name, config, dtype, attention, revision, native_class, lora
    )
    found = HFClassifier(name, revision, tokenizer, model, lora, new_poolers(new))
    found.untrained = bool(new) and not (lora and lora.start)
    return found


def _without_weights(name: str, revision: str | None, native_class: bool = False) -> HFClassifier:
    """The tokenizer and the shape of the model, for what needs no weights."""
    config = pretrained.load_config(name, revision, native_class)
    refuse_unfit(name, config, "hf_classifier.v1")
    require_one_label(name, config)
    auto = transformers.AutoModelForSequenceClassification
    tokenizer, model = pretrained.load_shape(auto, name, revision, config, native_class)
    return HFClassifier(name, revision, tokenizer, model, None)


hf_classifier.check = pretrained.check_sources  # type: ignore[attr-defined]
hf_classifier.without_weights = _without_weights  # type: ignore[attr-defined]


class HFClassifier:
    shares_prefix = False

    def __init__(
        self,
        name: str,
        revision: str | None,
        tokenizer: Any,
        model: Any,
        lora: Lora | None,
        poolers: Sequence[str] = (),
    ) -> None:
        self.name, self.revision = name, revision
        self.tokenizer = tokenizer
        in_float32(model, self.file)
        self.module = add_lora(model, lora, [*head_names(model), *poolers]) if lora else model
        self.labels = int(model.config.num_labels)
        self.untrained = False
        self._adapter = lora
        self._model = model
        self._passes = Passes(model)
        self.reads_last_token = "score" in head_names(model)

    def read_shared(self, shared: Tokens, before: Sequence[Any] = ()) -> list[Any]:
        """A classifier reads whole pairs; there is nothing to read apart."""
        return [None] * len(shared.ids)

    def hidden(self, batch: Batch, states: Sequence[Any] | None = None) -> Hidden:
        """The classifier's logits, in place of hidden states. [rows, 1, labels]"""
        return Hidden(self._passes.states(self._logits, batch.tokens).unsqueeze(1))

    def _logits(self, tokens: Tokens) -> torch.Tensor:
        """[rows, labels]"""
        inputs = pretrained.model_inputs(self._model, tokens)
        if self.reads_last_token:
            pad = self._model.config.get_text_config().pad_token_id
            if pad is None or pad < 0:
                return last_token_logits(self._model, tokens)
            # by the padding token's id, which is not always the tokenizer's, it finds each row's last token
            inputs["input_ids"] = tokens.ids.masked_fill(tokens.mask == 0, pad)
        return self.module(**inputs).logits

    def file(self, name: str) -> Path | None:
        """A file of the checkpoint."""
        return pretrained.file_beside(self.name, self.revision, name)

    def save(self, folder: Path) -> None:
        """Write `backbone/`, or `adapter/` where LoRA is to stay apart; both hold the classifier."""
        self.module = pretrained.save_model(self.module, self.tokenizer, self.name, self._adapter, folder)
        if self._adapter is not None and self._adapter.merge:
            self._adapter = None
