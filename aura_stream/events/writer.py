"""Appends to the log of events: exactly once per partition, under a fence, each batch one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import asyncpg

from aura_stream.events.envelope import Entry
from aura_stream.ledger.connection import AWAY, EVENTS, connect
from aura_stream.ledger.errors import Unavailable

_APPEND: Final = """
SELECT events.append($1, $2, $3, $4, $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::int[],
    $11::text[], $12::timestamptz[], $13::text[])
"""


class Claim(NamedTuple):
    """Under which epoch its owner may append, and where each topic goes on."""

    epoch: int
    next_offsets: list[int]


class EventWriter:
    """One connection, used by one statement at a time. Every method raises :class:`Unavailable`."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._turn = asyncio.Lock()

    async def claim(self, partition: int) -> Claim:
        """Makes this writer the owner of a partition; a former owner can append no more."""
        row = await self._fetchrow("SELECT epoch, next_offsets FROM events.claim($1)", partition)
        assert row is not None
        return Claim(row["epoch"], list(row["next_offsets"]))

    async def stored(self, partition: int) -> int:
        """The `seq` of the last record of the journal that the sink has committed."""
        row = await self._fetchrow("SELECT last_seq FROM ledger.sink_offsets WHERE partition = $1", partition)
        return int(row["last_seq"]) if row is not None else 0

    async def append(self, partition: int, claim: Claim, next_offsets: list[int], entries: Sequence[Entry]) -> bool:
        """Appends and moves the offsets, both or neither; False when another owner has the partition."""
        columns = [[entry[column] for entry in entries] for column in range(9)]
        row = await self._fetchrow(_APPEND, partition, claim.epoch, claim.next_offsets, next_offsets, *columns)
        return row is not None and row[0] is not None

    async def close(self) -> None:
        """Disconnects."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        async with self._turn:
            try:
                async with asyncio.timeout(20):
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await connect(self._dsn, EVENTS, application_name="aura events writer")
                    return await self._connection.fetchrow(query, *arguments)
            except AWAY as error:
                # Whether it was done is not guessed: the partition is claimed again, which says where it stands.
                await self.close()
                raise Unavailable(f"{type(error).__name__}: {error}") from error
