"""What can be known about a causal language model of transformers, whatever its architecture."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerankkit.architectures import apart_beyond, sees_what_follows
from rerankkit.errors import InputError, RunError
from rerankkit.lazy import torch, transformers
from rerankkit.lora import base_layer, effective_rows
from rerankkit.protocols import Batch, Hidden, Tokens, Vocabulary
from rerankkit.warnings import warn

NEXT_TO_NOTHING = 1e-4
"""The probability below which answers are hardly ever written."""


@dataclass
class PrefixState:
    """What a model keeps of a prefix."""

    keys: torch.Tensor  # [layers, heads, length, width]
    values: torch.Tensor  # [layers, heads, length, width]

    def __len__(self) -> int:
        return self.keys.shape[2]


def go_on(decoder: Any, tokens: Tokens, states: Sequence[PrefixState]) -> Any:
    """The decoder's output for rows that each go on from a prefix, with its cache: the prefixes, padded on their right
    to the longest, and then the rows."""
    lengths = torch.tensor([len(state) for state in states], device=tokens.ids.device)
    longest = int(lengths.max())
    past = torch.arange(longest, device=lengths.device)
    keys, values = (_padded(parts, longest) for parts in zip(*((s.keys, s.values) for s in states), strict=True))
    return decoder(
        input_ids=tokens.ids,
        attention_mask=torch.cat([(past < lengths[:, None]).to(tokens.mask.dtype), tokens.mask], dim=1),
        position_ids=lengths[:, None] + torch.arange(tokens.ids.shape[1], device=tokens.ids.device),
        past_key_values=transformers.DynamicCache(list(zip(keys, values, strict=True))),
        use_cache=True,
    )


def cached(output: Any, tokens: Tokens, before: Sequence[PrefixState]) -> list[PrefixState]:
    """What a decoder's cache holds of each row and of the prefix that it went on from."""
    layers = output.past_key_values.layers
    found, longest = [], layers[0].keys.shape[2] - tokens.ids.shape[1]
    for row, length in enumerate(tokens.real().sum(1).tolist()):
        own = slice(longest, longest + length)
        keys, values = (torch.stack([kept[row, :, own] for kept in some]) for some in _keys_and_values(layers))
        if before:
            keys, values = torch.cat([before[row].keys, keys], 2), torch.cat([before[row].values, values], 2)
        found.append(PrefixState(keys, values))
    return found


def _keys_and_values(layers: Sequence[Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [layer.keys for layer in layers], [layer.values for layer in layers]


def _padded(parts: Sequence[torch.Tensor], longest: int) -> torch.Tensor:
    """[layers, heads, length, width] of each row -> [layers, rows, heads, longest, width]"""
    layers, heads, _, width = parts[0].shape
    whole = parts[0].new_zeros(layers, len(parts), heads, longest, width)
    for row, part in enumerate(parts):
        whole[:, row, :, : part.shape[2]] = part
    return whole


def stack(model: Any) -> Any:
    """The layers below the output layer. ModernBERT's decoder calls its output layer `decoder`, and so does
    transformers' `get_decoder` then."""
    decoder = model.get_decoder()
    return decoder if isinstance(decoder, transformers.PreTrainedModel) else model.base_model


def final_states(model: Any, states: torch.Tensor) -> torch.Tensor:
    """What the output layer reads: the hidden states of `stack`, which ModernBERT's decoder transforms once more."""
    return model.lm_head(states) if model.config.model_type == "modernbert-decoder" else states


def refuse_other_tasks(name: str, config: Any) -> None:
    """A classifier loads as a language model without a word, and then ranks at random."""
    known = config.architectures or []
    if known and not any(n.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for n in known):
        raise InputError(f"{name} is a {known[0]}, not a causal language model; hf_causal.v1 cannot use it")


def refuse_other_architectures(name: str, model: Any) -> None:
    """Refuse a model whose output layer cannot be told apart from what is below it."""
    if model.get_output_embeddings() is None or stack(model) is model:
        kind = type(model).__name__
        raise InputError(f"{name} is a {kind}, whose decoder and output layer hf_causal.v1 cannot tell apart")


def attends_to_everything(model: Any) -> bool:
    """Whether every layer sees all that came before and nothing behind, at the positions it is told rather than by its
    own counting, and at positions that are the same however long the prompt is."""
    config, signature = model.config, inspect.signature(stack(model).forward)
    cache = transformers.DynamicCache(config=config)
    layer = transformers.cache_utils.DynamicLayer
    whole = bool(cache.layers) and all(type(cached) is layer for cached in cache.layers)
    # GPT-Neo's windows are known to no cache
    local = "local" in (config.get_text_config().to_dict().get("attention_layers") or ())
    fixed = not sees_what_follows(config) and apart_beyond(config) is None
    told = {"position_ids", "past_key_values"} <= signature.parameters.keys()
    return whole and fixed and not local and told


def output_rows(model: Any, token_ids: Sequence[int] | None = None) -> Vocabulary:
    """The output layer's rows for some tokens, or for all, with an adapter's share where it has one."""
    head, settings = model.get_output_embeddings(), model.config.get_text_config().to_dict()
    base = base_layer(head)
    rows = slice(None) if token_ids is None else torch.tensor(list(token_ids), device=base.weight.device)
    return Vocabulary(
        rows=effective_rows(head, rows),
        bias=None if base.bias is None else base.bias[rows],
        scale=settings.get("logit_scale") or 1.0 / (settings.get("logits_scaling") or 1.0),
        softcap=settings.get("final_logit_softcapping"),
    )


def token_logits(hidden: torch.Tensor, vocabulary: Vocabulary) -> torch.Tensor:
    """Logits of a vocabulary's tokens after hidden states [..., width]: [..., tokens], float32."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.float() @ vocabulary.rows.float().T
    if vocabulary.bias is not None:
        logits = logits + vocabulary.bias.float()
    logits = logits * vocabulary.scale
    return logits if vocabulary.softcap is None else vocabulary.softcap * torch.tanh(logits / vocabulary.softcap)


def warn_of_improbable_answers(
    hidden: torch.Tensor, vocabulary: Vocabulary, token_ids: Sequence[int], tokenizer: Any
) -> None:
    """Warn where a model goes on with next to none of the tokens that are read as its answer: it may think first, or
    spell its answer otherwise, and their logits then tell documents apart by chance.

    Args:
        hidden: The state after one prompt, for one tells of all that end alike. [width]
        vocabulary: All of it.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        logits = (vocabulary.rows @ hidden.to(vocabulary.rows.dtype)).float()
    if vocabulary.bias is not None:
        logits = logits + vocabulary.bias.float()
    logits = logits * vocabulary.scale
    if vocabulary.softcap is not None:
        logits = vocabulary.softcap * torch.tanh(logits / vocabulary.softcap)
    shares = logits.softmax(-1)
    share = shares[list(token_ids)].sum().item()
    if share < NEXT_TO_NOTHING:
        top, first = shares.max(-1)
        names = " and ".join(repr(tokenizer.decode([token])) for token in token_ids[:2])
        more = f" and {len(token_ids) - 2} more" if len(token_ids) > 2 else ""
        warn(
            "answers_improbable",
            f"one where {names}{more} have together a probability of {share:.1g} and "
            f"{tokenizer.decode([int(first)])!r} has {top.item():.2g}",
        )


def token_likelihoods(
    hidden: Hidden, batch: Batch, vocabulary: Vocabulary, scored: torch.Tensor, reduction: str
) -> torch.Tensor:
    """Log-probabilities of a batch's own tokens, each after those before it: the first has none.

    Args:
        vocabulary: All of it.
        scored: Which tokens count. [rows, length]
        reduction: "sum" or "mean" of a row, [rows]; "none": each by itself, 0 where it does not count.
            [rows, length - 1]
    """
    from rerankkit_kernels import sequence_logprob

    return sequence_logprob(
        hidden.states[:, :-1],
        vocabulary.rows,
        batch.tokens.ids[:, 1:],
        mask=scored[:, 1:],
        reduction=reduction,
        bias=vocabulary.bias,
        softcap=vocabulary.softcap,
        scale=vocabulary.scale,
    )


def check_vocabulary(name: str, model: Any, token_ids: Sequence[int], vocabulary: Vocabulary) -> None:
    """Some architectures transform their logits in ways of their own: compare ours with the model's."""
    ids = torch.tensor([list(token_ids)], device=vocabulary.rows.device)
    training = model.training
    model.eval()  # two passes are compared, and dropout would tell them apart
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1].float()
        hidden = final_states(model, stack(model)(input_ids=ids, use_cache=False).last_hidden_state)[0, -1]
        if hidden.shape[-1] != vocabulary.rows.shape[-1]:
            raise RunError(f"{name} has layers before its output layer that hf_causal.v1 does not know")
        ours = token_logits(hidden, vocabulary)
    model.train(training)
    require_same_logits(name, "hf_causal.v1", ours, logits, token_ids)


def require_same_logits(
    name: str, part: str, ours: torch.Tensor, logits: torch.Tensor, token_ids: Sequence[int]
) -> None:
    """Refuse a model whose logits [vocabulary] of some tokens are not those that we compute [tokens].

    Args:
        part: The backbone's name, for the message.
    """
    theirs = logits[list(token_ids)]
    if not theirs.isfinite().all():
        raise RunError(f"{name} gives logits that are not finite (fp16 overflows easily: try bf16 or fp32)")
    if not torch.allclose(ours, theirs, rtol=0.02, atol=0.02 * logits[logits.isfinite()].std().item()):
        raise RunError(
            f"{name} computes its logits in a way that {part} does not know "
            f"({theirs.tolist()} against {ours.tolist()}); it cannot be used"
        )
