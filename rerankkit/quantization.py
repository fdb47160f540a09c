"""Weights in eight or four bits through bitsandbytes: a backbone's `quantization`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

from rerankkit.errors import InputError
from rerankkit.lazy import transformers
from rerankkit.lora import Lora
from rerankkit.pretrained import DTYPES, Dtype, check_sources

Quantization = Literal["int8", "nf4"]
"""LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339), or the four bits of QLoRA (Dettmers et al. 2023, arXiv
2305.14314). What is multiplied with them, and the output layer, stay in the backbone's dtype."""


def settings(quantization: Quantization | None, dtype: Dtype) -> Any:
    """What transformers' `from_pretrained` takes as `quantization_config`."""
    if quantization is None:
        return None
    if find_spec("bitsandbytes") is None:
        raise InputError(
            f'quantization = "{quantization}" needs bitsandbytes, which is not installed: pip install '
            '"rerankkit[quantized]", or leave quantization out'
        )
    if quantization == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    compute = DTYPES["bf16" if dtype == "auto" else dtype]
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, bnb_4bit_use_double_quant=True
    )


def check(
    name: str, lora: dict[str, Any] | None, quantization: Quantization | None = None
) -> Iterator[tuple[str, str]]:
    """What can be seen without weights: whether all that is named exists, and whether it could be saved."""
    yield from check_sources(name, lora)
    if quantization is not None and lora is not None and lora.get("merge", True):
        yield "lora", "an adapter cannot be folded into quantised weights; set merge = false, to keep it apart"


def require_apart(quantization: Quantization | None, lora: Lora | None) -> None:
    """Refuse to save quantised weights, of which nothing was trained, and into which an adapter cannot be folded."""
    if quantization is not None and (lora is None or lora.merge):
        raise InputError(
            f'a model loaded with quantization = "{quantization}" is saved as an adapter alone: train LoRA with '
            "merge = false; untrained, it is its checkpoint, to be named in a recipe"
        )
