"""Makes the ledger know tenants that were made over HTTP: without a restart, and before anybody's money is asked for.

The row of a tenant says whether every partition of the ledger takes its commands. Whoever finds one that is not open
sends `tenant.open` until the ledger says so; any process may do it, as often as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from datetime import UTC, datetime
from typing import Final

import asyncpg
import orjson

from aura_stream.domain.ids import record_key
from aura_stream.identity import repository
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.identity import Identity
from aura_stream.journal import AnswerLine
from aura_stream.settings import Settings
from web.command_log import CommandLog
from web.problems import Problem
from web.recent import Recent
from web.views import instant

log = logging.getLogger(__name__)

CUSTOMER: Final = "tenants"
"""In whose name the commands are sent, in the first tenant of the settings."""
_LOOK_S: Final = 5.0
_BATCH: Final = 50
_ANSWER_S: Final = 10.0
_AGAIN_S: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between asking; then other tenants have their turn."""


class Openings:
    """The tenants that the ledger knows, and the loop that makes it know the others."""

    def __init__(self, settings: Settings, identity: Identity, commands: CommandLog, recent: Recent) -> None:
        self._first = settings.tenants[0]
        self._identity = identity
        self._commands = commands
        self._recent = recent
        self._open = set(settings.tenants)
        self._news = asyncio.Condition()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._run(), name="openings of tenants")

    async def stop(self) -> None:
        """Stops; another process goes on, or the next one here."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def open(self) -> frozenset[str]:
        """The tenants that this process knows to be open."""
        return frozenset(self._open)

    def knows(self, tenant: str) -> bool:
        """Whether this process knows already that the ledger takes commands of a tenant."""
        return tenant in self._open

    async def is_open(self, tenant: str) -> bool:
        """Whether the ledger takes commands of a tenant. Raises :class:`Problem` when there is no such tenant."""
        if tenant in self._open:
            return True
        async with self._identity.database.platform() as connection:
            row = await repository.tenant(connection, tenant)
        if row is None:
            raise Problem("tenant_not_found", f"There is no tenant {tenant}.")
        if row["ledger_opened_at"] is None:
            self._wake.set()
            return False
        self._open.add(tenant)
        return True

    async def opened(self, tenant: str, wait_s: float) -> None:
        """Waits until a new tenant is open, for `wait_s` at most."""
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s), self._news:
                await self._news.wait_for(lambda: tenant in self._open)

    async def _run(self) -> None:
        is_broken = False
        while True:
            count = 0
            try:
                if self._commands.is_up:
                    count = await self._look()
                is_broken = False
            except (IdentityUnavailable, asyncpg.PostgresError, Problem, TimeoutError) as error:
                if not is_broken:
                    log.warning("new tenants wait: %s: %s", type(error).__name__, error)
                is_broken = True
            if count < _BATCH:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> int:
        """Opens what is not open; how many there were."""
        database = self._identity.database
        async with database.platform() as connection:
            found = await repository.unopened_tenants(connection, _BATCH)
            others = await repository.opened_tenants(connection)
        await self._tell(others)
        for tenant in found:
            status = ""
            for pause in _AGAIN_S:
                status = await self._ask(tenant)
                if status != "opening":
                    break
                await asyncio.sleep(pause)
            if status != "open":
                log.warning("the ledger does not take commands of the tenant %s yet: %s", tenant, status)
                continue
            async with database.platform() as connection:
                await repository.set_opened(connection, tenant)
            await self._tell([tenant])
        return len(found)

    async def _tell(self, tenants: list[str]) -> None:
        async with self._news:
            self._open.update(tenants)
            self._news.notify_all()

    async def _ask(self, tenant: str) -> str:
        """`open`, `opening`, or the reason why not."""
        command = {
            "id": str(uuid.uuid4()),
            "type": "tenant.open",
            "tenant": self._first,
            "customer": CUSTOMER,
            "idempotency_key": str(uuid.uuid4()),
            "issued_at": instant(datetime.now(UTC)),
            "data": {"operator": "system", "tenant_id": tenant},
        }
        key = record_key(self._first, CUSTOMER)
        with self._recent.waiter(str(command["id"])) as outcome:
            record = (self._commands.partition_of(key), key, orjson.dumps(command))
            await self._commands.append_many([record], [("aura-source", b"tenants")])
            async with asyncio.timeout(_ANSWER_S):
                line = await outcome
        assert isinstance(line, AnswerLine)  # what `tenant.open` is answered by
        return line.reason or line.status
