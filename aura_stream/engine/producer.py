"""A transactional producer that can be trusted: aiokafka's, with the rules that experiments taught.

- aiokafka keeps one epoch over many transactions and retries EndTxn silently, so a late EndTxn could commit half of the
  *next* transaction. A producer that saw any failed request is *tainted* and is replaced before it begins another.
- `commit_transaction()` succeeds although a send was refused: every send is awaited and checked before.
- After an error nothing is known about the transaction and `stop()` may hang for ever: the producer is abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

import aiokafka.producer.sender
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, ProducerFenced

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.errors import CommitFailed, EngineError, Fenced

log = logging.getLogger(__name__)

# Right after a commit the broker is still writing markers and asks to wait; aiokafka then sleeps this long (20 ms as
# shipped). 2 ms doubles to triples the units per second of one shard. Read at run time; a test holds the version to it.
aiokafka.producer.sender.BACKOFF_OVERRIDE = 0.002

REQUEST_TIMEOUT_MS = 3_000
COMMIT_TIMEOUT_S = 5.0
TRANSACTION_TIMEOUT_MS = 10_000
START_TIMEOUT_S = 15.0
# aiokafka never goes back to its bootstrap servers. While a majority is away the last broker names only itself, and who
# has asked it then knows no other until the next refresh: if that broker goes too, it is lost although all else is up.
METADATA_MAX_AGE_MS = 10_000
BATCH_BYTES = 1 << 20

Message = tuple[str, int, bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Topic, partition, key, value, headers."""
Batches = list[tuple[str, int, Any, int]]
"""Topic, partition, batch, number of records."""


class TransactionalProducer:
    """One shard's producer. Starting it fences the former owner of its id and ends that one's open transaction."""

    def __init__(self, bootstrap: Brokers | str, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.tainted = False
        self._producer = AIOKafkaProducer(
            **client_options(bootstrap),
            client_id=transactional_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            max_batch_size=BATCH_BYTES,
            linger_ms=0,
        )
        send = self._producer.client.send

        async def watched(*arguments: Any, **options: Any) -> Any:
            try:
                return await send(*arguments, **options)
            except BaseException:
                self.tainted = True
                raise

        self._producer.client.send = watched

    async def start(self, topics: Iterable[str]) -> None:
        """Fences, and fetches what must be known to send to `topics`. Raises :class:`CommitFailed` when it cannot."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._producer.start()
                for topic in topics:
                    await self._producer.partitions_for(topic)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.abandon()
            raise CommitFailed(f"{self.transactional_id}: cannot start a producer: {error!r}") from error
        except BaseException:
            await self.abandon()
            raise
        self.tainted = False  # requests repeated before the first transaction are harmless

    def build(self, messages: Iterable[Message]) -> Batches:
        """Batches of the messages, in order per topic and partition."""
        full: Batches = []
        last: Batches = []
        now = time.time_ns() // 1_000_000
        places: dict[tuple[str, int], list[Message]] = {}
        topic, partition = "", -1
        for message in messages:
            if message[1] != partition or message[0] != topic:  # most go where the one before went
                topic, partition = message[0], message[1]
                place = places.setdefault((topic, partition), [])
            place.append(message)
        for (topic, partition), waiting in places.items():
            builder = self._producer.create_batch()
            append, count = builder._builder.append, 0
            for message in waiting:
                # The builder within: its wrapper doubles the cost of a message.
                if append(count, now, message[2], message[3], message[4]) is None:
                    full.append((topic, partition, _closed(builder, count), count))
                    builder = self._producer.create_batch()
                    append, count = builder._builder.append, 0
                    append(count, now, message[2], message[3], message[4])
                count += 1
            last.append((topic, partition, _closed(builder, count), count))
        return full + last  # sending a second batch to one place waits for the first to be on its way

    async def commit(self, batches: Batches) -> dict[tuple[str, int], int]:
        """Writes all batches in one transaction; returns the offset after the last record of each topic partition.

        Raises :class:`Fenced`, or :class:`CommitFailed` when the end is bad or unknown: then this producer is of no
        further use. Raises :class:`EngineError` for what trying again cannot cure, as a refused record.
        """
        futures: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._producer.begin_transaction()
                for topic, partition, builder, _ in batches:
                    future = await self._producer.send_batch(builder, topic, partition=partition)
                    future.add_done_callback(_seen)  # the first error is enough to know
                    futures.append(future)
                sent = await asyncio.gather(*futures)
                await self._producer.commit_transaction()
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise Fenced(f"{self.transactional_id}: {error!r}") from error
        except (OSError, TimeoutError) as error:
            raise CommitFailed(f"{self.transactional_id}: {error!r}") from error
        except KafkaError as error:
            if isinstance(error, _REFUSED):
                raise EngineError(f"{self.transactional_id}: Kafka refuses this unit of work: {error!r}") from error
            raise CommitFailed(f"{self.transactional_id}: {error!r}") from error
        ends: dict[tuple[str, int], int] = {}
        for (topic, partition, _, count), metadata in zip(batches, sent, strict=True):
            # The metadata's offset is the batch's first one, and -1 after a repeated send.
            if metadata.offset >= 0:
                ends[topic, partition] = metadata.offset + count
        return ends

    async def stop(self) -> None:
        """Ends a producer in good order; one that does not end in time is abandoned."""
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._producer.stop()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("%s: %r while stopping", self.transactional_id, error)
            await self.abandon()

    async def abandon(self) -> None:
        """Drops a producer without asking Kafka. Harmless: its epoch is dead as soon as the next one starts."""
        producer = self._producer
        producer._closed = True
        task = producer._sender.sender_task
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 1)
        # Else asyncio complains of errors that nobody has looked at.
        accumulator = producer._message_accumulator
        left = [batch for batches in accumulator._batches.values() for batch in batches]
        waiters = [batch._drain_waiter for batch in [*left, *accumulator._pending_batches]]
        for waiter in [*waiters, producer._txn_manager._transaction_waiter]:
            if waiter is not None and waiter.done():
                _seen(waiter)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(producer.client.close(), 1)


def _closed(builder: Any, count: int) -> Any:
    """A batch that takes no more, and knows how many records it has."""
    builder._relative_offset = count
    builder.close()
    return builder


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


_REFUSED = (
    aiokafka.errors.MessageSizeTooLargeError,
    aiokafka.errors.RecordTooLargeError,
    aiokafka.errors.RecordListTooLargeError,
    aiokafka.errors.InvalidTopicError,
    aiokafka.errors.InvalidRequiredAcksError,
    aiokafka.errors.TopicAuthorizationFailedError,
    aiokafka.errors.ClusterAuthorizationFailedError,
    aiokafka.errors.TransactionalIdAuthorizationFailed,
    aiokafka.errors.UnsupportedVersionError,
)
"""What a broker will refuse again. Anything else may pass on a new producer (aiokafka dresses a lost connection as a
plain KafkaError), and a unit that fails five times in a row stops the process all the same."""
