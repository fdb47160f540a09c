"""The one console of commands: it shows texts as they are written.

Ids, queries, documents and file names are users' texts. What rich would read in them as markup (`[red]`, `[/INST]`) or
as the name of a picture (`:smile:`) is shown to the letter.
"""

from __future__ import annotations

import re

from rich.console import Console

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """A console for tables and lines of users' texts."""
    return Console(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def line_of(text: str) -> str:
    """A text as one line: runs of white space are one space, and no other control character acts on the terminal."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], " ".join(text.split()))
