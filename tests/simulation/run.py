"""One run: load and faults, then everything heals, comes to rest within bounded time, and is checked."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import asyncpg

from agents.sink import SinkPartition
from agents.worker import NAMES
from aura_stream.engine import partition, producer, unit
from aura_stream.engine.shard import Shard
from aura_stream.ledger import writer
from aura_stream.ledger.errors import Diverged
from tests.simulation.check import Checker
from tests.simulation.faults import Profile
from tests.simulation.loop import PROCESS, Loop, Stuck
from tests.simulation.postgres import connector
from tests.simulation.producer import SimulatedClient
from tests.simulation.workload import COMMANDS, Client
from tests.simulation.world import LEDGER, PARTITIONS, SINK, World

REST_S = 120.0  # virtual seconds after healing: session, rebalance, time-outs and back-offs, with room
LOAD_S = 300.0
SMALL: dict[tuple[Any, str], int] = {
    (partition, "BATCH_RECORDS_MAX"): 7,
    (partition, "WAITING_MAX"): 20,
    (unit, "CACHE_MAX"): 12,
    (unit, "DEADLINES_PER_UNIT"): 2,
    (unit, "JOURNAL_PART_MAX"): 2_000,
    (unit, "SIGNALS_MAX"): 2,
    (writer, "GROUP_BYTES"): 4_000,
}
"""Bounds that a small world would never reach; every other seed reaches them all the time."""
AFTER_ALL_MS = 24 * 3600 * 1000  # longer than any hold, however clocks have jumped
Tracing = Callable[[str], None] | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a seed."""

    seed: int
    violations: list[str]
    digest: str
    seconds: float  # virtual
    steps: int
    figures: dict[str, int]

    @property
    def replay(self) -> str:
        """The command that shows it again."""
        return f"python -m tests.simulation --seed {self.seed} --trace"


def run(seed: int, tracing: Tracing = None, profile: Profile | None = None) -> Result:
    """Runs one seed, in the climate that it draws or in a given one. What is wrong stands in the result."""
    gc.disable()  # what is collected when would otherwise depend on the machine
    gc.freeze()  # what is there already need not be looked at afterwards
    before = logging.root.manager.disable
    if tracing is None:
        logging.disable(logging.CRITICAL)
    loop = Loop()
    world = World(seed, loop, tracing, profile)
    client = Client(world)
    try:
        with _in_place_of_the_world(world, small=seed % 2 == 1):
            try:
                loop.run_until_complete(_scenario(world, client))
            except Stuck as error:
                world.violations.append(f"stuck at {loop.now:.3f} s: {error}")
            _bury(world)
    finally:
        logging.disable(before)
        loop.close()
    figures = {
        "commands": sum(len(world.broker.at((NAMES.commands, number)).records) for number in range(PARTITIONS)),
        "units": sum(
            len(world.broker.at((NAMES.journal, number)).committed(0, 1 << 40)) for number in range(PARTITIONS)
        ),
        "late ends": world.broker.late_ends,
        "timed out": world.broker.timed_out,
        "generations": sum(group.generation for group in world.groups.values()),
        "database commits": world.server.commits,
        **world.faults.counts,
    }
    result = Result(seed, world.violations, _digest(world), loop.now, loop.steps, figures)
    del loop, world, client
    gc.collect()
    gc.unfreeze()
    gc.enable()
    return result


@contextlib.contextmanager
def _in_place_of_the_world(world: World, *, small: bool) -> Iterator[None]:
    def make_client(_: str, transactional_id: str) -> SimulatedClient:
        return SimulatedClient(world.network, PROCESS.get(), transactional_id)

    stop = SinkPartition._stop_here

    async def stopping(self: SinkPartition, error: Diverged) -> None:
        world.violations.append(f"a sink found that Postgres and the journal differ: {error}")
        await stop(self, error)

    with (
        mock.patch.object(SinkPartition, "_stop_here", stopping),
        mock.patch.object(producer, "TransactionClient", make_client),
        mock.patch.object(asyncpg, "connect", connector(world.server)),
        contextlib.ExitStack() as bounds,
    ):
        for (module, name), value in SMALL.items() if small else ():
            bounds.enter_context(mock.patch.object(module, name, value))
        yield


async def _scenario(world: World, client: Client) -> None:
    machines = ["l1", "l2", "s1", "s2"][: world.random.choice((3, 4, 4))]
    for machine in machines:
        world.launch(machine)
    disturbing = [world.loop.create_task(disturb) for disturb in _disturbances(world, client)]
    loading = world.loop.create_task(client.run())
    try:
        async with asyncio.timeout(LOAD_S):
            await loading
    except TimeoutError:
        world.violations.append("clients could not send all within the time")
    await asyncio.sleep(world.random.choice((0.0, 2.0, 15.0)))
    for task in disturbing:
        task.cancel()
    await asyncio.gather(*disturbing, return_exceptions=True)
    _heal(world)
    if not await _rest(world):
        return
    world.jumped_ms += AFTER_ALL_MS
    if not await _rest(world):
        return
    for context in world.loop.broken:
        world.violations.append(f"nobody handled: {context.get('message')}: {context.get('exception')!r}")
    world.violations.extend(await Checker(world, client).run())


def _heal(world: World) -> None:
    world.trace("world", "heals")
    world.faults.heal()
    world.broker.down = world.server.down = False
    for process in world.living():
        process.isolated = False
        process.skew_ms = 0
        process.thaw()


async def _rest(world: World) -> bool:
    """Until nothing is left to do; a violation when that takes too long."""
    until = world.loop.now + REST_S
    while world.loop.now < until and not world.violations:
        await asyncio.sleep(0.5)
        if not _busy(world):
            return True
    if not world.violations:
        world.violations.append(f"not at rest {REST_S:.0f} s after healing: {'; '.join(_busy(world))}")
    return False


def _busy(world: World) -> list[str]:
    """What is not done yet."""
    busy = [f"{topic} {n} has open transactions" for (topic, n), log in world.broker.partitions.items() if log.open]
    for role, topics in ((LEDGER, (NAMES.commands, NAMES.signals)), (SINK, (NAMES.journal,))):
        working = [partition for partition in world.partitions(role) if partition.state == "working"]
        for number in range(PARTITIONS):
            owners = [partition for partition in working if partition.number == number]
            if len(owners) != 1:
                busy.append(f"{role} {number} has {len(owners)} owners")
                continue
            (owner,) = owners
            if not owner._idle.is_set():
                busy.append(f"{role} {number} is at work")
            for topic in topics:
                log = world.broker.at((topic, number))
                if left := log.committed(owner.applied(topic) + 1, len(log.records)):
                    busy.append(f"{topic} {number}: {len(left)} records are not handled")
            memory = owner._memory if isinstance(owner, Shard) else None
            if memory is not None and memory.next_due <= world.now_ms() + memory.moved_ms:
                busy.append(f"{role} {number} has a deadline to fire")
    return busy


# --- what comes from outside -----------------------------------------------------------------------------------------


def _disturbances(world: World, client: Client) -> Iterator[Any]:
    profile = world.faults.profile
    during = max(4.0, COMMANDS * client.pace)
    for count, disturb in (
        (profile.outages, _outage),
        (profile.rebalances, _join_and_leave),
        (profile.isolations, _isolation),
        (profile.restarts, _restart_of_database),
        (profile.jumps, _jump),
        (profile.rewinds, _rewind),
    ):
        for _ in range(count):
            yield disturb(world, world.random.uniform(0.0, during))


async def _outage(world: World, when: float) -> None:
    await asyncio.sleep(when)
    world.trace("world", "the brokers are away")
    world.faults.counts["outages"] += 1
    world.broker.down = True
    await asyncio.sleep(world.random.choice((0.2, 3.0, 9.0)))
    world.broker.down = False
    world.trace("world", "the brokers are back")


async def _restart_of_database(world: World, when: float) -> None:
    await asyncio.sleep(when)
    world.trace("world", "the database restarts")
    world.faults.counts["database restarts"] += 1
    world.server.restart()
    world.server.down = True
    await asyncio.sleep(world.random.choice((0.1, 2.0, 8.0)))
    world.server.down = False


async def _join_and_leave(world: World, when: float) -> None:
    await asyncio.sleep(when)
    kind = world.random.choice("ls")
    spare = f"{kind}3"
    world.faults.counts["joined or left"] += 1
    if (process := world.workers.get(spare)) is None:
        world.launch(spare)
        return
    if world.random.random() < 0.5:
        process.run(process.stop)
    else:
        process.kill("by kill -9")


async def _isolation(world: World, when: float) -> None:
    await asyncio.sleep(when)
    living = world.living()
    if living:
        process = world.random.choice(living)
        process.trace("is cut off from the brokers")
        world.faults.counts["isolations"] += 1
        process.isolated = True
        await asyncio.sleep(world.random.choice((0.5, 4.0, 14.0)))
        process.isolated = False
        process.trace("hears the brokers again")


async def _jump(world: World, when: float) -> None:
    await asyncio.sleep(when)
    by = world.random.choice((-3_600_000, -1_000, 1_000, 3_600_000, 25 * 3_600_000, 8 * 24 * 3_600_000))
    world.trace("world", f"all clocks jump by {by} ms")
    world.faults.counts["clock jumps"] += 1
    world.jumped_ms += by


async def _rewind(world: World, when: float) -> None:
    await asyncio.sleep(when)
    world.trace("world", "the groups' offsets are reset to the beginning")
    world.faults.counts["rewinds"] += 1
    for group in world.groups.values():
        group.committed = dict.fromkeys(group.committed, 0)


def _bury(world: World) -> None:
    """Ends all that still runs, so that nothing is left to the interpreter."""
    world.faults.heal()
    for process in world.living():
        process.dead = True
        process.thaw()
        for task in list(process.tasks):
            task.cancel()
    left = asyncio.all_tasks(world.loop)
    for task in left:
        task.cancel()
    with contextlib.suppress(Stuck):
        world.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def _digest(world: World) -> str:
    total = hashlib.blake2b(digest_size=16)
    total.update(world.traced)
    for place in sorted(world.broker.partitions):
        log = world.broker.partitions[place]
        total.update(repr((place, sorted(log.aborted), log.records)).encode())
    for table, rows in world.server.tables.items():
        total.update(repr((table, sorted(rows.items()))).encode())
    total.update(repr(sorted(world.server.offsets.items())).encode())
    return total.hexdigest()


__all__ = ["Result", "run"]
