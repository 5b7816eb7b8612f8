"""Commands on their way into Kafka before the clock starts, and the journal on its way out after it has stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

import topics
from aura_stream.bench.loads import Command

BATCH_BYTES = 256 * 1024
TRANSACTION_TIMEOUT_MS = 15 * 60 * 1000  # the broker allows no more

_SENT = b'"line":"transaction"'
_CHANGED = b'"line":"change"'


class Backlog:
    """Commands that are in Kafka, acknowledged, and not visible to any reader yet.

    They lie in one open transaction. Workers that are up, restored and waiting at the end of the log see all of them at
    once when it is committed: neither producing nor starting is part of what is timed.
    """

    def __init__(self, bootstrap: str, name: str) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=name,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=60_000,
        )

    async def fill(self, commands: Mapping[int, Sequence[Command]]) -> None:
        """Writes the commands, by partition, and waits until Kafka has them all."""
        await self._producer.start()
        await self._producer.begin_transaction()
        sent = [future for number in commands for future in await send(self._producer, number, commands[number])]
        await asyncio.gather(*sent)

    async def release(self) -> None:
        """Lets the readers see them."""
        await self._producer.commit_transaction()

    async def close(self) -> None:
        """Ends the producer; what was not released is never seen."""
        await self._producer.stop()


async def send(producer: Any, partition: int, commands: Sequence[Command]) -> list[Any]:
    """Sends commands to one partition in whole batches; returns a future per batch."""
    futures = []
    builder = producer.create_batch()
    for key, value in commands:
        if builder.append(key=key, value=value, timestamp=None) is None:
            futures.append(await producer.send_batch(builder, topics.COMMANDS.name, partition=partition))
            builder = producer.create_batch()
            builder.append(key=key, value=value, timestamp=None)
    if builder.record_count():
        futures.append(await producer.send_batch(builder, topics.COMMANDS.name, partition=partition))
    return futures


async def produce(bootstrap: str, commands: Mapping[int, Sequence[Command]]) -> None:
    """Sends commands as any client would, visible at once."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_batch_size=BATCH_BYTES, request_timeout_ms=60_000
    )
    await producer.start()
    try:
        sent = [future for number in commands for future in await send(producer, number, commands[number])]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


class Journal:
    """Reads the journal topic from where it ended when it was opened."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        self._partitions = [TopicPartition(topics.JOURNAL.name, number) for number in range(partitions)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 << 20,
        )

    async def open(self) -> None:
        """Connects and goes to the end."""
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_end(*self._partitions)

    async def close(self) -> None:
        """Disconnects."""
        await self._consumer.stop()

    async def records(self) -> list[tuple[bytes, int]]:
        """Value and time of what has come since the last call; waits a moment when there is nothing."""
        fetched = await self._consumer.getmany(timeout_ms=100)
        return [(record.value, record.timestamp) for records in fetched.values() for record in records]


def lines_of(value: bytes) -> tuple[int, int]:
    """How many transactions a record of the journal begins, and how many changes it holds, without decoding it."""
    return value.count(_SENT), value.count(_CHANGED)
