"""What architectures of transformers need so that a text's score is its own, whatever is beside it in a batch."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from rerankkit.errors import InputError
from rerankkit.lazy import torch
from rerankkit.protocols import Tokens

APART = {
    "canine": "its convolutions read what stands behind a text",
    "convbert": "its convolutions read what stands behind a text",
    "cpmant": "it takes padding to be on the left",
    "fnet": "its Fourier transform has no mask",
    "mobilebert": "each token is read with its neighbours, and the last one's is the padding",
    "xlnet": "its classifier reads the last position, padding or not",
    "yoso": "its hashing has no mask",
}
"""Types in which padding counts, by model_type, with the reason: their rows go through in batches of one length."""
REFUSED = {
    "fsmt": "its decoder wants masks that no other part can make",
    "mra": "its attention is all zeros without a kernel that has to be compiled, and mixes padding in with it",
    "nystromformer": "padding changes what it makes of a text, and it reads texts of one fixed length only",
    "reformer": "its hashes are drawn at random, so that a text has another score each time",
}
"""Types of which no text has a score that stays, or none that we can read, by model_type, with the reason."""
NOT_CAUSAL = {
    "moshi": "behind its window it writes another text than the one that its scores foretell",
    "xlm": "it foretells a token where a mask stands, and not the one behind a text",
    "xlnet": "it foretells a token where a mask stands, and not the one behind a text",
}
"""Types that transformers counts among the causal language models and that are none to rank with, with the reason."""
_COUNTED = ("max_seq_len_cached", "attention_scaling")
_CHANGING = ("dynamic", "longrope")
_rotating = threading.RLock()
"""Held while positions are computed that change with the length of a text, and that models keep in themselves."""


@runtime_checkable
class FromFirst(Protocol):
    """What a backbone adds to `Backbone` where some of its models let tokens see a window of the text alone: a head
    that reads the first token's state says so."""

    def attend_from_first(self) -> None: ...


def refuse_unfit(name: str, config: Any, part: str) -> None:
    """Refuse a model that is not one stack, or whose scores would depend on the batch a prompt happens to be in."""
    if config.is_encoder_decoder:
        raise InputError(f"{name} is an encoder with a decoder ({config.model_type}), which {part} cannot read")
    refuse_type(name, config, part)


def refuse_type(name: str, config: Any, part: str, reasons: Mapping[str, str] = REFUSED) -> None:
    """Refuse a model of a type that is known not to go together with a backbone, with the reason."""
    if reason := reasons.get(config.model_type):
        raise InputError(
            f"{name} is of type {config.model_type}, which {part} cannot read: {reason}; choose a model of another type"
        )


def settle(config: Any) -> Any:
    """The config with what would make a score depend on chance or on earlier work set to what does not."""
    settings = config.get_text_config().to_dict()
    if settings.get("attention_type") == "block_sparse":  # BigBird's, whose blocks are drawn anew at each pass
        config.attention_type = "original_full"
    return config


def sees_what_follows(config: Any) -> bool:
    """Whether a config says that tokens attend to those behind them, in any of the words that transformers knows."""
    settings = config.get_text_config()
    values = settings.to_dict() | {"is_causal": getattr(settings, "is_causal", True)}
    return (
        values["is_causal"] is False
        or values.get("use_bidirectional_attention") in (True, "all")
        or values.get("causal") is False
        or values.get("attn_type") == "bi"
        or values.get("is_decoder") is False
    )


def ropes(config: Any) -> list[dict[str, Any]]:
    """The settings of a model's rotary positions: of all its layers, or of each kind of layer that has its own."""
    found = config.get_text_config().to_dict().get("rope_parameters") or {}
    return [found] if "rope_type" in found else [one for one in found.values() if isinstance(one, dict)]


def apart_beyond(config: Any) -> int | None:
    """How many tokens a row may have and still go through a model together with rows of other lengths.

    Rotary positions that grow with the longest row of a batch, or change at some length, are the same for all rows up
    to the length that the model was first trained on.

    Returns:
        None where any rows go together.
    """
    # Gemma's attention has no mask where nothing is padding, and one that looks back alone where something is
    blind = config.model_type in ("gemma", "gemma2") and config.use_bidirectional_attention
    if config.model_type in APART or blind:
        return 0
    limits = [
        _limit(config) if rope["rope_type"] == "dynamic" else rope["original_max_position_embeddings"]
        for rope in ropes(config)
        if rope.get("rope_type") in _CHANGING
    ]
    return min((limit for limit in limits if limit is not None), default=None)


class Passes:
    """The passes that the rows of a batch take through a model, so that each gets what it would get alone.

    Args:
        model: The transformers model, as it was loaded: each pass begins with what its rotary positions are now.
    """

    def __init__(self, model: Any) -> None:
        self.beyond = apart_beyond(model.config)
        # what is written goes behind rows that are padded on the left: a model that is not told where its tokens stand
        # counts the padding, too
        self._counts_padding = "position_ids" not in inspect.signature(type(model).forward).parameters
        if any(rope.get("rope_type") in _CHANGING for rope in ropes(model.config)):
            for module in model.modules():
                if "max_seq_len_cached" in vars(module):
                    start = _numbers(module), _buffers(module)
                    module.forward = functools.partial(_rotate, module.forward, module, *start)

    def of(self, tokens: Tokens, written: int = 0) -> Iterator[tuple[Tokens, torch.Tensor]]:
        """The rows that go together, without the padding that only others need, and their numbers.

        Args:
            written: How many tokens may come behind each row.
        """
        lengths = tokens.real().sum(1)
        if written and self._counts_padding:
            kinds = lengths
        elif self.beyond is None:
            kinds = torch.zeros_like(lengths)
        else:
            kinds = lengths.clamp(min=max(self.beyond - written, 0))
        for kind in kinds.unique().tolist():
            rows = (kinds == kind).nonzero().flatten()
            yield tokens.take(rows), rows

    def states(self, forward: Callable[[Tokens], torch.Tensor], tokens: Tokens) -> torch.Tensor:
        """What a forward pass makes of the rows, [rows, length, width] or [rows, labels]."""
        if self.beyond is None:
            return forward(tokens)
        found: list[torch.Tensor] = [torch.empty(0)] * len(tokens.ids)
        for some, rows in self.of(tokens):
            for row, states in zip(rows.tolist(), forward(some), strict=True):
                found[row] = states
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True)


def _rotate(
    forward: Callable[..., Any],
    module: Any,
    numbers: Mapping[str, Any],
    buffers: Mapping[str, torch.Tensor],
    x: torch.Tensor,
    position_ids: torch.Tensor,
    layer_type: str | None = None,
) -> Any:
    """What a module of rotary positions gives, whatever text it saw before or another thread gives it now.

    Args:
        numbers: What it counts, as it was loaded; it keeps the longest text so far.
        buffers: Its frequencies, as they were loaded.
    """
    with _rotating:
        for name, buffer in buffers.items():
            setattr(module, name, buffer.to(x.device, copy=True))
        for name, number in numbers.items():
            setattr(module, name, number)
        return forward(x, position_ids) if layer_type is None else forward(x, position_ids, layer_type)


def _numbers(module: Any) -> dict[str, Any]:
    """What a module of rotary positions counts, of all layers or of each kind of them."""
    return {name: value for name, value in vars(module).items() if name.endswith(_COUNTED)}


def _buffers(module: Any) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}


def positions(config: Any) -> int | None:
    """How many tokens a model has positions for, if it says; those of RoBERTa's kin begin behind its padding token, and
    rotary ones reach as far as they are scaled to."""
    settings, limit = config.get_text_config(), _limit(config)
    if limit is None:
        return None
    if settings.model_type in _COUNT_FROM_PADDING:
        return limit - (settings.pad_token_id + 1)
    rope = settings.to_dict().get("rope_parameters") or {}
    return max(limit, int(_scaled(rope, limit)))


def _scaled(rope: dict[str, Any], limit: int) -> float:
    """How far rotary positions of all layers reach. Where they are `llama3` or `longrope`, or layers differ, the config
    has written it into max_position_embeddings already."""
    kind = rope.get("rope_type")
    if kind == "yarn":
        return rope.get("factor", 1.0) * rope["original_max_position_embeddings"]
    return limit * rope.get("factor", 1.0) if kind in ("linear", "dynamic") else limit


def _limit(config: Any) -> int | None:
    """What a config calls max_position_embeddings, under whatever name its architecture has for it."""
    settings = config.get_text_config()
    limit = getattr(settings, "max_position_embeddings", settings.to_dict().get("max_encoder_position_embeddings"))
    return limit if isinstance(limit, int) and limit > 0 else None


_COUNT_FROM_PADDING = {
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "esm",
    "data2vec-text",
    "ibert",
    "luke",
    "xmod",
}
