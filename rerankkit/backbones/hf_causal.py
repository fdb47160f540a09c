"""A causal language model of transformers, with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rerankkit import causal_lm
from rerankkit.causal_lm import PrefixState
from rerankkit.errors import InputError, RunError
from rerankkit.lazy import torch, transformers
from rerankkit.lora import Lora, adapter_folder, add_lora
from rerankkit.protocols import Batch, Hidden, Tokens, Vocabulary
from rerankkit.registry import registry
from rerankkit.weights import check_model_name, loading, resolve_model

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "auto": "auto"}


@registry.backbones("hf_causal.v1")
def hf_causal(
    name: str,
    dtype: Literal["fp32", "bf16", "fp16", "auto"] = "fp32",
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto",
    revision: str | None = None,
    share_prefix: bool = True,
    lora: Lora | None = None,
) -> HFCausal:
    """A causal language model, such as Qwen3, Llama or SmolLM2. Code from a model's repository is never run.

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
        share_prefix: Compute the tokens that a query's prompts begin with once. Only where every layer attends to
            everything before it; elsewhere it is left off.
    """
    path = resolve_model(name)
    with loading(name):
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            attn_implementation=None if attention == "auto" else attention,
            revision=revision or "main",
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        tokenizer = causal_lm.load_tokenizer(path, revision)
    causal_lm.refuse_other_architectures(name, model)
    if missing := ", ".join(sorted(report["missing_keys"])[:3]):
        raise RunError(f"{name} lacks weights of a causal language model, such as {missing}")
    model.eval()
    return HFCausal(name, tokenizer, add_lora(model, lora) if lora else model, share_prefix, lora)


def _check(name: str, lora: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """What can be seen without weights: whether the model and the adapter exist."""
    try:
        check_model_name(name)
    except (InputError, RunError) as error:
        yield "name", str(error)
    try:
        if lora and lora.get("start"):
            adapter_folder(lora["start"])
    except InputError as error:
        yield "lora", str(error)


def _without_weights(name: str, revision: str | None, share_prefix: bool) -> HFCausal:
    """The tokenizer and the shape of the model, for what needs no weights."""
    return HFCausal(name, *causal_lm.load_shape(name, revision), share_prefix, None)


hf_causal.check = _check  # type: ignore[attr-defined]
hf_causal.without_weights = _without_weights  # type: ignore[attr-defined]


class HFCausal:
    def __init__(self, name: str, tokenizer: Any, module: Any, share_prefix: bool, lora: Lora | None) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.module = module
        self.lora = lora
        self._has_adapter = lora is not None
        self.shares_prefix = share_prefix and causal_lm.attends_to_everything(self.model)
        self._vocabulary_checked = False

    @property
    def model(self) -> Any:
        """The transformers model, inside its adapters where it has some."""
        return self.module.get_base_model() if self._has_adapter else self.module

    def read_shared(self, shared: Tokens) -> PrefixState:
        output = self.model.get_decoder()(input_ids=shared.ids, attention_mask=shared.mask, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return PrefixState(layers, shared.mask)

    def hidden(self, batch: Batch, state: Any = None) -> Hidden:
        """Final hidden states, after the last norm."""
        decoder, tokens = self.model.get_decoder(), batch.tokens
        if batch.shared_of is None:
            output = decoder(input_ids=tokens.ids, attention_mask=tokens.mask, use_cache=False)
            return Hidden(output.last_hidden_state)
        if state is None:
            assert batch.shared is not None
            state = self.read_shared(batch.shared)
        mask = state.mask[batch.shared_of]  # [rows, prefix length]
        lengths = mask.sum(1, keepdim=True)
        longest = int(lengths.max())
        pasts = [(k[:, :, :longest][batch.shared_of], v[:, :, :longest][batch.shared_of]) for k, v in state.layers]
        output = decoder(
            input_ids=tokens.ids,
            attention_mask=torch.cat([mask[:, :longest], tokens.mask], dim=1),
            position_ids=lengths + torch.arange(tokens.ids.shape[1], device=tokens.ids.device),
            past_key_values=transformers.DynamicCache(pasts),
            use_cache=True,
        )
        return Hidden(output.last_hidden_state)

    def vocabulary(self, token_ids: Sequence[int]) -> Vocabulary:
        vocabulary = causal_lm.output_rows(self.model, token_ids)
        if not self._vocabulary_checked:
            causal_lm.check_vocabulary(self.name, self.model, token_ids, vocabulary)
            self._vocabulary_checked = True
        return vocabulary

    def save(self, folder: Path) -> None:
        """Write `backbone/`, which transformers loads by itself, or `adapter/` where LoRA is to stay apart.

        A merged adapter is merged here and now, so that the model in memory and the one on disk are the same.
        """
        if self._has_adapter and self.lora is not None and not self.lora.merge:
            self.module.active_peft_config.base_model_name_or_path = self.name  # not where it lies on this machine
            self.module.save_pretrained(folder / "adapter", save_embedding_layers=False)
            return
        if self._has_adapter:
            self.module = self.module.merge_and_unload(safe_merge=True)
            self._has_adapter = False
        self.module.save_pretrained(folder / "backbone")
        self.tokenizer.save_pretrained(folder / "backbone")
