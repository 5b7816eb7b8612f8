"""Questions to the log of events, of one tenant, and of one customer where no more may be seen.

Positions order the log; to clients the id of an event stands for its position, and "0" for the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from aura_stream.identity.database import Database

BEGINNING: Final = "0"
SCANNED_MAX: Final = 10_000
"""Events that one page looks at, whatever its filters leave of them."""

_SCOPE: Final = "tenant_id = $1 AND ($2::text IS NULL OR customer_id = $2)"
_FILTERS: Final = """($6::text[] IS NULL OR events.wants($6, type))
    AND ($7::timestamptz IS NULL OR occurred_at >= $7) AND ($8::timestamptz IS NULL OR occurred_at < $8)"""
_PAGE: Final = """
WITH seen AS MATERIALIZED (
    SELECT position, event_id, type, occurred_at, body FROM events.log
    WHERE {scope} AND ($9::uuid IS NULL OR transaction_id = $9) AND position {than} $3
    ORDER BY position {order} LIMIT $5
), found AS (
    SELECT position, event_id, body FROM seen WHERE {filters} ORDER BY position {order} LIMIT $4
)
SELECT f.position, f.event_id, f.body, s.count, s.last
FROM (SELECT count(*) AS count, {edge}(position) AS last FROM seen) s LEFT JOIN found f ON true
ORDER BY f.position {order}
"""
_NEWER: Final = _PAGE.format(scope=_SCOPE, filters=_FILTERS, than=">", order="ASC", edge="max")
_OLDER: Final = _PAGE.format(scope=_SCOPE, filters=_FILTERS, than="<", order="DESC", edge="min")
_AFTER: Final = f"""
SELECT position, event_id, body FROM events.log
WHERE {_SCOPE} AND position > $3 AND position <= $4 AND ($5::text[] IS NULL OR events.wants($5, type))
ORDER BY position LIMIT $6
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is asked for; None: all that may be seen."""

    tenant: str
    customer: str | None
    types: tuple[str, ...] | None = None
    """Names as in "transfer.completed", families as in "transfer.*"."""
    transaction_id: str | None = None
    start: datetime | None = None
    end: datetime | None = None

    def passes(self, tenant: str, customer: str, type_: str) -> bool:
        """Whether an event of the log is wanted, by what a stream can ask for."""
        if tenant != self.tenant or self.customer not in (None, customer):
            return False
        family = type_.partition(".")[0] + ".*"
        return self.types is None or type_ in self.types or family in self.types or "*" in self.types


class Stored(NamedTuple):
    """One event of the log."""

    position: int
    id: str
    body: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, and where the page after them begins (None: there is no more)."""

    events: list[Stored]
    next_position: int | None


class EventReads:
    """Every method raises IdentityUnavailable while Postgres is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, wanted: Filter, position: int, limit: int, *, newer: bool) -> Page:
        """Events after a position, oldest first, or before it, newest first."""
        async with self._database.tenant(wanted.tenant) as connection:
            await connection.execute("SET LOCAL statement_timeout = '5s'")
            rows = await connection.fetch(
                _NEWER if newer else _OLDER,
                wanted.tenant,
                wanted.customer,
                position,
                limit + 1,
                SCANNED_MAX,
                list(wanted.types) if wanted.types is not None else None,
                wanted.start,
                wanted.end,
                wanted.transaction_id,
            )
        found = [Stored(row["position"], row["event_id"], row["body"]) for row in rows if row["position"] is not None]
        if len(found) > limit:
            return Page(found[:limit], found[limit - 1].position)
        # Nothing more was found among those that were looked at, but there may be more behind them.
        return Page(found, rows[0]["last"] if rows[0]["count"] == SCANNED_MAX else None)

    async def get(self, tenant: str, customer: str | None, event_id: str) -> Stored | None:
        """An event, None when there is none that may be seen."""
        async with self._database.tenant(tenant) as connection:
            row = await connection.fetchrow(
                f"SELECT position, event_id, body FROM events.log WHERE {_SCOPE} AND event_id = $3",  # noqa: S608
                tenant,
                customer,
                event_id,
            )
        return Stored(row["position"], row["event_id"], row["body"]) if row is not None else None

    async def last(self, tenant: str, customer: str | None) -> Stored | None:
        """The newest event that may be seen."""
        async with self._database.tenant(tenant) as connection:
            row = await connection.fetchrow(
                f"""SELECT position, event_id, body FROM events.log WHERE {_SCOPE}
                ORDER BY position DESC LIMIT 1""",  # noqa: S608 - constants
                tenant,
                customer,
            )
        return Stored(row["position"], row["event_id"], row["body"]) if row is not None else None

    async def pauses(self) -> Sequence[str]:
        """The events of the pauses that stand and of those that were lifted last, oldest first, of all tenants."""
        async with self._database.nobody() as connection:
            return [row["body"] for row in await connection.fetch("SELECT body FROM events.pauses()")]

    async def after(self, wanted: Filter, position: int, through: int, limit: int) -> Sequence[Stored]:
        """Events between two positions, the first not included, oldest first."""
        async with self._database.tenant(wanted.tenant) as connection:
            await connection.execute("SET LOCAL statement_timeout = '5s'")
            types = list(wanted.types) if wanted.types is not None else None
            rows = await connection.fetch(_AFTER, wanted.tenant, wanted.customer, position, through, types, limit)
        return [Stored(row["position"], row["event_id"], row["body"]) for row in rows]
