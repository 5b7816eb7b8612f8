"""Sends to Kafka what identity and the webhooks have told in the database: exactly what was committed, in order.

The rows go in the transaction that waits for Kafka's acknowledgement, so none is lost; after a crash between the two a
record is sent again with the same id, and the log passes it over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from datetime import UTC
from typing import Final

import asyncpg
import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aura_stream.brokers import Brokers, client_options
from aura_stream.domain.events import ENCODE, Event
from aura_stream.domain.ids import record_key
from aura_stream.engine.partitioner import Partitioner
from aura_stream.ledger.connection import EVENTS, connect

log = logging.getLogger(__name__)

_BATCH: Final = 500
_LOOK_S: Final = 0.2
_SEND_S: Final = 8.0
"""Below the time after which Postgres ends an idle transaction."""


class Relay:
    """One of any number of relays that work at a time. `topics` are the names by what the outbox calls them."""

    def __init__(self, dsn: str, bootstrap: Brokers | str, partitions: int, topics: Mapping[str, str]) -> None:
        self._dsn = dsn
        self._bootstrap = bootstrap
        self._partition_of = Partitioner(partitions)
        self._topics = dict(topics)

    async def run(self) -> None:
        """Relays until it is cancelled; begins again after any failure of Kafka or Postgres."""
        known = ""
        while True:
            try:
                await self._relay()
            except (KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                if repr(error) != known:
                    known = repr(error)
                    log.warning("the relay of events is interrupted, trying again: %s", known)
            await asyncio.sleep(1)

    async def _relay(self) -> None:
        connection = await connect(self._dsn, EVENTS, application_name="aura events relay")
        producer = AIOKafkaProducer(**client_options(self._bootstrap), acks="all", enable_idempotence=True)
        try:
            await producer.start()
            while True:
                if await self._batch(connection, producer) < _BATCH:
                    await asyncio.sleep(_LOOK_S)
        finally:
            connection.terminate()
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await producer.stop()

    async def _batch(self, connection: asyncpg.Connection[asyncpg.Record], producer: AIOKafkaProducer) -> int:
        async with connection.transaction():
            rows = await connection.fetch("SELECT * FROM events.unsent($1)", _BATCH)
            if rows:
                async with asyncio.timeout(_SEND_S):
                    await asyncio.gather(*[await self._send(producer, row) for row in rows])
                await connection.execute("SELECT events.sent($1)", [row["outbox_id"] for row in rows])
        return len(rows)

    async def _send(self, producer: AIOKafkaProducer, row: asyncpg.Record) -> asyncio.Future[object]:
        at = row["occurred_at"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = Event(
            id=row["event_id"],
            type=row["type"],
            version=1,
            tenant_id=row["tenant_id"],
            customer_id=row["customer_id"],
            seq=row["seq"],
            occurred_at=at,
            request_id=row["request_id"],
            causation_id="",
            data=orjson.loads(row["data"]),
        )
        key = record_key(row["tenant_id"], row["customer_id"])
        sent: asyncio.Future[object] = await producer.send(
            self._topics[row["topic"]], ENCODE(event), key=key, partition=self._partition_of(key)
        )
        return sent
