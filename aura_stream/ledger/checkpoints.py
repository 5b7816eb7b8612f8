"""Balance checkpoints: sums of what can no longer change, so that a balance is read without adding up everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

ENTRIES: Final = 4000
"""Entries of one account in one partition between two checkpoints: what a read of its balance has to add up."""

_WRITE: Final = "SELECT ledger.write_checkpoints($1, $2, $3, $4)"


async def write(
    connection: Connection, tenant: str, account: str, entries: int = ENTRIES, partition: int | None = None
) -> int:
    """Writes the checkpoints of one account (in one partition, if named) that are due; how many."""
    return int(await connection.fetchval(_WRITE, tenant, account, entries, partition))


async def write_due(connection: Connection, entries: int = ENTRIES) -> int:
    """Writes the checkpoints of all accounts that are due; how many. Counts every account's entries: not for often."""
    accounts = await connection.fetch(
        "SELECT tenant_id, account_id FROM ledger.entries GROUP BY 1, 2 HAVING count(*) >= $1 ORDER BY 1, 2", entries
    )
    return sum([await write(connection, row["tenant_id"], row["account_id"], entries) for row in accounts])
