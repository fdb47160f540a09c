"""Rerankers whose scores are computed in a way that no part of rerankkit knows: what each is, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LISTWISE = (
    "it reads all documents in one prompt and compares the hidden states of special tokens behind each; rerankkit has "
    "no head for that"
)
_FAMILIES = {
    "LayerWiseMiniCPMForCausalLM": (
        "FlagEmbedding's layer-wise MiniCPM reranker (bge-reranker-v2-minicpm-layerwise)",
        "every layer from a chosen one on has an output layer of its own; rerankkit has no backbone that stops at one",
    ),
    "CostWiseGemmaForCausalLM": (
        "FlagEmbedding's light-weight Gemma 2 reranker (bge-reranker-v2.5-gemma2-lightweight)",
        "it merges tokens between its layers, and every layer has an output layer of its own; rerankkit has no "
        "backbone that does",
    ),
    "JinaForRanking": ("Jina's listwise reranker (jina-reranker-v3)", _LISTWISE),
    "JinaVLForRanking": ("Jina's reranker of pages as images (jina-reranker-m0)", "rerankkit reads texts alone"),
}


def unreadable(settings: Mapping[str, Any]) -> str | None:
    """What the reranker is that a config.json describes, and what is missing to run it; None where it is none of these.

    Args:
        settings: config.json as it is written.
    """
    named = [str(kind) for kind in settings.get("architectures") or []]
    auto_map = settings.get("auto_map")
    for code in auto_map.values() if isinstance(auto_map, Mapping) else ():
        named += [str(part).rpartition(".")[2] for part in (code if isinstance(code, list | tuple) else [code])]
    for kind in named:
        if kind in _FAMILIES:
            what, missing = _FAMILIES[kind]
            return f"is {what}: {missing} yet, so choose another reranker"
    return None
