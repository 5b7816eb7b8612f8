"""What deposits by bank and withdrawals know beside their transaction. Key: the same 16 bytes; never deleted."""

from __future__ import annotations

from aura_stream.domain.state import Settlement
from aura_stream.engine.table import Table

SETTLEMENTS = Table("settlements", Settlement, prefix=b"s")
