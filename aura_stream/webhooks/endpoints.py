"""The API's side of webhooks: endpoints and deliveries of one tenant, and of one customer where no more may be seen."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from aura_stream.domain.reasons import Refused
from aura_stream.identity.database import Database
from aura_stream.identity.sealing import Sealer
from aura_stream.identity.service import Service
from aura_stream.webhooks.guard import AddressRefused, Guard
from aura_stream.webhooks.signatures import make_secret

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

Row = asyncpg.Record

ENDPOINTS_MAX: Final = 50
"""Endpoints of one tenant, or of one customer."""
REPLAY_MAX: Final = 10_000
_ENDPOINT: Final = """
endpoint_id, tenant_id, customer_id, url, description, types, status, disabled_reason, previous_until, failing_since,
created_by, created_at, updated_at
"""
_DELIVERY: Final = """
d.delivery_id, d.endpoint_id, d.event_id, d.type, d.status, d.attempts, d.next_at, d.created_at, d.finished_at
"""
_MINE: Final = "($1::text IS NULL OR customer_id = $1)"
_OF_MINE: Final = """EXISTS (SELECT FROM events.webhook_endpoints e
    WHERE e.endpoint_id = d.endpoint_id AND ($1::text IS NULL OR e.customer_id = $1))"""
_UPDATED: Final = frozenset({"url", "description", "types", "status", "disabled_reason", "failing_since"})


class Endpoints(Service):
    """Endpoints and their deliveries. `customer` limits a call to what is that customer's; None: all of the tenant.

    Raises :class:`Refused`, and IdentityUnavailable while Postgres is away.
    """

    service_name = "webhook_endpoints"

    def __init__(self, database: Database, sealer: Sealer, guard: Guard) -> None:
        self._database = database
        self._sealer = sealer
        self._guard = guard

    async def create(self, tenant: str, customer: str | None, actor: str, wanted: Mapping[str, Any]) -> tuple[str, Row]:
        """A new endpoint and its secret. Raises :class:`Refused` ``webhook_url_refused``, ``too_many_endpoints``."""
        url = await self._checked(wanted["url"])
        endpoint_id, secret = uuid.uuid4(), make_secret()
        async with self._database.tenant(tenant) as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('events.endpoints/' || $1, 0))", tenant
            )
            if not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM identity.tenants WHERE tenant_id = $1)", tenant
            ):
                raise Refused("tenant_not_found", f"there is no tenant {tenant}")
            count = await connection.fetchval(
                "SELECT count(*) FROM events.webhook_endpoints WHERE customer_id IS NOT DISTINCT FROM $1", customer
            )
            if count >= ENDPOINTS_MAX:
                raise Refused("too_many_endpoints", f"there are {count} already")
            row = await connection.fetchrow(
                f"""INSERT INTO events.webhook_endpoints
                    (endpoint_id, tenant_id, customer_id, url, description, types, secret_sealed, created_by)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {_ENDPOINT}""",  # noqa: S608 - constants
                endpoint_id,
                tenant,
                customer,
                url,
                wanted.get("description"),
                sorted(set(wanted.get("types", ["*"]))),
                self._sealed(endpoint_id, secret),
                actor,
            )
        assert row is not None
        return secret, row

    async def get(self, tenant: str, customer: str | None, endpoint_id: str) -> Row:
        """An endpoint. Raises :class:`Refused` ``webhook_endpoint_not_found``."""
        async with self._database.tenant(tenant) as connection:
            return await _endpoint(connection, customer, endpoint_id)

    async def list(
        self, tenant: str, customer: str | None, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[Row]:
        """Endpoints, newest first."""
        async with self._database.tenant(tenant) as connection:
            return await connection.fetch(
                f"""SELECT {_ENDPOINT} FROM events.webhook_endpoints
                WHERE {_MINE} AND ($2::timestamptz IS NULL OR (created_at, endpoint_id) < ($2, $3))
                ORDER BY created_at DESC, endpoint_id DESC LIMIT $4""",  # noqa: S608 - constants
                customer,
                before[0] if before else None,
                uuid.UUID(before[1]) if before else None,
                limit,
            )

    async def update(self, tenant: str, customer: str | None, endpoint_id: str, wanted: Mapping[str, Any]) -> Row:
        """Changes an endpoint; enabling it forgets that it failed. Raises :class:`Refused`."""
        changes = dict(wanted)
        if "url" in changes:
            changes["url"] = await self._checked(changes["url"])
        if "types" in changes:
            changes["types"] = sorted(set(changes["types"]))
        async with self._database.tenant(tenant) as connection:
            before = await _endpoint(connection, customer, endpoint_id)
            status = changes.get("status", before["status"])
            if status != before["status"]:
                changes["disabled_reason"] = None if status == "enabled" else "by_request"
                changes["failing_since"] = None
            assert changes.keys() <= _UPDATED, changes.keys()
            names = sorted(changes)
            assigned = "".join(f"{name} = ${number}, " for number, name in enumerate(names, 2))
            row = await connection.fetchrow(
                f"""UPDATE events.webhook_endpoints SET {assigned} updated_at = clock_timestamp()
                WHERE endpoint_id = $1 RETURNING {_ENDPOINT}""",  # noqa: S608 - names of the set above
                uuid.UUID(endpoint_id),
                *[changes[name] for name in names],
            )
        assert row is not None
        return row

    async def delete(self, tenant: str, customer: str | None, endpoint_id: str) -> None:
        """Removes an endpoint and its deliveries. Raises :class:`Refused` ``webhook_endpoint_not_found``."""
        async with self._database.tenant(tenant) as connection:
            await _endpoint(connection, customer, endpoint_id)
            await connection.execute(
                "DELETE FROM events.webhook_endpoints WHERE endpoint_id = $1", uuid.UUID(endpoint_id)
            )

    async def rotate(self, tenant: str, customer: str | None, endpoint_id: str, overlap: timedelta) -> tuple[str, Row]:
        """A new secret; until the overlap has passed, deliveries are signed with the old one too."""
        secret = make_secret()
        async with self._database.tenant(tenant) as connection:
            await _endpoint(connection, customer, endpoint_id)
            row = await connection.fetchrow(
                f"""UPDATE events.webhook_endpoints SET previous_sealed = secret_sealed,
                    previous_until = clock_timestamp() + $3, secret_sealed = $2, updated_at = clock_timestamp()
                WHERE endpoint_id = $1 RETURNING {_ENDPOINT}""",  # noqa: S608 - constants
                uuid.UUID(endpoint_id),
                self._sealed(uuid.UUID(endpoint_id), secret),
                overlap,
            )
        assert row is not None
        return secret, row

    async def test(self, tenant: str, customer: str | None, endpoint_id: str, body: str, event_id: str) -> Row:
        """A delivery of an event that tells nothing, to see whether it arrives."""
        async with self._database.tenant(tenant) as connection:
            await _endpoint(connection, customer, endpoint_id)
            row = await connection.fetchrow(
                f"""INSERT INTO events.webhook_deliveries AS d
                    (tenant_id, endpoint_id, event_id, position, type, aggregate, body)
                VALUES ($1, $2, $3, 0, 'webhook.test', 'event:' || $3, $4) RETURNING {_DELIVERY}""",  # noqa: S608
                tenant,
                uuid.UUID(endpoint_id),
                event_id,
                body,
            )
        assert row is not None
        return row

    async def replay(
        self, tenant: str, customer: str | None, endpoint_id: str, start: datetime, end: datetime, types: Sequence[str]
    ) -> int:
        """Delivers events of a time again, those that the endpoint gets; how many. Raises :class:`Refused`.

        ``replay_too_large`` when there are more than `REPLAY_MAX`.
        """
        async with self._database.tenant(tenant) as connection:
            await _endpoint(connection, customer, endpoint_id)
            done: str = await connection.execute(
                """INSERT INTO events.webhook_deliveries (tenant_id, endpoint_id, event_id, position, type, aggregate)
                SELECT l.tenant_id, e.endpoint_id, l.event_id, l.position, l.type, l.aggregate
                FROM events.webhook_endpoints e JOIN events.log l ON l.tenant_id = e.tenant_id
                WHERE e.endpoint_id = $1 AND l.occurred_at >= $2 AND l.occurred_at < $3
                    AND (e.customer_id IS NULL OR e.customer_id = l.customer_id)
                    AND events.wants(e.types, l.type) AND events.wants($4::text[], l.type)
                ORDER BY l.position LIMIT $5""",
                uuid.UUID(endpoint_id),
                start,
                end,
                list(types),
                REPLAY_MAX + 1,
            )
            count = int(done.rpartition(" ")[2])
            if count > REPLAY_MAX:
                # Raised inside the transaction: none of them is kept.
                raise Refused("replay_too_large", f"more than {REPLAY_MAX} events")
        return count

    async def deliveries(
        self,
        tenant: str,
        customer: str | None,
        filters: Mapping[str, str],
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> Sequence[Row]:
        """Deliveries, newest first. `filters`: endpoint_id, event_id, status."""
        async with self._database.tenant(tenant) as connection:
            await connection.execute("SET LOCAL statement_timeout = '5s'")
            return await connection.fetch(
                f"""SELECT {_DELIVERY} FROM events.webhook_deliveries d
                WHERE {_OF_MINE} AND ($2::uuid IS NULL OR d.endpoint_id = $2) AND ($3::text IS NULL OR d.event_id = $3)
                    AND ($4::text IS NULL OR d.status = $4)
                    AND ($5::timestamptz IS NULL OR (d.created_at, d.delivery_id) < ($5, $6))
                ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $7""",  # noqa: S608 - constants
                customer,
                uuid.UUID(filters["endpoint_id"]) if "endpoint_id" in filters else None,
                filters.get("event_id"),
                filters.get("status"),
                before[0] if before else None,
                uuid.UUID(before[1]) if before else None,
                limit,
            )

    async def delivery(self, tenant: str, customer: str | None, delivery_id: str) -> tuple[Row, Sequence[Row]]:
        """A delivery and its attempts. Raises :class:`Refused` ``webhook_delivery_not_found``."""
        async with self._database.tenant(tenant) as connection:
            row = await _delivery(connection, customer, delivery_id)
            attempts = await connection.fetch(
                """SELECT number, at, duration_ms, status_code, error, response FROM events.webhook_attempts
                WHERE delivery_id = $1 ORDER BY number DESC LIMIT 100""",
                uuid.UUID(delivery_id),
            )
        return row, attempts

    async def retry(self, tenant: str, customer: str | None, delivery_id: str) -> Row:
        """Begins a delivery's schedule anew, at once. Raises :class:`Refused`."""
        async with self._database.tenant(tenant) as connection:
            await _delivery(connection, customer, delivery_id)
            row = await connection.fetchrow(
                f"""UPDATE events.webhook_deliveries d SET status = 'pending', tries = 0, next_at = '-infinity',
                    lease = NULL, lease_until = NULL, finished_at = NULL
                WHERE d.delivery_id = $1 RETURNING {_DELIVERY}""",  # noqa: S608 - constants
                uuid.UUID(delivery_id),
            )
        assert row is not None
        return row

    def _sealed(self, endpoint_id: uuid.UUID, secret: str) -> bytes:
        return self._sealer.seal(secret.encode(), secret_place(endpoint_id))

    async def _checked(self, url: str) -> str:
        try:
            return await self._guard.check(url)
        except AddressRefused as refused:
            raise Refused("webhook_url_refused", str(refused)) from None


def secret_place(endpoint_id: uuid.UUID) -> str:
    """What a secret is sealed for."""
    return f"webhook_endpoints/{endpoint_id}"


async def _endpoint(connection: Connection, customer: str | None, endpoint_id: str) -> Row:
    row = await connection.fetchrow(
        f"SELECT {_ENDPOINT} FROM events.webhook_endpoints WHERE {_MINE} AND endpoint_id = $2",  # noqa: S608 - constants
        customer,
        uuid.UUID(endpoint_id),
    )
    if row is None:
        raise Refused("webhook_endpoint_not_found", "there is no such endpoint")
    return row


async def _delivery(connection: Connection, customer: str | None, delivery_id: str) -> Row:
    row = await connection.fetchrow(
        f"SELECT {_DELIVERY} FROM events.webhook_deliveries d WHERE {_OF_MINE} AND d.delivery_id = $2",  # noqa: S608
        customer,
        uuid.UUID(delivery_id),
    )
    if row is None:
        raise Refused("webhook_delivery_not_found", "there is no such delivery")
    return row
