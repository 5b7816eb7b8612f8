"""The way in: writes commands to `aura.commands.v1` and says honestly what became of them.

One idempotent producer with acks=all serves the process. Three ends are possible: acknowledged (partition and offset),
not sent (nothing was handed to the producer), or unknown (handed over, no answer in time; it may still arrive, so the
sender repeats with the same idempotency key).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.producer import METADATA_MAX_AGE_MS
from web.problems import Problem

log = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes]]

RETRY_AFTER_S = 2
MAX_REQUEST_BYTES = 1024 * 1024
_BATCH_BYTES = 256 * 1024
_RESTART_BACKOFF_S = 0.5


class CommandLog:
    """The producer of commands. `acknowledge_s` bounds every request; the producer itself never gives up."""

    def __init__(self, bootstrap: Brokers | str, topic: str, partitions: int, *, acknowledge_s: float = 5.0) -> None:
        self.partition_of = Partitioner(partitions)
        self._bootstrap = bootstrap
        self._topic = topic
        self._acknowledge_s = acknowledge_s
        self._producer: AIOKafkaProducer | None = None
        self._starting: asyncio.Task[None] | None = None
        self._overdue: set[asyncio.Future[Any]] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_up(self) -> bool:
        """Whether a command would be handed to Kafka now."""
        return self._producer is not None and not self._overdue

    async def start(self) -> None:
        """Begins to connect in the background; until then every command is refused as not sent."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._connect(), name="command-log-connect")

    async def stop(self) -> None:
        """Gives what is on its way a moment, then closes."""
        if self._starting is not None:
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._starting
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await _close(producer, grace_s=2.0)
        if self._closing:
            await asyncio.wait(self._closing, timeout=2.0)

    async def append(self, key: bytes, value: bytes, headers: Headers = ()) -> tuple[int, int]:
        """Writes one command and returns its partition and offset once all in-sync replicas have it.

        Raises :class:`Problem` ``service_unavailable``; its detail says if nothing was sent or the outcome is unknown.
        """
        producer = self._ready()
        partition = self.partition_of(key)
        deadline = asyncio.get_running_loop().time() + self._acknowledge_s
        try:
            async with asyncio.timeout_at(deadline):
                future = await producer.send(self._topic, value, key, partition, headers=list(headers))
        except (KafkaError, TimeoutError) as error:
            # Not handed over: a full buffer or no metadata.
            raise _not_sent(error) from None
        metadata = await self._acknowledged(producer, future, deadline)
        return partition, int(metadata.offset)

    async def append_many(self, records: Iterable[tuple[int, bytes, bytes]], headers: Headers = ()) -> dict[int, int]:
        """Writes many commands, (partition, key, value) each; returns each partition's last offset once all are there.

        Order is kept within a partition: a partition's next batch is only handed over behind the one before.
        Raises as `append` does; then any part of them may have been written.
        """
        producer = self._ready()
        headers = list(headers)
        builders: dict[int, list[Any]] = {}
        for partition, key, value in records:
            mine = builders.get(partition)
            if mine is None:
                mine = builders[partition] = [producer.create_batch()]
            if mine[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
                mine.append(producer.create_batch())
                if mine[-1].append(timestamp=None, key=key, value=value, headers=headers) is None:
                    raise Problem("message_too_large", f"a command of {len(value)} bytes")
        # All partitions are seen to their end, even if one fails: then it is known that nothing is under way any more.
        results = await asyncio.gather(
            *(self._append_batches(producer, partition, mine) for partition, mine in builders.items()),
            return_exceptions=True,
        )
        last: dict[int, int] = {}
        for partition, result in zip(builders, results, strict=True):
            if isinstance(result, BaseException):
                raise _unknown(result) if len(builders) > 1 and isinstance(result, Problem) else result
            last[partition] = result
        return last

    async def _append_batches(self, producer: AIOKafkaProducer, partition: int, builders: list[Any]) -> int:
        handed_over, last = False, -1
        for builder in builders:
            deadline = asyncio.get_running_loop().time() + self._acknowledge_s
            try:
                async with asyncio.timeout_at(deadline):
                    future = await producer.send_batch(builder, self._topic, partition=partition)
            except (KafkaError, TimeoutError) as error:
                raise (_unknown(error) if handed_over else _not_sent(error)) from None
            handed_over = True
            metadata = await self._acknowledged(producer, future, deadline)
            last = int(metadata.offset) + builder.record_count() - 1
        return last

    async def _acknowledged(self, producer: AIOKafkaProducer, future: asyncio.Future[Any], deadline: float) -> Any:
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(future)
        except TimeoutError as error:
            # The producer goes on trying. Until it got through, further commands are refused without being handed over,
            # so that little is left unknown. What a replaced producer still holds never settles.
            if producer is self._producer:
                self._overdue.add(future)
                future.add_done_callback(self._settled)
            raise _unknown(error) from None
        except KafkaError as error:
            # A refused batch leaves a hole in the producer's sequence numbers: nothing may follow it.
            self._replace(producer, error)
            raise _unknown(error) from None

    def _settled(self, future: asyncio.Future[Any]) -> None:
        self._overdue.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None and self._producer is not None:
            self._replace(self._producer, error)

    def _replace(self, producer: AIOKafkaProducer, error: BaseException) -> None:
        if self._producer is not producer:
            return
        log.warning("the producer of commands is replaced: %r", error)
        self._producer = None
        self._overdue.clear()
        task = asyncio.create_task(_close(producer, grace_s=0.0), name="command-log-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._starting = asyncio.create_task(self._connect(), name="command-log-connect")

    def _ready(self) -> AIOKafkaProducer:
        if self._producer is None or self._overdue:
            raise _not_sent("Kafka does not answer")
        return self._producer

    async def _connect(self) -> None:
        known = ""
        while True:
            producer = AIOKafkaProducer(
                **client_options(self._bootstrap),
                client_id="aura-api",
                acks="all",
                enable_idempotence=True,
                request_timeout_ms=3_000,
                retry_backoff_ms=100,
                metadata_max_age_ms=METADATA_MAX_AGE_MS,
                max_batch_size=_BATCH_BYTES,
                max_request_size=MAX_REQUEST_BYTES,
            )
            try:
                async with asyncio.timeout(10):
                    await producer.start()
                    await producer.partitions_for(self._topic)
                self._producer = producer
                return
            except (KafkaError, OSError, TimeoutError) as error:
                if repr(error) != known:
                    known = repr(error)
                    log.warning("Kafka at %s cannot be reached for writing, trying again: %s", self._bootstrap, known)
                await _close(producer, grace_s=0.0)
            except asyncio.CancelledError:
                await _close(producer, grace_s=0.0)
                raise
            await asyncio.sleep(_RESTART_BACKOFF_S)


async def _close(producer: AIOKafkaProducer, *, grace_s: float) -> None:
    """Stops a producer; one that cannot flush within `grace_s` is abandoned, since its stop may hang for ever."""
    if grace_s:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(grace_s):
                await producer.stop()
                return
    producer._closed = True
    sender = producer._sender.sender_task
    if sender is not None and not sender.done():
        sender.cancel()
        await asyncio.wait([sender], timeout=2.0)
    with contextlib.suppress(KafkaError, TimeoutError, OSError):
        async with asyncio.timeout(2.0):
            await producer.client.close()


def _not_sent(why: object) -> Problem:
    return Problem(
        "service_unavailable",
        f"Kafka cannot take commands now; nothing was sent ({_brief(why)}).",
        retry_after_s=RETRY_AFTER_S,
    )


def _unknown(why: object) -> Problem:
    return Problem(
        "service_unavailable",
        f"The outcome is unknown: Kafka did not acknowledge in time ({_brief(why)}). "
        "Repeating with the same key is safe.",
        retry_after_s=RETRY_AFTER_S,
    )


def _brief(why: object) -> str:
    return type(why).__name__ if isinstance(why, BaseException) else str(why)
