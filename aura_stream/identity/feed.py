"""How a revocation comes to hold on every API process before it is answered (ADR 14).

Each process keeps verified logins in memory and hears by this feed what to forget. It beats twice a second and whenever
Postgres notifies; a beat says up to which revocation it has forgotten everything. Whoever revokes waits until every
process that lives has said so. A process that has not heard the feed for `LEASE_S` trusts its memory no longer, and one
that has not beaten for as long is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import asyncpg

from aura_stream.identity.database import Database, IdentityUnavailable

log = logging.getLogger(__name__)

BEAT_S = 0.5
LEASE_S = 5.0
CONFIRM_S = 2.0
"""How long a revocation waits for the other processes before it is answered 503."""
_POLL_S = 0.005
_CHANNEL = "aura_identity"


class Revocation(NamedTuple):
    """What is to be forgotten. `kind`: session | user | tenant | api_key | signing_keys."""

    seq: int
    kind: str
    subject: str
    tenant: str | None


class Unconfirmed(Exception):
    """Revoked in the database, but a process that may live has not said that it knows."""


class Feed:
    """This process's ear."""

    def __init__(self, database: Database, forget: Callable[[Revocation], Awaitable[None]]) -> None:
        self._database = database
        self._forget = forget
        self._node = uuid.uuid4()
        self._acked: int | None = None
        self._heard_at = float("-inf")
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_broken = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_fresh(self) -> bool:
        """Whether what this process remembers can be trusted."""
        return asyncio.get_running_loop().time() - self._heard_at < LEASE_S

    @property
    def position(self) -> int:
        """Up to which revocation everything is forgotten here."""
        return self._acked or 0

    def start(self) -> None:
        """Begins to listen."""
        self._task = asyncio.create_task(self._run(), name="identity feed")

    async def stop(self) -> None:
        """Stops; the process need not be waited for any more."""
        if self._task is None:
            return
        # Not cut off in the middle of a beat: Postgres might still run it, and others would wait for who is gone.
        self._stopping.set()
        self._wake.set()
        await asyncio.wait([self._task], timeout=2)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._heard_at = float("-inf")

    async def confirmed(self, seq: int) -> None:
        """Returns when every process that lives has forgotten everything up to `seq`.

        Raises :class:`Unconfirmed` after `CONFIRM_S`, :class:`IdentityUnavailable`.
        """
        self._wake.set()
        deadline = asyncio.get_running_loop().time() + CONFIRM_S
        while True:
            async with self._database.nobody() as connection:
                behind: int = await connection.fetchval(
                    """SELECT count(*) FROM identity.nodes
                    WHERE acked < $1 AND seen_at > clock_timestamp() - make_interval(secs => $2)""",
                    seq,
                    LEASE_S,
                )
            if not behind:
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise Unconfirmed(f"{behind} API processes have not confirmed within {CONFIRM_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._listen()
            except (IdentityUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                if not self._is_broken:
                    log.warning("identity: the feed of revocations is broken, trying again: %s", error)
                self._is_broken = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), BEAT_S)

    async def _listen(self) -> None:
        connection = await self._database.session()
        try:
            await connection.add_listener(_CHANNEL, lambda *_: self._wake.set())
            if self._acked is None:
                await connection.execute("DELETE FROM identity.nodes WHERE seen_at < now() - interval '1 hour'")
                head = await connection.fetchval("SELECT coalesce(max(seq), 0) FROM identity.revocations")
                # The keys are loaded after the position was taken, so that no change falls in between.
                await self._forget(Revocation(head, "signing_keys", "", None))
                self._acked = head
            while not self._stopping.is_set():
                self._wake.clear()
                began = asyncio.get_running_loop().time()
                rows = await connection.fetch("SELECT * FROM identity.beat($1, $2)", self._node, self._acked)
                for row in rows:
                    await self._forget(Revocation(row["seq"], row["kind"], row["subject"], row["tenant_id"]))
                    self._acked = row["seq"]
                self._heard_at = began
                if self._is_broken:
                    log.warning("identity: the feed of revocations is heard again")
                    self._is_broken = False
                if rows:
                    continue  # says at once that it has forgotten
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_S):
                        if not self._stopping.is_set():
                            await self._wake.wait()
            await connection.execute("DELETE FROM identity.nodes WHERE node_id = $1", self._node)
        finally:
            connection.terminate()
