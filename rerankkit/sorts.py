"""The arguments that strategies have in common which sort out the best documents by comparing them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rerankkit.comparing import Decide, one_pair, one_prompt, too_small, unknown_decision
from rerankkit.errors import InputError
from rerankkit.protocols import Asked, Group


@dataclass(frozen=True)
class PairwiseSort:
    """Two documents are compared by two prompts; `part` is the strategy's name, for messages."""

    part: ClassVar[str]
    at_once: ClassVar[str] = "several"
    k: int = 10
    decide: Decide = "agree"

    def __post_init__(self) -> None:
        for argument, message in self.check(self.k, self.decide):
            raise InputError(f"{self.part}, {argument}: {message}")

    @staticmethod
    def check(k: int = k, decide: str = decide) -> Iterator[tuple[str, str]]:
        """Say which arguments make no sense."""
        yield from too_small(k=k)
        yield from unknown_decision(decide)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_pair(group, self.part)


@dataclass(frozen=True)
class SetwiseSort:
    """A prompt shows `num_child + 1` documents and asks for the best; `part` is the strategy's name, for messages."""

    part: ClassVar[str]
    at_once: ClassVar[str] = "several"
    k: int = 10
    num_child: int = 3
    votes: int = 1

    def __post_init__(self) -> None:
        for argument, message in self.check(self.k, self.num_child, self.votes):
            raise InputError(f"{self.part}, {argument}: {message}")

    @staticmethod
    def check(k: int = k, num_child: int = num_child, votes: int = votes) -> Iterator[tuple[str, str]]:
        """Say which numbers make no sense."""
        return too_small(k=k, num_child=num_child, votes=votes)

    def training_asks(self, group: Group) -> list[Asked]:
        return one_prompt(group, 1 + self.num_child, self.part)
