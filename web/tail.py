"""The API's ear on the journal: reads all partitions of `aura.journal.v1` in the background and feeds :class:`Recent`.

It begins where Postgres ends, so that tail and Postgres together know everything; without Postgres it begins a little
before the end. It belongs to no group and commits nothing: every node hears everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from aura_stream.brokers import Brokers, client_options
from aura_stream.engine.transactions import METADATA_MAX_AGE_MS
from aura_stream.journal import DECODE
from aura_stream.ledger.reads import LedgerReads, ReadsUnavailable, Stored
from web.coalesced import Coalesced
from web.recent import Recent

log = logging.getLogger(__name__)

_BACKLOG_MAX = 50_000
"""Journal records of one partition that are read again at start; of a longer backlog only the end is."""
_WITHOUT_POSTGRES = 1_000
_POLL_MS = 200
_BACKOFF_S = 0.5


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of both topics at one moment: what is committed and visible lies below."""

    journal: list[int]
    commands: list[int]


class Tail:
    """Reads the journal's tail. `recent` is what it knows, `ends` asks Kafka how far there is to read."""

    def __init__(
        self, bootstrap: Brokers | str, partitions: int, reads: LedgerReads, *, journal: str, commands: str
    ) -> None:
        self.recent = Recent(partitions)
        self._bootstrap = bootstrap
        self._journal = [TopicPartition(journal, one) for one in range(partitions)]
        self._commands = [TopicPartition(commands, one) for one in range(partitions)]
        self._reads = reads
        self._consumer: AIOKafkaConsumer | None = None
        self._asker: AIOKafkaConsumer | None = None
        self._ends = Coalesced(self._fetch_ends)
        self._stored = Coalesced(self._fetch_stored)
        self._tasks: list[asyncio.Task[None]] = []
        self.is_reading = False

    async def start(self) -> None:
        """Begins to read in the background."""
        self._tasks = [
            asyncio.create_task(self._run(self._read), name="tail-read"),
            asyncio.create_task(self._run(self._forget), name="tail-forget"),
        ]

    async def stop(self) -> None:
        """Ends reading and closes the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._asker is not None:
            await _stop(self._asker)

    async def ends(self) -> Ends:
        """The ends of journal and commands, asked for after this call. Raises KafkaError when Kafka is away."""
        return await self._ends.get()

    async def stored(self) -> dict[int, Stored]:
        """How far Postgres is, asked for after this call. Raises :class:`ReadsUnavailable`."""
        return await self._stored.get()

    async def look_at_clock(self) -> None:
        """Takes in how far Postgres knows the clock to be moved. Raises :class:`ReadsUnavailable`."""
        self.recent.clock.saw(*await self._reads.clock())

    async def skip_markers(self, commands_ends: list[int]) -> None:
        """Counts as decided what is no command: the markers that a producer with transactions leaves behind.

        Without this, one such marker at the end of a partition would make every unknown id undecided for ever.
        """
        gaps = {
            self._commands[partition]: end
            for partition, end in enumerate(commands_ends)
            if self.recent.partitions[partition].commands_next < end
        }
        if not gaps:
            return
        consumer = AIOKafkaConsumer(
            **client_options(self._bootstrap),
            client_id="aura-api-markers",
            group_id=None,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=50,
        )
        try:
            await consumer.start()
            consumer.assign(list(gaps))
            for place in gaps:
                consumer.seek(place, self.recent.partitions[place.partition].commands_next)
            undecided = await consumer.getmany(timeout_ms=200)
            for place, end in gaps.items():
                if place not in undecided and await consumer.position(place) >= end:
                    progress = self.recent.partitions[place.partition]
                    progress.commands_next = max(progress.commands_next, end)
        finally:
            await _stop(consumer)

    async def caught_up(self, journal_ends: list[int], deadline: float) -> bool:
        """Waits until everything below these ends was read; False when `deadline` (loop time) comes first."""
        loop = asyncio.get_running_loop()
        while not await self._has_read(journal_ends):
            left = deadline - loop.time()
            if left <= 0:
                return False
            # The markers of transactions move the position without a record, so nobody tells: look again soon.
            await self.recent.progressed(min(left, 0.01))
        return True

    async def _has_read(self, journal_ends: list[int]) -> bool:
        consumer = self._consumer
        if consumer is None or not self.is_reading:
            return False
        for partition, progress in enumerate(self.recent.partitions):
            if progress.position < journal_ends[partition]:
                # Records are applied without a pause behind their fetch, so the consumer's position is ours.
                progress.position = await consumer.position(self._journal[partition])
                if progress.position < journal_ends[partition]:
                    return False
        return True

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` for ever; after an outside failure it begins again. A failure that lasts is logged once."""
        known = ""
        while True:
            try:
                await work()
            except (KafkaError, OSError, TimeoutError, ReadsUnavailable, msgspec.DecodeError) as error:
                if repr(error) != known:
                    known = repr(error)
                    log.warning("the journal's tail is interrupted, trying again: %s", known)
            await asyncio.sleep(_BACKOFF_S)

    async def _read(self) -> None:
        consumer = AIOKafkaConsumer(
            **client_options(self._bootstrap),
            client_id="aura-api-tail",
            group_id=None,
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            enable_auto_commit=False,
            # Where to begin is decided here, never by a default: a reset would skip or repeat in silence.
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=200,
            fetch_max_bytes=4 * 1024 * 1024,
            max_partition_fetch_bytes=1024 * 1024,
        )
        try:
            await consumer.start()
            consumer.assign(self._journal)
            await self._seek(consumer)
            self._consumer, self.is_reading = consumer, True
            while True:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                for topic_partition, records in fetched.items():
                    for record in records:
                        self.recent.apply(topic_partition.partition, record.offset, DECODE(record.value))
                if fetched:
                    self.recent.notify()
        except OffsetOutOfRangeError:
            # The topic was made anew or cut: begin again as at the first start.
            for partition, progress in enumerate(self.recent.partitions):
                self.recent.begin(partition, 0)
                progress.commands_next = 0
            raise
        finally:
            self._consumer, self.is_reading = None, False
            await _stop(consumer)

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        begins = await consumer.beginning_offsets(self._journal)
        ends = await consumer.end_offsets(self._journal)
        try:
            stored: dict[int, Stored] | None = await self.stored()
            await self.look_at_clock()
        except ReadsUnavailable as error:
            log.warning("Postgres does not say where to begin: %s", error)
            stored = None
        for partition, topic_partition in enumerate(self._journal):
            progress = self.recent.partitions[partition]
            low, high = begins[topic_partition], ends[topic_partition]
            if progress.position and low <= progress.position <= high:
                start = progress.position
            else:
                mine = (stored or {}).get(partition)
                start = mine.next_offset if mine else (low if stored is not None else high - _WITHOUT_POSTGRES)
                if high - start > _BACKLOG_MAX:
                    start = high - _WITHOUT_POSTGRES
                start = min(max(start, low), high)
                self.recent.begin(partition, start)
                if mine:
                    progress.commands_next = mine.commands_next
            consumer.seek(topic_partition, start)

    async def _forget(self) -> None:
        while True:
            await self.stored()
            await asyncio.sleep(0.25 if len(self.recent) else 1.0)

    async def _fetch_stored(self) -> dict[int, Stored]:
        stored = await self._reads.stored()
        for partition, one in stored.items():
            if partition < len(self._journal):
                self.recent.forget(partition, one.next_offset)
                progress = self.recent.partitions[partition]
                progress.commands_next = max(progress.commands_next, one.commands_next)
        return stored

    async def _fetch_ends(self) -> Ends:
        # A consumer of its own: on the tail's connection the question would wait behind the running fetch.
        try:
            async with asyncio.timeout(3):
                if self._asker is None:
                    asker = AIOKafkaConsumer(
                        **client_options(self._bootstrap),
                        client_id="aura-api-ends",
                        group_id=None,
                        metadata_max_age_ms=METADATA_MAX_AGE_MS,
                        isolation_level="read_committed",
                        request_timeout_ms=3_000,
                    )
                    try:
                        await asker.start()
                    except BaseException:
                        await _stop(asker)
                        raise
                    self._asker = asker
                ends = await self._asker.end_offsets(self._journal + self._commands)
        except (KafkaError, OSError, TimeoutError):
            if self._asker is not None:
                asker, self._asker = self._asker, None
                await _stop(asker)
            raise
        return Ends([ends[one] for one in self._journal], [ends[one] for one in self._commands])


async def _stop(consumer: AIOKafkaConsumer) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(2):
            await consumer.stop()
