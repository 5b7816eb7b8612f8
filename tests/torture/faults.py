"""The faults that are drawn at random, by row of the fault matrix: each breaks something while its block lasts.

What a fault breaks it mends at the end of its block as far as the row says so; the supervisor then heals the rest
(:meth:`TortureStack.heal` starts what was killed) and asks for progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from aura_stream.chain.chaos import Chaos
from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.embedded.processes import Process
from aura_stream.engine.partition import BATCH_RECORDS_MAX, WAITING_MAX
from tests.e2e.client import Client, Malformed
from tests.e2e.stack import eventually
from tests.settlements import plan
from tests.torture.proxies import ADD_PARTITIONS, END_TXN, INIT_PRODUCER_ID, PRODUCE, TRANSACTIONAL, Rule
from tests.torture.role import LEDGER_POINTS, SINK_POINTS
from tests.torture.settling import Settling
from tests.torture.stack import TortureStack

Inject = Callable[["Torture"], AbstractAsyncContextManager[None]]
ROLE = "tests.torture.role"


@dataclass(frozen=True)
class Torture:
    """What a fault needs: the stack, the client that loads it, its own chances, and who settles, if anybody does."""

    stack: TortureStack
    client: Client
    random: random.Random
    settling: Settling | None = None

    def some(self, *roles: str) -> Process:
        """A running process of one of the roles."""
        running = [p for name, p in sorted(self.stack.processes.items()) if p.alive and name.startswith(roles)]
        return self.random.choice(running)

    async def pause(self, low: float, high: float) -> None:
        """The time for which a fault lasts."""
        await asyncio.sleep(self.random.uniform(low, high))


@dataclass(frozen=True)
class Fault:
    """A row of the matrix that can be drawn. `unable` says why it cannot be had on this machine ("" if it can)."""

    row: str
    place: str  # the part of the system that it breaks
    name: str
    inject: Inject
    unable: Callable[[], str] = lambda: ""


# --- what root alone may do ------------------------------------------------------------------------------------------


def no_tmpfs() -> str:
    """Why no small file system can be mounted here; "" if one can."""
    if os.geteuid() != 0:
        return "needs root: mounts a small tmpfs"
    with tempfile.TemporaryDirectory() as place:
        try:
            tmpfs(Path(place), 1)
        except OSError as error:
            return f"no tmpfs can be mounted: {error}"
        subprocess.run(["umount", place], check=False, capture_output=True)
    return ""


def tmpfs(place: Path, mib: int) -> None:
    """Mounts a file system of so many MiB. Raises OSError when that is not allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(done.stderr.strip())


def fill(place: Path) -> Path:
    """Fills a file system to its last block; returns the file that does it."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * (64 << 10))
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x")
    return filler


# --- processes -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def kill(torture: Torture) -> AsyncIterator[None]:
    """kill -9 of a worker, a sink or the API."""
    await torture.stack.kill(torture.some("ledger", "sink", "api").name)
    await torture.pause(0.1, 2)
    yield


@asynccontextmanager
async def kill_at_point(torture: Torture) -> AsyncIterator[None]:
    """A worker that ends itself at a named point of its work."""
    point = torture.random.choice(LEDGER_POINTS + SINK_POINTS)
    role = "sink" if point in SINK_POINTS else "ledger"
    victim = torture.some(role)
    slot = int(victim.name[-1])
    await torture.stack.kill(victim.name)
    process = await torture.stack.call(
        lambda: torture.stack.launch(
            role, slot, module=ROLE, AURA_TORTURE=f"die@{point}:{torture.random.randint(1, 12)}"
        )
    )
    await torture.stack.call(process.wait, 12.0)
    yield
    await torture.stack.kill(process.name)


@asynccontextmanager
async def terminate(torture: Torture) -> AsyncIterator[None]:
    """SIGTERM under load: exit code 0 in time."""
    name = torture.some("ledger", "sink", "api").name
    code = await torture.stack.terminate(name)
    assert code == 0, f"{name} ended with {code} after SIGTERM:\n{torture.stack.logs(30)}"
    yield


async def frozen(torture: Torture, *roles: str) -> None:
    """Stops a process of one of the roles for about its session or longer, then lets it go on."""
    victim = torture.some(*roles)
    victim.freeze()
    session = torture.stack.settings.session_timeout_s
    await torture.pause(session * 0.5, session * 1.6)
    victim.thaw()


@asynccontextmanager
async def freeze(torture: Torture) -> AsyncIterator[None]:
    """SIGSTOP for longer than the session, then SIGCONT: a zombie."""
    await frozen(torture, "ledger", "sink")
    yield


@asynccontextmanager
async def rebalance_storm(torture: Torture) -> AsyncIterator[None]:
    """A third ledger worker joins and leaves."""
    for _ in range(2):
        await torture.stack.start("ledger", 2)
        await torture.pause(0.2, 1.5)
        if torture.random.random() < 0.5:
            await torture.stack.kill("ledger-2")
        else:
            assert await torture.stack.terminate("ledger-2") == 0
    yield


@asynccontextmanager
async def blocked_loop(torture: Torture) -> AsyncIterator[None]:
    """A worker whose event loop stands still for longer than its session, in the middle of a unit."""
    victim = torture.some("ledger")
    await torture.stack.kill(victim.name)
    seconds = torture.stack.settings.session_timeout_s * 1.5
    told = f"block@{torture.random.choice(('decided', 'sent', 'committed'))}:3:{seconds}"
    await torture.stack.start("ledger", int(victim.name[-1]), module=ROLE, AURA_TORTURE=told)
    await torture.pause(seconds, seconds + 1)
    yield
    await torture.stack.kill(victim.name)


@asynccontextmanager
async def little_memory(torture: Torture) -> AsyncIterator[None]:
    """A worker that may have no more memory than it has: it ends by an error, wherever that comes."""
    victim = torture.some("ledger", "sink")
    assert victim.pid is not None
    limit_memory(victim.pid)
    await torture.stack.call(victim.wait, 6.0)
    yield
    await torture.stack.kill(victim.name)


def limit_memory(pid: int, room: int = 0) -> None:
    """Lets a process have `room` more bytes of address space than it has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + room
    resource.prlimit(pid, resource.RLIMIT_AS, (size, size))


@asynccontextmanager
async def clock_jumps(torture: Torture) -> AsyncIterator[None]:
    """A worker whose wall clock jumps by an hour, forth and back, while it runs."""
    victim = torture.some("ledger")
    await torture.stack.kill(victim.name)
    file = torture.stack.local.home / f"clock-{victim.name}"
    file.write_text("0")
    await torture.stack.start("ledger", int(victim.name[-1]), module=ROLE, AURA_TORTURE=f"clock@{file}")
    for seconds in (3600, -3600, torture.random.randint(-86_400, 86_400)):
        file.write_text(str(seconds))
        await torture.pause(0.5, 1.5)
    yield
    file.write_text("0")
    await torture.stack.kill(victim.name)


# --- local state -----------------------------------------------------------------------------------------------------


def state_of(stack: TortureStack, worker: str) -> list[Path]:
    """The directories of a worker's local stores."""
    found = sorted((stack.local.home / "state" / worker).glob("aura-ledger-*"))
    return [path for path in found if path.is_dir()]


@asynccontextmanager
async def state_lost(torture: Torture) -> AsyncIterator[None]:
    """A worker dies and its directory is gone, or has flipped bits."""
    victim = torture.some("ledger")
    await torture.stack.kill(victim.name)
    for store in state_of(torture.stack, victim.name):
        if torture.random.random() < 0.4:
            await torture.stack.call(shutil.rmtree, store)
        else:
            flip_bits(store, torture.random)
    yield


def flip_bits(store: Path, chances: random.Random, *, share: float = 0.002) -> None:
    """Flips some bits in the data of a closed store."""
    for path in sorted(store.glob("*")):
        if path.suffix in (".sst", ".log") and path.stat().st_size:
            data = bytearray(path.read_bytes())
            for _ in range(max(1, int(len(data) * share))):
                data[chances.randrange(len(data))] ^= 1 << chances.randrange(8)
            path.write_bytes(data)


@asynccontextmanager
async def state_disk_full(torture: Torture) -> AsyncIterator[None]:
    """The disk of a worker's local state is full."""
    victim = torture.some("ledger")
    await torture.stack.kill(victim.name)
    place = torture.stack.local.home / "small"
    place.mkdir(exist_ok=True)
    await torture.stack.call(tmpfs, place, 4)
    try:
        process = await torture.stack.start("ledger", int(victim.name[-1]), AURA_STATE_DIR=str(place))
        await torture.stack.call(fill, place)
        await torture.stack.call(process.wait, 10.0)
        yield
    finally:
        await torture.stack.kill(victim.name)
        await torture.stack.call(lambda: subprocess.run(["umount", "-l", str(place)], check=True))


# --- Kafka -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def broker_killed(torture: Torture) -> AsyncIterator[None]:
    """One broker dies; two are left."""
    broker = torture.random.choice(torture.stack.cluster.brokers)
    await torture.stack.call(broker.kill)
    await torture.pause(1, 6)
    yield


@asynccontextmanager
async def broker_frozen(torture: Torture) -> AsyncIterator[None]:
    """One broker stands still for longer than the others wait for it."""
    broker = torture.random.choice(torture.stack.cluster.brokers)
    broker.process.freeze()
    await torture.pause(1, 8)
    broker.process.thaw()
    yield


@asynccontextmanager
async def broker_stall(torture: Torture) -> AsyncIterator[None]:
    """All that goes to the brokers is slow, and in the middle of it a worker dies."""
    victim = torture.some("ledger")
    for proxy in torture.stack.lane(victim.name):
        proxy.slow_s = torture.random.choice((0.15, 0.5, 2.0))
    await torture.pause(2, 6)
    await torture.stack.kill(victim.name)
    yield


@asynccontextmanager
async def broker_replaced(torture: Torture) -> AsyncIterator[None]:
    """One broker is lost with its disk, and comes back empty."""
    number = torture.random.randrange(len(torture.stack.cluster.brokers))
    await torture.stack.call(torture.stack.cluster.brokers[number].kill)
    await torture.pause(1, 4)
    await torture.stack.broker(number, wipe=True)
    yield


@asynccontextmanager
async def majority_lost(torture: Torture) -> AsyncIterator[None]:
    """Two brokers of three die: nothing can be accepted."""
    down = torture.random.sample(torture.stack.cluster.brokers, 2)
    for broker in down:
        await torture.stack.call(broker.kill)
    await torture.pause(1, 4)
    yield


@asynccontextmanager
async def requests_lost(torture: Torture) -> AsyncIterator[None]:
    """Requests of transactions, and answers to them, are lost, late and repeated."""
    rules = [
        Rule("lose request", TRANSACTIONAL, chance=0.02),
        Rule("lose reply", TRANSACTIONAL, chance=0.02),
        Rule("late", (END_TXN, ADD_PARTITIONS, INIT_PRODUCER_ID), delay_s=torture.random.uniform(0.1, 4), chance=0.03),
        Rule("mute", (END_TXN,), chance=0.02),
        Rule("delay", (PRODUCE, END_TXN), delay_s=torture.random.uniform(0.1, 3), chance=0.02),
    ]
    for lane in ("ledger-0", "ledger-1"):
        for proxy in torture.stack.lane(lane):
            proxy.rules = torture.random.sample(rules, 3)
    await torture.pause(4, 10)
    yield


@asynccontextmanager
async def kafka_partition(torture: Torture) -> AsyncIterator[None]:
    """One worker is cut off from Kafka: both ways, or one."""
    lane = torture.random.choice(("ledger-0", "ledger-1"))
    ways = torture.random.choice(((), ("up",), ("down",)))
    for proxy in torture.stack.lane(lane):
        proxy.hold(*ways)
    session = torture.stack.settings.session_timeout_s
    await torture.pause(session * 0.5, session * 1.8)
    yield


@asynccontextmanager
async def swizzle(torture: Torture) -> AsyncIterator[None]:
    """All links stop one after another, and go on in another order."""
    proxies = list(torture.stack.proxies())
    torture.random.shuffle(proxies)
    for proxy in proxies:
        proxy.hold()
        await torture.pause(0, 0.4)
    torture.random.shuffle(proxies)
    for proxy in proxies:
        proxy.heal()
        await torture.pause(0, 0.4)
    yield


# --- Postgres --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def postgres_killed(torture: Torture) -> AsyncIterator[None]:
    """Postgres dies."""
    await torture.stack.call(torture.stack.local.postgres.kill)
    await torture.pause(0.5, 4)
    yield


@asynccontextmanager
async def commit_reply_lost(torture: Torture) -> AsyncIterator[None]:
    """Postgres commits, and the sink does not hear of it."""
    async with _commits_lost(torture, answer=True):
        yield


@asynccontextmanager
async def commit_request_lost(torture: Torture) -> AsyncIterator[None]:
    """The sink's COMMIT never arrives."""
    async with _commits_lost(torture, answer=False):
        yield


@asynccontextmanager
async def _commits_lost(torture: Torture, *, answer: bool) -> AsyncIterator[None]:
    proxy = torture.stack.postgres_of["sink"]
    before, times = proxy.cuts, torture.random.randint(1, 4)
    proxy.lose(b"COMMIT", answer=answer, times=times)

    async def missing() -> str:
        return "" if proxy.cuts > before else "no COMMIT came by"

    await eventually(missing, 30, "a COMMIT is lost", torture.stack.logs)
    yield


@asynccontextmanager
async def postgres_slow(torture: Torture) -> AsyncIterator[None]:
    """Every message to and from Postgres takes half a second longer."""
    for proxy in torture.stack.postgres_of.values():
        proxy.slow_s = 0.25
    await torture.pause(4, 8)
    yield


@asynccontextmanager
async def postgres_locked(torture: Torture) -> AsyncIterator[None]:
    """A session holds what the sinks need, and asks for what they hold: locks in vain, and deadlocks."""
    stack = torture.stack
    async with owner_session(stack) as session:
        for _ in range(2):
            with contextlib.suppress(asyncpg.PostgresError):
                async with session.transaction():
                    await session.execute("LOCK TABLE ledger.units IN SHARE MODE")
                    await torture.pause(0.1, 1)
                    await session.execute("UPDATE ledger.sink_offsets SET epoch = epoch")
            await torture.pause(0.1, 0.5)
    yield


@asynccontextmanager
async def postgres_sessions_ended(torture: Torture) -> AsyncIterator[None]:
    """An operator ends the sessions of the sinks and the API."""
    for _ in range(3):
        await torture.stack.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'aura%' AND pid <> pg_backend_pid()"
        )
        await torture.pause(0.2, 1.5)
    yield


@asynccontextmanager
async def postgres_full(torture: Torture) -> AsyncIterator[None]:
    """All connections that Postgres allows are taken."""
    async with all_connections(torture.stack):
        await torture.pause(1, 4)
    yield


@asynccontextmanager
async def postgres_partition(torture: Torture) -> AsyncIterator[None]:
    """Sinks, or the API, are cut off from Postgres."""
    proxy = torture.stack.postgres_of[torture.random.choice(("sink", "sink", "api"))]
    proxy.hold(*torture.random.choice(((), ("up",), ("down",))))
    await torture.pause(2, 9)
    yield


@asynccontextmanager
async def owner_session(stack: TortureStack) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A session of the database's owner, ended with the block even when its server is gone."""
    session = await stack.connect()
    try:
        yield session
    finally:
        session.terminate()


@asynccontextmanager
async def all_connections(stack: TortureStack) -> AsyncIterator[None]:
    """Ends the sessions of sinks and API, and takes every connection that there is."""
    dsn = stack.local.postgres.dsn("aura_write")
    taken: list[asyncpg.Connection[asyncpg.Record]] = []
    try:
        async with owner_session(stack) as owner:
            for _ in range(3):
                await owner.fetch(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'aura%'"
                )
                with contextlib.suppress(asyncpg.TooManyConnectionsError):
                    while True:
                        taken.append(await asyncpg.connect(dsn, timeout=5))
            yield
    finally:
        for one in taken:
            one.terminate()


# --- input -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bad_input(torture: Torture) -> AsyncIterator[None]:
    """One of every kind of bytes that are no command."""
    async with torture.client.connected():
        for one in torture.client.bad_bytes("default", "c1"):
            await torture.client.put_raw(one)
    yield


@asynccontextmanager
async def duplicates(torture: Torture) -> AsyncIterator[None]:
    """Bytes that were sent long ago are sent again, up to five times."""
    client = torture.client
    async with client.connected():
        sent = [(i, a) for i in client.intents for a in i.attempts if a.door == "kafka" and a.acknowledged]
        for intent, attempt in torture.random.sample(sent, min(30, len(sent))):
            for _ in range(torture.random.randint(1, 5)):
                await client.put(intent, command_id=attempt.command_id)
        bad = [one for one in client.malformed if one.attempt is not None and one.attempt.acknowledged]
        for one in torture.random.sample(bad, min(5, len(bad))):
            await client.put_raw(Malformed(one.key, one.value, one.partition, one.reason))
    yield


@asynccontextmanager
async def backlog(torture: Torture) -> AsyncIterator[None]:
    """More commands wait in every partition than an inbox takes, and nobody is there to take them."""
    for name in ("ledger-0", "ledger-1"):
        if torture.stack.processes[name].alive:
            await torture.stack.kill(name)
    async with torture.client.connected():
        await torture.client.flood(WAITING_MAX + BATCH_RECORDS_MAX)
    yield


# --- banks and chain -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connector_killed(torture: Torture) -> AsyncIterator[None]:
    """kill -9 of a connector, with calls under way."""
    await torture.stack.kill(torture.some("bank", "chain").name)
    await torture.pause(0.1, 3)
    yield


@asynccontextmanager
async def connector_frozen(torture: Torture) -> AsyncIterator[None]:
    """SIGSTOP of a connector for longer than its session: its partitions are given to nobody, and then to itself."""
    await frozen(torture, "bank", "chain")
    yield


@asynccontextmanager
async def bank_is(torture: Torture, low: float, high: float, **profile: object) -> AsyncIterator[None]:
    """One bank, or both, misbehave so for some seconds."""
    assert torture.settling is not None
    banks = torture.random.choice((("bank-a",), ("bank-b",), ("bank-a", "bank-b")))
    for bank in banks:
        await torture.settling.set_profile(bank, plan.profile(0, torture.settling.seed) | profile)
    await torture.pause(low, high)
    await torture.settling.usual(*banks)
    yield


@asynccontextmanager
async def bank_hangs(torture: Torture) -> AsyncIterator[None]:
    """A bank takes calls and answers none."""
    async with bank_is(torture, 3, 8, name="hanging"):
        yield


@asynccontextmanager
async def bank_down(torture: Torture) -> AsyncIterator[None]:
    """A bank answers 503, and holds its webhooks back."""
    async with bank_is(torture, 3, 8, name="down"):
        yield


@asynccontextmanager
async def bank_acts_and_does_not_say(torture: Torture) -> AsyncIterator[None]:
    """Most calls are acted on, and answered by nothing, by 500, or by half an answer."""
    rates = {"timeout_after": 3500, "error_after": 3500, "cut_answer": 2000, "late": 500}
    async with bank_is(torture, 4, 9, rates=rates):
        yield


@asynccontextmanager
async def webhooks_in_disorder(torture: Torture) -> AsyncIterator[None]:
    """Webhooks come twice, late, after those that follow them, or never."""
    rates = {"duplicate": 4000, "out_of_order": 3500, "lost": 2000}
    async with bank_is(torture, 4, 9, rates=rates):
        yield


@asynccontextmanager
async def webhooks_spoiled(torture: Torture) -> AsyncIterator[None]:
    """Webhooks are first sent with a wrong signature, an old time, or half of their body."""
    rates = {"bad_signature": 4000, "stale": 3000, "cut": 2500}
    async with bank_is(torture, 4, 9, rates=rates):
        yield


@asynccontextmanager
async def bank_killed(torture: Torture) -> AsyncIterator[None]:
    """The banks' process dies, with its clock and its webhooks."""
    assert torture.stack.bank is not None
    await torture.stack.call(torture.stack.bank.kill)
    await torture.pause(1, 4)
    yield


@asynccontextmanager
async def chain_killed(torture: Torture) -> AsyncIterator[None]:
    """The node dies; what it had not saved is gone: its pool, and its youngest blocks."""
    await torture.stack.call(torture.stack.kill_chain)
    await torture.pause(1, 4)
    yield


@asynccontextmanager
async def chain_frozen(torture: Torture) -> AsyncIterator[None]:
    """The node takes connections and answers nothing."""
    chain = torture.stack.chain
    assert chain is not None
    chain.process.freeze()
    await torture.pause(2, 8)
    chain.process.thaw()
    yield


@asynccontextmanager
async def _hand_on(torture: Torture) -> AsyncIterator[Chaos]:
    """The hand that moves the chain; in the end it mines again."""
    assert torture.stack.chain is not None
    async with ChainNode(torture.stack.chain.rpc_url) as node:
        hand = Chaos(node, torture.stack.settings)
        with contextlib.suppress(ChainError):  # killed or frozen beside this
            try:
                yield hand
            finally:
                await hand.base_fee(10**9)
                await hand.resume_mining()


@asynccontextmanager
async def chain_reorganised(torture: Torture) -> AsyncIterator[None]:
    """The youngest blocks are replaced by empty ones, one more than those that confirm."""
    async with _hand_on(torture) as hand:
        for _ in range(torture.random.randint(1, 3)):
            await hand.reorg(torture.random.randint(1, 3))
            await torture.pause(0.5, 2)
    yield


@asynccontextmanager
async def chain_forgets(torture: Torture) -> AsyncIterator[None]:
    """No block comes, and the node forgets what waits in its pool."""
    async with _hand_on(torture) as hand:
        await hand.stop_mining()
        for _ in range(3):
            await torture.pause(0.5, 2)
            await hand.drop_all()
    yield


@asynccontextmanager
async def chain_stuck(torture: Torture) -> AsyncIterator[None]:
    """Blocks come, and are too dear for what waits: the same nonce must pay more."""
    async with _hand_on(torture) as hand:
        for _ in range(torture.random.randint(4, 8)):
            await hand.base_fee(10**12)
            await hand.mine(1)
            await torture.pause(0.3, 0.8)
    yield


FAULTS: tuple[Fault, ...] = (
    Fault("N01", "workers", "kill -9", kill),
    Fault("N02", "workers", "kill at a point", kill_at_point),
    Fault("N03", "workers", "SIGTERM", terminate),
    Fault("N04", "workers", "freeze", freeze),
    Fault("N05", "workers", "rebalance storm", rebalance_storm),
    Fault("N06", "kafka", "broker killed", broker_killed),
    Fault("N06", "kafka", "broker frozen", broker_frozen),
    Fault("N07", "kafka", "broker stall and kill", broker_stall),
    Fault("N07", "kafka", "requests lost, late, muted", requests_lost),
    Fault("N08", "kafka", "broker and its disk lost", broker_replaced),
    Fault("N09", "kafka", "two brokers lost", majority_lost),
    Fault("N10", "postgres", "Postgres killed", postgres_killed),
    Fault("N10", "postgres", "Postgres sessions ended", postgres_sessions_ended),
    Fault("N11", "postgres", "COMMIT reply lost", commit_reply_lost),
    Fault("N12", "postgres", "COMMIT request lost", commit_request_lost),
    Fault("N13", "postgres", "slow Postgres", postgres_slow),
    Fault("N14", "postgres", "locks and deadlocks", postgres_locked),
    Fault("N15", "postgres", "no connection left", postgres_full),
    Fault("N16", "kafka", "worker cut off from Kafka", kafka_partition),
    Fault("N17", "postgres", "cut off from Postgres", postgres_partition),
    Fault("N18", "network", "swizzle", swizzle),
    Fault("N19", "input", "duplicates", duplicates),
    Fault("C03", "workers", "backlog that fills all inboxes", backlog),
    Fault("N21", "input", "bad input", bad_input),
    Fault("N24", "workers", "clock jumps", clock_jumps),
    Fault("N25", "workers", "state disk full", state_disk_full, no_tmpfs),
    Fault("N26", "workers", "local state lost or damaged", state_lost),
    Fault("N36", "workers", "memory limit", little_memory),
    Fault("N37", "workers", "event loop blocked", blocked_loop),
)
"""What the supervisor draws from. The other rows of the matrix have tests of their own; see the operating page."""

OF_BANKS: tuple[Fault, ...] = (
    Fault("N01", "connectors", "connector killed", connector_killed),
    Fault("N04", "connectors", "connector frozen", connector_frozen),
    Fault("N20", "banks", "webhooks in disorder", webhooks_in_disorder),
    Fault("N29", "banks", "webhooks spoiled", webhooks_spoiled),
    Fault("N30", "banks", "bank acts and does not say", bank_acts_and_does_not_say),
    Fault("N31", "banks", "bank hangs", bank_hangs),
    Fault("N31", "banks", "bank down", bank_down),
    Fault("N31", "banks", "bank killed", bank_killed),
    Fault("N32", "chain", "node killed", chain_killed),
    Fault("N32", "chain", "node frozen", chain_frozen),
    Fault("N32", "chain", "blocks replaced", chain_reorganised),
    Fault("N32", "chain", "pool forgotten", chain_forgets),
    Fault("N32", "chain", "fees too low", chain_stuck),
)
"""What it draws from too when there are banks and a chain."""
