"""Amounts: decimal strings outside, whole cents inside. No floats."""

from __future__ import annotations

import re
from typing import Final

_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?")


def cents_of(text: str) -> int | None:
    """Whole cents of a decimal string with at most two places; None if it is no such string."""
    if not _AMOUNT.fullmatch(text):
        return None
    whole, _, part = text.partition(".")
    return int(whole) * 100 + int(part.ljust(2, "0") or "0")


def text_of(cents: int) -> str:
    """Whole cents as a decimal string with two places."""
    sign = "-" if cents < 0 else ""
    whole, part = divmod(abs(cents), 100)
    return f"{sign}{whole}.{part:02d}"
