"""The processes of the demo: services and roles of its own, in a directory and on ports of its own.

Where AURA_KAFKA_BOOTSTRAP or AURA_POSTGRES_DSN name a service, that one is used; it must be empty, since the demo
proves every command against a book of its own, and what it writes there stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import derived, load_key
from aura_stream.demo.outside import Address
from aura_stream.demo.stories import BANKS
from aura_stream.domain.settlement import TOKENS
from aura_stream.embedded.anvil import cached_program, ensure_anvil
from aura_stream.embedded.jars import cache_dir, ensure_jars, read_lock
from aura_stream.embedded.local import ROLE_GRACE_S, ROLE_TIMEOUT_S, LocalStack, external_services
from aura_stream.embedded.processes import Process, free_port
from aura_stream.ledger.connection import connect
from aura_stream.settings import SetupError, load_settings
from topics import COMMANDS

Say = Callable[[str, str], None]
"""Prints a text and what ends it."""

BLOCK_S: Final = 0.25
BANK_POLL_S: Final = 0.5
RECONCILE_EVERY_S: Final = 5.0
LIMITS: Final = {
    "answer_ms": 4_000,
    "failures_to_open": 3,
    "open_ms": 3_000,
    "inquire_every_ms": 1_000,
    "inquiries": 100,
}
"""What lanes go by: less patience than a real bank deserves, so that breakers and inquiries are seen in seconds."""
DAYS_BACK: Final = 364
"""The banks' calendar begins so long ago: for hours of play days can pass there without overtaking the ledger's clock,
which would book what a bank has on a later day, and wait for a statement that has it."""


class Stage:
    """Starts everything and ends everything. All processes are tied to this one: they cannot outlive it.

    To be used from the main thread alone: a tied process ends with the thread that started it.
    """

    def __init__(
        self, workers: int, *, keep: bool, say: Say, terminal: bool, good: str = "ok", settlement: bool = True
    ) -> None:
        self._workers = workers
        self._settlement = settlement
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
            mock_bank_port=free_port(),
            chain_port=free_port(),
            bank_poll_s=BANK_POLL_S,
            bank_limits=json.dumps(dict.fromkeys(BANKS.values(), LIMITS)),
        )
        self.stack = LocalStack(settings, external=external, tied=True)
        self.stack.chain.block_time_s = BLOCK_S

    def start(self) -> None:
        """Starts services and roles, a line each. Raises :class:`SetupError`.

        Kafka takes longest, so all that does not need it comes up meanwhile; the roles come up side by side.
        """
        stack, external = self.stack, self.stack.external
        if "kafka" not in external:
            missing = [jar for jar in read_lock() if not (cache_dir() / jar.file_name).exists()]
            if missing:
                self._say(f"  first start: Kafka comes as {len(missing)} jars, kept in {cache_dir()}", "\n")
                self._line("kafka jars", ensure_jars, shows_progress=True)
            stack.kafka.launch()
        if self._settlement and not cached_program().exists():
            self._say("  first start: the chain's node is a program of 20 MB, kept as well", "\n")
            self._line("chain program", ensure_anvil)
        if "postgres" not in external:
            self._line("postgres", stack.postgres.start)
        self._line("schema", lambda: stack.run_once("db", "migrate"))
        if self._settlement:
            self._line("mock bank", lambda: stack.start_mock_bank("--start", _monday(DAYS_BACK)))
            self._line("chain", stack.chain.start)
        if "kafka" not in external:
            self._line("kafka", stack.kafka.wait_ready)
        self._line("topics", lambda: stack.run_once("topics", "apply"))
        if external:
            self._line("is empty", lambda: asyncio.run(self._check_empty()))
        roles = [("ledger", slot) for slot in range(self._workers)] + [("sink", 0)]
        roles += [("bank", 0), ("chain", 0)] if self._settlement else []
        for process in [stack.launch_role(role, slot) for role, slot in [*roles, ("api", 0)]]:
            self._line(process.name, partial(process.wait_ready, ROLE_TIMEOUT_S))
        if self._settlement:
            watch = stack.launch_reconcile(RECONCILE_EVERY_S)
            self._line(watch.name, partial(watch.wait_ready, ROLE_TIMEOUT_S))

    @property
    def address(self) -> Address | None:
        """How to reach banks and chain; None when there are none."""
        if not self._settlement:
            return None
        environment, settings = self.stack.environment(), self.stack.settings
        keys = {token: derived(load_key(settings), token) for token in TOKENS}
        return Address(
            settings,
            {token: token_address(key) for token, key in keys.items()},
            {token: key.address for token, key in keys.items()},
            environment["AURA_POSTGRES_WRITE_DSN"],
            environment["AURA_POSTGRES_READ_DSN"],
            environment["AURA_API_URL"],
            environment["AURA_API_KEY"],
        )

    def stop(self, *, gently: bool = True) -> None:
        """Ends everything and removes the data, unless it is to be kept; it never raises for what is gone."""
        began = time.monotonic()
        if gently:
            # Nothing is under way any more, so that no role has to wait for another.
            with ThreadPoolExecutor(max_workers=len(self.processes)) as side_by_side:
                list(side_by_side.map(lambda process: process.stop(ROLE_GRACE_S), self.stack.roles.processes))
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
        chain = [self.stack.chain.process] if self._settlement else []
        return [*own, *chain, *self.stack.roles.processes]

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
            self._say(f"  {name:<13} ...", "\r")
        began = time.monotonic()
        try:
            action()
        except SetupError:
            self._say(f"  {name:<13} failed after {time.monotonic() - began:.1f} s", "\n")
            raise
        self._say(f"  {name:<13} {self._good} {time.monotonic() - began:5.1f} s", "\n")


def _monday(days_back: int) -> str:
    """A Monday at least so many days ago, at an hour when no rail of the banks settles before the next day."""
    day = datetime.now(UTC) - timedelta(days=days_back)
    day -= timedelta(days=day.weekday())
    return day.replace(hour=17, minute=0, second=0, microsecond=0).isoformat()
