"""Transactions that wait for a pause to be lifted. Key: the pause's 16 bytes and the transaction's 16 bytes."""

from __future__ import annotations

from aura_stream.domain.ids import id_bytes
from aura_stream.domain.state import Parked
from aura_stream.engine.table import Table

PARKED = Table("parked", Parked, prefix=b"p")


def parked_key(pause_id: str, transaction: bytes) -> bytes:
    """The table's key of a parked transaction."""
    return id_bytes(pause_id) + transaction
