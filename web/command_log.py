"""The way in: writes commands to `aura.commands.v1` and says honestly what became of them.

One idempotent producer with acks=all serves the process. Three ends are possible: acknowledged (partition and offset),
not sent (nothing was handed to the producer), or unknown (handed over, no answer in time; it may still arrive, so the
sender repeats with the same idempotency key).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.transactions import METADATA_MAX_AGE_MS
from web.problems import Problem

log = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes]]

RETRY_AFTER_S = 2
MAX_REQUEST_BYTES = 1024 * 1024
PAUSE_S = 0.005
"""Between two times that batches are handed over: what comes alone goes at once, what comes close together goes
together. As long as Kafka's own producer lingers by default."""
VALUE_BYTES_MAX = MAX_REQUEST_BYTES - 1024
"""Of a command: the rest is for key, headers and frame."""
_BATCH_BYTES = 256 * 1024
_RESTART_BACKOFF_S = 0.5


class _Batch:
    """Commands of one partition that go to Kafka together, and those who wait for it."""

    __slots__ = ("_outcome", "_waiting", "builder", "deadline")

    def __init__(self, builder: BatchBuilder, deadline: float) -> None:
        self.builder = builder
        self.deadline = deadline  # of the first command; the others came later
        self._outcome: int | Problem = -1
        self._waiting: list[asyncio.Future[None]] = []

    def add(self, key: bytes, value: bytes, headers: Headers) -> int | None:
        """The place of a command in the batch; None when it is full."""
        added = self.builder.append(timestamp=None, key=key, value=value, headers=list(headers))
        return None if added is None else int(added.offset)

    def ended(self) -> asyncio.Future[None]:
        """Until :meth:`end`. To be asked for before anything is awaited, and by each who waits."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return waiting

    def end(self, outcome: int | Problem) -> None:
        """Tells those who wait: Kafka has it, the first command at this offset, or what went wrong."""
        self._outcome = outcome
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def offset(self, place: int) -> int:
        """Where a command is in the log, after the end. Raises :class:`Problem`."""
        outcome = self._outcome
        if isinstance(outcome, Problem):
            # One for each who waits: a problem has the headers of its answer.
            raise Problem(outcome.code, outcome.detail, retry_after_s=RETRY_AFTER_S)
        return outcome + place


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
        self._gathered: defaultdict[int, list[_Batch]] = defaultdict(list)
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._next: asyncio.TimerHandle | None = None
        self._handed_over_at = float("-inf")
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
        if self._next is not None:
            self._next.cancel()
            self._hand_over()
        if self._sending:
            await asyncio.wait(self._sending.values(), timeout=2.0)
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await _close(producer, grace_s=2.0)
        if self._closing:
            await asyncio.wait(self._closing, timeout=2.0)

    async def append(self, key: bytes, value: bytes, headers: Headers = ()) -> tuple[int, int]:
        """Writes one command and returns its partition and offset once all in-sync replicas have it.

        Raises :class:`Problem` ``service_unavailable``; its detail says if nothing was sent or the outcome is unknown.
        """
        self._ready()
        partition = self.partition_of(key)
        batch, place = self._gather(partition, key, value, headers)
        await batch.ended()
        return partition, batch.offset(place)

    async def append_many(self, records: Iterable[tuple[int, bytes, bytes]], headers: Headers = ()) -> dict[int, int]:
        """Writes many commands, (partition, key, value) each; returns each partition's last offset once all are there.

        Order is kept within a partition: its next batch is only handed over behind the one before.
        Raises as `append` does; then any part of them may have been written.
        """
        self._ready()
        places: dict[_Batch, tuple[int, int]] = {}
        for partition, key, value in records:
            batch, place = self._gather(partition, key, value, headers)
            places[batch] = partition, place
        # All are seen to their end, even if one fails: then it is known that nothing is under way any more.
        await asyncio.gather(*[batch.ended() for batch in places])
        try:
            # Batches of a partition in their order: what stays is the last one's.
            return {partition: batch.offset(place) for batch, (partition, place) in places.items()}
        except Problem as problem:
            raise _unknown(problem) if len(places) > 1 else problem from None

    def _gather(self, partition: int, key: bytes, value: bytes, headers: Headers) -> tuple[_Batch, int]:
        """Adds a command to what goes to a partition next: the batch, and the command's place in it."""
        if len(value) > VALUE_BYTES_MAX:
            raise Problem("message_too_large", f"a command of {len(value)} bytes")
        mine = self._gathered[partition]
        place = mine[-1].add(key, value, headers) if mine else None
        if place is None:  # there is none, or it is full
            assert self._producer is not None
            deadline = asyncio.get_running_loop().time() + self._acknowledge_s
            mine.append(_Batch(self._producer.create_batch(), deadline))
            place = mine[-1].add(key, value, headers)
            assert place is not None  # a batch takes any first record
            self._plan()
        return mine[-1], place

    def _plan(self) -> None:
        """Has what is gathered handed over: at once, or when the pause since the last time is over."""
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.call_at(max(loop.time(), self._handed_over_at + PAUSE_S), self._hand_over)

    def _hand_over(self) -> None:
        """Starts what is gathered for partitions on whose last batch nobody waits any more."""
        self._next = None
        self._handed_over_at = asyncio.get_running_loop().time()
        for partition, mine in self._gathered.items():
            if mine and partition not in self._sending:
                self._gathered[partition] = []
                task = asyncio.create_task(self._send(partition, mine), name="command-log-send")
                self._sending[partition] = task

    async def _send(self, partition: int, batches: list[_Batch]) -> None:
        """Sends a partition's batches, each behind the one before, and tells those who wait."""
        try:
            while batches:
                batches[0].end(await self._acknowledge(partition, batches[0]))
                batches.pop(0)
        finally:
            for batch in batches:
                batch.end(_unknown("interrupted"))
            del self._sending[partition]
            if self._gathered[partition]:
                self._plan()

    async def _acknowledge(self, partition: int, batch: _Batch) -> int | Problem:
        """Hands a batch to the producer: the offset of its first command once Kafka has it, or what went wrong."""
        future: asyncio.Future[Any] | None = None
        try:
            producer = self._ready()
            async with asyncio.timeout_at(batch.deadline):
                future = await producer.send_batch(batch.builder, self._topic, partition=partition)
                return int((await asyncio.shield(future)).offset)
        except Problem as problem:
            return problem
        except (KafkaError, TimeoutError) as error:
            if future is None:
                # Not handed over: a full buffer or no metadata.
                return _not_sent(error)
            if not isinstance(error, TimeoutError):
                # A refused batch leaves a hole in the producer's sequence numbers: nothing may follow it.
                self._replace(producer, error)
            elif producer is self._producer:
                # The producer goes on trying. Until it got through, further commands are refused without being handed
                # over, so that little is left unknown. What a replaced producer still holds never settles.
                self._overdue.add(future)
                future.add_done_callback(self._settled)
            return _unknown(error)

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
