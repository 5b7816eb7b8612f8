"""Bringing a local store up to the end of its changelog, or refusing to when the end cannot be trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.engine.errors import DataLost
from aura_stream.engine.producer import TRANSACTION_TIMEOUT_MS
from aura_stream.engine.store import Store
from aura_stream.engine.unit import STATE_KEY, ShardState

POSITION_KEY = b"\xff"  # local only: where in the changelog this store stands
FETCH_BYTES = 8 << 20
HANGING_S = TRANSACTION_TIMEOUT_MS / 1000 + 15


class Position(msgspec.Struct, frozen=True):
    """Where a store stands: the next changelog offset to read, and when it was last written (ms since 1970)."""

    offset: int
    written_at: int


def encode_position(offset: int) -> bytes:
    """The record kept under POSITION_KEY, written in the same batch as the data it speaks of."""
    return msgspec.json.encode(Position(offset, time.time_ns() // 1_000_000))


def read_position(store: Store) -> Position:
    """Where the store stands; a new one at offset 0."""
    kept = store.get(POSITION_KEY)
    return msgspec.json.decode(kept, type=Position) if kept is not None else Position(0, 0)


class Offsets:
    """Asks Kafka for the ends of partitions, as readers of committed data see them and as they are."""

    def __init__(self, bootstrap: str) -> None:
        self._common: dict[str, Any] = {
            "bootstrap_servers": bootstrap, "enable_auto_commit": False, "auto_offset_reset": "none"
        }  # fmt: skip
        self._starting = asyncio.Lock()
        self._committed: AIOKafkaConsumer | None = None
        self._all: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connects, once; all shards of a process share the connections."""
        async with self._starting:
            if self._all is None:
                committed = AIOKafkaConsumer(**self._common, isolation_level="read_committed")
                everything = AIOKafkaConsumer(**self._common, isolation_level="read_uncommitted")
                await committed.start()
                await everything.start()
                self._committed, self._all = committed, everything

    async def stop(self) -> None:
        """Disconnects."""
        for consumer in (self._committed, self._all):
            if consumer is not None:
                await consumer.stop()
        self._committed = self._all = None

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last record, whatever became of its transaction."""
        assert self._all is not None
        found: dict[TopicPartition, int] = await self._all.end_offsets(list(partitions))
        return found

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that are still there."""
        assert self._all is not None
        found: dict[TopicPartition, int] = await self._all.beginning_offsets(list(partitions))
        return found

    async def settled_end(self, partition: TopicPartition) -> int:
        """The end of a partition in which no transaction is open.

        An open transaction of a stranger hides committed records behind it; a restore that ended there would forget
        them. Waits for it to end, and raises :class:`DataLost` when it does not.
        """
        assert self._committed is not None
        give_up = time.monotonic() + HANGING_S
        while True:
            committed = (await self._committed.end_offsets([partition]))[partition]
            end = (await self.ends([partition]))[partition]
            if committed == end:
                return end
            if time.monotonic() > give_up:
                raise DataLost(
                    f"{partition.topic}[{partition.partition}]: a transaction has been open at offset {committed} for "
                    f"over {HANGING_S:.0f} s and hides {end - committed} records. "
                    "Find it with: kafka-transactions.sh find-hanging"
                )
            await asyncio.sleep(0.05)


async def restore(store: Store, changelog: TopicPartition, *, bootstrap: str, offsets: Offsets) -> int:
    """Reads the changelog from the store's position to its settled end; returns how many records that were.

    Must be called after the owner's producer has fenced all others. Raises :class:`DataLost` when the changelog does
    not reach the store's position, or holds an older state than the store.
    """
    position = read_position(store)
    end = await offsets.settled_end(changelog)
    start = (await offsets.starts([changelog]))[changelog]
    if position.offset > end:
        raise DataLost(
            f"{changelog.topic}[{changelog.partition}] ends at {end}, but the local store has read it up to "
            f"{position.offset}: the topic was truncated or recreated. If it is the right one, delete the local store; "
            "it is restored from the topic."
        )
    at = position.offset
    if start > at:
        raise DataLost(
            f"{changelog.topic}[{changelog.partition}] begins at {start}, but this store has read it only up to {at}: "
            "records were deleted. Rebuild the partition from the commands and signals (aura rebuild)."
        )
    if at == end:
        return 0
    before = _seq(store)
    count = 0
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=FETCH_BYTES,
        fetch_max_wait_ms=50,
        max_poll_records=20_000,
    )
    await consumer.start()
    try:
        consumer.assign([changelog])
        consumer.seek(changelog, at)
        while await consumer.position(changelog) < end:  # passes the markers of transactions too, so this ends
            for records in (await consumer.getmany(timeout_ms=500)).values():
                changes = [(record.key, record.value) for record in records]
                store.write([*changes, (POSITION_KEY, encode_position(records[-1].offset + 1))])
                count += len(records)
    finally:
        await consumer.stop()
    store.write([(POSITION_KEY, encode_position(end))])
    if _seq(store) < before:
        raise DataLost(
            f"{changelog.topic}[{changelog.partition}] holds an older state (seq {_seq(store)}) than the local store "
            f"had ({before}): it is another topic of the same name."
        )
    return count


def _seq(store: Store) -> int:
    kept = store.get(STATE_KEY)
    return msgspec.json.decode(kept, type=ShardState).seq if kept is not None else 0
