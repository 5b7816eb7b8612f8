"""The order of things: start all, take turns between ours and the baseline, measure the rest, stop all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from aiokafka.admin import AIOKafkaAdminClient

import topics
from aura_stream import SetupError
from aura_stream.bench import http, http_auth, loads, settling, studies
from aura_stream.bench.baseline import CONNECTIONS, Baseline
from aura_stream.bench.figures import latency
from aura_stream.bench.generator import Plan
from aura_stream.bench.kafka import Backlog, Journal, lines_of, produce
from aura_stream.bench.loads import BETWEEN, ONE_HOP, Command, by_partition
from aura_stream.bench.machine import Meter, cpu_s, describe
from aura_stream.bench.observer import Observer, Totals
from aura_stream.bench.open_loop import Generator, places, since_due, stages
from aura_stream.bench.profile import Profiler, text
from aura_stream.bench.units import UnitsProbe
from aura_stream.bench.warm import kafka_ms, still_falls, warm_broker
from aura_stream.embedded.local import ROLE_GRACE_S, ROLE_TIMEOUT_S, LocalStack
from aura_stream.embedded.postgres import OWNER
from aura_stream.embedded.processes import Process, free_port
from aura_stream.engine.topics import apply_topics
from aura_stream.ledger.migrations import migrate
from aura_stream.settings import Settings, load_settings

SECTIONS = (
    *("drain", "baseline", "sink", "open-loop", "http", "auth", "restore", "memory", "scaling", "entries", "open"),
    *("isolation", "settlements"),
)
"""What can be measured, in this order: up to `restore` on one ledger, each of the others on a fresh one."""
SHARED = SECTIONS[: SECTIONS.index("memory")]
WARM_UP_SHARE = 10
WARM_UP_RATE = 500.0
WARM_UP_PIECE_S = 10.0
RAW_WARM_UP_SHARE = 0.6
SETTLE_MAX = 4
RESTORE_TIMEOUT_S = 900.0
ATTACH_S = 1.5  # what a profiler needs; it does not say when it has attached
_OPENED = re.compile(r"shard \d+: open, (\d+) records restored").match
_ASSIGNED = "Setting newly assigned partitions"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how much of it."""

    sections: tuple[str, ...] = SECTIONS
    loads: tuple[str, ...] = loads.LOADS
    commands: int = 100_000
    rounds: int = 3
    seconds: float = 10.0
    warm_up: float = 90.0
    rates: tuple[str, ...] = ("2000", "10000")
    ledgers: int = 1
    sinks: int = 1
    partitions: int = 8
    requests: int = 20_000
    batch_commands: int = 100_000
    memory: int = 1_000_000
    grid_ledgers: tuple[int, ...] = (1, 2)
    grid_partitions: tuple[int, ...] = (4, 8, 16, 32, 64)
    entries: tuple[int, ...] = (100_000, 1_000_000)
    open: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    settlements: int = 200
    turns: int = 5
    profile: bool = False
    verify: bool = False
    directory: Path | None = None
    keep: bool = False
    profile_dir: Path = Path(".aura/bench")


@dataclass(slots=True)
class Results:
    """All that was measured, as it goes into the JSON file."""

    at: str
    command: str
    options: dict[str, Any]
    machine: dict[str, Any]
    took_s: dict[str, float] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)
    drains: list[dict[str, Any]] = field(default_factory=list)
    baseline: list[dict[str, Any]] = field(default_factory=list)
    sink_alone: list[dict[str, Any]] = field(default_factory=list)
    open_loop: list[dict[str, Any]] = field(default_factory=list)
    http: dict[str, Any] | None = None
    auth: dict[str, Any] | None = None
    restore: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    scaling: list[dict[str, Any]] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)
    open: list[dict[str, Any]] = field(default_factory=list)
    isolation: dict[str, Any] | None = None
    settlements: dict[str, Any] | None = None
    profiles: list[dict[str, Any]] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


Say = Callable[[str], None]


def measure(options: Options, say: Say) -> Results:
    """Runs the whole benchmark in a directory of its own and leaves nothing behind (unless `keep`).

    Raises :class:`SetupError` when something does not start, stalls, or ends with wrong books.
    """
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="aura-bench-", dir=options.directory))
    # Every setting that a shell could have set for another stack is set here.
    settings = load_settings(
        home=home,
        state_dir=home / "state",
        mode="sandbox",
        app_id="aura",
        tenants=(loads.TENANT,),
        partitions=options.partitions,
        replication_factor=1,
        kafka_port=free_port(),
        postgres_port=free_port(),
        api_port=free_port(),
        mock_bank_port=free_port(),
        chain_port=free_port(),
    )
    # What it tries again is no news: a broker knows its part in a new topic a moment after it has created it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    stack = LocalStack(settings, tied=True)
    stack.kafka.short_lived = False  # it is warmed up, and measured as a broker that has run for long
    try:
        say(f"everything runs and lies in {home}")
        for name, start in (("kafka", stack.kafka.start), ("postgres", stack.postgres.start)):
            began = time.monotonic()
            start()
            say(f"{name} started in {time.monotonic() - began:.1f} s")
        results = Results(
            datetime.now(UTC).isoformat(timespec="seconds"),
            "aura " + " ".join(sys.argv[1:]),
            msgspec.to_builtins(asdict(options), enc_hook=str),
            describe(home),
        )
        asyncio.run(Bench(options, settings, stack, results, say).run())
        return results
    finally:
        stack.stop()
        if options.keep:
            say(f"kept: {home}")
        else:
            shutil.rmtree(home, ignore_errors=True)


class Bench:
    """One run on a started stack."""

    def __init__(self, options: Options, settings: Settings, stack: LocalStack, results: Results, say: Say) -> None:
        self.options, self.settings, self.stack, self.results, self.say = options, settings, stack, results, say
        self.bootstrap = stack.kafka.bootstrap
        self.observer = Observer(stack.environment()["AURA_POSTGRES_READ_DSN"])
        self.baseline = Baseline(stack.postgres, stack.home / "baseline")
        self.roles: dict[str, list[Process]] = {}
        self.sections = itertools.count(1)
        self.transfers = 0
        self._is_new = True

    @property
    def partitions(self) -> int:
        """How many partitions every topic has now."""
        return self.settings.partitions

    def wants(self, section: str) -> bool:
        """Whether a section was chosen."""
        return section in self.options.sections

    async def run(self) -> None:
        """All sections, in the order in which they disturb each other least."""
        options = self.options
        if options.warm_up:
            await self._warm_broker(options.warm_up * RAW_WARM_UP_SHARE)
        try:
            if options.profile or any(self.wants(section) for section in SHARED):
                await self._shared()
            for section, study in (
                ("memory", studies.memory),
                ("scaling", studies.scaling),
                ("entries", studies.entries),
                ("open", studies.open_transactions),
                ("isolation", settling.isolation),
                ("settlements", settling.settlements),
            ):
                if self.wants(section):
                    with self._timed(section):
                        await study(self)
        finally:
            await self.observer.close()

    @contextlib.contextmanager
    def _timed(self, section: str) -> Iterator[None]:
        """How long a section takes, fresh ledger and all."""
        began = time.monotonic()
        yield
        self.results.took_s[section] = round(time.monotonic() - began, 1)
        self.say(f"{section}: {self.results.took_s[section]:.0f} s")

    async def _shared(self) -> None:
        """What is measured on one and the same ledger."""
        options = self.options
        with self._timed("start and warm-up"):
            await self.fresh(options.partitions)
            if self.wants("baseline"):
                self.baseline.prepare()
            await self._warm_up(options.warm_up * (1 - RAW_WARM_UP_SHARE))
        if self.wants("drain") or self.wants("baseline"):
            with self._timed("drain and baseline"):
                await self._rounds()
        if self.wants("sink"):
            with self._timed("sink"):
                for load in options.loads:
                    await self._sink_alone(load)
        if self.wants("open-loop"):
            with self._timed("open-loop"):
                for load, rate in itertools.product(options.loads, options.rates):
                    await self._open_loop(load, self._rate(load, rate))
        if self.wants("http"):
            with self._timed("http"):
                self.results.http = await http.measure(self)
        if self.wants("auth"):
            with self._timed("auth"):
                self.results.auth = await http_auth.measure(self)
        if options.profile:
            for load in options.loads:
                await self._profile(load)
        with self._timed("checks"):
            await self.check_books()
            if self.wants("baseline") and (wrong := self.baseline.check()):
                raise _wrong_books(wrong)
        if self.wants("restore"):
            with self._timed("restore"):
                self.results.restore = await self.restore()
        if options.verify:
            self.say("verifying the ledger")
            self.stack.run_once("ledger", "verify")
            self.results.checks.append("aura ledger verify: good")

    async def fresh(self, partitions: int, ledgers: int | None = None) -> None:
        """An empty ledger with so many partitions and 1,000 funded customers, on the services that run (and are warm).

        What was there before is gone: topics, database, local state.
        """
        for role in [*self.roles]:
            self.stop(role)
        await self.observer.close()
        if not self._is_new:
            await self._remove_everything()
        self._is_new = False
        self.settings = self.stack.settings = self.settings.model_copy(update={"partitions": partitions})
        await migrate(self.stack.environment()["AURA_POSTGRES_DSN"])
        await apply_topics(self.bootstrap, topics.ALL, partitions=partitions, replication=1)
        await asyncio.gather(
            self.start("ledger", ledgers or self.options.ledgers), self.start("sink", self.options.sinks)
        )
        await self.observer.open()
        self.transfers = 0
        await self.open_accounts()

    async def _remove_everything(self) -> None:
        names = [topic.name for topic in topics.ALL]
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.delete_topics(names, timeout_ms=30_000)
            while left := set(names) & set(await admin.list_topics()):
                self.say(f"waiting for Kafka to forget {len(left)} topics")
                await asyncio.sleep(0.2)
        finally:
            await admin.close()
        for statement in (f"DROP DATABASE {OWNER} WITH (FORCE)", f"CREATE DATABASE {OWNER}"):
            self.stack.postgres.execute(statement, "postgres")
        assert self.settings.state_dir is not None
        shutil.rmtree(self.settings.state_dir, ignore_errors=True)

    # --- processes -------------------------------------------------------------------------------------------------

    async def start(
        self, role: str, count: int, timeout_s: float = ROLE_TIMEOUT_S, *, env: Mapping[str, str] | None = None
    ) -> None:
        """Starts a role's processes side by side and waits until all are ready."""
        began = time.monotonic()
        own = {"AURA_STATE_DIR": str(self.settings.state_dir), "AURA_LOG_LEVEL": "INFO" if role != "api" else "WARNING"}
        own |= env or {}
        # A port at random: the usual one may be taken by another stack of this machine that starts just now.
        processes = [
            self.stack.role(role, slot, env={**own, "AURA_FAUST_WEB_PORT": str(free_port())}) for slot in range(count)
        ]
        for process in processes:
            process.start()
            self.stack.roles.processes.append(process)
        while not all(process.is_ready for process in processes):
            if time.monotonic() - began > timeout_s or not all(process.alive for process in processes):
                for process in processes:
                    process.wait_ready(0.1)
            await asyncio.sleep(0.02)
        self.roles[role] = processes
        self.say(f"{role} x {count} ready in {time.monotonic() - began:.1f} s")

    def stop(self, role: str) -> None:
        """Ends a role's processes in good order."""
        for process in self.roles.pop(role, []):
            process.stop(ROLE_GRACE_S)
            self.stack.roles.processes.remove(process)

    def status_pages(self, role: str) -> list[str]:
        """Where a role's workers tell about their partitions."""
        ports = [json.loads(process.ready_file.read_text())["web_port"] for process in self.roles[role]]
        return [f"http://127.0.0.1:{port}/partitions/" for port in ports]

    def cpu_by_process(self) -> dict[str, float]:
        """CPU seconds of every process of the product until now, by name."""
        found = {process.name: cpu_s(process.pid) for processes in self.roles.values() for process in processes}
        found["kafka"] = cpu_s(self.stack.kafka.pid)
        found["postgres"] = cpu_s(self.stack.postgres.pid, family=True)
        return found

    def meter(self) -> Meter:
        """CPU seconds by kind of process from now on."""
        sources: dict[str, Callable[[], float]] = {
            role: lambda processes=processes: sum(cpu_s(process.pid) for process in processes)  # type: ignore[misc]
            for role, processes in self.roles.items()
        }
        sources["kafka"] = lambda: cpu_s(self.stack.kafka.pid)
        sources["postgres"] = lambda: cpu_s(self.stack.postgres.pid, family=True)
        return Meter(sources)

    def even_start(self) -> None:
        """Both ledgers begin each section right after a checkpoint, so that each pays for its own pages."""
        self.stack.postgres.execute("CHECKPOINT", "postgres")

    # --- sections --------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _backlog(self, commands: Iterator[Command], section: int) -> AsyncIterator[Backlog]:
        backlog = Backlog(self.bootstrap, f"aura-bench-{section}")
        try:
            await backlog.fill(by_partition(commands, self.partitions))
            yield backlog
        finally:
            await backlog.close()

    async def open_accounts(self) -> None:
        """The customers of all loads, and their money."""
        section, customers = next(self.sections), loads.CUSTOMERS
        await self.observer.mark()
        began = time.monotonic()
        await produce(self.bootstrap, by_partition(loads.openings(section), self.partitions))
        await self.observer.watch(
            lambda totals: totals.accounts == totals.changes == 2 * customers, what="the accounts and their money"
        )
        self.say(f"{customers} customers with two funded accounts each in {time.monotonic() - began:.1f} s")

    async def _warm_broker(self, seconds: float) -> None:
        """Small transactions on a topic of its own, until they cost the broker no less than before."""
        found = await warm_broker(self.bootstrap, lambda: cpu_s(self.stack.kafka.pid), seconds, self.say)
        self.results.warm_up = {"raw_ms": found, "is_warm": not still_falls(found)}

    async def _warm_up(self, seconds: float) -> None:
        """Small units of work until they cost the broker no less than before, or for so long.

        Then a small drain of each load and a second of the baseline. The broker's JVM needs some thousand transactions
        until they cost it a tenth of what the first ones did; a cold one says nothing about a ledger.
        """
        left, costs = seconds, list[float]()
        while left > 0 and (len(costs) < 2 or still_falls(costs)):
            result = await self.paced(BETWEEN, WARM_UP_RATE, self.count(WARM_UP_RATE, min(left, WARM_UP_PIECE_S)))
            left -= WARM_UP_PIECE_S
            costs.append(kafka_ms(result))
            self.say(f"warming up: Kafka takes {costs[-1]:.1f} ms of CPU per unit of work")
        self.results.warm_up["units_ms"] = costs
        for load in self.options.loads:
            await self.drain(load, max(100, self.options.commands // WARM_UP_SHARE))
            if self.wants("baseline"):
                await self.baseline.run(load, CONNECTIONS[0], 1)

    async def _rounds(self) -> None:
        for number in range(self.options.rounds):
            for load in self.options.loads:
                # Whoever comes second finds a warmer or a busier machine: they take turns at being first.
                if number % 2:
                    await self._baseline(number, load)
                if self.wants("drain"):
                    result = await self.drain(load, self.options.commands)
                    self.results.drains.append({"load": load, "round": number, **result})
                    self.say(
                        f"round {number + 1}, {load}: ours {result['per_second']:,.0f} transfers/s"
                        f" (others used {result['cpu']['others_percent']:.0f} % of the machine)"
                    )
                if not number % 2:
                    await self._baseline(number, load)

    async def _baseline(self, number: int, load: str) -> None:
        if not self.wants("baseline"):
            return
        for connections in CONNECTIONS:
            self.even_start()
            meter = self.meter()
            run = await self.baseline.run(load, connections, self.options.seconds)
            self.results.baseline.append({"load": load, "round": number, **asdict(run), "cpu": meter.read()})
            self.say(
                f"round {number + 1}, {load}: baseline {run.per_second:,.0f} transfers/s, {connections} connections"
            )

    async def drain(self, load: str, count: int) -> dict[str, Any]:
        """A backlog that is in Kafka before the clock starts, until the last final status is committed."""
        section = next(self.sections)
        async with self._backlog(loads.transfers(load, section, count), section) as backlog:
            self.even_start()
            await self.observer.mark()
            meter, cores_before = self.meter(), self.cpu_by_process()
            began = time.monotonic_ns()
            await backlog.release()
            ended, _ = await self.observer.watch(_all_final(load, count), what=f"{count} transfers of {load}")
            cpu, cores = meter.read(), self.cpu_by_process()
        self.transfers += count
        totals = await self.observer.totals()
        seconds = (ended - began) / 1e9
        return {
            "transfers": count,
            "seconds": seconds,
            "per_second": count / seconds,
            "cpu": cpu,
            "cores": {name: (cores[name] - cores_before[name]) / seconds for name in cores},
            "units": totals.units,
            "commands_per_unit": totals.transactions / totals.units,
            "units_per_commit": totals.units / max(1, await self.observer.commits()),
        }

    async def _sink_alone(self, load: str) -> None:
        """The ledger decides everything while no sink runs; then the sink finds the whole journal in Kafka."""
        section, count = next(self.sections), self.options.commands
        self.stop("sink")
        journal = Journal(self.bootstrap, self.partitions)
        await journal.open()
        try:
            async with self._backlog(loads.transfers(load, section, count), section) as backlog:
                await self.observer.mark()
                meter = self.meter()
                began = time.monotonic()
                await backlog.release()
                sent = changed = 0
                while (sent if load == ONE_HOP else changed) < count:
                    for value, _ in await journal.records():
                        more_sent, more_changed = lines_of(value)
                        sent, changed = sent + more_sent, changed + more_changed
                ledger_s = time.monotonic() - began
                ledger_cpu = meter.read()
        finally:
            await journal.close()
        self.even_start()
        watching = asyncio.create_task(
            self.observer.watch(_all_final(load, count), what=f"the sink's {count} transfers of {load}")
        )
        await self.start("sink", self.options.sinks)
        ended, sightings = await watching
        self.transfers += count
        # From its first commit on: what it did before that was starting. That commit's transfers do not count either.
        first_ns = min(times[0] for times in sightings.times.values())
        before = await self.observer.totals_at(sightings, first_ns)
        written = count - (before.transactions if load == ONE_HOP else before.changes)
        seconds = (ended - first_ns) / 1e9
        totals = await self.observer.totals()
        self.results.sink_alone.append(
            {
                "load": load,
                "transfers": count,
                "ledger_per_second": count / ledger_s,
                "ledger_cpu": ledger_cpu,
                "sink_per_second": written / seconds if written else None,  # too few: all came with the first
                "units_per_commit": totals.units / max(1, await self.observer.commits()),
            }
        )
        last = self.results.sink_alone[-1]
        self.say(
            f"{load}: the ledger alone {last['ledger_per_second']:,.0f}, the sink alone "
            f"{last['sink_per_second'] or 0:,.0f} transfers/s"
        )

    def _rate(self, load: str, rate: str) -> float:
        """A rate per second, or a share of the load's median drain."""
        if not rate.endswith("%"):
            return float(rate)
        drained: list[float] = [drain["per_second"] for drain in self.results.drains if drain["load"] == load]
        return float(rate[:-1]) / 100 * median(drained)

    def count(self, rate: float, seconds: float) -> int:
        """How many commands are due in a time."""
        return max(1, int(rate * seconds))

    async def _open_loop(self, load: str, rate: float) -> None:
        """Commands at a fixed rate, after some seconds that do not count: small units are other work."""
        seconds, costs = self.options.seconds, list[float]()
        while len(costs) < 2 or (still_falls(costs) and len(costs) < SETTLE_MAX):
            costs.append(kafka_ms(await self.paced(load, rate, self.count(rate, max(1.0, seconds / 2)))))
        result = await self.paced(load, rate, self.count(rate, seconds))
        costs.append(kafka_ms(result))
        result |= {"kafka_ms_per_unit": costs, "broker_is_warm": not still_falls(costs)}
        self.results.open_loop.append(result)
        final = result["final_row"]
        self.say(
            f"{load} at {rate:,.0f}/s: p50 {final['p50_ms']:.1f}, p90 {final['p90_ms']:.1f}, "
            f"p99 {final['p99_ms']:.1f}, max {final['max_ms']:.0f} ms "
            f"({result['units_per_second']:.0f} units/s, commit {result['shards']['commit_ms_p50']:.1f} ms; "
            f"others used {result['cpu']['others_percent']:.0f} % of the machine)"
        )
        if not result["broker_is_warm"]:
            self.say(f"the broker was not warm yet: {', '.join(f'{cost:.1f}' for cost in costs)} ms of CPU per unit")

    async def paced(self, load: str, rate: float, count: int) -> dict[str, Any]:
        """Latency from the time each command was due to the time its row was seen committed."""
        section = next(self.sections)
        plan = Plan(self.bootstrap, self.partitions, load, section, count, rate)
        journal = Journal(self.bootstrap, self.partitions)
        await journal.open()
        generator = await Generator.launch(plan)
        try:
            self.even_start()
            await self.observer.mark()
            meter = self.meter()
            start_ns = await generator.start()
            what = f"{count} transfers of {load} at {rate:,.0f}/s"
            async with UnitsProbe(self.status_pages("ledger")) as probe:
                ended_ns, seen = await self.observer.watch(_all_final(load, count), add_every_s=0.25, what=what)
            done = await generator.end()
            cpu = meter.read()
            first, final = await places(journal, plan)
        finally:
            await generator.kill()
            await journal.close()
        self.transfers += count
        totals = await self.observer.totals()
        cpu["generator"] = done.cpu_s  # a part of the bench's
        committed = latency(since_due(plan, start_ns, first, seen))
        settled = latency(since_due(plan, start_ns, final, seen))
        assert committed is not None and settled is not None
        return {
            "load": load,
            "rate": rate,
            "sent": count,
            "first_row": asdict(committed),
            "final_row": asdict(settled),
            "stages": stages(plan, start_ns, first, seen, await self.observer.taken_ms()),
            "generator_late_ms_max": done.late_ms_max,
            "units": totals.units,
            "units_per_second": totals.units / ((ended_ns - start_ns) / 1e9),
            "commands_per_unit": totals.transactions / totals.units,
            "units_per_commit": totals.units / max(1, await self.observer.commits()),
            "shards": probe.figures(),
            "cpu": cpu,
        }

    async def _profile(self, load: str) -> None:
        """One more drain, and one more time at the first rate, with a profiler at the first process of each role."""
        count = self.options.commands
        await self.profiled(f"{load}-drain", f"{load}, draining", count, lambda: self.drain(load, count))
        if self.wants("open-loop") and self.options.rates:
            rate = self._rate(load, self.options.rates[0])
            count = self.count(rate, self.options.seconds)
            await self.profiled(f"{load}-paced", f"{load}, {rate:,.0f}/s", count, lambda: self.paced(load, rate, count))

    async def profiled(
        self,
        name: str,
        what: str,
        count: int,
        work: Callable[[], Coroutine[Any, Any, dict[str, Any]]],
        roles: tuple[str, ...] = ("ledger", "sink"),
    ) -> None:
        """Measures something with a profiler at the first process of each role."""
        folder = self.options.profile_dir
        folder.mkdir(parents=True, exist_ok=True)
        profilers = {}
        for role in roles:
            pid = self.roles[role][0].pid
            assert pid is not None
            profilers[role] = Profiler(pid, folder / f"{name}-{role}.stacks")
            profilers[role].start()
        await asyncio.sleep(ATTACH_S)
        measured = await work()
        for role, profiler in profilers.items():
            found = profiler.stop()
            each_us = measured["cpu"][role] / count * 1e6
            path = folder / f"{name}-{role}.txt"
            path.write_text(text(f"{role}, {what}", found, each_us), encoding="utf-8")
            self.results.profiles.append(
                {
                    "what": what,
                    "role": role,
                    "cpu_us_per_transfer": each_us,
                    "file": str(path),
                    "top": [asdict(cost) for cost in found[:15]],
                }
            )
            self.say(f"{what}: {role} {each_us:.1f} us of CPU per transfer, profile in {path}")

    async def check_books(self, where: str = "") -> None:
        """Exact or worthless: every transfer completed, everything sums to zero, nothing under way."""
        database = self.stack.postgres
        counted = database.execute(
            "SELECT count(*) FILTER (WHERE status = 'completed'), count(*) FROM ledger.transactions "
            "WHERE type = 'transfer'"
        )
        wrong = [] if counted == f"{self.transfers}|{self.transfers}" else [f"{counted}, not {self.transfers}"]
        if (summed := database.execute("SELECT asset, sum(amount) FROM ledger.entries GROUP BY asset")) != "EUR|0":
            wrong.append(f"entries sum to {summed}")
        if way := database.execute("SELECT * FROM ledger.in_flight WHERE amount <> 0"):
            wrong.append(f"still under way: {way}")
        if wrong:
            raise _wrong_books("; ".join(wrong))
        good = f"{self.transfers:,} transfers completed, entries sum to zero, nothing under way"
        self.results.checks.append(f"{where}: {good}" if where else good)
        self.say(self.results.checks[-1])

    async def restore(self) -> dict[str, Any]:
        """The ledger starts with no local state and reads it from the changelog."""
        count = len(self.roles["ledger"])
        self.stop("ledger")
        state_dir = self.settings.state_dir
        assert state_dir is not None
        for slot in range(count):
            shutil.rmtree(state_dir / f"ledger-{slot}")
            (self.stack.log_dir / f"ledger-{slot}.log").unlink()
        await self.start("ledger", count, RESTORE_TIMEOUT_S)
        seconds = records = 0.0
        for process in self.roles["ledger"]:
            log = [(_time_of(line["timestamp"]), line["event"]) for line in _lines(process.log_path)]
            opened = [(at, found) for at, event in log if (found := _OPENED(event))]
            began = max(at for at, event in log if event.startswith(_ASSIGNED))
            seconds = max(seconds, max(at for at, _ in opened) - began)
            records += sum(int(found[1]) for _, found in opened)
        self.say(f"restored {records:,.0f} changelog records in {seconds:.1f} s: {records / seconds:,.0f}/s")
        return {"records": int(records), "seconds": seconds, "per_second": records / seconds}


def _wrong_books(why: str) -> SetupError:
    return SetupError(
        "The books are wrong, so the figures are worth nothing.",
        where="Postgres of this run",
        why=why,
        fix="aura bench --keep ..., then aura ledger verify",
    )


def _all_final(load: str, count: int) -> Callable[[Totals], bool]:
    """Whether all transfers have ended: at once within a customer, else by the change that the answer makes."""
    if load == ONE_HOP:
        return lambda totals: totals.transactions == count
    return lambda totals: totals.transactions == totals.changes == count


def _time_of(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _lines(log: Path) -> Iterator[dict[str, str]]:
    """What a worker has logged; other lines, as of libraries that write for themselves, are passed over."""
    for line in log.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            yield json.loads(line)


__all__ = ["Bench", "Options", "Results", "measure"]
