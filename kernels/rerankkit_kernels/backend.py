"""What the backends share."""

from collections.abc import Iterator
from functools import cache

import torch


@cache
def multiplies_bf16(device: str) -> bool:
    """Whether the hardware does; otherwise a product in float32 is both faster and better."""
    if device != "cpu":
        return True
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def steps(total: int, step: int) -> Iterator[slice]:
    yield from (slice(first, min(first + max(1, step), total)) for first in range(0, total, max(1, step)))
