"""The virtual clock: days pass in a call. It only goes forward.

Two kinds. ``wall`` runs with the machine, plus an offset that :meth:`VirtualClock.advance` enlarges: for a demo.
``manual`` stands still between calls: the same calls then always happen at the same times, which tests need.
"""

from __future__ import annotations

import time
from typing import Literal

Kind = Literal["wall", "manual"]


class VirtualClock:
    """Virtual milliseconds since 1970; ``value`` is the offset of a wall clock or the time of a manual one."""

    def __init__(self, kind: Kind, value: int) -> None:
        self.kind = kind
        self.value = value

    def now(self) -> int:
        """The virtual time."""
        return self.value + (time.time_ns() // 1_000_000 if self.kind == "wall" else 0)

    def advance(self, by_ms: int) -> int:
        """Goes forward and returns the new time. Raises :class:`ValueError` for a step back."""
        if by_ms < 0:
            raise ValueError("the clock only goes forward")
        self.value += by_ms
        return self.now()
