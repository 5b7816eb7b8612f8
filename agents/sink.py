"""The sink: the journal of a partition becomes rows in Postgres, in order and once.

Where to go on is known by Postgres alone: the position is written in the transaction that writes the rows. After any
doubt the partition is claimed again and the position read; nothing is guessed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

import topics
from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.errors import DataLost
from aura_stream.engine.kafka import RETRIABLE, Kafka
from aura_stream.engine.partition import Fetch, Gone, Partition
from aura_stream.engine.unit import Record
from aura_stream.ledger.chain import Head, encode_head
from aura_stream.ledger.writer import Diverged, Fenced, LedgerWriter, Unavailable

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 4
PAUSE_MAX_S = 2.0
HEADS_S = 1.0
HEADS_TIMEOUT_S = 5.0


class Heads:
    """Publishes where the chains stand: at most once a second and partition, and never what is not committed.

    A head that comes late, twice or after a newer one is as true as before, so nothing waits for it and nothing depends
    on it. One that cannot be sent is tried again with the next.
    """

    def __init__(self, bootstrap: Brokers | str) -> None:
        self._bootstrap = bootstrap
        self._waiting: dict[int, Head] = {}
        self._producer: AIOKafkaProducer | None = None
        self._task: asyncio.Task[None] | None = None
        self.failures = 0

    def note(self, head: Head | None) -> None:
        """A head that is committed."""
        if head is None:
            return
        self._waiting[head.partition] = head
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="chain heads")

    async def _run(self) -> None:
        while self._waiting:
            await self._publish()
            await asyncio.sleep(HEADS_S)

    async def _publish(self) -> None:
        waiting, self._waiting = self._waiting, {}
        try:
            async with asyncio.timeout(HEADS_TIMEOUT_S):
                if self._producer is None:
                    producer = AIOKafkaProducer(**client_options(self._bootstrap), acks="all", client_id="aura-heads")
                    await producer.start()
                    self._producer = producer
                for head in waiting.values():
                    await self._producer.send_and_wait(
                        topics.CHAIN_HEADS.name, encode_head(head), b"%d" % head.partition, partition=head.partition
                    )
        except (KafkaError, OSError, TimeoutError) as error:
            self.failures += 1
            log.warning("heads of the chain are not published yet: %r", error)
            self._waiting = waiting | self._waiting

    async def close(self) -> None:
        """Publishes what is left, if Kafka answers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            await self._publish()
        if self._producer is not None:
            try:
                async with asyncio.timeout(HEADS_TIMEOUT_S):
                    await self._producer.stop()
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("heads: %r while stopping", error)


class Sink:
    """What the partitions of one sink process share: the log, and the writer with its connections.

    `connect_writer` is called at first use, and again until it succeeds. Without `heads` none are published.
    """

    def __init__(
        self, kafka: Kafka, connect_writer: Callable[[], Awaitable[LedgerWriter]], heads: Heads | None = None
    ) -> None:
        self.kafka = kafka
        self.heads = heads
        self._connect_writer = connect_writer
        self._writer: LedgerWriter | None = None
        self._connecting = asyncio.Lock()

    def partition(self, number: int, fetch: Fetch, generation: int) -> Partition:
        """Takes charge of a partition of the journal."""
        return SinkPartition(number, self, fetch, generation)

    async def writer(self) -> LedgerWriter:
        """The writer, connected at first use. Raises Unavailable while Postgres is away."""
        async with self._connecting:
            if self._writer is None:
                self._writer = await self._connect_writer()
            return self._writer

    def publish(self, number: int) -> None:
        """Has the head of a partition published that has just been read from the database, or committed to it."""
        if self.heads is not None and self._writer is not None:
            self.heads.note(self._writer.head(number))

    async def close(self) -> None:
        """Disconnects."""
        if self.heads is not None:
            await self.heads.close()
        await self.kafka.stop()
        if self._writer is not None:
            await self._writer.close()


class SinkPartition(Partition):
    """One partition of the journal on its way to Postgres."""

    def __init__(self, number: int, sink: Sink, fetch: Fetch, generation: int) -> None:
        self._sink = sink
        self._next_offset = 0
        self._rows_s = 0.0
        self._batches = self._records = self._claims = 0
        self._diverged = ""
        super().__init__(number, fetch, generation)

    def applied(self, topic: str) -> int:
        """The last offset of the journal that is in Postgres."""
        return self._next_offset - 1

    def status(self) -> dict[str, Any]:
        """Figures for metrics and `aura status`."""
        return {
            "partition": self.number,
            "state": "diverged" if self._diverged else self.state,
            "waiting": self.waiting,
            "next_offset": self._next_offset,
            "batches": self._batches,
            "records": self._records,
            "claims": self._claims,
            "write_s": round(self._rows_s, 3),
            "diverged": self._diverged,
        }

    async def open(self) -> None:
        """Claims the partition and checks that the journal holds what comes next; waits while Postgres is away."""
        await self._claim()
        journal = TopicPartition(topics.JOURNAL.name, self.number)
        while True:
            try:
                await self._sink.kafka.start()
                start = (await self._sink.kafka.starts([journal]))[journal]
                end = (await self._sink.kafka.ends([journal]))[journal]
                break
            except RETRIABLE as error:
                log.warning("sink %s: Kafka does not answer: %r", self.number, error)
                await asyncio.sleep(1)
        if not start <= self._next_offset <= end:
            raise DataLost(
                f"{journal.topic}[{self.number}] holds offsets {start} to {end}, Postgres is at {self._next_offset}: "
                "the topic was truncated or recreated, or the database belongs to another cluster."
            )

    async def _claim(self) -> None:
        pause = 0.1
        while True:
            try:
                writer = await self._sink.writer()
                claim = await writer.claim(self.number)
            except Unavailable as error:
                log.warning("sink %s: Postgres does not answer, trying again: %s", self.number, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX_S)
                continue
            self._claims += 1
            self._next_offset = claim.next_offset
            self._sink.publish(self.number)
            log.info("sink %s: goes on at offset %s, epoch %s", self.number, claim.next_offset, claim.epoch)
            return

    async def work(self) -> None:
        """Writes what has arrived in one database transaction; again from the position in Postgres after any doubt."""
        batch = self.take()
        started = time.monotonic()
        while rest := [record for record in batch if record.offset >= self._next_offset]:
            try:
                writer = await self._sink.writer()
                await writer.write(self.number, _pairs(rest))
            except (Fenced, Unavailable) as error:
                log.warning("sink %s: %s: %s", self.number, type(error).__name__, error)
                if isinstance(error, Fenced) and not await self.fetch.owns(self.number):
                    raise Gone from error
                await self._claim()
                continue
            except Diverged as error:
                return await self._stop_here(error)
            self._next_offset = rest[-1].offset + 1
            self._sink.publish(self.number)
            self._batches += 1
            self._records += len(rest)
            self._rows_s += time.monotonic() - started
        return None

    async def _stop_here(self, error: Diverged) -> None:
        """The shard and Postgres differ: this partition goes no further until a person has looked; others go on."""
        self._diverged = str(error)
        self.state = "suspended"
        self.fetch.pause(self.number)
        log.critical(
            "sink %s stopped: the journal and Postgres differ: %s. Look: aura ledger verify", self.number, error
        )

    def resume(self, generation: int) -> None:
        """Goes on after a rebalance, unless the partition has stopped for good."""
        if not self._diverged:
            super().resume(generation)

    async def release(self, *, gently: bool) -> None:
        """Leaves the partition to the next owner, whose claim ends ours."""
        if self._sink._writer is not None:
            self._sink._writer.release(self.number)


def _pairs(records: list[Record]) -> list[tuple[int, bytes]]:
    return [(record.offset, record.value or b"") for record in records]
