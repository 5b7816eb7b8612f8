"""The clock as clients see it: made of what the journal's tail says, and of what Postgres knew before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aura_stream.domain.commands import format_time
from aura_stream.engine.restore import wall_clock


@dataclass(slots=True)
class ClockView:
    """How far the clock is moved (`moved_ms`), and how far every partition and lane has it."""

    moved_ms: int = 0
    taken_ms: int = 0

    def saw(self, moved_ms: int, taken_ms: int) -> None:
        """News of it, in whatever order."""
        self.moved_ms, self.taken_ms = max(self.moved_ms, moved_ms), max(self.taken_ms, taken_ms)

    @property
    def now_ms(self) -> int:
        """The time of what is asked now, in ms since 1970."""
        return wall_clock() + self.moved_ms

    @property
    def resource(self) -> dict[str, Any]:
        """What is shown."""
        state = "moved" if self.taken_ms >= self.moved_ms else "moving"
        return {"now": format_time(self.now_ms), "moved_s": self.moved_ms // 1000, "state": state}
