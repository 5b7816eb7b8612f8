"""A whole Aura Stream on ports and data of its own, whose every process can be stopped, killed and frozen.

What a test does to it blocks (starting a JVM takes seconds), so the asynchronous methods do it in threads of the
stack. Those threads live as long as the stack: Linux ends a tied process with the *thread* that started it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

import topics
from aura_stream.embedded.local import LocalStack
from aura_stream.embedded.processes import Process, free_port
from aura_stream.settings import load_settings

P = ParamSpec("P")
R = TypeVar("R")

PARTITIONS = 4
SESSION_S = 6
"""The shortest session that the broker takes: what is frozen for longer loses its partitions."""
START_S = 60.0
DRAIN_S = 30.0
QUIET_S = 90.0
"""Bounds, not expectations: they only say when to stop hoping, on a machine that is busy with other things."""


class E2EStack:
    """Kafka, Postgres and any number of ledger workers, sinks and one API, all tied to this process.

    `kafka` names brokers that somebody else has started; without, there is one of its own.
    """

    def __init__(self, home: Path, *, kafka: str = "", session_s: float = SESSION_S, **more: object) -> None:
        kafka_port, postgres_port, api_port = free_port(), free_port(), free_port()
        self.settings = load_settings(
            home=home,
            kafka_port=kafka_port,
            kafka_bootstrap=kafka or f"127.0.0.1:{kafka_port}",
            postgres_port=postgres_port,
            api_port=api_port,
            api_host="127.0.0.1",
            api_url=f"http://127.0.0.1:{api_port}",
            faust_web_port=free_port(),
            partitions=PARTITIONS,
            session_timeout_s=session_s,
            app_id="aura",
            tenants="default,demo",
            mode="sandbox",
            **more,
        )
        self.local = LocalStack(self.settings, external=frozenset({"kafka"} if kafka else ()), tied=True)
        self.processes: dict[str, Process] = {}
        self.history: list[Process] = []
        self._threads = ThreadPoolExecutor(8, "stack")

    # --- the services ----------------------------------------------------------------------------------------------

    def start_services(self, *, apply_topics: bool = True) -> None:
        """Starts Kafka and Postgres with schema and topics, as `aura up` does."""
        self.local.kafka.launch()
        self.local.postgres.start(START_S)
        self.local.write_env_file()
        self.local.run_once("db", "migrate")
        self.local.kafka.wait_ready(START_S)
        if apply_topics:
            self.local.run_once("topics", "apply")

    def start_roles(self, *, ledgers: int = 1, sinks: int = 1, api: bool = True) -> None:
        """Starts roles side by side and waits until all are ready."""
        wanted = [("ledger", slot) for slot in range(ledgers)] + [("sink", slot) for slot in range(sinks)]
        started = [self.launch(role, slot) for role, slot in [*wanted, *([("api", 0)] if api else [])]]
        for process in started:
            process.wait_ready(START_S)

    def close(self) -> None:
        """Ends everything."""
        for process in reversed(self.history):
            process.thaw()
            process.stop(5)
        self.local.kafka.process.thaw()
        self.local.postgres.process.thaw()
        self.local.stop()
        self._threads.shutdown()

    @property
    def bootstrap(self) -> str:
        return self.local.environment()["AURA_KAFKA_BOOTSTRAP"]

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach this stack, and only this one."""
        return {
            **self.local.environment(),
            "AURA_HOME": str(self.local.home),
            "AURA_KAFKA_PORT": str(self.settings.kafka_port),
            "AURA_POSTGRES_PORT": str(self.settings.postgres_port),
            "AURA_API_PORT": str(self.settings.api_port),
            "AURA_SESSION_TIMEOUT_S": str(self.settings.session_timeout_s),
        }

    # --- the roles -------------------------------------------------------------------------------------------------

    def launch(
        self, role: str, slot: int = 0, *, module: str = "aura_stream.cli", cwd: Path | None = None, **env: str
    ) -> Process:
        """Starts a role without waiting for it.

        `module` is the command line's, or a test's that ends up there; `cwd` a checkout whose code is to be run.
        """
        session = {"AURA_SESSION_TIMEOUT_S": str(self.settings.session_timeout_s)}
        process = self.local.role(role, slot, env={**session, **env}, module=module)
        process.cwd = cwd
        process.start()
        self.processes[process.name] = process
        self.history.append(process)
        return process

    async def start(
        self, role: str, slot: int = 0, *, module: str = "aura_stream.cli", cwd: Path | None = None, **env: str
    ) -> Process:
        """Starts a role and waits until it works."""
        process = await self.call(lambda: self.launch(role, slot, module=module, cwd=cwd, **env))
        await self.call(process.wait_ready, START_S)
        return process

    async def ensure(self, role: str, slot: int = 0) -> Process:
        """A role that works: the present one, or a new one if it has ended."""
        name = "api" if role == "api" else f"{role}-{slot}"
        process = self.processes.get(name)
        if process is None or not process.alive:
            return await self.start(role, slot)
        process.thaw()
        await self.call(process.wait_ready, START_S)
        return process

    async def kill(self, name: str) -> None:
        """kill -9."""
        await self.call(self.processes[name].kill)

    async def terminate(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """Asks a role to end and returns its exit code; fails when it does not end in time."""
        process = self.processes[name]
        process.send(number)
        assert await self.call(process.wait, DRAIN_S), f"{name} did not end in {DRAIN_S} s:\n{process.log_tail(30)}"
        code = process.returncode
        assert code is not None
        await self.call(process.stop, 1.0)
        return code

    async def call(self, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
        """Runs something that blocks in one of the stack's own threads."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: function(*arguments, **named))

    async def aura(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Runs the command line to its end."""

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "aura_stream.cli", *arguments],
                capture_output=True,
                text=True,
                timeout=120,
                env={**os.environ, **self.environment, **env},
            )

        return await self.call(run)

    def logs(self, lines: int = 12) -> str:
        """The last lines of everything, for the message of a failed assertion."""
        tails = [
            f"--- {process.name} ({'runs' if process.alive else process.returncode})\n{process.log_tail(lines)}"
            for process in {process.name: process for process in self.history}.values()
        ]
        return "\n".join(tails)

    def log_of(self, name: str) -> str:
        """All that the processes of a name ever logged."""
        return (self.local.log_dir / f"{name}.log").read_text(errors="replace")

    def log_size(self, name: str) -> int:
        """Where the log ends now; what comes later is `log_of(name)[size:]`."""
        return len(self.log_of(name))

    # --- looking at it from outside --------------------------------------------------------------------------------

    async def connect(self) -> asyncpg.Connection[asyncpg.Record]:
        """A session of the owner; close it."""
        return await asyncpg.connect(self.local.postgres.dsn(), timeout=10, command_timeout=60)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows of one statement, on a session of its own."""
        connection = await self.connect()
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def command_ends(self) -> dict[int, int]:
        """The end of every partition of the commands topic."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, enable_auto_commit=False)
        await consumer.start()
        try:
            tps = [TopicPartition(topics.COMMANDS.name, number) for number in range(PARTITIONS)]
            return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
        finally:
            await consumer.stop()

    async def decided(self, within_s: float = QUIET_S) -> None:
        """Waits until every command that is there now is decided and stored; more may come meanwhile."""
        await self._reached(await self.command_ends(), within_s, at_rest=False)

    async def quiet(self, within_s: float = QUIET_S) -> None:
        """Waits until every command is decided and stored, and no money is under way."""
        await self._reached(await self.command_ends(), within_s, at_rest=True)

    async def _reached(self, ends: dict[int, int], within_s: float, *, at_rest: bool) -> None:
        connection = await self.connect()

        async def missing() -> str:
            rows = await connection.fetch("SELECT partition, commands_offset FROM ledger.sink_offsets")
            stored = {row["partition"]: row["commands_offset"] for row in rows}
            behind = {partition: end - stored.get(partition, 0) for partition, end in ends.items()}
            if any(left > 0 for left in behind.values()):
                return f"commands not stored by partition: {behind}"
            sql = "SELECT count(*) FROM ledger.transactions WHERE state IN ('sent', 'capturing')"
            under_way = await connection.fetchval(sql) if at_rest else 0
            return f"{under_way} transactions under way" if under_way else ""

        try:
            await eventually(missing, within_s, "all commands are decided and stored", self.logs)
        finally:
            await connection.close()


async def eventually(
    missing: Callable[[], Awaitable[str]],
    within_s: float,
    what: str,
    logs: Callable[[], str] = lambda: "",
    pause_s: float = 0.1,
) -> None:
    """Waits until nothing is missing; fails with what is, after `within_s`."""
    give_up = time.monotonic() + within_s
    while left := await missing():
        assert time.monotonic() < give_up, f"not within {within_s:g} s: {what}; {left}\n{logs()}"
        await asyncio.sleep(pause_s)


async def until(condition: Callable[[], bool], within_s: float, what: str, logs: Callable[[], str] = str) -> None:
    """Waits for a condition that is cheap to ask for."""

    async def missing() -> str:
        return "" if condition() else "it is not so"

    await eventually(missing, within_s, what, logs, pause_s=0.02)


def processes_below(home: Path) -> list[tuple[int, str]]:
    """Pid and command of every process that belongs to a stack in this directory (Linux: read from /proc)."""
    needle = str(home).encode()
    found: list[tuple[int, str]] = []
    for directory in _numbered(Path("/proc").iterdir()):
        try:
            command = (directory / "cmdline").read_bytes()
            if needle in command or needle in (directory / "environ").read_bytes():
                found.append((int(directory.name), command.replace(b"\0", b" ").decode(errors="replace")))
        except OSError:
            continue  # it has ended meanwhile
    return [(pid, command) for pid, command in found if pid != os.getpid() and command]


def _numbered(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.name.isdigit()]
