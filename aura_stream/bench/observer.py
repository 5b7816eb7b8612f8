"""When is it in Postgres? Asked as any reader would, so that only what is committed and visible counts.

`ledger.sink_offsets` has one row per partition and says which unit of work was written last: a poll costs next to
nothing, however large the tables are. What the units hold is added up from their counters.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import asyncpg

from aura_stream import SetupError
from aura_stream.ledger.connection import READER, connect

STALL_S = 30.0
POLL_S = 0.010
"""Every 3 ms would take a sixth of two cores, and with it the latency that is measured."""

_POSITIONS = "SELECT partition, last_seq FROM ledger.sink_offsets"
_TOTALS = """
SELECT count(*) AS units, coalesce(sum((u.counters ->> 'transactions')::bigint), 0)::bigint AS transactions,
    coalesce(sum((u.counters ->> 'changes')::bigint), 0)::bigint AS changes,
    coalesce(sum((u.counters ->> 'accounts')::bigint), 0)::bigint AS accounts
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS k (partition, low, high)
JOIN ledger.units u ON u.partition = k.partition AND u.seq > k.low AND u.seq <= k.high
"""
# All units of one commit of the sink carry the same committed_at, set under the fence.
_COMMITS = """
SELECT count(DISTINCT (u.partition, u.committed_at))
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS k (partition, low, high)
JOIN ledger.units u ON u.partition = k.partition AND u.seq > k.low AND u.seq <= k.high
"""
_TAKEN = """
SELECT u.partition, u.seq, extract(epoch FROM u.committed_at)::float8 * 1000
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS k (partition, low, high)
JOIN ledger.units u ON u.partition = k.partition AND u.seq > k.low AND u.seq <= k.high
"""


@dataclass(slots=True)
class Totals:
    """What units hold, added up."""

    units: int = 0
    transactions: int = 0
    changes: int = 0
    accounts: int = 0


@dataclass(slots=True)
class Sightings:
    """Per partition: which unit was seen to be committed, and when (ns of the monotonic clock)."""

    seqs: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    times: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, partition: int, seq: int, at_ns: int) -> None:
        """Notes that everything up to `seq` is there."""
        self.seqs[partition].append(seq)
        self.times[partition].append(at_ns)

    def seen_at(self, partition: int, seq: int) -> int | None:
        """When a unit was first seen; None if it never was."""
        place = bisect_left(self.seqs[partition], seq)
        return self.times[partition][place] if place < len(self.seqs[partition]) else None

    def positions(self, at_ns: int) -> dict[int, int]:
        """The last unit of each partition that was seen by then, where there was one."""
        found = {}
        for partition, times in self.times.items():
            place = bisect_right(times, at_ns)
            if place:
                found[partition] = self.seqs[partition][place - 1]
        return found


class Observer:
    """One reading connection, and what it has seen since :meth:`mark`."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._low: dict[int, int] = {}
        self._high: dict[int, int] = {}

    async def open(self) -> None:
        """Connects."""
        self._connection = await connect(self._dsn, READER, application_name="aura bench")

    async def close(self) -> None:
        """Disconnects."""
        if self._connection is not None:
            await self._connection.close(timeout=5)

    async def mark(self) -> None:
        """Begins to count from here."""
        self._low = await self._positions()
        self._high = dict(self._low)

    async def watch(
        self, done: Callable[[Totals], bool], *, add_every_s: float = 0.0, what: str
    ) -> tuple[int, Sightings]:
        """Polls until `done`; returns when that was seen (ns), and all sightings.

        Raises :class:`SetupError` when nothing has come for half a minute.
        """
        totals, counted, added_at = Totals(), dict(self._low), 0.0
        sightings = Sightings()
        moved_at = time.monotonic()
        while True:
            positions = await self._positions()
            now_ns = time.monotonic_ns()
            for partition, seq in positions.items():
                if seq > self._high.get(partition, 0):
                    self._high[partition] = seq
                    sightings.add(partition, seq, now_ns)
                    moved_at = time.monotonic()
            if self._high != counted and time.monotonic() - added_at >= add_every_s:
                added_at = time.monotonic()
                _add(totals, await self._totals(counted, self._high))
                counted = dict(self._high)
                if done(totals):
                    return time.monotonic_ns(), sightings
            if time.monotonic() - moved_at > STALL_S:
                raise SetupError(
                    f"The benchmark waited in vain for {what}.",
                    where="ledger.units",
                    why=f"nothing came for {STALL_S:g} s; until then {totals}",
                    fix="read the logs of the ledger and the sink in the directory of the run (--keep)",
                )
            await asyncio.sleep(POLL_S)

    async def totals(self) -> Totals:
        """What has come since the mark."""
        return await self._totals(self._low, self._high)

    async def totals_at(self, sightings: Sightings, at_ns: int) -> Totals:
        """What had come by then."""
        return await self._totals(self._low, self._low | sightings.positions(at_ns))

    async def commits(self) -> int:
        """How many transactions of the sink that took."""
        assert self._connection is not None
        return int(await self._connection.fetchval(_COMMITS, *_ranges(self._low, self._high)))

    async def taken_ms(self) -> dict[tuple[int, int], float]:
        """When the sink began the transaction that wrote each unit (partition, seq); ms since 1970."""
        assert self._connection is not None
        rows = await self._connection.fetch(_TAKEN, *_ranges(self._low, self._high))
        return {(row[0], row[1]): row[2] for row in rows}

    async def _positions(self) -> dict[int, int]:
        assert self._connection is not None
        return {row[0]: row[1] for row in await self._connection.fetch(_POSITIONS)}

    async def _totals(self, low: Mapping[int, int], high: Mapping[int, int]) -> Totals:
        assert self._connection is not None
        row = await self._connection.fetchrow(_TOTALS, *_ranges(low, high))
        assert row is not None  # an aggregate has one row
        return Totals(**dict(row))


def _ranges(low: Mapping[int, int], high: Mapping[int, int]) -> tuple[list[int], list[int], list[int]]:
    partitions = sorted(high)
    return partitions, [low.get(p, 0) for p in partitions], [high[p] for p in partitions]


def _add(totals: Totals, more: Totals) -> None:
    totals.units += more.units
    totals.transactions += more.transactions
    totals.changes += more.changes
    totals.accounts += more.accounts
