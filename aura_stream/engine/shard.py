"""A shard: a partition with state. It owns a transactional producer, a local store and the memory over it.

Any doubt about a commit ends the same way: new producer (which fences the old one), restore, and the same batch again,
without what is already applied. The log tells the truth; nothing is guessed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka import TopicPartition

from aura_stream.engine.errors import CommitFailed, DataLost, EngineError, Fenced, StoreFailed, StoreLocked
from aura_stream.engine.kafka import RETRIABLE, Kafka, Producer
from aura_stream.engine.partition import Fetch, Gone, Partition, wait_for
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.producer import Message
from aura_stream.engine.restore import (
    POSITION_KEY,
    check_journal,
    encode_position,
    journal_seq,
    read_position,
    restore,
    wall_clock,
)
from aura_stream.engine.store import Store, Stores
from aura_stream.engine.table import Table, after
from aura_stream.engine.turns import Turns
from aura_stream.engine.unit import NEVER, NO_HEADERS, Actor, Finished, Memory, Names, source_of

log = logging.getLogger(__name__)

V = TypeVar("V")

ATTEMPTS_MAX = 5  # of one batch, each on a freshly opened shard
STALE_MS = 7 * 24 * 3600 * 1000 // 2  # half of the changelog's delete.retention.ms
SETTLE_S = 0.2
CLOCK_LOOK_S = 10.0  # a wall clock may jump while we sleep; a deadline is seen this late at most
LOCK_WAIT_MS = 3_000
PASSING: tuple[type[Exception], ...] = (CommitFailed, *RETRIABLE)


@dataclass(frozen=True, slots=True)
class Setup:
    """What all shards of an engine share."""

    app_id: str
    kafka: Kafka
    names: Names
    outputs: tuple[str, ...]  # topics that units send to, beside the engine's own
    actor: Actor
    rules: bytes
    rules_hash: str
    stores: Stores
    partitioner: Partitioner
    called: Mapping[str, str] = field(default_factory=dict)  # what `outputs` are called in this cluster, if not so
    turns: Turns = field(default_factory=Turns)
    clock: Callable[[], int] = wall_clock  # ms since 1970; decides when deadlines are looked at
    inbox: str = ""  # a second topic of plain records, read in place of signals
    first_source: int = 0  # added to the partition's number in what it signals, where it signals to another engine
    committed: Callable[[int, list[Any]], None] | None = None  # told of the wishes of each unit, after its commit


@dataclass(slots=True)
class Counters:
    """What a shard has done since it was made; for metrics and logs."""

    units: int = 0
    records: int = 0
    dead_letters: int = 0
    reopened: int = 0
    restored: int = 0
    compute_s: float = 0.0
    commit_s: float = 0.0


class Shard(Partition):
    """One partition of the commands and signals topics, with its tables."""

    def __init__(self, number: int, setup: Setup, fetch: Fetch, generation: int) -> None:
        self.setup = setup
        self.counters = Counters()
        self._memory: Memory | None = None
        self._producer: Producer | None = None
        self._store: Store | None = None
        self._store_name = ""
        self._position = 0  # of the store, in the changelog
        super().__init__(number, fetch, generation)

    def applied(self, topic: str) -> int:
        """The last offset of commands or signals that is part of the state."""
        if self._memory is None:
            return -1
        source = source_of(topic, self.setup.names.commands, self.setup.inbox)
        return self._memory.state.applied.get(source, -1)

    def status(self) -> dict[str, Any]:
        """Figures for metrics and `aura status`."""
        counters = self.counters
        return {
            "partition": self.number,
            "state": self.state,
            "waiting": self.waiting,
            "commands_applied": self.applied(self.setup.names.commands),
            "signals_applied": self.applied(self.setup.names.signals),
            "units": counters.units,
            "records": counters.records,
            "dead_letters": counters.dead_letters,
            "reopened": counters.reopened,
            "restored": counters.restored,
            "compute_s": round(counters.compute_s, 3),
            "commit_s": round(counters.commit_s, 3),
            "store_bytes": self._store.memory_bytes() if self._store is not None else {},
        }

    def rows(self, table: Table[V], start: bytes = b"") -> Iterator[tuple[bytes, V]]:
        """Keys that begin with `start`, and values, of a table as the last unit has left it; none while it is closed.

        For metrics: read it between two units, and without waiting in between.
        """
        if self._store is not None and self._memory is not None:
            first = table.prefix + start
            for full, encoded in self._store.scan(first, after(first)):
                yield full[len(table.prefix) :], table.decode(encoded)

    # --- opening ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Fences, restores, and reads what is applied; goes on trying while Kafka is away."""
        pause = 0.1
        discarded = False
        while True:
            try:
                await self._open_once()
                break
            except StoreFailed as error:
                await self._drop_producer(gently=False)
                if discarded:
                    raise  # it is not the store, it is the disk
                discarded = True
                self._discard_store(error)
            except PASSING as error:
                await self._drop_producer(gently=False)
                log.warning("shard %s: cannot open yet: %r", self.number, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)

    async def _open_once(self) -> None:
        setup = self.setup
        await setup.kafka.start()
        self._producer = setup.kafka.producer(f"{setup.app_id}-{self.number}")
        await self._producer.start({*setup.names, *(setup.called.get(one, one) for one in setup.outputs)})
        if self._store is None:
            self._store = await self._open_store()
        changelog = TopicPartition(setup.names.changelog, self.number)
        journal = TopicPartition(setup.names.journal, self.number)
        before = await journal_seq(journal, setup.kafka)
        restored = await restore(self._store, changelog, setup.kafka, setup.clock)
        self._position = read_position(self._store).offset
        self._memory = Memory(
            self.number,
            actor=setup.actor,
            names=setup.names,
            store=self._store,
            partitioner=setup.partitioner,
            rules=setup.rules,
            rules_hash=setup.rules_hash,
            inbox=setup.inbox,
            first_source=setup.first_source,
        )
        await self._check_sources()
        await check_journal(self._store, before, journal, setup.kafka)
        self.counters.restored += restored
        log.info("shard %s: open, %s records restored, applied %s", self.number, restored, self._memory.state.applied)

    async def _open_store(self) -> Store:
        stores, clock = self.setup.stores, self.setup.clock
        self._store_name = name = f"{self.setup.app_id}-{self.number}"
        give_up = clock() + LOCK_WAIT_MS
        store: Store | None = None
        while store is None:
            try:
                store = stores.open(name)
            except StoreLocked as error:
                # By an owner that has not gone yet. The changelog has everything.
                if clock() < give_up:
                    await asyncio.sleep(0.1)
                    continue
                log.warning("shard %s: %s; a fresh store is restored from the changelog", self.number, error)
                self._store_name = name = f"{name}.{clock()}"
                store = stores.open(name)
        self._store = store
        position = read_position(store)
        if position.offset and position.written_at < clock() - STALE_MS:
            # The changelog may have forgotten tombstones that this store has not seen.
            log.warning("shard %s: the local store was away for too long and is restored from zero", self.number)
            store.close()
            stores.remove(name)
            self._store = store = stores.open(name)
        return store

    def _discard_store(self, error: StoreFailed) -> None:
        """Removes a store that cannot be read: it is a copy, and kept it would fail again after every start."""
        log.warning("shard %s: %s; it is removed and restored from the changelog", self.number, error)
        if self._store is not None:
            self._store.close()
            self._store = None
        self.setup.stores.remove(self._store_name)

    async def _check_sources(self) -> None:
        """The log must still hold what comes next, and may not end before what was applied."""
        names = self.setup.names
        sources = [TopicPartition(topic, self.number) for topic in (names.commands, self.setup.inbox or names.signals)]
        starts, ends = await self.setup.kafka.starts(sources), await self.setup.kafka.ends(sources)
        for source in sources:
            following = self.applied(source.topic) + 1
            if not starts[source] <= following <= ends[source]:
                raise DataLost(
                    f"{source.topic}[{source.partition}] holds offsets {starts[source]} to {ends[source]}, but "
                    f"{following} comes next: records were deleted or the topic was recreated. Nothing is skipped: "
                    "bring it back."
                )

    async def _drop_producer(self, *, gently: bool) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await (producer.stop() if gently and not producer.tainted else producer.abandon())

    async def release(self, *, gently: bool) -> None:
        """Ends the producer and closes the store."""
        await self._drop_producer(gently=gently)
        if self._store is not None:
            self._store.close()
            self._store = None

    # --- working ---------------------------------------------------------------------------------------------------

    async def wait_for_work(self) -> None:
        """Until records are here, or a deadline is due by the clock and no command waits anywhere."""
        while not (self.has_records() and self.state == "working"):
            self.wake.clear()
            assert self._memory is not None
            due = self._memory.next_due
            if self.state != "working" or due == NEVER:
                await self.wake.wait()
            elif (left := (due - self._memory.moved_ms - self.setup.clock()) / 1000) > 0:
                await wait_for(self.wake, min(left, CLOCK_LOOK_S))
            elif await self._backlog_is_empty():
                return
            else:
                await wait_for(self.wake, SETTLE_S)

    async def _backlog_is_empty(self) -> bool:
        """Whether every command in the log has been handled, so that the clock may speak."""
        try:
            caught_up = await self.fetch.caught_up(self.number)
        except RETRIABLE:
            return False
        if not caught_up:
            return False
        # A list may be on its way from the consumer to this inbox.
        await wait_for(self.wake, SETTLE_S)
        return not self.has_records() and self.state == "working"

    async def work(self) -> None:
        """One unit, when it is this shard's turn: of what has come until then."""
        by_records = self.has_records()
        async with self.setup.turns.turn():
            if self.state == "working" and self.has_records() >= by_records:  # else a rebalance has come first
                await self._unit()

    async def _unit(self) -> None:
        """One unit, from the inbox to its commit; again on a new producer until it is committed or already applied."""
        batch = self.take()
        clock = 0 if batch else self.setup.clock()
        generation = self.generation
        looked_again = False
        for attempt in range(1, ATTEMPTS_MAX + 1):
            assert self._memory is not None and self._producer is not None
            started = time.monotonic()
            try:
                unit, taken = self._memory.run(batch, clock=clock)
            except EngineError as error:
                # Who was frozen reads what another owner's decisions led to, and knows nothing of them. Only a state
                # that was restored behind the fence says that something is broken.
                if looked_again:
                    raise
                looked_again = True
                log.warning("shard %s: %s; it looks at the log again before it believes that", self.number, error)
                if not await self.fetch.owns(self.number):
                    raise Gone from error
                if isinstance(error, StoreFailed):
                    self._discard_store(error)
                await self._reopen()
                continue
            if not unit.inputs:
                break
            finished = unit.finish()
            batches = self._producer.build(self._messages(finished))
            computed = time.monotonic()
            try:
                ends = await self._producer.commit(batches)
            except CommitFailed as error:
                log.warning(
                    "shard %s: %s; it reopens and runs the unit again (attempt %s)", self.number, error, attempt
                )
                if isinstance(error, Fenced) and not await self.fetch.owns(self.number):
                    raise Gone from error
                await self._reopen()
                continue
            self._adopt(finished, ends)
            if unit.wishes and self.setup.committed is not None:
                self.setup.committed(self.number, unit.wishes)
            counters = self.counters
            counters.units += 1
            counters.records += unit.records
            counters.dead_letters += unit.dead
            counters.compute_s += computed - started
            counters.commit_s += time.monotonic() - computed
            if self._producer.tainted:
                log.info("shard %s: a request failed on the way; the producer is replaced", self.number)
                await self._reopen()
            break
        else:
            raise EngineError(f"shard {self.number}: a unit of work could not be committed in {ATTEMPTS_MAX} attempts")
        self.put_back(batch[taken:], generation)

    async def _reopen(self) -> None:
        self.counters.reopened += 1
        await self._drop_producer(gently=False)
        await self.open()

    def _messages(self, finished: Finished) -> list[Message]:
        own, changelog = self.number, self.setup.names.changelog
        messages: list[Message] = [*finished.outputs]
        if called := self.setup.called:
            messages = [(called.get(one[0], one[0]), *one[1:]) for one in messages]
        messages.extend([(changelog, own, key, value, NO_HEADERS) for key, value in finished.changes.items()])
        return messages

    def _adopt(self, finished: Finished, ends: dict[tuple[str, int], int]) -> None:
        """Committed: only now the changes go to the local store, in one batch with the changelog position."""
        assert self._memory is not None
        self._position = max(self._position, ends.get((self.setup.names.changelog, self.number), 0))
        finished.changes[POSITION_KEY] = encode_position(self._position, self.setup.clock())
        self._memory.adopt(finished)
