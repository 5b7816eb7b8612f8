"""Processes: the real Feed with its real partitions, in a world where anything may stop at any step.

Faust and aiokafka are stood in for by the few members that the engine uses of them; `perform_seek`, `getmany` and
`_commit` are the engine's own. A rebalance goes the way of the real ones: the flow stops, owners are suspended, queues
are cleared (or are not), the new assignment is registered, owners seek, the flow resumes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import copy_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, RebalanceInProgressError
from faust.types import TP

from aura_stream.engine.feed import Feed
from aura_stream.engine.partition import wait_for
from aura_stream.engine.transport import Consumer, ConsumerThread
from tests.simulation.disk import Disk
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.faults import Faults
    from tests.simulation.group import Group
    from tests.simulation.world import World

HEARTBEAT_S = 2.5
FETCH_S = 1.0
FETCHED_MAX = 40
LONG_POLL_S = 5.0


class Process:
    """One life of a worker. `role` is its group."""

    def __init__(self, world: World, name: str, role: str, disk: Disk) -> None:
        self.world, self.name, self.role, self.disk = world, name, role, disk
        self.faults: Faults = world.faults
        self.dead = self.frozen = self.isolated = self.leaving = False
        self.parked: list[tuple[Any, asyncio.Handle]] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.connections: list[Any] = []
        self.skew_ms = 0
        self.app: App | None = None
        self.feed: Feed | None = None

    def clock(self) -> int:
        """What this process takes for the time, ms since 1970."""
        return self.world.now_ms() + self.skew_ms

    def trace(self, what: str) -> None:
        """Notes what happened."""
        self.world.trace(self.name, what)

    async def step(self, what: str) -> None:
        """Every wait of every port comes here: it may take time, be the last thing this process does, or freeze it."""
        if self.dead:
            raise asyncio.CancelledError
        faults, profile = self.faults, self.faults.profile
        self.trace(what)
        if faults.happens(profile.crash):
            self.kill(f"at {what}")
            raise asyncio.CancelledError
        if faults.happens(profile.freeze):
            self.freeze(faults.random.choice((0.5, 6.0, 12.0, 25.0)), f"at {what}")
            await asyncio.sleep(0)
        if delay := faults.delay():
            await asyncio.sleep(delay)
            if self.dead:
                raise asyncio.CancelledError

    async def until_reachable(self) -> None:
        """Waits while no broker answers."""
        while not self.world.network.reachable(self):
            await asyncio.sleep(0.2)
            if self.dead:
                raise asyncio.CancelledError

    # --- life and death --------------------------------------------------------------------------------------------

    def run(self, work: Callable[..., Any], *arguments: Any) -> asyncio.Task[Any]:
        """A task of this process."""
        context = copy_context()
        context.run(PROCESS.set, self)
        return self.world.loop.create_task(self._guarded(work, *arguments), context=context)

    async def _guarded(self, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            await work(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever leaves a task of Faust's ends the worker
            if not self.dead:
                self.fail(error)

    def start(self) -> None:
        """Begins to work."""
        self.trace("starts")
        self.app = App(self)
        self.feed = self.world.make_feed(self)
        for task in self.app.tasks:
            self.run(task)
        self.run(self.app.member)
        self.run(self.app.consumer.drain)
        self.run(self.app.deliver)

    def kill(self, why: str = "") -> None:
        """Ends all of it at once; nothing that its code still does is felt outside."""
        if self.dead:
            return
        self.trace(f"dies {why}")
        self.faults.counts["deaths"] += 1
        self.dead = True
        if self.frozen:
            self.thaw()
        for connection in self.connections:
            if not connection._closed:
                connection.hang_up()
        for task in list(self.tasks):
            task.cancel()
        self.world.died(self)

    def freeze(self, seconds: float, why: str = "") -> None:
        """Stops it where it is."""
        if self.frozen or self.dead:
            return
        self.trace(f"freezes for {seconds} s {why}")
        self.frozen = True
        self.faults.counts["freezes"] += 1
        self.world.broker.later(seconds, self.thaw)

    def thaw(self) -> None:
        """Lets it go on as if nothing had been."""
        if self.frozen:
            self.trace("thaws")
            self.frozen = False
            parked, self.parked = self.parked, []
            self.world.loop.unpark(parked)

    def fail(self, error: BaseException) -> None:
        """The engine stops itself loudly."""
        if not self.dead:
            self.world.stopped(self, error)
            self.kill("loudly")

    async def stop(self) -> None:
        """SIGTERM: partitions end, the group is left, the process exits."""
        assert self.app is not None
        self.trace("is asked to stop")
        self.leaving = True
        self.app.should_stop = True
        await self.app.on_closing()
        group = self.app.group
        with_name = f"{self.name}"
        try:
            await self.world.network.request(self, "leave", lambda: group.leave(with_name))
        except KafkaError:
            pass
        self.kill("in order")


class Signal:
    """Stands for a Faust signal."""

    def __init__(self) -> None:
        self._receivers: list[Callable[..., Awaitable[None]]] = []

    def connect(self, receiver: Callable[..., Awaitable[None]]) -> None:
        """Adds a receiver."""
        self._receivers.append(receiver)

    async def send(self, app: Any, tps: set[TP]) -> None:
        """Calls all."""
        for receiver in self._receivers:
            await receiver(app, tps)


class Assigned(set[TP]):
    """Assigned topic partitions, in the same order on every run."""

    def __iter__(self) -> Iterator[TP]:
        return iter(sorted(super().__iter__()))


class App:
    """Stands for the Faust app."""

    owner_of: Callable[[TP], Any]
    on_closing: Callable[[], Awaitable[Any]]

    def __init__(self, process: Process) -> None:
        self.process = process
        self.group: Group = process.world.groups[process.role]
        self.conf = SimpleNamespace(id=process.role)
        self.on_partitions_revoked, self.on_partitions_assigned = Signal(), Signal()
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        self.consumer_generation_id = 0
        self.should_stop = self.rebalancing = False
        self.queue: deque[tuple[TP, Any]] = deque()
        self.queued = asyncio.Event()
        self.rejoin = asyncio.Event()
        self.consumer = SimulatedConsumer(self)
        self._agent: Callable[[Any], Awaitable[None]] | None = None

    def task(self, function: Callable[[], Awaitable[None]]) -> None:
        """Registers what runs beside."""
        self.tasks.append(function)

    def topic(self, *_: str, **__: Any) -> None:
        """Topics are the group's."""

    def agent(self, _: Any, name: str) -> Callable[[Callable[[Any], Awaitable[None]]], None]:
        """Registers the agent."""

        def register(function: Callable[[Any], Awaitable[None]]) -> None:
            self._agent = function

        return register

    async def sleep(self, seconds: float) -> None:
        """Sleeps."""
        await asyncio.sleep(seconds)

    async def deliver(self) -> None:
        """Runs the agent."""
        assert self._agent is not None
        await self._agent(self)

    async def events(self) -> AsyncIterator[Any]:
        """The agent's stream: what was fetched, some time later."""
        while True:
            while not self.queue:
                self.queued.clear()
                await self.queued.wait()
            await self.process.step("deliver")
            faults = self.process.faults
            if faults.happens(faults.profile.stall):
                await asyncio.sleep(faults.random.uniform(0.1, 3.0))
            # Faust's queues give nothing while the flow is suspended; what was not cleared comes out afterwards.
            await self.consumer.flowing()
            if self.queue:
                _, message = self.queue.popleft()
                yield SimpleNamespace(message=message, value=message.value)

    # --- membership ------------------------------------------------------------------------------------------------

    async def member(self) -> None:
        """aiokafka's coordinator: joins, beats, and calls back when the assignment changes."""
        process, group, consumer = self.process, self.group, self.consumer
        while not self.should_stop:
            self.rebalancing = True
            await self._revoke()
            joined = await self._join()
            if joined is None:
                continue
            generation, numbers = joined
            self.consumer_generation_id = generation
            consumer.assign({TP(topic, number) for topic in group.topics for number in numbers})
            process.trace(f"generation {generation}: {numbers}")
            await process.step("assigned")  # Faust has much to do before it calls those who want to know
            await self.on_partitions_assigned.send(self, consumer.assignment())
            process.run(self._resume, generation)
            await self._beat(generation)

    async def _revoke(self) -> None:
        consumer = self.consumer
        assignment = consumer.assignment()
        if assignment:
            consumer.stop_flow()
            consumer.pause_partitions(assignment)
            if not self.process.faults.happens(0.3):
                self.queue.clear()
        await self.process.step("revoked")
        await self.on_partitions_revoked.send(self, assignment)

    async def _join(self) -> tuple[int, list[int]] | None:
        process, group = self.process, self.group
        try:
            future = await process.world.network.request(process, "join", lambda: group.join(process.name))
            async with asyncio.timeout(30):
                joined = await future
            await process.until_reachable()
            await process.step("sync")
        except (KafkaError, TimeoutError):
            await asyncio.sleep(0.3)
            return None
        return joined

    async def _resume(self, generation: int) -> None:
        """Faust's recovery without tables: seeks, then lets the flow go on."""
        await self.process.step("recovered")
        if self.consumer_generation_id != generation:
            return
        assignment = self.consumer.assignment()
        self.consumer.resume_partitions(assignment)
        await self.consumer.perform_seek()
        self.consumer.resume_flow()
        self.rebalancing = False

    async def _beat(self, generation: int) -> None:
        """Until the group wants something else."""
        process, group = self.process, self.group
        while not self.should_stop:
            if await wait_for(self.rejoin, HEARTBEAT_S):
                self.rejoin.clear()
                return
            try:
                await process.world.network.request(
                    process, "heartbeat", lambda: group.heartbeat(process.name, generation)
                )
            except RebalanceInProgressError:
                return
            except KafkaError as error:
                if not error.retriable or type(error).__name__ in ("UnknownMemberIdError", "IllegalGenerationError"):
                    return


class SimulatedConsumer:
    """Stands for Faust's consumer and aiokafka's under it."""

    def __init__(self, app: App) -> None:
        self.app, self.process = app, app.process
        self._begin: dict[TP, int] = {}
        self._assigned = Assigned()
        self._positions: dict[TP, int | None] = {}
        self._active: set[TP] = set()
        self.flow_active = False
        self._can_resume = asyncio.Event()
        self._arrived = asyncio.Event()

    @property
    def should_stop(self) -> bool:
        """Whether the worker ends."""
        return self.app.should_stop

    def assign(self, tps: set[TP]) -> None:
        """A new assignment; positions are the group's committed ones until somebody seeks."""
        self._assigned = Assigned(tps)
        self._positions = {tp: self.app.group.committed.get(tp) for tp in self._assigned}
        self._active = set()

    def assignment(self) -> Assigned:
        """What is assigned here, as far as this member knows."""
        return Assigned(self._assigned)

    def stop_flow(self) -> None:
        """Nothing is handed out any more."""
        self.flow_active = False
        self._can_resume.clear()

    def resume_flow(self) -> None:
        """Records are handed out."""
        self.flow_active = True
        self._can_resume.set()

    def rejoin(self) -> None:
        """Has the group make a new generation."""
        self.app.rejoin.set()

    async def flowing(self) -> None:
        """Until records may be handed out."""
        while not self.flow_active:
            await self._can_resume.wait()

    def pause_partitions(self, tps: set[TP]) -> None:
        """Fetches no more of these."""
        self._active -= tps

    def resume_partitions(self, tps: set[TP]) -> None:
        """Fetches these."""
        self._active |= tps
        self._arrived.set()

    def _lists(self, records: dict[TopicPartition, Any]) -> Any:
        """The engine's own."""
        return Consumer._lists(self, records)  # type: ignore[arg-type]

    async def perform_seek(self) -> None:
        """The engine's own."""
        await self.process.step("perform seek")
        await Consumer.perform_seek(self)  # type: ignore[arg-type]

    async def seek(self, tp: TP, offset: int) -> None:
        """Where to go on; takes effect at once, as Faust's does."""
        if tp not in self._assigned:
            raise IllegalStateError(f"{tp} is not assigned")
        self.process.trace(f"seeks {tp.topic}-{tp.partition} {offset}")
        self._positions[tp] = offset
        self._begin[tp] = offset
        self._arrived.set()

    async def highwaters(self, tp: TP) -> dict[TP, int]:
        """The end as a read_committed consumer is told it."""
        log = self.process.world.broker.at((tp.topic, tp.partition))
        return {tp: await self.process.world.network.request(self.process, "highwater", lambda: log.stable)}

    async def position(self, tp: TP) -> int | None:
        """The next offset to be fetched. Raises IllegalStateError for what is not assigned."""
        await self.process.step("position")
        if tp not in self._assigned:
            raise IllegalStateError(f"{tp} is not assigned")
        return self._positions[tp]

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """The engine's own, over a commit that stale members are refused."""
        client = SimpleNamespace(commit=self._commit_to_group)
        thread: Any = SimpleNamespace(assignment=self.assignment, _ensure_consumer=lambda: client)
        return await ConsumerThread._commit(thread, offsets)

    async def _commit_to_group(self, offsets: dict[TopicPartition, Any]) -> None:
        app = self.app
        plain = {TP(tp.topic, tp.partition): value.offset for tp, value in offsets.items()}
        generation = app.consumer_generation_id
        while True:
            try:
                await self.process.world.network.request(
                    self.process, "commit", lambda: app.group.commit(self.process.name, generation, plain)
                )
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    # --- fetching --------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Faust's fetcher: hands on what the engine's `getmany` yields."""
        self.process.world.broker.watchers[self._arrived] = frozenset(self.app.group.topics)
        while not self.should_stop:
            lists: Any = Consumer.getmany(self, 1.0)  # type: ignore[arg-type]
            await asyncio.sleep(0)
            async for tp, message in lists:
                self.app.queue.append((tp, message))
                self.app.queued.set()
                if self.process.faults.happens(0.2):
                    await self.process.step("queue")

    async def _wait_next_records(self, timeout: float) -> tuple[dict[TopicPartition, Any], set[TP]]:  # noqa: ASYNC109
        await self.flowing()
        if not self._active:
            await asyncio.sleep(FETCH_S)
            return {}, self._active
        await self.process.step("fetch")
        self._arrived.clear()
        records = self._fetched()
        if not records:
            try:
                async with asyncio.timeout(LONG_POLL_S):
                    await self._arrived.wait()
            except TimeoutError:
                pass
            if not self.process.world.network.reachable(self.process):
                await asyncio.sleep(0.2)
        return records, self._active

    def _fetched(self) -> dict[TopicPartition, Any]:
        world, random = self.process.world, self.process.faults.random
        found: dict[TopicPartition, Any] = {}
        if not self.flow_active or not world.network.reachable(self.process):
            return found
        # Pausing changes the set that is fetched, also during a fetch; and aiokafka takes an empty one for "all".
        for tp in sorted(self._active & self._assigned or self._assigned):
            position = self._positions.get(tp)
            if position is None:
                continue
            log = world.broker.at((tp.topic, tp.partition))
            upto = min(log.stable, position + random.randint(1, FETCHED_MAX))
            if upto > position:
                self._positions[tp] = upto
                if records := log.committed(position, upto):
                    found[TopicPartition(*tp)] = [_fit(record) for record in records]
        return found


class _Fetched:
    """A log record with the two fields that the message of a list has besides."""

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "timestamp_type", "topic", "value")

    def __init__(self, record: Any) -> None:
        self.topic, self.partition, self.offset = record.topic, record.partition, record.offset
        self.timestamp, self.key, self.value = record.timestamp, record.key, record.value
        self.headers, self.timestamp_type = record.headers, 1


def _fit(record: Any) -> _Fetched:
    return _Fetched(record)
