"""`aura rebuild`: the ledger computed anew, from the commands and signals, into an empty database.

It starts from nothing: no tables, no changelog, no rows. What it computes must be, byte for byte, what the journal
topic holds, and the entries it writes must have the digest of those in the running ledger.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec

from agents.ledger import Ledger
from agents.worker import NAMES
from aura_stream.domain.state import Rules
from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.replay import Replay, ReplayDiffers, compare_signals
from aura_stream.ledger.connection import READER, connect
from aura_stream.ledger.migrations import migrate
from aura_stream.ledger.verify import digest
from aura_stream.ledger.writer import LedgerWriter
from aura_stream.settings import Settings

WRITE_RECORDS = 200
SINK_WAIT_S = 60.0

__all__ = ["Rebuilt", "ReplayDiffers", "rebuild"]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild found. `same` says whether both digests are equal."""

    partitions: int
    units: int
    records: int
    signals: int
    entries: int
    digest: str
    digest_of_source: str
    seconds: float

    @property
    def same(self) -> bool:
        """Whether the rebuilt ledger is the running one."""
        return self.digest == self.digest_of_source


async def rebuild(settings: Settings, *, into: str = "", keep: bool = False) -> Rebuilt:
    """Rebuilds all partitions up to the journal's present end; traffic may go on meanwhile.

    `into` is the DSN of an empty database; without it one is made beside the ledger's and dropped afterwards, unless
    `keep`. Raises :class:`ReplayDiffers` when the same inputs lead to other bytes.
    """
    started = time.monotonic()
    scratch = "" if into else f"aura_rebuild_{time.time_ns()}"
    if scratch:
        await _execute(settings.postgres_dsn, f'CREATE DATABASE "{scratch}"')
        into = _with_database(settings.postgres_dsn, scratch)
    try:
        await migrate(into)
        await _must_be_empty(into)
        replays, ends = await _replay(settings, into)
        signals = compare_signals(replays)
        await _wait_for_sink(settings, ends)
        source = await connect(settings.postgres_read_dsn, READER, command_timeout_s=None)
        target = await connect(into, READER, command_timeout_s=None)
        try:
            rows = await target.fetch("SELECT partition, max(journal_id) AS last FROM ledger.journals GROUP BY 1")
            until = {row["partition"]: row["last"] for row in rows}
            return Rebuilt(
                partitions=len(replays),
                units=sum(replay.units for replay in replays),
                records=sum(replay.records for replay in replays),
                signals=signals,
                entries=await target.fetchval("SELECT count(*) FROM ledger.entries"),
                digest=await digest(target, until),
                digest_of_source=await digest(source, until),
                seconds=time.monotonic() - started,
            )
        finally:
            await source.close(timeout=5)
            await target.close(timeout=5)
    finally:
        if scratch and not keep:
            await _execute(settings.postgres_dsn, f'DROP DATABASE "{scratch}" WITH (FORCE)')


async def _replay(settings: Settings, into: str) -> tuple[list[Replay], dict[int, int]]:
    kafka = RealKafka(settings.kafka_bootstrap)
    await kafka.start()
    writer = await LedgerWriter.connect(into)
    replays: list[Replay] = []
    ends: dict[int, int] = {}
    try:
        for partition in range(settings.partitions):
            replay = Replay(partition, kafka, NAMES, settings.partitions, _actor)
            replays.append(replay)
            await writer.claim(partition)
            waiting: list[tuple[int, bytes]] = []
            async for offset, value in replay.run():
                waiting.append((offset, value))
                ends[partition] = offset + 1
                if len(waiting) == WRITE_RECORDS:
                    await writer.write(partition, waiting)
                    waiting = []
            await writer.write(partition, waiting)
    finally:
        await writer.close()
        await kafka.stop()
    return replays, ends


def _actor(rules: str) -> Ledger:
    return Ledger(msgspec.json.decode(rules, type=Rules))


async def _wait_for_sink(settings: Settings, ends: dict[int, int]) -> None:
    """Until the running ledger holds all that was rebuilt."""
    connection = await connect(settings.postgres_read_dsn, READER)
    try:
        async with asyncio.timeout(SINK_WAIT_S):
            while True:
                rows = await connection.fetch("SELECT partition, next_offset FROM ledger.sink_offsets")
                at = {row["partition"]: row["next_offset"] for row in rows}
                if all(at.get(partition, 0) >= end for partition, end in ends.items()):
                    return
                await asyncio.sleep(0.1)
    finally:
        await connection.close(timeout=5)


async def _must_be_empty(dsn: str) -> None:
    connection = await connect(dsn, READER)
    try:
        if await connection.fetchval("SELECT EXISTS (SELECT FROM ledger.units)"):
            raise ValueError(
                f"the database {urlsplit(dsn).path.lstrip('/')} already holds a ledger; a rebuild needs an empty one"
            )
    finally:
        await connection.close(timeout=5)


async def _execute(dsn: str, sql: str) -> None:
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(sql)
    finally:
        await connection.close(timeout=5)


def _with_database(dsn: str, database: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))
