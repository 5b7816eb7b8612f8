"""A worker: a Faust app and the partitions that it feeds.

    feed = Feed(app, (COMMANDS, SIGNALS), lambda number, fetch, generation: Shard(number, setup, fetch, generation))
    faust.Worker(app).execute_from_commandline()

Scaling is by processes: each further one takes over some of the partitions.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.errors import IllegalStateError, KafkaError
from faust.types import TP

from aura_stream.engine.partition import Fetch, Partition
from aura_stream.engine.transport import App, Lists

log = logging.getLogger(__name__)

HINT_EVERY_S = 1.0
EXIT_ENGINE_STOPPED = 70


def stop_loudly(error: BaseException) -> None:
    """The end of a process whose engine is broken. Nothing was acknowledged that is not committed."""
    log.critical("the engine stopped itself: %s: %s", type(error).__name__, error, exc_info=error)
    logging.shutdown()
    os._exit(EXIT_ENGINE_STOPPED)


class Feed:
    """Gives each assigned partition to an object of its own, made by `make`, and hands it what was fetched.

    A partition is opened only if all `sources` of that number are assigned here.
    """

    def __init__(
        self,
        app: App,
        sources: tuple[str, ...],
        make: Callable[[int, Fetch, int], Partition],
        *,
        on_failure: Callable[[BaseException], Any] = stop_loudly,
        on_ready: Callable[[], Any] = lambda: None,
        on_closed: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        self.app, self.sources, self.make = app, sources, make
        self.on_closed = on_closed
        self.partitions: dict[int, Partition] = {}
        self.on_ready = on_ready
        self._hints: dict[TP, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._fetch = Fetch(self._start, self._pause, self._resume, self._caught_up, self._owns, on_failure)
        app.owner_of = self.owner_of
        app.on_closing = self.close
        signals: Any = app  # their types know no bound methods
        signals.on_partitions_revoked.connect(self._on_revoked)
        signals.on_partitions_assigned.connect(self._on_assigned)
        app.task(self._commit_hints)
        app.agent(app.topic(*sources, schema=Lists(), acks=False), name=app.conf.id)(self._deliver)

    def owner_of(self, tp: TP) -> Partition | None:
        """Whoever handles a topic partition here."""
        owner = self.partitions.get(tp.partition)
        return owner if owner is not None and owner.state != "closed" and tp.topic in self.sources else None

    async def _deliver(self, stream: Any) -> None:
        """The agent: hands each fetched list to its partition. Progress is `applied`, not an acknowledgement."""
        async for event in stream.events():
            message = event.message
            owner = self.partitions.get(message.partition)
            offset = owner.put(event.value, message.generation_id) if owner is not None else None
            if offset is not None:
                await self._read_again(TP(message.topic, message.partition), offset, event.value.begin)

    async def _read_again(self, tp: TP, offset: int, begin: int) -> None:
        log.error("%s[%s]: what was fetched begins at %s, but %s comes next: it is read again", *tp, begin, offset)
        if tp in self.app.consumer.assignment():
            await self.app.consumer.seek(tp, offset)

    # --- rebalances ------------------------------------------------------------------------------------------------

    async def _on_revoked(self, _app: Any, revoked: set[TP], **_: Any) -> None:
        # Kafka's eager protocol takes everything away and gives most of it back: partitions wait for what comes.
        partitions = {tp.partition for tp in revoked}
        await asyncio.gather(*(owner.suspend() for number, owner in self.partitions.items() if number in partitions))

    async def _on_assigned(self, _app: Any, assigned: set[TP], **_: Any) -> None:
        # Only registers: no heartbeat is sent while this callback runs.
        mine = {tp.partition for tp in assigned if all(TP(topic, tp.partition) in assigned for topic in self.sources)}
        split = {tp.partition for tp in assigned} - mine
        if split:
            log.error("partitions %s came without all of their source topics; they stay closed", sorted(split))
        generation = self.app.consumer_generation_id
        for partition in [p for p in self.partitions if p not in mine]:
            task = asyncio.create_task(self.partitions.pop(partition).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for partition in sorted(mine):
            present = self.partitions.get(partition)
            if present is not None and present.state != "closed":
                present.resume(generation)
            else:
                self.partitions[partition] = self.make(partition, self._fetch, generation)
        # The one that everybody waited for may have gone to another worker while it was being opened.
        if all(owner.ready for owner in self.partitions.values()):
            self.on_ready()

    async def close(self) -> None:
        """Ends all partitions after their running batches, and tells the group how far they came."""
        partitions = list(self.partitions.values())
        await asyncio.gather(*(owner.suspend() for owner in partitions))
        await self._hint()
        await asyncio.gather(*(owner.close() for owner in partitions), *self._closing)
        if self.on_closed is not None:
            await self.on_closed()

    # --- what partitions ask for -----------------------------------------------------------------------------------

    def _tps(self, partition: int) -> set[TP]:
        return {TP(topic, partition) for topic in self.sources}

    async def _start(self, owner: Partition) -> None:
        consumer = self.app.consumer
        assignment = consumer.assignment()
        for tp in sorted(self._tps(owner.number)):
            if tp in assignment:
                await consumer.seek(tp, owner.begin(tp.topic))
        self._resume(owner.number)
        if all(owner.ready for owner in self.partitions.values()):
            self.on_ready()

    def _pause(self, partition: int) -> None:
        self.app.consumer.pause_partitions(self._tps(partition))

    def _resume(self, partition: int) -> None:
        consumer = self.app.consumer
        consumer.resume_partitions(self._tps(partition) & consumer.assignment())

    async def _caught_up(self, partition: int) -> bool:
        tp = TP(self.sources[0], partition)
        try:
            end = (await self.app.consumer.highwaters(tp))[tp]
            position = await self.app.consumer.position(tp)
        except IllegalStateError:  # a rebalance has taken it away between the two questions
            return False
        return position is not None and position >= end

    async def _owns(self, partition: int) -> bool:
        """Whether the group agrees that the partition is here. Asks on while nobody knows; a rebalance ends that."""
        consumer: Any = self.app.consumer
        tp = TP(self.sources[0], partition)
        while True:
            owner = self.partitions.get(partition)
            if owner is None or owner.generation < 0 or tp not in consumer.assignment():
                return False
            try:
                async with asyncio.timeout(5):
                    return bool(await consumer._commit({tp: owner.applied(tp.topic) + 1}))
            except (KafkaError, TimeoutError) as error:
                log.warning("partition %s: the group does not answer whether it is here: %r", partition, error)
                await asyncio.sleep(0.5)

    # --- offsets of the group: for those who watch its lag ---------------------------------------------------------

    async def _commit_hints(self) -> None:
        while not self.app.should_stop:
            await self.app.sleep(HINT_EVERY_S)
            await self._hint()
            self._ask_for_what_was_given_up()

    def _ask_for_what_was_given_up(self) -> None:
        """A partition that was given up and is still assigned here would be handled by nobody: the group shall speak.

        It is not opened again in this generation: who gave it up was told, or thinks, that another worker has it.
        """
        closed = [number for number, owner in self.partitions.items() if owner.state == "closed"]
        if closed and not self.app.rebalancing and not self.app.should_stop:
            log.warning("partitions %s were given up but are still assigned here: the group is joined again", closed)
            consumer: Any = self.app.consumer
            consumer.rejoin()

    async def _hint(self) -> None:
        if self.app.rebalancing:
            return
        offsets = {
            TP(topic, owner.number): owner.applied(topic) + 1
            for owner in self.partitions.values()
            if owner.state in ("working", "suspended")
            for topic in self.sources
        }
        changed = {tp: offset for tp, offset in offsets.items() if offset > self._hints.get(tp, 0)}
        if changed:
            consumer: Any = self.app.consumer
            try:
                async with asyncio.timeout(3):
                    if await consumer._commit(changed):
                        self._hints.update(changed)
            except (KafkaError, TimeoutError) as error:
                log.info("the group's offsets could not be committed, which matters to watchers only: %r", error)

    def status(self) -> list[dict[str, Any]]:
        """One row per partition, for metrics and `aura status`."""
        return [partition.status() for partition in self.partitions.values()]
