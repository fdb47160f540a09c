"""Rerankers in the layouts of other projects, which give the same scores there."""

from __future__ import annotations

import copy
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file

from rerankkit.architectures import positions
from rerankkit.backbones.hf_causal import HFCausal
from rerankkit.backbones.hf_classifier import HFClassifier
from rerankkit.collators.late_interaction import LateInteractionCollator
from rerankkit.collators.pair import PairCollator
from rerankkit.engine import Parts
from rerankkit.errors import InputError
from rerankkit.files import explaining, new_folder
from rerankkit.formatters.pair import Pair
from rerankkit.frames import vocabulary_id
from rerankkit.heads.maxsim import MaxSim
from rerankkit.lora import merged_copy
from rerankkit.projection import LINEAR
from rerankkit.published import OPEN_RETRIEVALS_LENGTH, stanford_skiplist
from rerankkit.warnings import warn

Layout = Literal["pylate", "stanford", "open_retrievals", "transformers"]
STANFORD_TRUNKS = ("bert", "roberta", "xlm-roberta", "electra")


def export(parts: Parts, folder: Path, layout: str) -> None:
    """Write a folder that another project loads; the reranker stays as it is, with its adapter where it has one.

    Args:
        layout: "pylate" (which sentence-transformers reads, too), "stanford" or "open_retrievals" for late interaction;
            "transformers" for a model whose own head gives the score.
    """
    writers: dict[str, Callable[[Parts, Path], None]] = {
        "pylate": _pylate,
        "stanford": _stanford,
        "open_retrievals": _open_retrievals,
        "transformers": _transformers,
    }
    if layout not in writers:
        raise InputError(f"no layout {layout!r}; known are {', '.join(get_args(Layout))}")
    with explaining(folder), new_folder(folder) as unfinished:
        writers[layout](parts, unfinished)


def _pylate(parts: Parts, folder: Path) -> None:
    collator, head = _late_interaction(parts, "pylate")
    _require("pylate", {"similarity": (head.similarity, "sum"), "compare_first": (collator.compare_first, True)})
    tokenizer = _tokenizer(parts, collator, "pylate")
    if collator.query_expansion and tokenizer.mask_token is not None:
        tokenizer.pad_token = tokenizer.mask_token  # queries are filled up with it there
    tokenizer.model_max_length = collator.document_max_length - bool(collator.document_marker)
    model = _merged(parts)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    dense = folder / "1_Dense"
    dense.mkdir()
    save_file({f"linear.{name}": weight for name, weight in _linear(head).items()}, dense / "model.safetensors")
    _write(
        dense / "config.json",
        {
            "in_features": head.module.in_features,
            "out_features": head.module.out_features,
            "bias": head.bias,
            "activation_function": "torch.nn.modules.linear.Identity",
            "use_residual": False,
        },
    )
    kinds = {"": "sentence_transformers.models.Transformer", "1_Dense": "pylate.models.Dense.Dense"}
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds.items())]
    _write(folder / "modules.json", modules)
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": tokenizer.model_max_length, "do_lower_case": False},
    )
    _write(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "ColBERT",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            "query_prefix": collator.query_marker,
            "document_prefix": collator.document_marker,
            "query_length": collator.query_max_length,
            "document_length": collator.document_max_length,
            "attend_to_expansion_tokens": collator.attend_to_expansion,
            "skiplist_words": _skipped(collator, tokenizer),
            "do_query_expansion": collator.query_expansion,
        },
    )


def _stanford(parts: Parts, folder: Path) -> None:
    collator, head = _late_interaction(parts, "stanford")
    _require(
        "stanford",
        {
            "similarity": (head.similarity, "sum"),
            "bias": (head.bias, False),
            "compare_first": (collator.compare_first, True),
            "query_expansion": (collator.query_expansion, True),
        },
    )
    tokenizer = _tokenizer(parts, collator, "stanford")
    if not collator.query_marker or not collator.document_marker:
        raise InputError('the layout "stanford" needs a query_marker and a document_marker, and one of them is empty')
    punctuation = stanford_skiplist(tokenizer)
    if set(_skipped(collator, tokenizer)) != set(punctuation):  # its code fails on documents where it skips nothing
        raise InputError(
            'the layout "stanford" skips the first token of each punctuation sign '
            f"({' '.join(punctuation[:3])} …), and this collator's skiplist has others"
        )
    model = _merged(parts)
    if model.config.model_type not in STANFORD_TRUNKS:
        raise InputError(
            f'the layout "stanford" holds {", ".join(STANFORD_TRUNKS)}; this model is a {model.config.model_type}'
        )
    weights = {f"{model.base_model_prefix}.{name}": weight for name, weight in model.state_dict().items()}
    weights["linear.weight"] = head.module.weight
    save_file(
        {name: weight.detach().cpu().contiguous() for name, weight in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = copy.deepcopy(model.config)
    config.architectures = ["HF_ColBERT"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write(
        folder / "artifact.metadata",
        {
            "query_token_id": collator.query_marker,
            "doc_token_id": collator.document_marker,
            "query_token": "[Q]",
            "doc_token": "[D]",
            "dim": head.module.out_features,
            "query_maxlen": collator.query_max_length,
            "doc_maxlen": collator.document_max_length,
            "mask_punctuation": True,
            "attend_to_mask_tokens": collator.attend_to_expansion,
            "interaction": "colbert",
            "similarity": "cosine",
        },
    )


def _open_retrievals(parts: Parts, folder: Path) -> None:
    collator, head = _late_interaction(parts, "open_retrievals")
    _require(
        "open_retrievals",
        {
            "similarity": (head.similarity, "mean"),
            "query_marker": (collator.query_marker, ""),
            "document_marker": (collator.document_marker, ""),
            "query_expansion": (collator.query_expansion, False),
            "skiplist": (collator.skiplist, None),
            "compare_first": (collator.compare_first, False),
        },
    )
    model = _merged(parts)
    usual = min(positions(model.config) or OPEN_RETRIEVALS_LENGTH, OPEN_RETRIEVALS_LENGTH)
    if not collator.query_max_length == collator.document_max_length == usual:
        lengths = f"query_max_length {collator.query_max_length}, document_max_length {collator.document_max_length}"
        warn("layout_leaves_out", f"{lengths} by open_retrievals", 2)
    model.save_pretrained(folder)
    parts.backbone.tokenizer.save_pretrained(folder)
    weights = _linear(head)
    torch.save({"bias": torch.zeros(len(weights["weight"])), **weights}, folder / LINEAR)


def _transformers(parts: Parts, folder: Path) -> None:
    if not isinstance(parts.backbone, HFClassifier | HFCausal):
        raise InputError(
            'the layout "transformers" holds models whose own head gives the score (hf_classifier.v1, hf_causal.v1); '
            "this one's head is rerankkit's. Its backbone/ is a folder that transformers loads"
        )
    tokenizer = copy.deepcopy(parts.backbone.tokenizer)
    if isinstance(parts.backbone, HFCausal):
        warn("layout_leaves_out", "the prompt, and how an answer is read, by transformers")
    elif parts.formatter != Pair() or not isinstance(parts.collator, PairCollator):
        raise InputError('the layout "transformers" has no room for the instructions of the formatter')
    else:
        limits = {name: (getattr(parts.collator, name), None) for name in ("query_max_length", "document_max_length")}
        _require("transformers", limits)
        tokenizer.model_max_length = parts.collator.max_length
    _merged(parts).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _late_interaction(parts: Parts, layout: str) -> tuple[LateInteractionCollator, MaxSim]:
    collator, head = parts.collator, parts.head
    if not isinstance(collator, LateInteractionCollator) or not isinstance(head, MaxSim):
        raise InputError(f'the layout "{layout}" is for late interaction: late_interaction.v1 with maxsim.v1')
    if parts.formatter != Pair():
        raise InputError(f'the layout "{layout}" has no room for the instructions of the formatter')
    if head.module is None:
        raise InputError(f'the layout "{layout}" needs a projection, and this head has dim = null')
    return collator, head


def _require(layout: str, wanted: dict[str, tuple[Any, Any]]) -> None:
    if unlike := [f"{name} = {has!r} (it has {can!r})" for name, (has, can) in wanted.items() if has != can]:
        raise InputError(f'the layout "{layout}" cannot say {", ".join(unlike)}')


def _tokenizer(parts: Parts, collator: LateInteractionCollator, layout: str) -> Any:
    """A copy of the tokenizer, whose vocabulary has the markers."""
    for marker in (collator.query_marker, collator.document_marker):
        if marker and vocabulary_id(marker, parts.backbone.tokenizer) is None:
            raise InputError(f'the layout "{layout}" needs markers that are one token, and {marker!r} is text')
    return copy.deepcopy(parts.backbone.tokenizer)


def _skipped(collator: LateInteractionCollator, tokenizer: Any) -> list[str]:
    """The skiplist, without signs that the vocabulary lacks: other projects would skip the unknown token for them."""
    entries = list(string.punctuation) if collator.skiplist == "punctuation" else collator.skiplist or []
    return [entry for entry in entries if vocabulary_id(entry, tokenizer) is not None]


def _merged(parts: Parts) -> Any:
    """The transformers model, with its adapter folded in; the reranker's own is left alone."""
    from peft import PeftModel

    module = parts.backbone.module
    return merged_copy(module) if isinstance(module, PeftModel) else module


def _linear(head: MaxSim) -> dict[str, torch.Tensor]:
    return {name: weight.detach().cpu().contiguous() for name, weight in head.module.state_dict().items()}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), "utf-8")
