"""A migrated ledger per test, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from aura_stream.ledger.connection import connect
from aura_stream.ledger.verify import verify
from aura_stream.ledger.writer import LedgerWriter
from tests.ledger.builders import Shard

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


@pytest.fixture
def ledger(migrated: str) -> str:
    return migrated


@pytest.fixture
async def owner(ledger: str) -> AsyncIterator[Connection]:
    connection: Connection = await asyncpg.connect(ledger)
    yield connection
    connection.terminate()


@pytest.fixture
async def writer(ledger: str) -> AsyncIterator[LedgerWriter]:
    async with await LedgerWriter.connect(ledger) as connected:
        yield connected


async def as_role(dsn: str, role: str) -> Connection:
    return await connect(dsn, role)


async def write_all(writer: LedgerWriter, *shards: Shard) -> None:
    """Writes everything that the shards have recorded, a record at a time, partitions in turn."""
    for shard in shards:
        await writer.claim(shard.partition)
    for place in range(max(len(shard.records) for shard in shards)):
        for shard in shards:
            if place < len(shard.records):
                await writer.write(shard.partition, [shard.records[place]])


async def offences(connection: Connection, settle_s: float = 0.0) -> dict[str, object]:
    """Name and first offending row of every check that fails."""
    return {check.name: check.offender for check in await verify(connection, settle_s) if not check.good}
