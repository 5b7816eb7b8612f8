"""What Postgres has of the lanes to banks and chain. Each function works in the transaction it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncpg

    from aura_stream.ledger.connection import Connection

    Row = asyncpg.Record

_LANES: Final = "SELECT lane, breaker, failures, stopped, held_back, figures, changed_at FROM settlement.lanes"
_RELEASES_SHOWN: Final = 20


async def every(connection: Connection) -> Sequence[Row]:
    """The lanes that have called their bank or chain."""
    return await connection.fetch(f"{_LANES} ORDER BY lane")


async def one(connection: Connection, lane: str) -> Row | None:
    """A lane as it stands; None: nothing has ever happened on it."""
    return await connection.fetchrow(f"{_LANES} WHERE lane = $1", lane)


async def releases(connection: Connection, lane: str) -> Sequence[Row]:
    """A lane's last releases, the newest first."""
    return await connection.fetch(
        """SELECT release_id, stopped, operator, outcome, at FROM settlement.lane_releases
        WHERE lane = $1 ORDER BY at DESC LIMIT $2""",
        *(lane, _RELEASES_SHOWN),
    )


async def cancels(connection: Connection, lane: str) -> Sequence[Row]:
    """A lane's last cancels of nonces, the newest first."""
    return await connection.fetch(
        """SELECT cancel_id, nonce, transaction_id, hash, operator, outcome, at FROM settlement.nonce_cancels
        WHERE lane = $1 ORDER BY at DESC LIMIT $2""",
        *(lane, _RELEASES_SHOWN),
    )


async def cancel_outcome(connection: Connection, cancel_id: str) -> str:
    """What a lane made of a cancel; "" while it has not answered."""
    found = await connection.fetchval("SELECT outcome FROM settlement.nonce_cancels WHERE cancel_id = $1", cancel_id)
    return str(found or "")


async def outcome(connection: Connection, release_id: str) -> str:
    """What a lane made of a release; "" while it has not answered."""
    found = await connection.fetchval("SELECT outcome FROM settlement.lane_releases WHERE release_id = $1", release_id)
    return str(found or "")
