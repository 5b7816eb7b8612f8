"""Finishes requests to be forgotten, as soon as no money and no work of the person is left.

Asked again from time to time: by then the money may be gone. Any process may do it; the request's row is locked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from aura_stream.domain.ids import record_key
from aura_stream.identity import repository
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.identity import Identity
from aura_stream.ledger.connection import Observe
from aura_stream.ledger.listing import Page, order_of
from aura_stream.ledger.reads import TRANSACTIONS, LedgerReads, ReadsUnavailable
from web.answers import postgres_away
from web.command_log import CommandLog
from web.lookup import Lookup
from web.problems import Problem

log = logging.getLogger(__name__)

LOOK_S: Final = 300.0
_OPEN: Final = ("created", "requires_approval", "processing", "requires_attention")
_BATCH: Final = 100


class Erasures:
    """What a pending request waits for, and the loop that looks again."""

    def __init__(self, identity: Identity, commands: CommandLog, lookup: Lookup, reads: LedgerReads) -> None:
        self._identity = identity
        self._commands = commands
        self._lookup = lookup
        self._reads = reads
        self.observe: Observe = lambda _: None
        """Is told how long each look took, in seconds."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._run(), name="erasures")

    async def stop(self) -> None:
        """Stops; what is pending is finished by another process, or by the next one here."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def partition_of(self, tenant: str, customer: str) -> int:
        """Where everything of a customer is decided."""
        return self._commands.partition_of(record_key(tenant, customer))

    async def attempt(self, request: Mapping[str, Any] | repository.Row) -> repository.Row:
        """Forgets the person of a pending request, unless something is left; the request as it is then.

        Raises :class:`Problem` while that cannot be known.
        """
        tenant = request["tenant_id"]
        user = await self._identity.users.get(tenant, str(request["user_id"]))
        waits_for = await self._left(tenant, user["customer_id"])
        return await self._identity.privacy.finish(tenant, str(request["request_id"]), waits_for)

    async def look(self) -> int:
        """Tries all pending requests; how many are done now."""
        done = 0
        async with self._identity.database.platform() as connection:
            pending = await repository.pending_erasures(connection, _BATCH)
        for request in pending:
            done += (await self.attempt(request))["status"] == "completed"
        return done

    async def _left(self, tenant: str, customer: str) -> list[str]:
        """`balance`, `work_in_flight`: after everything that was accepted before this was called."""
        partition = self.partition_of(tenant, customer)
        ends = await self._lookup.fresh([partition])
        await self._lookup.decided(partition, ends)
        left = set()
        try:
            for account, balances in await self._reads.accounts_of(tenant, customer):
                if balances.posted or balances.pending:
                    left.add("balance")
                if await self._is_open(tenant, {"account_id": account["account_id"]}):
                    left.add("work_in_flight")
            if await self._is_open(tenant, {"customer": customer}):
                left.add("work_in_flight")
        except ReadsUnavailable as error:
            raise postgres_away(error) from None
        return sorted(left)

    async def _is_open(self, tenant: str, filters: dict[str, Any]) -> bool:
        """Whether a transaction that the filters leave has not ended."""
        page = Page(filters=filters | {"status": list(_OPEN)}, order=order_of(TRANSACTIONS, ""), limit=1)
        rows, _ = await self._reads.transactions(tenant, page, counted=False)
        return bool(rows)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            began = loop.time()
            try:
                await self.look()
                self.observe(loop.time() - began)
            except (IdentityUnavailable, Problem) as error:
                log.warning("erasures wait: %s", error)
