"""What the pictures on the terminal are drawn with."""

from __future__ import annotations

from collections import Counter
from typing import Final

from rich.table import Table
from rich.text import Text

GOOD, BAD, DIM, TITLE = "green", "bold red", "bright_black", "bold"
_LEAST: Final = 6


def section(title: str | Text, *columns: str) -> Table:
    """A table with its name in the first column's head, and numbers to the right."""
    table = Table(box=None, padding=(0, 0, 0, 1), pad_edge=False, expand=True, header_style=DIM)
    name = title if isinstance(title, Text) else Text(title, TITLE)
    table.add_column(name, ratio=1, no_wrap=True, overflow="ellipsis")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=_LEAST)
    return table


def counts(title: str, found: Counter[str], room: int, rest: str = "more reasons") -> Table:
    """The most frequent; what has no room is one line."""
    table = section(title, f"{found.total():,}")
    most = [one for one in found.most_common() if one[1]]
    shown = most if len(most) <= room else most[: max(0, room - 1)]
    for name, count in shown:
        table.add_row(name, f"{count:,}")
    if left := most[len(shown) :]:
        table.add_row(Text(f"{len(left)} {rest}", DIM), f"{sum(count for _, count in left):,}")
    return table


def mark(good: bool, text: str) -> Text:
    """A text with a hook, or with a cross."""
    return Text.assemble(("✓", GOOD) if good else ("✗", BAD), f" {text}" if text else "")


def line(text: Text) -> Text:
    """A text that ends where the terminal does."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
