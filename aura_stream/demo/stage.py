"""The processes of the demo: services and roles of its own, in a directory and on ports of its own.

Where AURA_KAFKA_BOOTSTRAP or AURA_POSTGRES_DSN name a service, that one is used; it must be empty, since the demo
proves every command against a book of its own, and what it writes there stays.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.embedded.jars import cache_dir, ensure_jars, read_lock
from aura_stream.embedded.local import LocalStack, external_services
from aura_stream.embedded.processes import Process, free_port
from aura_stream.ledger.connection import connect
from aura_stream.settings import SetupError, load_settings
from topics import COMMANDS

Say = Callable[[str, str], None]
"""Prints a text and what ends it."""


class Stage:
    """Starts everything and ends everything. All processes are tied to this one: they cannot outlive it.

    To be used from the main thread alone: a tied process ends with the thread that started it.
    """

    def __init__(self, workers: int, *, keep: bool, say: Say, terminal: bool, good: str = "ok") -> None:
        self._workers = workers
        self._keep = keep
        self._say = say
        self._terminal = terminal
        self._good = good
        external = external_services(load_settings().home)
        # What a shell has set for another installation must not reach into this one, but for the services to use.
        kept = {"AURA_KAFKA_BOOTSTRAP"} if "kafka" in external else set()
        if "postgres" in external:
            kept |= {"AURA_POSTGRES_DSN", "AURA_POSTGRES_WRITE_DSN", "AURA_POSTGRES_READ_DSN"}
        for name in [name for name in os.environ if name.startswith("AURA_") and name not in kept]:
            del os.environ[name]
        self.home = Path(tempfile.mkdtemp(prefix="aura-demo-"))
        settings = load_settings(
            home=self.home,
            kafka_port=free_port(),
            postgres_port=free_port(),
            api_port=free_port(),
            faust_web_port=free_port(),
        )
        self.stack = LocalStack(settings, external=external, tied=True)

    def start(self) -> None:
        """Starts services and roles, a line each. Raises :class:`SetupError`."""
        external = self.stack.external
        if "kafka" not in external:
            missing = [jar for jar in read_lock() if not (cache_dir() / jar.file_name).exists()]
            if missing:
                self._say(f"  first start: Kafka comes as {len(missing)} jars, kept in {cache_dir()}", "\n")
                self._line("kafka jars", ensure_jars, shows_progress=True)
            self._line("kafka", self.stack.kafka.start)
        if "postgres" not in external:
            self._line("postgres", self.stack.postgres.start)
        self._line("schema", lambda: self.stack.run_once("db", "migrate"))
        self._line("topics", lambda: self.stack.run_once("topics", "apply"))
        if external:
            self._line("is empty", lambda: asyncio.run(self._check_empty()))
        for slot in range(self._workers):
            self._line(f"ledger-{slot}", lambda slot=slot: self.stack.start_role("ledger", slot))  # type: ignore[misc]
        self._line("sink-0", lambda: self.stack.start_role("sink"))
        self._line("api", lambda: self.stack.start_role("api"))

    def stop(self, *, gently: bool = True) -> None:
        """Ends everything and removes the data, unless it is to be kept; it never raises for what is gone."""
        began = time.monotonic()
        if gently:
            self.stack.stop()
        for process in reversed(self.processes):
            process.kill()
        if not self._keep:
            shutil.rmtree(self.home, ignore_errors=True)
        what = f"data and logs are in {self.home}" if self._keep else "data removed"
        if self.stack.external:
            what += f", what it wrote stays in your {' and '.join(sorted(self.stack.external))}"
        self._say(f"Stopped everything in {time.monotonic() - began:.1f} s, {what}.", "\n")

    @property
    def processes(self) -> list[Process]:
        """All that run."""
        services = {"kafka": self.stack.kafka.process, "postgres": self.stack.postgres.process}
        own = [process for name, process in services.items() if name not in self.stack.external]
        return [*own, *self.stack.roles.processes]

    def ended(self) -> list[str]:
        """What ought to run and does not, with the end of its log."""
        return [
            f"{process.name} ended with code {process.returncode}; its last line: {process.log_tail(1)}"
            for process in self.processes
            if not process.alive
        ]

    async def _check_empty(self) -> None:
        """Raises :class:`SetupError` when somebody's commands or units are in the services that are not our own."""
        environment, settings = self.stack.environment(), self.stack.settings
        partitions = [TopicPartition(COMMANDS.name, number) for number in range(settings.partitions)]
        consumer = AIOKafkaConsumer(bootstrap_servers=environment["AURA_KAFKA_BOOTSTRAP"], enable_auto_commit=False)
        await consumer.start()
        try:
            commands = sum((await consumer.end_offsets(partitions)).values())
        finally:
            await consumer.stop()
        connection = await connect(environment["AURA_POSTGRES_READ_DSN"])
        try:
            units = await connection.fetchval("SELECT count(*) FROM ledger.units")
        finally:
            await connection.close()
        if commands or units:
            raise SetupError(
                "The demo needs services that hold nothing yet: it proves every command against a book of its own.",
                where=", ".join(sorted(self.stack.external)),
                why=f"{commands} records in {COMMANDS.name}, {units} rows in ledger.units",
                fix="unset AURA_KAFKA_BOOTSTRAP AURA_POSTGRES_DSN   (then it starts its own), or name empty ones",
            )

    def _line(self, name: str, action: Callable[[], object], *, shows_progress: bool = False) -> None:
        if self._terminal and not shows_progress:
            self._say(f"  {name:<12} ...", "\r")
        began = time.monotonic()
        try:
            action()
        except SetupError:
            self._say(f"  {name:<12} failed after {time.monotonic() - began:.1f} s", "\n")
            raise
        self._say(f"  {name:<12} {self._good} {time.monotonic() - began:5.1f} s", "\n")
