"""Progress on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """A progress bar that lines of text can be printed above; without a terminal only the lines are printed."""

    def __init__(self, description: str, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(description, total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total: int, done: int = 0) -> None:
        self._progress.update(self._task, total=total, completed=done)

    def move_to(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)
