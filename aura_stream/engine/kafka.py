"""What the engine asks of Kafka beside fetching: a port, and the real thing behind it.

The port is small so that the engine can run on another log as well; the simulation does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol

import aiokafka.errors
from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.producer import Batches, Message, TransactionalProducer
from aura_stream.engine.transactions import METADATA_MAX_AGE_MS
from aura_stream.engine.unit import Record

FETCH_BYTES = 8 << 20
RETRIABLE: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    *[e for e in vars(aiokafka.errors).values() if isinstance(e, type) and getattr(e, "retriable", False)],
)
"""What passes when Kafka comes back."""


class Producer(Protocol):
    """A transactional producer; :class:`TransactionalProducer` says what each method promises."""

    @property
    def tainted(self) -> bool:
        """Whether it must be replaced before another unit."""

    async def start(self, topics: Iterable[str]) -> None:
        """Fences the former owner of the transactional id."""

    def build(self, messages: Iterable[Message]) -> Batches:
        """Batches of messages, ready to be sent."""

    async def commit(self, batches: Batches) -> dict[tuple[str, int], int]:
        """Writes all in one transaction; the offsets after the last records."""

    async def stop(self) -> None:
        """Ends it in order."""

    async def abandon(self) -> None:
        """Drops it."""


class Kafka(Protocol):
    """The log."""

    async def start(self) -> None:
        """Connects, once."""

    async def stop(self) -> None:
        """Disconnects."""

    def producer(self, transactional_id: str) -> Producer:
        """A producer that is not started yet."""

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that are still there."""

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last record, whatever becomes of its transaction."""

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets up to which everything is decided: before the first record of an open transaction."""

    def read(self, partition: TopicPartition, start: int, end: int) -> AsyncGenerator[list[Record], None]:
        """The committed records with start <= offset < end, list by list, in order."""


class RealKafka:
    """The log on real brokers. One object per process; all partitions share its connections."""

    def __init__(self, bootstrap: Brokers | str) -> None:
        self.bootstrap = bootstrap
        self._common: dict[str, Any] = {
            **client_options(bootstrap), "enable_auto_commit": False, "auto_offset_reset": "none",
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        }  # fmt: skip
        self._starting = asyncio.Lock()
        self._committed: AIOKafkaConsumer | None = None
        self._all: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connects, once. Raises aiokafka's errors."""
        async with self._starting:
            if self._all is None:
                committed = AIOKafkaConsumer(**self._common, isolation_level="read_committed")
                everything = AIOKafkaConsumer(**self._common, isolation_level="read_uncommitted")
                try:
                    await committed.start()
                    await everything.start()
                except BaseException:
                    await committed.stop()
                    await everything.stop()
                    raise
                self._committed, self._all = committed, everything

    async def stop(self) -> None:
        """Disconnects."""
        for consumer in (self._committed, self._all):
            if consumer is not None:
                await consumer.stop()
        self._committed = self._all = None

    def producer(self, transactional_id: str) -> Producer:
        """A producer that is not started yet."""
        return TransactionalProducer(self.bootstrap, transactional_id)

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that are still there."""
        assert self._all is not None
        found: dict[TopicPartition, int] = await self._all.beginning_offsets(list(partitions))
        return found

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last record."""
        assert self._all is not None
        found: dict[TopicPartition, int] = await self._all.end_offsets(list(partitions))
        return found

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The last stable offsets."""
        assert self._committed is not None
        found: dict[TopicPartition, int] = await self._committed.end_offsets(list(partitions))
        return found

    async def read(self, partition: TopicPartition, start: int, end: int) -> AsyncGenerator[list[Record], None]:
        """The committed records with start <= offset < end, list by list, in order."""
        if start >= end:
            return
        consumer = AIOKafkaConsumer(
            **self._common,
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=50,
            max_poll_records=20_000,
        )
        await consumer.start()
        try:
            consumer.assign([partition])
            consumer.seek(partition, start)
            while await consumer.position(partition) < end:  # passes the markers of transactions too, so this ends
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    yield [record for record in records if record.offset < end]
        finally:
            await consumer.stop()
