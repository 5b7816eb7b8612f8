"""The simulated cluster: brokers, database, groups, workers that die and come back, and the hand that disturbs them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from agents.ledger import Ledger
from agents.sink import Sink
from agents.worker import NAMES, encode_rules
from aura_stream.domain.state import Rules
from aura_stream.engine.errors import EngineError
from aura_stream.engine.feed import Feed
from aura_stream.engine.partition import Fetch, Partition
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.shard import Setup, Shard
from aura_stream.ledger.writer import LedgerWriter
from tests.simulation.cluster import Process
from tests.simulation.disk import Disk, DiskStores
from tests.simulation.faults import Faults, Profile
from tests.simulation.group import Group
from tests.simulation.kafka import SimulatedKafka
from tests.simulation.log import Broker
from tests.simulation.loop import Loop
from tests.simulation.network import Network
from tests.simulation.postgres import Server
from topics import ACCOUNT_EVENTS, BANK_REQUESTS, CHAIN_REQUESTS, TRANSACTION_EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

START_MS = 1_800_000_000_000
PARTITIONS = 3
TENANTS = ("default", "demo")
LEDGER, SINK = "ledger", "sink"


class World:
    """Everything there is, made of one seed."""

    def __init__(
        self, seed: int, loop: Loop, tracing: Callable[[str], None] | None = None, profile: Profile | None = None
    ) -> None:
        self.random = Random(seed)
        self.loop = loop
        self.faults = Faults(self.random, profile or Profile.draw(self.random))
        self.jumped_ms = 0
        self.broker = Broker(loop, self.random, self.now_ms, self.faults.profile.markers, second=seed % 4 < 2)
        self.network = Network(self.broker)
        self.server = Server(self.broker)
        self.partitioner = Partitioner(PARTITIONS)
        self.rules = Rules(TENANTS, "sandbox")
        self.groups = {
            LEDGER: Group(self.broker, self.random, (NAMES.commands, NAMES.signals), PARTITIONS),
            SINK: Group(self.broker, self.random, (NAMES.journal,), PARTITIONS),
        }
        self.disks: dict[str, Disk] = {}
        self.workers: dict[str, Process | None] = {}  # by machine
        self.violations: list[str] = []
        self.lives = 0
        self._tracing = tracing
        self._traced = hashlib.blake2b()

    def now_ms(self) -> int:
        """The true time, ms since 1970; the brokers have it."""
        return START_MS + self.jumped_ms + int(self.loop.now * 1000)

    def ledger_ms(self) -> int:
        """The ledger's time: that, and how far its clock was moved."""
        shards = [one for one in self.partitions(LEDGER) if isinstance(one, Shard) and one._memory is not None]
        return self.now_ms() + max((one._memory.moved_ms for one in shards if one._memory is not None), default=0)

    def trace(self, who: str, what: str) -> None:
        """Notes a step; all notes together are part of a run's digest."""
        line = f"{self.loop.now:.6f} {who}: {what}"
        self._traced.update(line.encode())
        if self._tracing is not None:
            self._tracing(line)

    @property
    def traced(self) -> bytes:
        """A hash of all steps so far."""
        return self._traced.digest()

    # --- workers ---------------------------------------------------------------------------------------------------

    def launch(self, machine: str) -> None:
        """Starts a worker on a machine; the first letter of its name says which kind."""
        if self.workers.get(machine) is not None:
            return
        self.lives += 1
        role = LEDGER if machine.startswith("l") else SINK
        process = Process(self, f"{machine}.{self.lives}", role, self.disks.setdefault(machine, Disk()))
        if self.faults.profile.skew and not self.faults.healed:
            process.skew_ms = self.random.choice((-3_600_000, -700, 0, 0, 700, 3_600_000))
        self.workers[machine] = process
        process.start()

    def died(self, process: Process) -> None:
        """A worker has ended; its supervisor starts it again."""
        for event in list(self.broker.watchers):
            if process.app is not None and event is process.app.consumer._arrived:
                del self.broker.watchers[event]
        machine = process.name.partition(".")[0]
        self.workers[machine] = None
        self.broker.later(self.random.choice((0.05, 1.0, 4.0, 15.0)), self._restart, machine)

    def _restart(self, machine: str) -> None:
        disk = self.disks[machine]
        if self.faults.happens(0.25):
            disk.lose()
        elif self.faults.happens(0.25):
            disk.go_back()
        self.launch(machine)

    def stopped(self, process: Process, error: BaseException) -> None:
        """A worker has stopped itself loudly: it may when Kafka refuses a unit five times, and for nothing else."""
        text = f"{type(error).__name__}: {error}"
        process.trace(f"stops loudly: {text}")
        if isinstance(error, EngineError) and "could not be committed in" in text and not self.faults.healed:
            return
        self.violations.append(f"{process.name} stopped at {self.loop.now:.3f} s: {text}")

    def living(self) -> list[Process]:
        """Workers that run now."""
        return [process for process in self.workers.values() if process is not None]

    def partitions(self, role: str) -> Sequence[Partition]:
        """What the workers of a group have in hand."""
        found = [process.feed for process in self.living() if process.role == role]
        return [partition for feed in found if feed is not None for partition in feed.partitions.values()]

    def make_feed(self, process: Process) -> Feed:
        """What a worker of the product is made of, on simulated ports."""
        kafka = SimulatedKafka(self.network, process)
        app: Any = process.app
        if process.role == SINK:
            sink = Sink(kafka, lambda: LedgerWriter.connect("simulation"))
            return Feed(app, (NAMES.journal,), sink.partition, on_failure=process.fail, on_closed=sink.close)
        rules, rules_hash = encode_rules(self.rules)
        setup = Setup(
            app_id=LEDGER,
            kafka=kafka,
            names=NAMES,
            outputs=(TRANSACTION_EVENTS.name, ACCOUNT_EVENTS.name, BANK_REQUESTS.name, CHAIN_REQUESTS.name),
            actor=Ledger(msgspec.json.decode(rules, type=Rules)),
            rules=rules,
            rules_hash=rules_hash,
            stores=DiskStores(process.disk, process),
            partitioner=self.partitioner,
            clock=process.clock,
        )

        def make(number: int, fetch: Fetch, generation: int) -> Partition:
            return Shard(number, setup, fetch, generation)

        return Feed(app, (NAMES.commands, NAMES.signals), make, on_failure=process.fail, on_closed=kafka.stop)
