"""Attempts and breakers into Postgres: the lanes' journal, in order and once.

Where to go on is known by Postgres alone, and moves in the transaction that writes. One process at a time writes a
journal (an advisory lock); should two do it all the same, the position that both expect lets one of them through.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from aura_stream.brokers import Brokers, client_options
from aura_stream.domain.lanes.lines import (
    AddressLine,
    AttemptLine,
    CancelLine,
    LaneLine,
    LaneRecord,
    NoteLine,
    ReleaseLine,
)
from aura_stream.ledger.connection import WRITER, connect

log = logging.getLogger(__name__)

_LOCK: Final = 0x6175_7261_6C61_6E65
_BATCH: Final = 500
_AGAIN_S: Final = 1.0

_ATTEMPT: Final = """
INSERT INTO settlement.attempts (lane, reference, number, kind, transaction_id, tenant_id, step, breaker, started_at,
    ended_at, answer, code, status, detail, took_ms)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (lane, reference, number) DO UPDATE SET
    ended_at = coalesce(attempts.ended_at, excluded.ended_at), breaker = excluded.breaker, answer = excluded.answer,
    code = excluded.code, status = excluded.status, detail = excluded.detail, took_ms = excluded.took_ms
WHERE excluded.ended_at IS NOT NULL
"""
_LANE: Final = """
INSERT INTO settlement.lanes (lane, breaker, failures, stopped, changed_at, held_back, figures)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (lane) DO UPDATE SET
    breaker = excluded.breaker, failures = excluded.failures, stopped = excluded.stopped,
    changed_at = excluded.changed_at, held_back = excluded.held_back, figures = excluded.figures
"""
_LANE_SEEN: Final = """
INSERT INTO settlement.lanes (lane, breaker, failures, stopped, changed_at) VALUES ($1, $2, 0, '', $3)
ON CONFLICT DO NOTHING
"""
_RELEASE: Final = """
INSERT INTO settlement.lane_releases (release_id, lane, stopped, operator, outcome, at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
_CANCEL: Final = """
INSERT INTO settlement.nonce_cancels (cancel_id, lane, nonce, operator, outcome, transaction_id, hash, at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING
"""
_ADDRESS: Final = """
INSERT INTO settlement.deposit_addresses (lane, address, tenant_id, account_id, given_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
"""
_MOVE: Final = """
UPDATE settlement.progress SET next_offset = $4, last_seq = $5
WHERE topic = $1 AND partition = $2 AND next_offset = $3
"""
_decode = msgspec.json.Decoder(LaneRecord).decode


class AttemptsSink:
    """Writes one kind of lanes' journal; any number of processes may try.

    `on_ended` is told of each attempt that has ended, `on_noted` of what led to nothing, once it is written.
    """

    def __init__(
        self,
        bootstrap: Brokers | str,
        dsn: str,
        topic: str,
        partitions: int,
        *,
        on_ended: Callable[[AttemptLine], None] = lambda _: None,
        on_noted: Callable[[NoteLine], None] = lambda _: None,
    ) -> None:
        self._on_ended = on_ended
        self._on_noted = on_noted
        self._bootstrap = bootstrap
        self._dsn = dsn
        self._topic = topic
        self._partitions = partitions

    async def run(self) -> None:
        """Writes until it is cancelled; begins again after any failure of Kafka or Postgres."""
        known = ""
        while True:
            try:
                await self._write_on()
            except (KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                if repr(error) != known:
                    known = repr(error)
                    log.warning("%s is not written to Postgres for now, trying again: %s", self._topic, known)
            await asyncio.sleep(_AGAIN_S)

    async def _write_on(self) -> None:
        connection = await connect(self._dsn, WRITER, application_name=f"aura attempts {self._topic}")
        consumer = AIOKafkaConsumer(
            **client_options(self._bootstrap),
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="none",
        )
        try:
            if not await connection.fetchval(
                "SELECT pg_try_advisory_lock($1 # hashtext($2)::bigint)", _LOCK, self._topic
            ):
                return
            await consumer.start()
            places = await self._places(connection, consumer)
            while True:
                batches = await consumer.getmany(*places, timeout_ms=1000, max_records=_BATCH)
                for place, records in batches.items():
                    places[place] = await self._write(connection, place, places[place], records)
        finally:
            connection.terminate()
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await consumer.stop()

    async def _places(
        self, connection: asyncpg.Connection[asyncpg.Record], consumer: AIOKafkaConsumer
    ) -> dict[TopicPartition, int]:
        """All partitions with the offset that each goes on at."""
        places = {}
        for number in range(self._partitions):
            await connection.execute(
                "INSERT INTO settlement.progress (topic, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                *(self._topic, number),
            )
            places[TopicPartition(self._topic, number)] = await connection.fetchval(
                "SELECT next_offset FROM settlement.progress WHERE topic = $1 AND partition = $2", self._topic, number
            )
        consumer.assign(list(places))
        for place, offset in places.items():
            consumer.seek(place, offset)
        return places

    async def _write(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        place: TopicPartition,
        expected: int,
        records: list[ConsumerRecord],
    ) -> int:
        """Writes a batch and moves the position, both or neither; returns the new position."""
        read = [_decode(record.value or b"") for record in records]
        becomes: int = records[-1].offset + 1
        async with connection.transaction():
            moved = await connection.execute(
                _MOVE, self._topic, place.partition, expected, becomes, max(one.seq for one in read)
            )
            if moved != "UPDATE 1":
                raise TimeoutError(f"another process has written {self._topic}[{place.partition}]")
            for one in read:
                for line in [line for line in one.lines if not isinstance(line, NoteLine)]:
                    await _write_line(connection, line)
        for made in (line for one in read for line in one.lines):
            if isinstance(made, AttemptLine) and made.state == "ended":
                self._on_ended(made)
            elif isinstance(made, NoteLine):
                if made.what == "unreadable":
                    log.error("%s has said something that cannot be read: %s", made.lane, made.detail)
                self._on_noted(made)
        return becomes


async def _write_line(
    connection: asyncpg.Connection[asyncpg.Record],
    line: AttemptLine | LaneLine | ReleaseLine | CancelLine | AddressLine,
) -> None:
    at = datetime.fromtimestamp(line.at / 1000, UTC)
    if isinstance(line, LaneLine):
        figures = msgspec.json.encode(line.figures).decode()
        await connection.execute(
            _LANE, line.lane, line.breaker, line.failures, line.stopped, at, line.held_back, figures
        )
        return
    if isinstance(line, ReleaseLine):
        # The same request again: its first outcome counts.
        await connection.execute(_RELEASE, line.id, line.lane, line.stopped, line.operator, line.outcome, at)
        return
    if isinstance(line, CancelLine):
        about = (line.transaction_id or None, line.hash)
        await connection.execute(_CANCEL, line.id, line.lane, line.nonce, line.operator, line.outcome, *about, at)
        return
    if isinstance(line, AddressLine):
        await connection.execute(_ADDRESS, line.lane, line.address, line.tenant, line.account, at)
        return
    ended = None if line.state == "started" else at
    if line.number == 1 and ended is None:
        # A lane on which nothing has ever gone wrong is to be seen too.
        await connection.execute(_LANE_SEEN, line.lane, line.breaker, at)
    await connection.execute(
        _ATTEMPT,
        *(line.lane, line.reference, line.number, line.kind, line.transaction_id, line.tenant, line.step),
        *(line.breaker, at, ended, line.answer, line.code, line.status, line.detail, line.took_ms),
    )
