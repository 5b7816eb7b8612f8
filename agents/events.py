"""The log of events: what the topics of events hold, into Postgres, in order and once.

An event of the ledger waits until the sink has committed what it tells of: whoever hears of something can read it.
Where to go on is known by Postgres alone, as in the sink.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from aura_stream.engine.errors import DataLost
from aura_stream.engine.kafka import RETRIABLE, Kafka
from aura_stream.engine.partition import Fetch, Gone, Partition
from aura_stream.engine.unit import Record
from aura_stream.events.envelope import Entry, of_event, of_transaction
from aura_stream.events.writer import Claim, EventWriter
from aura_stream.ledger.errors import Unavailable

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.02
"""How often the sink's position is asked for while an event waits for it."""
_PAUSE_MAX_S: Final = 2.0


class EventLog:
    """What the partitions of one process share."""

    def __init__(self, kafka: Kafka, writer: EventWriter, sources: tuple[str, ...]) -> None:
        self.kafka, self.writer = kafka, writer
        self.sources = sources
        """Names of the topics: of transactions, of accounts, of logins."""

    def partition(self, number: int, fetch: Fetch, generation: int) -> Partition:
        """Takes charge of a partition of the topics of events."""
        return EventPartition(number, self, fetch, generation)

    async def close(self) -> None:
        """Disconnects."""
        await self.kafka.stop()
        await self.writer.close()


class EventPartition(Partition):
    """One partition of the topics of events on its way into the log."""

    def __init__(self, number: int, log_: EventLog, fetch: Fetch, generation: int) -> None:
        self._log = log_
        self._sources = log_.sources
        self._claim = Claim(0, [0] * len(self._sources))
        self._stored = 0
        self._events = self._claims = self._unreadable = 0
        super().__init__(number, fetch, generation)

    def applied(self, topic: str) -> int:
        """The last offset of a topic that is in the log."""
        return self._claim.next_offsets[self._sources.index(topic)] - 1

    def status(self) -> dict[str, Any]:
        """Figures for metrics and `aura status`."""
        return {
            "partition": self.number,
            "state": self.state,
            "waiting": self.waiting,
            "next_offsets": self._claim.next_offsets,
            "events": self._events,
            "claims": self._claims,
            "unreadable": self._unreadable,
        }

    async def open(self) -> None:
        """Claims the partition and checks that the topics hold what comes next; waits while Postgres is away."""
        await self._claim_again()
        places = [TopicPartition(topic, self.number) for topic in self._sources]
        while True:
            try:
                await self._log.kafka.start()
                starts, ends = await self._log.kafka.starts(places), await self._log.kafka.ends(places)
                break
            except RETRIABLE as error:
                log.warning("events %s: Kafka does not answer: %r", self.number, error)
                await asyncio.sleep(1)
        for place, wanted in zip(places, self._claim.next_offsets, strict=True):
            if not starts[place] <= wanted <= ends[place]:
                raise DataLost(
                    f"{place.topic}[{self.number}] holds offsets {starts[place]} to {ends[place]}, the log of events "
                    f"is at {wanted}: the topic was truncated or recreated, or the database belongs to another cluster."
                )

    async def _claim_again(self) -> None:
        pause = 0.1
        while True:
            try:
                self._claim = await self._log.writer.claim(self.number)
            except Unavailable as error:
                log.warning("events %s: Postgres does not answer, trying again: %s", self.number, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE_MAX_S)
                continue
            self._claims += 1
            log.info("events %s: goes on at %s, epoch %s", self.number, self._claim.next_offsets, self._claim.epoch)
            return

    async def work(self) -> None:
        """Appends what has arrived, each part as soon as the sink has committed what it tells of."""
        waiting: list[list[tuple[int, Entry | None]]] = [[] for _ in self._sources]
        for record in self.take():
            waiting[self._sources.index(record.topic)].append((record.offset, self._read(record)))
        while any(waiting) and self.state == "working":
            try:
                if not await self._append_released(waiting):
                    self._stored = await self._log.writer.stored(self.number)
                    if not any(_released(rows, self._stored) for rows in waiting):
                        await asyncio.sleep(_LOOK_S)
            except Unavailable as error:
                log.warning("events %s: %s", self.number, error)
                await self._claim_again()
                self._drop_applied(waiting)

    async def _append_released(self, waiting: list[list[tuple[int, Entry | None]]]) -> bool:
        """Appends what may be seen; False when nothing may yet. Raises :class:`Gone`, :class:`Unavailable`."""
        counts = [_released(rows, self._stored) for rows in waiting]
        if not any(counts):
            return False
        becomes = list(self._claim.next_offsets)
        entries: list[Entry] = []
        for source, count in enumerate(counts):
            if count:
                becomes[source] = waiting[source][count - 1][0] + 1
                entries += [entry for _, entry in waiting[source][:count] if entry is not None]
        # Of one shard the journal's order is the order of what happened, whatever the topic.
        entries.sort(key=lambda entry: entry.journal_seq)
        if not await self._log.writer.append(self.number, self._claim, becomes, entries):
            if not await self.fetch.owns(self.number):
                raise Gone
            await self._claim_again()
            self._drop_applied(waiting)
            return True
        self._claim = self._claim._replace(next_offsets=becomes)
        self._events += len(entries)
        self._drop_applied(waiting)
        return True

    def _drop_applied(self, waiting: list[list[tuple[int, Entry | None]]]) -> None:
        for source, next_offset in enumerate(self._claim.next_offsets):
            waiting[source] = [row for row in waiting[source] if row[0] >= next_offset]

    def _read(self, record: Record) -> Entry | None:
        """The entry of a record; None for one that nobody can read: that is said and passed over, no money is in it."""
        try:
            read = of_transaction if record.topic == self._sources[0] else of_event
            return read(record.value or b"")
        except (msgspec.DecodeError, ValueError) as error:
            self._unreadable += 1
            log.error("%s[%s] offset %s is no event: %s", record.topic, self.number, record.offset, error)
            return None

    async def release(self, *, gently: bool) -> None:
        """Leaves the partition to the next owner, whose claim ends ours."""


def _released(rows: list[tuple[int, Entry | None]], stored: int) -> int:
    """How many of the first rows tell of what the sink has committed."""
    count = 0
    for _, entry in rows:
        if entry is not None and entry.journal_seq > stored:
            break
        count += 1
    return count
