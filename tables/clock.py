"""The last move of the clock that began in this partition, and who has not answered. One row (key empty)."""

from __future__ import annotations

from aura_stream.domain.clock import Moving
from aura_stream.engine.table import Table

CLOCK = Table("clock", Moving, prefix=b"c")
MOVING = b""
"""The key of the one row."""
