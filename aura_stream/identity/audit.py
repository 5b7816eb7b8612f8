"""The audit log: who did what, who tried. Append-only and hash-chained in Postgres, one chain per tenant.

What changes something is written in the transaction that changes it. Refusals change nothing, so they wait in a queue:
an attacker must not be able to make a request cost a commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from aura_stream.identity import repository
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.identity.subjects import Subjects

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

log = logging.getLogger(__name__)

NO_TENANT: Final = "@platform"
"""Whose chain has what belongs to no tenant."""
PLACE: Final = "audit_log"
"""Where addresses are sealed for."""
_QUEUE_MAX: Final = 10_000
_BATCH_MAX: Final = 200


class Origin(msgspec.Struct, frozen=True):
    """Where a request comes from."""

    request_id: str = ""
    address: str = ""
    """IP address; sealed before it is stored, under the actor's key."""
    client: str = ""
    """User agent, as it says itself."""


@dataclass(frozen=True, slots=True)
class _Note:
    tenant: str
    actor: str
    action: str
    outcome: str
    reason: str
    subject: str
    origin: Origin


class AuditLog:
    """Writes the audit log."""

    def __init__(self, database: Database, subjects: Subjects) -> None:
        self._database = database
        self._subjects = subjects
        self._queue: asyncio.Queue[_Note] = asyncio.Queue(_QUEUE_MAX)
        self._task: asyncio.Task[None] | None = None
        self.lost = 0
        """Notes that found the queue full; they are only in the log."""

    async def done(
        self, connection: Connection, tenant: str, actor: str, action: str, subject: str, origin: Origin
    ) -> None:
        """Notes what was done, in the transaction that does it."""
        address = await self._subjects.seal_for(connection, actor, origin.address, PLACE)
        values = (actor, action, "ok", "", subject, origin.request_id, address)
        await repository.audit(connection, tenant or NO_TENANT, values)

    def refused(self, tenant: str, actor: str, action: str, reason: str, subject: str, origin: Origin) -> None:
        """Notes that someone was not let in, or was not allowed to. Never waits and never fails.

        `subject` is an id or a pseudonym, never an address or a token.
        """
        log.info("refused: %s of %s: %s (%s)", action, actor, reason, origin.request_id)
        self._put(_Note(tenant or NO_TENANT, actor, action, "refused", reason, subject[:200], origin))

    def crossed(self, tenant: str, actor: str, action: str, origin: Origin) -> None:
        """Notes that someone of another tenant, or of none, worked in this one. Never waits and never fails."""
        self._put(_Note(tenant, actor, action, "ok", "crossed_tenants", "", origin))

    def _put(self, note: _Note) -> None:
        try:
            self._queue.put_nowait(note)
        except asyncio.QueueFull:
            self.lost += 1

    def start(self) -> None:
        """Begins to write notes down."""
        self._task = asyncio.create_task(self._run(), name="identity audit")

    async def stop(self) -> None:
        """Writes what is left, for a second at most."""
        if self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._queue.join()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def written(self) -> None:
        """Returns when every refusal so far is in the database."""
        await self._queue.join()

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH_MAX and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._write(batch)
            for _ in batch:
                self._queue.task_done()

    async def _write(self, batch: list[_Note]) -> None:
        while True:
            try:
                async with self._database.nobody() as connection:
                    # In the order of tenants: two processes take the chains' locks in one order.
                    for one in sorted(batch, key=lambda one: one.tenant):
                        address = await self._subjects.seal_for(connection, one.actor, one.origin.address, PLACE)
                        values = (one.actor, one.action, one.outcome, one.reason, one.subject, one.origin.request_id)
                        await repository.audit(connection, one.tenant, (*values, address))
                return
            except IdentityUnavailable as error:
                log.warning("identity: %d refusals wait for the audit log: %s", len(batch), error)
                await asyncio.sleep(1)
