"""Kafka's semantics without Kafka: epochs, open transactions, markers, the last stable offset.

Only what the brokers decide is here, and it is decided at once; the way to them (`network.py`) is what fails. Both
protocols are known: in the first one an epoch lasts over many transactions, so that an EndTxn that comes late ends
whatever transaction that epoch has open; in the second one each transaction has an epoch of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiokafka.errors import InvalidProducerEpoch, InvalidTxnState

from aura_stream.engine.driver import LogRecord
from tests.simulation.loop import Loop

Place = tuple[str, int]
Headers = tuple[tuple[str, bytes], ...]
Sent = tuple[bytes | None, bytes | None, Headers]

TRANSACTION_TIMEOUT_S = 10.0


@dataclass(slots=True)
class PartitionLog:
    """One partition of one topic. A marker takes an offset and holds no record."""

    topic: str
    number: int
    records: list[LogRecord | None] = field(default_factory=list)
    aborted: set[int] = field(default_factory=set)
    open: dict[str, int] = field(default_factory=dict)  # transactional id -> first offset of its open transaction

    @property
    def stable(self) -> int:
        """The last stable offset: before the first record whose transaction is open."""
        return min(self.open.values(), default=len(self.records))

    def append(self, at: int, messages: Iterable[Sent]) -> int:
        """Adds records; the offset of the first."""
        first = len(self.records)
        for key, value, headers in messages:
            self.records.append(LogRecord(self.topic, self.number, len(self.records), at, key, value, headers))
        return first

    def committed(self, start: int, end: int) -> list[LogRecord]:
        """What a read_committed consumer sees from start to the end or the last stable offset."""
        return [
            record
            for record in self.records[start : min(end, self.stable)]
            if record is not None and record.offset not in self.aborted
        ]


@dataclass(slots=True)
class Transactions:
    """What the coordinator knows of a transactional id."""

    epoch: int = 0
    ended: int = -1  # the epoch that committed last, in the second protocol: its EndTxn may be repeated
    state: str = "empty"  # empty | ongoing | ending | committed | aborted
    offsets: dict[Place, list[int]] = field(default_factory=dict)
    seen: dict[tuple[Place, int], int] = field(default_factory=dict)  # sequence numbers of this epoch
    begun: int = 0  # counts transactions, for the time-out
    held: list[Callable[[], object]] = field(default_factory=list)  # requests that are still under way


class Broker:
    """The log and the transaction coordinator."""

    def __init__(
        self, loop: Loop, random: Random, now_ms: Callable[[], int], markers_s: float, *, second: bool
    ) -> None:
        self.second = second
        self.loop, self.random, self.now_ms, self.markers_s = loop, random, now_ms, markers_s
        self.down = False
        self.partitions: dict[Place, PartitionLog] = {}
        self.transactions: dict[str, Transactions] = {}
        self.watchers: dict[asyncio.Event, frozenset[str]] = {}
        self.context = Context()
        self.timed_out = 0
        self.late_ends = 0

    def at(self, place: Place) -> PartitionLog:
        """A partition; made at first use."""
        found = self.partitions.get(place)
        if found is None:
            found = self.partitions[place] = PartitionLog(*place)
        return found

    def later(self, delay: float, act: Callable[..., Any], *arguments: Any) -> None:
        """Does something later that belongs to no process."""
        self.loop.call_later(delay, act, *arguments, context=self.context)

    def write(self, place: Place, messages: Iterable[Sent]) -> int:
        """Records of a producer without transactions."""
        offset = self.at(place).append(self.now_ms(), messages)
        self.changed(place[0])
        return offset

    def changed(self, topic: str) -> None:
        """Wakes those who wait for a topic."""
        for event, topics in self.watchers.items():
            if topic in topics:
                event.set()

    # --- transactions ----------------------------------------------------------------------------------------------

    def init(self, name: str) -> int | None:
        """InitProducerId: a new epoch, or None while a former transaction is still ending (CONCURRENT_TRANSACTIONS)."""
        found = self.transactions.setdefault(name, Transactions())
        if found.state == "ongoing":
            found.epoch += 1  # fences at once
            found.ended = -1
            self._end(name, found, commit=False)
        if found.state == "ending":
            return None
        found.epoch += 1
        found.ended = -1
        found.state = "empty"
        found.seen.clear()
        return found.epoch

    def add(self, name: str, epoch: int) -> bool | None:
        """AddPartitionsToTxn; None while a transaction is ending."""
        return None if self._current(name, epoch).state == "ending" else True

    def produce(self, name: str, epoch: int, sequence: int, place: Place, messages: list[Sent]) -> int | None:
        """Adds records to the open transaction, or opens one. -1 for a repetition, None while one is ending."""
        found = self._current(name, epoch)
        if (place, sequence) in found.seen:
            return -1
        if found.state == "ending":
            return None
        if found.state != "ongoing":
            found.state = "ongoing"
            found.begun += 1
            self.later(TRANSACTION_TIMEOUT_S, self._time_out, name, found.begun)
            for act in found.held:
                self.later(self.random.choice((0.0, 0.001, 0.004)), act)
            found.held = []
        log = self.at(place)
        offset = log.append(self.now_ms(), messages)
        log.open.setdefault(name, offset)
        found.offsets.setdefault(place, []).extend(range(offset, len(log.records)))
        found.seen[place, sequence] = offset
        return offset

    def end(self, name: str, epoch: int) -> int | None:
        """EndTxn with commit: the epoch of the next transaction; None while one is ending.

        A repeated one after its success succeeds again.
        """
        if (repeated := self.transactions[name]).ended == epoch and repeated.state in ("ending", "committed"):
            return None if repeated.state == "ending" else repeated.epoch
        found = self._current(name, epoch)
        if found.state == "ongoing":
            if self.second:
                found.ended, found.epoch = epoch, epoch + 1
                found.seen.clear()
            self._end(name, found, commit=True)
            return found.epoch
        if found.state == "ending":
            return None
        if found.state == "committed" and not self.second:
            return found.epoch
        raise InvalidTxnState

    def hold(self, name: str, act: Callable[[], object]) -> None:
        """Holds a request back until its producer has begun another transaction: the worst moment there is."""
        self.transactions[name].held.append(act)

    def _current(self, name: str, epoch: int) -> Transactions:
        found = self.transactions[name]
        if found.epoch != epoch:
            raise InvalidProducerEpoch
        return found

    def _time_out(self, name: str, begun: int) -> None:
        found = self.transactions[name]
        if found.state == "ongoing" and found.begun == begun:
            self.timed_out += 1
            found.epoch += 1
            found.ended = -1
            self._end(name, found, commit=False)

    def _end(self, name: str, found: Transactions, *, commit: bool) -> None:
        places = list(found.offsets)
        if self.markers_s:
            self.random.shuffle(places)
            found.state = "ending"
        for left, place in enumerate(reversed(places)):
            done = ("committed" if commit else "aborted") if left == 0 else ""
            mark = (name, found, place, found.offsets[place], commit, done)
            if self.markers_s:
                self.later(self.markers_s * (len(places) - left) / len(places), self._mark, *mark)
            else:
                self._mark(*mark)
        found.offsets = {}
        if not self.markers_s or not places:
            found.state = "committed" if commit else "aborted"

    def _mark(self, name: str, found: Transactions, place: Place, offsets: list[int], commit: bool, done: str) -> None:
        log = self.at(place)
        if not commit:
            log.aborted.update(offsets)
        log.records.append(None)
        log.open.pop(name, None)
        if done:
            found.state = done
        self.changed(place[0])
