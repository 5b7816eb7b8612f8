"""A partition in the hands of one worker: an inbox, one loop, and what a rebalance does to both.

    opening ──▶ working ──▶ suspended (a rebalance is on) ──▶ working | closed

What arrives while a batch is being handled is the next batch: no waiting for a batch to fill, so latency is low when it
is quiet and batches grow with the load. `Shard` (the ledger) and the sink build on it.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aura_stream.engine.unit import Record

log = logging.getLogger(__name__)

BATCH_RECORDS_MAX = 2_000
BATCH_BYTES_MAX = 8 << 20
WAITING_MAX = 4_000  # records in an inbox; above, the partition's fetching is paused
WAITING_BYTES_MAX = 32 << 20
SUSPEND_S = 7.0
CLOSE_S = 10.0


class Gone(Exception):
    """The partition belongs to another worker now."""


class Fetched(NamedTuple):
    """All records of a topic partition from offset `begin` to the last one's; at least one."""

    records: list[Record]
    begin: int

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self.records[-1].offset + 1


@dataclass(frozen=True, slots=True)
class Fetch:
    """What a partition needs of the consumer that feeds it."""

    start: Callable[[Partition], Awaitable[None]]  # seek to applied + 1 and begin to fetch
    pause: Callable[[int], None]
    resume: Callable[[int], None]
    caught_up: Callable[[int], Awaitable[bool]]  # nothing of the first source topic is left to fetch
    owns: Callable[[int], Awaitable[bool]]  # the partition is assigned here and the group agrees
    fail: Callable[[BaseException], Any]  # something is broken for good: stop the process, loudly


class Partition(ABC):
    """One partition of the source topics. A subclass opens it, handles batches, and knows how far it came."""

    def __init__(self, number: int, fetch: Fetch, generation: int) -> None:
        self.number, self.fetch, self.generation = number, fetch, generation
        self.state = "opening"
        self.wake = asyncio.Event()
        self.waiting = 0  # records that have arrived and are not handled yet
        self._waiting_bytes = 0
        self._inbox: deque[list[Record]] = deque()
        self._reached: dict[str, int] = {}  # topic -> where what is applied or waits here ends
        self._paused = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._live(), name=f"{type(self).__name__}-{number}")

    # --- for subclasses --------------------------------------------------------------------------------------------

    @abstractmethod
    async def open(self) -> None:
        """Gets ready: afterwards `applied` tells where to go on."""

    @abstractmethod
    async def work(self) -> None:
        """Handles what :meth:`take` gives. Raises :class:`Gone` when another worker has the partition."""

    @abstractmethod
    async def release(self, *, gently: bool) -> None:
        """Gives back what `open` took."""

    @abstractmethod
    def applied(self, topic: str) -> int:
        """The last offset of a source topic that is handled for good, -1 for none: the truth about progress."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Figures for metrics and `aura status`."""

    async def wait_for_work(self) -> None:
        """Until there is something to do."""
        while not (self._inbox and self.state == "working"):
            self.wake.clear()
            await self.wake.wait()

    def has_records(self) -> bool:
        """Whether records wait to be handled."""
        return bool(self._inbox)

    def take(self) -> list[Record]:
        """The next batch, bounded in records and bytes."""
        batch: list[Record] = []
        size = 0
        while self._inbox and len(batch) < BATCH_RECORDS_MAX and size < BATCH_BYTES_MAX:
            records = self._inbox[0]
            room = BATCH_RECORDS_MAX - len(batch)
            if len(records) > room:
                self._inbox[0], records = records[room:], records[:room]
            else:
                self._inbox.popleft()
            batch.extend(records)
            size += _bytes(records)
        self.waiting -= len(batch)
        self._waiting_bytes -= size
        if self._paused and self.waiting < WAITING_MAX // 2 and self._waiting_bytes < WAITING_BYTES_MAX // 2:
            self._paused = False
            self.fetch.resume(self.number)
        return batch

    def put_back(self, rest: list[Record], generation: int) -> None:
        """Returns the end of a batch that was not handled; it comes first again."""
        if rest and generation == self.generation and self.state == "working":
            self._inbox.appendleft(rest)
            self.waiting += len(rest)
            self._waiting_bytes += _bytes(rest)
            self.wake.set()

    # --- for the engine --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether records are wanted."""
        return self.state == "working"

    def begin(self, topic: str) -> int:
        """The offset to read a source topic from: what follows what is applied."""
        self._reached[topic] = offset = self.applied(topic) + 1
        return offset

    def put(self, fetched: Fetched, generation: int) -> int | None:
        """Takes a fetched list, or returns the offset to read again from where it does not follow the one before.

        No record may be missing between two lists, whatever happened to a list on its way here. One that repeats what
        is here does no harm: what is applied is skipped. One of another generation is dropped: what follows begins at
        `applied` + 1 again.
        """
        if generation != self.generation or self.state != "working":
            return None
        records, topic = fetched.records, fetched.records[0].topic
        reached = self._reached.get(topic)
        if reached is None:
            reached = self.begin(topic)
        if fetched.begin > reached:
            return reached
        if fetched.end <= reached:
            return None
        self._reached[topic] = fetched.end
        self._inbox.append(records)
        self.waiting += len(records)
        self._waiting_bytes += _bytes(records)
        self.wake.set()
        if not self._paused and (self.waiting > WAITING_MAX or self._waiting_bytes > WAITING_BYTES_MAX):
            self._paused = True
            self.fetch.pause(self.number)
        return None

    async def suspend(self) -> None:
        """A rebalance begins: takes nothing more and waits for the running batch."""
        if self.state == "working":
            self.state = "suspended"
        self.generation = -1
        self._clear()
        # Bounded: the group waits for this. A batch that goes on is harmless; a new owner fences it.
        await wait_for(self._idle, SUSPEND_S)

    def resume(self, generation: int) -> None:
        """The partition stays here. What was fetched before is asked for again, from `applied` + 1."""
        self.generation = generation
        self._paused = False
        if self.state == "suspended":
            self.state = "working"
        self.wake.set()

    async def close(self) -> None:
        """Ends the work after the running batch. What is not handled, the next owner will."""
        if self.state == "closed":
            return
        self.state = "closed"
        self._clear()
        if not await wait_for(self._idle, CLOSE_S):
            log.warning("partition %s: the running batch did not end in time", self.number)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.state = "closed"
        await self.release(gently=True)

    def _clear(self) -> None:
        self._inbox.clear()
        self._reached.clear()
        self.waiting = self._waiting_bytes = 0

    async def _live(self) -> None:
        try:
            await self.open()
            if self.generation >= 0:
                self.state = "working"
                await self.fetch.start(self)
            else:
                self.state = "suspended"
            while True:
                await self.wait_for_work()
                self._idle.clear()
                try:
                    if self.state == "working":
                        await self.work()
                finally:
                    self._idle.set()
        except asyncio.CancelledError:
            raise
        except Gone:
            log.warning("partition %s: another worker has it now", self.number)
            self.state = "closed"
            await self.release(gently=False)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the process
            self.state = "closed"
            self.fetch.fail(error)


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Waits for an event, but not for longer; whether it came."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _bytes(records: list[Record]) -> int:
    return sum([len(record.value) for record in records if record.value is not None])
