"""A transactional producer that can be trusted.

- A request that went wrong on its way may still arrive: in the first of Kafka's protocols (`transactions.py`) a late
  EndTxn could commit half of the *next* transaction. A producer that saw any failed request is *tainted* and is
  replaced before it begins another.
- Nothing is committed before every write was answered, and answered well.
- A write or an end that the brokers do not take yet is repeated for the time that a commit may take; numbered batches
  are written once. After an error nothing is known about the transaction: the producer is abandoned.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import aiokafka.errors
from aiokafka.errors import ConcurrentTransactions, InvalidProducerEpoch, KafkaError, ProducerFenced

from aura_stream.brokers import Brokers
from aura_stream.engine.errors import CommitFailed, EngineError, Fenced
from aura_stream.engine.transactions import Place, TransactionClient

__all__ = ["COMMIT_TIMEOUT_S", "Batches", "Message", "TransactionalProducer"]

log = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 15.0
# Right after a commit the broker is still writing markers, and says so to who begins the next transaction.
MARKERS_S = 0.002
REPEAT_S = 0.1

Message = tuple[str, int, bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Topic, partition, key, value, headers."""
Batches = list[tuple[str, int, Any, int]]
"""Topic, partition, batch, number of records."""


class TransactionalProducer:
    """One shard's producer. Starting it fences the former owner of its id and ends that one's open transaction."""

    def __init__(self, bootstrap: Brokers | str, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self._client = TransactionClient(bootstrap, transactional_id)

    @property
    def tainted(self) -> bool:
        """Whether a request has failed since the producer was started."""
        return self._client.failed

    async def start(self, topics: Iterable[str]) -> None:
        """Fences, and fetches what must be known to send to `topics`. Raises :class:`CommitFailed` when it cannot."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._client.start(topics)
        except (KafkaError, OSError, TimeoutError) as error:
            await self.abandon()
            raise CommitFailed(f"{self.transactional_id}: cannot start a producer: {error!r}") from error
        except BaseException:
            await self.abandon()
            raise
        self._client.failed = False  # requests repeated before the first transaction are harmless

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
            builder = self._client.batch()
            append, count = builder._builder.append, 0
            for message in waiting:
                # The builder within: its wrapper doubles the cost of a message.
                if append(count, now, message[2], message[3], message[4]) is None:
                    full.append((topic, partition, _closed(builder, count), count))
                    builder = self._client.batch()
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
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                if not self._client.second:
                    places = {(topic, partition) for topic, partition, _, _ in batches}
                    await self._repeated(lambda: self._client.add(places))
                ends = await self._write(batches)
                await self._repeated(self._client.end)
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise Fenced(f"{self.transactional_id}: {error!r}") from error
        except (OSError, TimeoutError) as error:
            raise CommitFailed(f"{self.transactional_id}: {error!r}") from error
        except KafkaError as error:
            if isinstance(error, _REFUSED):
                raise EngineError(f"{self.transactional_id}: Kafka refuses this unit of work: {error!r}") from error
            raise CommitFailed(f"{self.transactional_id}: {error!r}") from error
        return ends

    async def _write(self, batches: Batches) -> dict[Place, int]:
        """Writes all batches, those of one place one after the other; the offset after the last record of each."""
        ends: dict[Place, int] = {}
        waiting: dict[Place, deque[tuple[Any, int]]] = {}
        for topic, partition, batch, count in batches:
            place = (topic, partition)
            waiting.setdefault(place, deque()).append((self._client.sealed(place, batch, count), count))
        while waiting:
            answers = await self._client.produce({place: left[0][0] for place, left in waiting.items()})
            pause = 0.0
            for place, answer in answers.items():
                if isinstance(answer, KafkaError):
                    pause = max(pause, self._pause(answer))
                    continue
                _, count = waiting[place].popleft()
                if answer >= 0:
                    ends[place] = answer + count
                if not waiting[place]:
                    del waiting[place]
            if pause:
                await asyncio.sleep(pause)
        return ends

    async def _repeated(self, request: Callable[[], Awaitable[None]]) -> None:
        """Sends a request until it is done."""
        while True:
            try:
                return await request()
            except KafkaError as error:
                await asyncio.sleep(self._pause(error))

    def _pause(self, error: KafkaError) -> float:
        """How long to wait before what has met this error is sent again. Raises one that does not pass."""
        if isinstance(error, ConcurrentTransactions):
            return MARKERS_S
        if not error.retriable:
            raise error
        log.info("%s: %r; it is sent again", self.transactional_id, error)
        self._client.refresh()
        return REPEAT_S

    async def stop(self) -> None:
        """Ends a producer in good order; one that does not end in time is abandoned."""
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._client.stop()
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("%s: %r while stopping", self.transactional_id, error)
            await self.abandon()

    async def abandon(self) -> None:
        """Drops a producer without asking Kafka. Harmless: its epoch is dead as soon as the next one starts."""
        await self._client.abandon()


def _closed(builder: Any, count: int) -> Any:
    """A batch that takes no more, and knows how many records it has."""
    builder._relative_offset = count
    builder.close()
    return builder


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
