"""The job that removes what has served its time, and tells the log where the audit chains stand.

Every API process runs it; an advisory lock lets one at a time work. It touches no money: the reference of a transaction
is in the ledger's own tables for ever, so that a key of money is never free again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import asyncpg

from aura_stream.identity import repository
from aura_stream.identity.database import Database, IdentityUnavailable
from aura_stream.ledger.connection import Observe

log = logging.getLogger(__name__)

BATCH: Final = 1000
"""Rows of a kind per transaction, so that no lock is held for long."""
_HEADS_EVERY_S: Final = 600.0


class Cleanup:
    """The job. Times in seconds: `answers_s` for stored answers, `ended_s` for sessions, tokens and finished work."""

    def __init__(self, database: Database, *, answers_s: float, ended_s: float, interval_s: float) -> None:
        self._database = database
        self._answers_s = answers_s
        self._ended_s = ended_s
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self.observe: Observe = lambda _: None
        """Is told how long each run took, in seconds."""
        self.removed: dict[str, int] = {}
        """What this process has removed, by kind."""

    def start(self) -> None:
        """Begins to run from time to time."""
        self._task = asyncio.create_task(self._run(), name="identity cleanup")

    async def stop(self) -> None:
        """Ends."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def run_once(self) -> dict[str, int]:
        """Removes all that is due; how many of each kind. Raises :class:`IdentityUnavailable`."""
        total: dict[str, int] = {}
        while True:
            async with self._database.nobody() as connection:
                removed = await repository.clean(connection, self._answers_s, self._ended_s, BATCH)
            for kind, count in removed.items():
                if count:
                    total[kind] = total.get(kind, 0) + count
                    self.removed[kind] = self.removed.get(kind, 0) + count
            if max(removed.values(), default=0) < BATCH:
                return total

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        told_at = float("-inf")
        while True:
            await asyncio.sleep(self._interval_s)
            began = loop.time()
            try:
                removed = await self.run_once()
                self.observe(loop.time() - began)
                if removed:
                    log.info("removed what has served its time: %s", removed)
                if loop.time() - told_at >= _HEADS_EVERY_S:
                    await self._tell_heads()
                    told_at = loop.time()
            except (IdentityUnavailable, asyncpg.PostgresError) as error:
                log.warning("identity: nothing could be removed: %s", error)

    async def _tell_heads(self) -> None:
        """Where logs are kept elsewhere, they prove that no chain was cut or written anew."""
        async with self._database.nobody() as connection:
            for row in await repository.audit_heads(connection):
                log.info("audit head", extra={"tenant": row["tenant_id"], "seq": row["seq"], "hash": row["hash"].hex()})
