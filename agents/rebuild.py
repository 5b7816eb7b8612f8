"""`aura rebuild`: what was lost, made anew from what is left; and the proof that all of it says the same.

- `aura rebuild`: everything from commands and signals, in the order that the journal records; checked against the
  journal byte for byte and the digest of Postgres. So with the lanes, from their requests and inboxes: their journals
  and tables, what they signal and what they were asked.
- `aura rebuild tables`: from the changelog topic; checked against the journal's last seq.
- `aura rebuild changelog`: from commands and signals, in the order that the journal records; checked against the
  journal byte for byte and Postgres row by row.
- `aura rebuild postgres`: from the journal topic; checked against the published heads and the old ledger's digest.

The journal names what every unit read and holds what it decided, but not the fingerprints of commands, deadlines and
numbers of signals that the tables keep as well, and Postgres neither. So the changelog is not patched together from
rows: it is computed, by the code that computed it first, and compared with both.
"""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

import topics
from agents.deep import (
    State,
    compare_state,
    published_heads,
    read_changelog,
    state_digest,
    state_seq,
    stores_of,
    wait_for_unit,
)
from agents.lanes_again import ASKS, Again, replay_lanes
from agents.ledger import Ledger
from agents.worker import NAMES
from aura_stream.brokers import client_options
from aura_stream.domain.state import Rules
from aura_stream.engine.kafka import Kafka, RealKafka
from aura_stream.engine.producer import Message
from aura_stream.engine.replay import Replay, ReplayDiffers, compare_requests, compare_signals
from aura_stream.engine.restore import POSITION_KEY, check_journal, journal_seq, restore, settled_end
from aura_stream.engine.store import MemoryStore, RocksStore, read_beside
from aura_stream.engine.topics import apply_topics
from aura_stream.engine.unit import NO_HEADERS, STATE_KEY
from aura_stream.ledger import chain_walk
from aura_stream.ledger.connection import READER, connect
from aura_stream.ledger.migrations import migrate
from aura_stream.ledger.verify import digest
from aura_stream.ledger.writer import LedgerWriter
from aura_stream.settings import Settings

WRITE_RECORDS = 200
SINK_WAIT_S = 60.0

CHUNK_RECORDS, CHUNK_BYTES = 2_000, 4 << 20  # of a changelog that is written anew, in one transaction

__all__ = ["Differs", "NotNow", "Rebuilt", "ReplayDiffers", "rebuild"]


class NotNow(Exception):
    """The target is not empty, or somebody is using it. Nothing was changed; `fix` says what to do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.fix = fix


class Differs(Exception):
    """What was made anew is not what it should be. The message names the first difference."""


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
    offender: dict[str, Any] | None  # the first head of the rebuilt chain that the running ledger does not have
    lane_units: int = 0
    lane_keys: int = 0  # of the lanes' tables, each as their changelogs have it
    requests: int = 0  # that lanes have read, each asked for; 0 while traffic goes on
    passed_over: str = ""  # lanes that were not computed, and why

    @property
    def same(self) -> bool:
        """Whether the rebuilt ledger is the running one."""
        return self.digest == self.digest_of_source and self.offender is None


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
        replays, ends, lanes, went_on = await _replay(settings, into)
        signals = compare_signals([*replays, *lanes.replays], went_on)
        requests = 0 if went_on or lanes.passed_over else compare_requests([*replays, *lanes.replays])
        await _wait_for_sink(settings, ends)
        source = await connect(settings.postgres_read_dsn, READER, command_timeout_s=None)
        target = await connect(into, READER, command_timeout_s=None)
        try:
            rows = await target.fetch("SELECT partition, max(journal_id) AS last FROM ledger.journals GROUP BY 1")
            until = {row["partition"]: row["last"] for row in rows}
            _, offender = await chain_walk.compare_heads(source, await chain_walk.heads(target))
            return Rebuilt(
                partitions=len(replays),
                units=sum(replay.units for replay in replays),
                records=sum(replay.records for replay in replays),
                signals=signals,
                entries=await target.fetchval("SELECT count(*) FROM ledger.entries"),
                digest=await digest(target, until),
                digest_of_source=await digest(source, until),
                seconds=time.monotonic() - started,
                offender=offender,
                lane_units=sum(replay.units for replay in lanes.replays),
                lane_keys=lanes.keys,
                requests=requests,
                passed_over=lanes.passed_over,
            )
        finally:
            await source.close(timeout=5)
            await target.close(timeout=5)
    finally:
        if scratch and not keep:
            await _execute(settings.postgres_dsn, f'DROP DATABASE "{scratch}" WITH (FORCE)')


# --- tables from the changelog ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restored:
    """One partition's tables: the unit that they are the state of, their keys, and the digest of all."""

    partition: int
    seq: int
    keys: int
    digest: str


async def rebuild_tables(settings: Settings, worker: str, partitions: Sequence[int] = ()) -> list[Restored]:
    """Removes a worker's local stores and restores them from the changelog, as it does itself when it opens one.

    `worker` is its id, the name of its directory.

    Raises :class:`NotNow` while a worker has one open, and the engine's DataLost when the changelog cannot be trusted.
    """
    partitions = partitions or range(settings.partitions)
    assert settings.state_dir is not None
    directory = settings.state_dir / worker
    for partition in partitions:
        for path in stores_of(settings, partition):
            if path.parent == directory:
                _must_be_closed(path)
    kafka = RealKafka(settings.kafka)
    done: list[Restored] = []
    try:
        await kafka.start()
        for partition in partitions:
            for path in stores_of(settings, partition):
                if path.parent == directory:
                    shutil.rmtree(path)
            path = directory / f"{settings.app_id}-ledger-{partition}"
            store = RocksStore(path)
            try:
                journal = TopicPartition(NAMES.journal, partition)
                before = await journal_seq(journal, kafka)
                await restore(store, TopicPartition(NAMES.changelog, partition), kafka)
                await check_journal(store, before, journal, kafka)
            finally:
                store.close()
            state = read_beside(path)
            state.pop(POSITION_KEY, None)
            done.append(Restored(partition, state_seq(state), len(state), state_digest(state)))
    finally:
        await kafka.stop()
    return done


def _must_be_closed(path: Path) -> None:
    """Raises :class:`NotNow` while a process has a RocksDB directory open."""
    lock = path / "LOCK"
    if not lock.exists():
        return
    with lock.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotNow(f"{path} is open in a running worker.", "stop it: aura down") from None


# --- the changelog from commands, signals and journal ----------------------------------------------------------------


async def rebuild_changelog(settings: Settings, settle_s: float = SINK_WAIT_S) -> list[Restored]:
    """Writes the changelog topic anew, of all partitions that have lost it, and removes this machine's local stores.

    Each partition's state is computed from its commands and signals in the order that the journal records; every
    journal record must come out as it is, byte for byte, and accounts and transactions must be those of Postgres,
    before anything is written. Raises :class:`NotNow`, :class:`ReplayDiffers` and :class:`Differs`.
    """
    await _must_have_no_members(settings, "ledger")
    for partition in range(settings.partitions):
        for path in stores_of(settings, partition):
            _must_be_closed(path)
    await apply_topics(
        settings.kafka,
        [topics.CHANGELOG],
        partitions=settings.partitions,
        replication=settings.replication_factor,
    )
    kafka = RealKafka(settings.kafka)
    connection = await connect(settings.postgres_read_dsn, READER, command_timeout_s=None)
    try:
        await kafka.start()
        found = {partition: (await read_changelog(kafka, partition))[0] for partition in _all(settings)}
        kept = {partition: state for partition, state in found.items() if state_seq(state)}
        if len(kept) == settings.partitions:
            raise _not_empty(0, kept[0])
        replays = [replay async for replay in _replayed(settings, kafka)]
        compare_signals(replays)
        states: list[State] = []
        for replay in replays:
            assert isinstance(replay.store, MemoryStore)
            state = dict(replay.store.scan(b"", b"\xff"))
            await wait_for_unit(connection, replay.partition, state_seq(state), settle_s)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                if difference := await compare_state(connection, kafka, replay.partition, state):
                    raise Differs(f"what was computed is not what Postgres holds: {difference}")
            if kept.get(replay.partition, state) != state:
                raise _not_empty(replay.partition, kept[replay.partition])
            states.append(state)
        done: list[Restored] = []
        for partition, state in enumerate(states):
            if partition not in kept:  # else it is what a rebuild that was interrupted had written
                await _write_changelog(settings, kafka, partition, state)
            # Acknowledged before its marks are in every partition: until then it cannot be read.
            await settled_end(kafka, TopicPartition(NAMES.changelog, partition))
            if (await read_changelog(kafka, partition))[0] != state:
                raise Differs(f"{NAMES.changelog}[{partition}] does not hold what was written to it")
            done.append(Restored(partition, state_seq(state), len(state), state_digest(state)))
    finally:
        await connection.close(timeout=5)
        await kafka.stop()
    for partition in _all(settings):  # they stand at offsets of the topic that was lost
        for path in stores_of(settings, partition):
            shutil.rmtree(path)
    return done


def _not_empty(partition: int, state: State) -> NotNow:
    return NotNow(
        f"{NAMES.changelog}[{partition}] holds a state, of seq {state_seq(state)}; only an empty one is written anew.",
        f"if it is damaged, delete the topic first: kafka-topics.sh --delete --topic {NAMES.changelog}",
    )


def _all(settings: Settings) -> range:
    return range(settings.partitions)


async def _replayed(settings: Settings, kafka: Kafka) -> AsyncIterator[Replay]:
    for partition in _all(settings):
        replay = Replay(partition, kafka, NAMES, settings.partitions, _actor)
        async for _ in replay.run():
            pass
        yield replay


async def _write_changelog(settings: Settings, kafka: Kafka, partition: int, state: State) -> None:
    """In transactions of the shard's own id, which fences any worker. The shard's state comes last.

    Without it a changelog counts as not written, for us and for a worker that opens it.
    """
    if not state:
        return
    producer = kafka.producer(f"{settings.app_id}-ledger-{partition}")
    await producer.start([NAMES.changelog])
    try:
        chunk: list[Message] = []
        size = 0
        for key in [*(key for key in state if key != STATE_KEY), STATE_KEY]:
            chunk.append((NAMES.changelog, partition, key, state[key], NO_HEADERS))
            size += len(key) + len(state[key])
            if len(chunk) == CHUNK_RECORDS or size > CHUNK_BYTES or key == STATE_KEY:
                await producer.commit(producer.build(chunk))
                chunk, size = [], 0
    finally:
        await producer.stop()


async def _must_have_no_members(settings: Settings, role: str) -> None:
    group = f"{settings.app_id}-{role}"
    admin = AIOKafkaAdminClient(**client_options(settings.kafka))
    await admin.start()
    try:
        for answer in await admin.describe_consumer_groups([group]):
            for found in answer.groups:
                state, members = found[2], found[5]
                if members:
                    raise NotNow(
                        f"{len(members)} {role} workers are members of the group {group} ({state}).",
                        "stop them: aura down; one that was killed is a member until its session ends",
                    )
    finally:
        await admin.close()


# --- Postgres from the journal topic ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A ledger written anew. `digest_of_source` is empty when the old one cannot be read or is the target itself."""

    units: int
    entries: int
    heads: int
    digest: str
    digest_of_source: str
    seconds: float
    offender: dict[str, Any] | None

    @property
    def same(self) -> bool:
        """Whether published heads and the old ledger, as far as they are there, say the same."""
        return self.offender is None and self.digest_of_source in ("", self.digest)


async def rebuild_postgres(settings: Settings, into: str) -> Rewritten:
    """Writes the journal topic into an empty database, with the sink's own writer; traffic may go on elsewhere.

    The chain that results is held against the published heads, the entries against those of the present ledger, if it
    is another database and answers. Raises :class:`NotNow` when `into` holds a ledger or sinks are writing to it.
    """
    started = time.monotonic()
    in_place = _place(into) == _place(settings.postgres_dsn)
    if in_place:
        await _must_have_no_members(settings, "sink")
    await migrate(into)
    try:
        await _must_be_empty(into)
    except ValueError as error:
        raise NotNow(str(error), "name an empty one: --into DSN") from None
    kafka = RealKafka(settings.kafka)
    units = 0
    try:
        await kafka.start()
        async with await LedgerWriter.connect(into) as writer:
            for partition in _all(settings):
                journal = TopicPartition(NAMES.journal, partition)
                start = (await kafka.starts([journal]))[journal]
                await writer.claim(partition)
                async for records in kafka.read(journal, start, await settled_end(kafka, journal)):
                    pairs = [(record.offset, record.value or b"") for record in records]
                    for first in range(0, len(pairs), WRITE_RECORDS):
                        await writer.write(partition, pairs[first : first + WRITE_RECORDS])
                    units += len(pairs)
        heads = await published_heads(kafka, settings.partitions)
    finally:
        await kafka.stop()
    target = await connect(into, READER, command_timeout_s=None)
    try:
        # A head that was published since belongs to a unit that came since.
        at = {head.partition: head.seq for head in await chain_walk.heads(target)}
        compared, offender = await chain_walk.compare_heads(
            target, [head for head in heads if head.seq <= at.get(head.partition, 0) or in_place]
        )
        rows = await target.fetch("SELECT partition, max(journal_id) AS last FROM ledger.journals GROUP BY 1")
        until = {row["partition"]: row["last"] for row in rows}
        return Rewritten(
            units=units,
            entries=await target.fetchval("SELECT count(*) FROM ledger.entries"),
            heads=compared,
            digest=await digest(target, until),
            digest_of_source="" if in_place else await _digest_of_source(settings, until, at),
            seconds=time.monotonic() - started,
            offender=offender,
        )
    finally:
        await target.close(timeout=5)


async def _digest_of_source(settings: Settings, until: dict[int, int], at: dict[int, int]) -> str:
    """Of the present ledger up to the same journals, or "" when it cannot be read (it may be what was lost)."""
    try:
        source = await connect(settings.postgres_read_dsn, READER, command_timeout_s=None)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return ""
    try:
        for partition, seq in at.items():
            await wait_for_unit(source, partition, seq, SINK_WAIT_S)
        return await digest(source, until)
    except asyncpg.PostgresError:  # no ledger there
        return ""
    finally:
        await source.close(timeout=5)


def _place(dsn: str) -> tuple[str | None, int | None, str]:
    parts = urlsplit(dsn)
    return parts.hostname, parts.port, parts.path


# --- everything, computed again --------------------------------------------------------------------------------------


async def _replay(settings: Settings, into: str) -> tuple[list[Replay], dict[int, int], Again, set[int]]:
    """The replays, where in the journal each partition's ended, those of lanes, and the sources that went on since."""
    kafka = RealKafka(settings.kafka)
    await kafka.start()
    writer = await LedgerWriter.connect(into)
    replays: list[Replay] = []
    ends: dict[int, int] = {}
    try:
        for partition in range(settings.partitions):
            replay = Replay(partition, kafka, NAMES, settings.partitions, _actor, asks=ASKS)
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
        lanes = await replay_lanes(settings, kafka)
        journals = {
            TopicPartition(replay.names.journal, replay.partition): replay for replay in [*replays, *lanes.replays]
        }
        now = await kafka.ends(journals)
        went_on = {replay.source for journal, replay in journals.items() if now[journal] > replay.end}
    finally:
        await writer.close()
        await kafka.stop()
    return replays, ends, lanes, went_on


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
