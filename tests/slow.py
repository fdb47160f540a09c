"""A strategy that takes its time, for the tests that stop a process in its midst."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

from rerankkit import registry
from rerankkit.protocols import Asked, Group, Order


@registry.strategies("slow.v1")
class Slow:
    """Asks one document after another; when some are done it leaves a file, and waits."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def rank(self, group: Group) -> Generator[list[Asked], list[list[float]], Order]:
        scores: Order = []
        for position in range(len(group.docs)):
            ((score,),) = yield [(position,)]
            scores.append((position, score))
            if position == 4:
                Path("some are done").touch()
                time.sleep(self.seconds)
        return sorted(scores, key=lambda pair: -pair[1])

    def training_asks(self, group: Group) -> list[Asked]:
        return [(position,) for position in range(len(group.docs))]
