"""When a delivery that failed is tried again. Pure.

Source: the schedule that the Standard Webhooks specification recommends; it spans a little more than three days.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

_H: Final = 3600
STEPS_S: Final = (5, 300, 1800, 2 * _H, 5 * _H, 10 * _H, 14 * _H, 20 * _H, 24 * _H)
"""Seconds from one try to the next; the first goes out at once."""
JITTER: Final = 0.1
"""A step is up to this part longer, so that what failed together does not come back together."""
DISABLE_AFTER: Final = timedelta(days=3)
"""An endpoint that has refused everything for as long, to the end of a schedule, is disabled."""


def next_try(tries: int, delivery_id: str, now: datetime) -> datetime | None:
    """When to try again after `tries` failures; None when that was the last."""
    if tries > len(STEPS_S):
        return None
    digest = sha256(f"{delivery_id}/{tries}".encode()).digest()
    part = int.from_bytes(digest[:4], "big") / 2**32
    return now + timedelta(seconds=STEPS_S[tries - 1] * (1 + JITTER * part))


def gives_up(failing_since: datetime, now: datetime) -> bool:
    """Whether an endpoint that fails since then, and has just failed a delivery for good, is disabled."""
    return now - failing_since >= DISABLE_AFTER
