"""The worker's side of webhooks: takes deliveries that are due, sends them, writes down what came of it.

Any number of processes share the work: a delivery belongs for a minute to the one that took it, and what a former
owner finds out too late is not written. First tries of one endpoint and aggregate go out in the order of `seq`, each
after the one before was answered; a retry holds nothing back. An endpoint that does not answer has a few requests
under way at most, so that it holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import aiohttp
import asyncpg

from aura_stream.identity.sealing import Sealer, Unsealable
from aura_stream.ledger.connection import AWAY, EVENTS, close_pool, create_pool
from aura_stream.webhooks.endpoints import secret_place
from aura_stream.webhooks.guard import AddressRefused, Guard, guarded_session
from aura_stream.webhooks.schedule import gives_up, next_try
from aura_stream.webhooks.signatures import sign

log = logging.getLogger(__name__)

TIMEOUT_S: Final = 15.0
"""An endpoint has this long to answer, the answer's first bytes included."""
LEASE: Final = timedelta(seconds=60)
UNDER_WAY_MAX: Final = 4
"""Requests to one endpoint at the same time."""
SLOTS: Final = 256
"""Requests of one process at the same time."""
RESPONSE_MAX: Final = 1024
KEPT: Final = timedelta(days=30)
_LOOK_S: Final = 0.25
_STOP_S: Final = 5.0
_AWAY_MAX_S: Final = 2.0
_CLEAN_S: Final = 3600.0

# Materialized: a plan that scans it again for each row would skip what it has locked and take more than may be taken.
_CLAIM: Final = """
WITH mine AS MATERIALIZED (
    SELECT w.delivery_id
    FROM (
        SELECT e.endpoint_id, (
            SELECT count(*) FROM events.webhook_deliveries u
            WHERE u.endpoint_id = e.endpoint_id AND u.status = 'pending' AND u.lease_until > $1
        ) AS under_way
        FROM events.webhook_endpoints e
        WHERE e.status = 'enabled' AND EXISTS (
            SELECT FROM events.webhook_deliveries p
            WHERE p.endpoint_id = e.endpoint_id AND p.status = 'pending' AND p.next_at <= $1
        )
    ) e
    CROSS JOIN LATERAL (
        SELECT c.delivery_id FROM events.webhook_deliveries c
        WHERE c.endpoint_id = e.endpoint_id AND c.status = 'pending' AND c.next_at <= $1
            AND (c.lease_until IS NULL OR c.lease_until <= $1)
            AND (c.tries > 0 OR NOT EXISTS (
                SELECT FROM events.webhook_deliveries b
                WHERE b.endpoint_id = c.endpoint_id AND b.aggregate = c.aggregate AND b.position < c.position
                    AND b.status = 'pending' AND b.tries = 0
            ))
        ORDER BY c.next_at, c.position
        LIMIT greatest(0, $4 - e.under_way)
        FOR UPDATE OF c SKIP LOCKED
    ) w
    LIMIT $5
)
UPDATE events.webhook_deliveries d SET lease = $2, lease_until = $1 + $3
FROM mine, events.webhook_endpoints e
WHERE d.delivery_id = mine.delivery_id AND e.endpoint_id = d.endpoint_id
RETURNING d.delivery_id, d.tenant_id, d.endpoint_id, d.event_id, d.tries, d.attempts, e.url, e.secret_sealed,
    e.previous_sealed, e.previous_until,
    coalesce(d.body, (SELECT l.body FROM events.log l WHERE l.event_id = d.event_id)) AS body
"""
_FINISH: Final = """
UPDATE events.webhook_deliveries
SET status = $3, tries = $4, attempts = $5, next_at = coalesce($6, next_at), lease = NULL, lease_until = NULL,
    finished_at = $7
WHERE delivery_id = $1 AND lease = $2
"""
_ATTEMPT: Final = """
INSERT INTO events.webhook_attempts (tenant_id, delivery_id, number, at, duration_ms, status_code, error, response)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_DISABLE: Final = """
UPDATE events.webhook_endpoints SET status = 'disabled', disabled_reason = $2, updated_at = $3
WHERE endpoint_id = $1 AND status = 'enabled'
"""


class Outcome(NamedTuple):
    """What one request came to."""

    status_code: int | None
    error: str | None
    response: str | None
    duration_ms: int

    @property
    def is_delivered(self) -> bool:
        """Whether the endpoint has taken it."""
        return self.status_code is not None and 200 <= self.status_code < 300


@dataclass(frozen=True, slots=True)
class Taken:
    """A delivery that is this process's until its lease ends."""

    row: asyncpg.Record
    lease: uuid.UUID


class Deliveries:
    """Sends what is due. `now` is the clock: tests move it by days."""

    def __init__(self, dsn: str, sealer: Sealer, guard: Guard, *, now: Callable[[], datetime] | None = None) -> None:
        self._dsn = dsn
        self._sealer = sealer
        self._guard = guard
        self._now = now or (lambda: datetime.now(UTC))
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._cleaned_at = float("-inf")

    async def start(self) -> None:
        """Connects. Raises asyncpg's errors."""
        self._pool = await create_pool(self._dsn, EVENTS, size_max=4, application_name="aura webhooks")
        self._session = guarded_session(self._guard, TIMEOUT_S)

    async def stop(self) -> None:
        """Takes no more, and waits for what is under way: an answer that is not written down is a delivery sent again.

        An endpoint that has not answered after some seconds is not waited for; whoever takes its delivery next sends
        it again.
        """
        if self._running:
            await asyncio.wait(self._running, timeout=_STOP_S)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
        if self._pool is not None:
            await close_pool(self._pool)

    async def run(self) -> None:
        """Sends until it is cancelled; goes on after any failure of Postgres."""
        pause_s = _LOOK_S
        while True:
            try:
                count = await self.take()
                await self._clean()
                pause_s = _LOOK_S
            except AWAY as error:
                log.warning("webhooks: Postgres does not answer, trying again: %s: %s", type(error).__name__, error)
                count, pause_s = 0, min(pause_s * 2, _AWAY_MAX_S)
            if not count:
                # An answer frees the way for what comes behind it.
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()

    async def run_due(self) -> int:
        """Sends all that is due by now, and what that makes due; how many requests."""
        count = 0
        while more := await self.take():
            count += more
            while self._running:
                await asyncio.wait(set(self._running))
        return count

    async def take(self) -> int:
        """Takes what is due and begins to send it; how many."""
        room = SLOTS - len(self._running)
        if room <= 0:
            return 0
        assert self._pool is not None
        lease = uuid.uuid4()
        rows = await self._pool.fetch(_CLAIM, self._now(), lease, LEASE, UNDER_WAY_MAX, room)
        for row in rows:
            task = asyncio.create_task(self._deliver(Taken(row, lease)))
            self._running.add(task)
            task.add_done_callback(self._done)
        return len(rows)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease ends by itself, and it is sent again.
            log.warning("webhooks: what came of a delivery was not written: %s: %s", type(error).__name__, error)

    async def _deliver(self, taken: Taken) -> None:
        row = taken.row
        began_at, began = self._now(), time.monotonic()
        try:
            status, response, error = await self._request(row, began_at)
        except AddressRefused as refused:
            status, response, error = None, None, f"refused: {refused}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, Unsealable) as failure:
            cause = failure.os_error if isinstance(failure, aiohttp.ClientConnectorError) else failure
            kind = "refused" if isinstance(cause, AddressRefused) else type(cause).__name__
            status, response, error = None, None, f"{kind}: {cause}"[:300]
        outcome = Outcome(status, error, response, int((time.monotonic() - began) * 1000))
        await self._write(taken, outcome, began_at)

    async def _request(self, row: asyncpg.Record, at: datetime) -> tuple[int, str, str | None]:
        url = self._guard.check_url(row["url"])
        assert url.host is not None and url.port is not None
        # An address written as digits does not pass the connector's resolver.
        await self._guard.addresses(url.host, url.port)
        body = row["body"].encode()
        timestamp = int(at.timestamp())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "aura-webhooks/1",
            "webhook-id": row["event_id"],
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._secrets(row, at), row["event_id"], timestamp, body),
        }
        assert self._session is not None
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            # Read in whole chunks until there is enough: what a receiver says further is not taken off the wire.
            said = bytearray()
            async for chunk in answer.content.iter_any():
                said += chunk[: RESPONSE_MAX - len(said)]
                if len(said) >= RESPONSE_MAX:
                    break
            text = bytes(said).decode("utf-8", "replace").replace("\x00", "\ufffd")
            error = None if 200 <= answer.status < 300 else f"HTTP {answer.status}"
            if 300 <= answer.status < 400:
                error = f"HTTP {answer.status}: redirects are not followed"
            return answer.status, text, error

    def _secrets(self, row: asyncpg.Record, at: datetime) -> list[str]:
        place = secret_place(row["endpoint_id"])
        sealed = [row["secret_sealed"]]
        if row["previous_sealed"] is not None and row["previous_until"] > at:
            sealed.append(row["previous_sealed"])
        return [self._sealer.open(one, place).decode() for one in sealed]

    async def _write(self, taken: Taken, outcome: Outcome, at: datetime) -> None:
        assert self._pool is not None
        row, now = taken.row, self._now()
        delivery_id, endpoint_id, tries = row["delivery_id"], row["endpoint_id"], row["tries"] + 1
        status, next_at = "delivered", None
        if not outcome.is_delivered:
            next_at = None if outcome.status_code == 410 else next_try(tries, str(delivery_id), now)
            status = "failed" if next_at is None else "pending"
        finished_at = None if status == "pending" else now
        async with self._pool.acquire() as connection, connection.transaction():
            done = await connection.execute(
                _FINISH, delivery_id, taken.lease, status, tries, row["attempts"] + 1, next_at, finished_at
            )
            if done != "UPDATE 1":
                return  # the lease has ended, and somebody else has it
            await connection.execute(
                _ATTEMPT,
                row["tenant_id"],
                delivery_id,
                row["attempts"] + 1,
                at,
                outcome.duration_ms,
                outcome.status_code,
                outcome.error,
                outcome.response,
            )
            if outcome.is_delivered:
                await connection.execute(
                    """UPDATE events.webhook_endpoints SET failing_since = NULL
                    WHERE endpoint_id = $1 AND failing_since IS NOT NULL""",
                    endpoint_id,
                )
                return
            failing_since = await connection.fetchval(
                """UPDATE events.webhook_endpoints SET failing_since = coalesce(failing_since, $2)
                WHERE endpoint_id = $1 RETURNING failing_since""",
                endpoint_id,
                at,
            )
            if outcome.status_code == 410:
                await connection.execute(_DISABLE, endpoint_id, "gone", now)
            elif status == "failed" and failing_since is not None and gives_up(failing_since, now):
                await connection.execute(_DISABLE, endpoint_id, "failing", now)

    async def _clean(self) -> None:
        """Removes what ended long ago, from time to time."""
        if time.monotonic() - self._cleaned_at < _CLEAN_S:
            return
        assert self._pool is not None
        await self._pool.execute(
            "DELETE FROM events.webhook_deliveries WHERE status <> 'pending' AND finished_at < $1", self._now() - KEPT
        )
        self._cleaned_at = time.monotonic()
