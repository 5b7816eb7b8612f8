"""Tables on standard output, of which nothing is cut off: ids are there to be copied."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table

_PIPED_WIDTH = 200
"""Who reads a pipe has no terminal that could be too narrow."""


def console(*, quiet: bool = False) -> Console:
    """Standard output."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if has_width else _PIPED_WIDTH, quiet=quiet)


def table(title: str, *names: str, right: tuple[str, ...] = (), whole: tuple[str, ...] = ()) -> Table:
    """A table without rows. In a narrow terminal cells go on in the next line, but not those of ``whole`` columns."""
    found = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="bold underline")
    for name in names:
        found.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=name in whole)
    return found


def moment(text: str) -> str:
    """A time of the API to the second, for a column `at (UTC)`; a narrow one breaks it between date and time."""
    return text[:19].replace("T", " ")
