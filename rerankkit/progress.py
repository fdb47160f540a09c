"""Progress on stderr: a bar in a terminal, plain lines elsewhere; and silence for what the libraries beneath say."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rerankkit.screen import console


class Bar:
    """A progress bar that lines of text can be printed above; without a terminal only the lines are printed."""

    def __init__(self, description: str, quiet: bool = False) -> None:
        self._console = console(stderr=True, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(description, total=None, note="")
        self._counted = 0

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

    def count(self, number: int, what: str) -> None:
        """Add to a number that is shown behind the bar."""
        self._counted += number
        self._progress.update(self._task, note=f"{self._counted:,} {what}")

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the advice and the progress bars of transformers and peft from rerankkit's users; their errors still come.

    `TRANSFORMERS_VERBOSITY` in the environment brings all of it back.
    """
    if "TRANSFORMERS_VERBOSITY" in os.environ:
        yield
        return
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    downloads = not are_progress_bars_disabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if downloads:  # these may take minutes, and were switched off too
        enable_progress_bars()
    indexing = logging.getLogger("bm25s")  # sets itself to DEBUG when it is imported
    indexing.addFilter(_is_warning)
    try:
        with warnings.catch_warnings():
            for module in ("transformers", "peft", "accelerate", "torch"):
                warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
            yield
    finally:
        indexing.removeFilter(_is_warning)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
