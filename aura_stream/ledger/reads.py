"""What the API reads from the ledger in Postgres. Reading only, and of one tenant: the role may do nothing else.

Amounts come back as integer minor units, times as aware datetimes. Whoever asks for a transaction also gets how far
each partition was stored in the same snapshot, since "not there" means nothing without it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import asyncpg
import orjson

from aura_stream.domain.assets import SCALES
from aura_stream.domain.requests import MAKES
from aura_stream.ledger.connection import AWAY, TENANT, Observe, close_pool, pool_init
from aura_stream.ledger.listing import Column, Listing, Page, filtered, select

Row = asyncpg.Record

_SINK = """
SELECT coalesce(array_agg(partition), '{}') AS partitions, coalesce(array_agg(next_offset), '{}') AS next_offsets,
    coalesce(array_agg(last_seq), '{}') AS last_seqs, coalesce(array_agg(commands_offset), '{}') AS commands_offsets
FROM ledger.sink_offsets
"""
_TRANSACTION_COLUMNS = """
t.transaction_id, t.tenant_id, t.customer_id, t.type, t.status, t.state, t.reason, t.asset, t.amount, t.from_account_id,
t.to_account_id, t.captured_amount, t.idempotency_key, t.created_at, t.updated_at, t.expires_at, t.seq, t.partition,
t.journal_ids, t.history -> -1 -> 'by_bank' AS by_bank
"""
_TRANSACTION = f"""
SELECT s.*, t.history, {_TRANSACTION_COLUMNS}
FROM ({_SINK}) s LEFT JOIN ledger.transactions t ON t.tenant_id = $1 AND t.transaction_id = $2
"""  # noqa: S608 - only constants of this module
_REFUSED = """
SELECT type, customer_id, command_id, reason, coalesce(detail, '') AS detail FROM ledger.refusals
WHERE tenant_id = $1 AND transaction_id = $2 AND type = ANY ($3) ORDER BY at DESC, journal_seq DESC, line DESC LIMIT 1
"""
_ENTRIES = """
SELECT e.journal_id, e.leg, e.transaction_id, j.kind, e.account_id, e.asset, e.layer, e.amount, e.posted_at,
    e.effective_at
FROM ledger.entries e JOIN ledger.journals j USING (journal_id)
"""
_ENTRIES_OF_JOURNALS = _ENTRIES + "WHERE e.journal_id = ANY($1::bigint[]) ORDER BY e.journal_id, e.leg"
_ENTRIES_OF_ACCOUNT = _ENTRIES + "WHERE e.tenant_id = $1 AND e.account_id = $2"
_ATTEMPTS = """
SELECT lane, step, kind, reference, number, started_at, ended_at, took_ms, answer, code, status, detail, breaker
FROM settlement.attempts WHERE tenant_id = $1 AND transaction_id = $2 ORDER BY started_at, lane, reference, number
"""
_ACCOUNT = """
SELECT account_id, tenant_id, customer_id, asset, name, status, opened_at, closed_at
FROM ledger.accounts WHERE tenant_id = $1 AND account_id = $2
"""
_DEPOSIT_ADDRESS = """
SELECT address, given_at FROM settlement.deposit_addresses WHERE tenant_id = $1 AND account_id = $2 AND lane = $3
"""
_BALANCES = """
SELECT coalesce(b.posted, 0) AS posted, coalesce(b.pending, 0) AS pending, coalesce(b.available, 0) AS available
FROM ledger.accounts a LEFT JOIN ledger.balances b ON b.tenant_id = a.tenant_id AND b.account_id = a.account_id
WHERE a.tenant_id = $1 AND a.account_id = $2
"""
_ACCOUNTS_OF = """
SELECT a.account_id, a.tenant_id, a.customer_id, a.asset, a.name, a.status, a.opened_at, a.closed_at,
    coalesce(b.posted, 0) AS posted, coalesce(b.pending, 0) AS pending, coalesce(b.available, 0) AS available
FROM ledger.accounts a LEFT JOIN ledger.balances b ON b.tenant_id = a.tenant_id AND b.account_id = a.account_id
WHERE a.tenant_id = $1 AND a.customer_id = $2 ORDER BY a.account_id
"""
_BALANCES_AS_OF = "SELECT posted, pending, available FROM ledger.balance_as_of($1, $2, $3, $4)"
# What one minor unit of an asset is worth in major units: amounts of several assets compare, exactly.
_UNIT = "CASE {} " + " ".join(f"WHEN '{asset}' THEN 1e-{scale}" for asset, scale in SCALES.items()) + " END"
_MAJOR = f"(t.amount * {_UNIT.format('t.asset')})"
_LIST = f"""
SELECT {_TRANSACTION_COLUMNS}, {_MAJOR} AS major FROM ledger.transactions t WHERE t.tenant_id = $1
"""  # noqa: S608 - only constants of this module
_COUNT = "SELECT count(*) FROM ledger.transactions t WHERE t.tenant_id = $1"
_ACCOUNTS = """
SELECT a.account_id, a.tenant_id, a.customer_id, a.asset, a.name, a.status, a.opened_at, a.closed_at
FROM ledger.accounts a WHERE a.tenant_id = $1
"""
_COUNT_ACCOUNTS = "SELECT count(*) FROM ledger.accounts a WHERE a.tenant_id = $1"
_COUNT_ENTRIES = "SELECT count(*) FROM ledger.entries e WHERE e.tenant_id = $1 AND e.account_id = $2"

TRANSACTIONS = Listing(
    columns={
        "created_at": Column("created_at", "t.created_at", "time"),
        "updated_at": Column("updated_at", "t.updated_at", "time"),
        "amount": Column("major", _MAJOR, "decimal"),
        "type": Column("type", "t.type", "text"),
        "status": Column("status", "t.status", "text"),
        "id": Column("transaction_id", "t.transaction_id", "uuid"),
    },
    key=("id",),
    filters={
        "customer": "t.customer_id = {}",
        "type": "t.type = ANY({}::text[])",
        "status": "t.status = ANY({}::text[])",
        "state": "t.state = ANY({}::text[])",
        "not_state": "t.state <> ALL({}::text[])",
        "asset": "t.asset = {}",
        "account_id": "{} IN (t.from_account_id, t.to_account_id)",
        "into": "split_part(t.to_account_id, ':', 1) = {0}"
        " AND split_part(t.from_account_id, ':', 1) IS DISTINCT FROM {0}",
        "out_of": "split_part(t.from_account_id, ':', 1) = {}",
        "idempotency_key": "t.idempotency_key = {}",
        "from": "t.created_at >= {}",
        "to": "t.created_at < {}",
        "min": _MAJOR + " >= {}::numeric",
        "max": _MAJOR + " <= {}::numeric",
    },
    default="created_at:desc",
)
"""Transactions. `min` and `max` are in major units of each one's own asset; `into` and `out_of` name a customer."""
ACCOUNTS = Listing(
    columns={
        "opened_at": Column("opened_at", "a.opened_at", "time"),
        "asset": Column("asset", "a.asset", "text"),
        "status": Column("status", "a.status", "text"),
        "id": Column("account_id", "a.account_id", "text"),
    },
    key=("id",),
    filters={
        "customer": "a.customer_id = {}",
        "asset": "a.asset = {}",
        "status": "a.status = {}",
        "from": "a.opened_at >= {}",
        "to": "a.opened_at < {}",
    },
    default="id:asc",
)
"""Accounts of customers."""
_ENTRY_MAJOR = f"(abs(e.amount) * {_UNIT.format('e.asset')})"
ENTRIES = Listing(
    columns={
        "journal_id": Column("journal_id", "e.journal_id", "integer"),
        "leg": Column("leg", "e.leg", "integer"),
    },
    key=("journal_id", "leg"),
    filters={
        "direction": "(e.amount > 0) = ({} = 'debit')",
        "layer": "e.layer = {}",
        "from": "e.posted_at >= {}",
        "to": "e.posted_at < {}",
        "min": _ENTRY_MAJOR + " >= {}::numeric",
        "max": _ENTRY_MAJOR + " <= {}::numeric",
    },
    default="journal_id:desc",
    hidden=frozenset({"leg"}),
)
"""Entries of one account; a journal's number orders them as they were booked."""
_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)


class ReadsUnavailable(Exception):
    """Postgres does not answer, or not in time."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How far one partition of the journal is in Postgres."""

    next_offset: int
    """Of the journal topic: all records below are stored."""
    last_seq: int
    commands_next: int
    """All commands below this offset are reflected."""


NOTHING_STORED = Stored(0, 0, 0)


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command that made no transaction although it could have."""

    type: str
    customer: str
    command_id: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Balances:
    """Balances of one account in minor units; `posted` = available + held."""

    posted: int
    pending: int
    available: int


class LedgerReads:
    """A small pool of read-only connections. Every method raises :class:`ReadsUnavailable` when Postgres is away."""

    def __init__(self, dsn: str, *, connections_max: int = 8, timeout_s: float = 5.0) -> None:
        self._dsn = dsn
        self._connections_max = connections_max
        self.observe: Observe = lambda _: None
        """Is told how long each query took, in seconds."""
        self._timeout_s = timeout_s
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await close_pool(pool)

    async def stored(self) -> dict[int, Stored]:
        """How far each partition is stored."""
        async with self._connection() as connection:
            return _stored(cast("asyncpg.Record", await connection.fetchrow(_SINK)))

    async def clock(self) -> tuple[int, int]:
        """How far ahead the clock of the sandbox was moved, and how far everybody has it, in ms."""
        async with self._connection() as connection:
            row = cast("asyncpg.Record", await connection.fetchrow("SELECT moved_ms, taken_ms FROM events.clock"))
        return row["moved_ms"], row["taken_ms"]

    async def transaction(self, tenant: str, transaction_id: str) -> tuple[dict[int, Stored], dict[str, Any] | None]:
        """A transaction (with `history`, its events) and how far each partition was stored when it was read."""
        async with self._connection(tenant) as connection:
            row = cast("asyncpg.Record", await connection.fetchrow(_TRANSACTION, tenant, uuid.UUID(transaction_id)))
        if row["transaction_id"] is None:
            return _stored(row), None
        found = _transaction(row)
        found["history"] = orjson.loads(row["history"])
        return _stored(row), found

    async def refused(self, tenant: str, transaction_id: str) -> RefusedCommand | None:
        """The last command that would have made this transaction and made none; None: there was none such."""
        async with self._connection(tenant) as connection:
            row = await connection.fetchrow(_REFUSED, tenant, transaction_id, list(MAKES))
        return None if row is None else RefusedCommand(*row)

    async def entries_of(self, tenant: str, journal_ids: Sequence[int]) -> list[dict[str, Any]]:
        """All entries of some journals, in order."""
        async with self._connection(tenant) as connection:
            return [_entry(row) for row in await connection.fetch(_ENTRIES_OF_JOURNALS, list(journal_ids))]

    async def attempts_of(self, tenant: str, transaction_id: str) -> list[dict[str, Any]]:
        """What was tried at banks and the chain for a transaction, in the order in which it began."""
        async with self._connection(tenant) as connection:
            return [dict(row) for row in await connection.fetch(_ATTEMPTS, tenant, uuid.UUID(transaction_id))]

    async def account(self, tenant: str, account_id: str) -> dict[str, Any] | None:
        """An account's row, None when there is none."""
        async with self._connection(tenant) as connection:
            row = await connection.fetchrow(_ACCOUNT, tenant, account_id)
        return dict(row) if row is not None else None

    async def deposit_address(self, tenant: str, account_id: str, lane: str) -> dict[str, Any] | None:
        """Where tokens of a lane come back to an account from outside; None while it has no such address."""
        async with self._connection(tenant) as connection:
            row = await connection.fetchrow(_DEPOSIT_ADDRESS, tenant, account_id, lane)
        return dict(row) if row is not None else None

    async def accounts_of(self, tenant: str, customer: str) -> list[tuple[dict[str, Any], Balances]]:
        """All accounts of a customer, with their balances now."""
        async with self._connection(tenant) as connection:
            return [(dict(row), _balances(row)) for row in await connection.fetch(_ACCOUNTS_OF, tenant, customer)]

    async def balances(self, tenant: str, account_id: str) -> Balances | None:
        """The balances now, None when there is no such account."""
        async with self._connection(tenant) as connection:
            row = await connection.fetchrow(_BALANCES, tenant, account_id)
        return _balances(row) if row is not None else None

    async def balances_as_of(
        self, tenant: str, account_id: str, effective_at: datetime | None, known_at: datetime | None
    ) -> Balances:
        """The balances of entries effective by one time and known by another; None is without limit."""
        async with self._connection(tenant) as connection:
            row = await connection.fetchrow(
                _BALANCES_AS_OF, tenant, account_id, effective_at or _FOREVER, known_at or _FOREVER
            )
        return _balances(cast("asyncpg.Record", row))

    async def entries_of_account(
        self, tenant: str, account_id: str, page: Page, *, counted: bool
    ) -> tuple[list[dict[str, Any]], int]:
        """A page of an account's entries (:data:`ENTRIES`), and how many there are if they are to be counted."""
        rows, total = await self._page(
            ENTRIES, _ENTRIES_OF_ACCOUNT, _COUNT_ENTRIES, (tenant, account_id), page, counted
        )
        return [_entry(row) for row in rows], total

    async def transactions(self, tenant: str, page: Page, *, counted: bool) -> tuple[list[dict[str, Any]], int]:
        """A page of transactions (:data:`TRANSACTIONS`), and how many there are if they are to be counted."""
        rows, total = await self._page(TRANSACTIONS, _LIST, _COUNT, (tenant,), page, counted)
        return [_transaction(row) | {"major": row["major"]} for row in rows], total

    async def accounts(self, tenant: str, page: Page, *, counted: bool) -> tuple[list[dict[str, Any]], int]:
        """A page of accounts (:data:`ACCOUNTS`), and how many there are if they are to be counted."""
        rows, total = await self._page(ACCOUNTS, _ACCOUNTS, _COUNT_ACCOUNTS, (tenant,), page, counted)
        return [dict(row) for row in rows], total

    async def _page(
        self, listing: Listing, query: str, count: str, first: tuple[str, ...], page: Page, counted: bool
    ) -> tuple[Sequence[Row], int]:
        text, arguments = select(listing, query, page, first)
        async with self._connection(first[0]) as connection:
            total = 0
            if counted:
                how_many, given = filtered(listing, count, page, first)
                total = await connection.fetchval(how_many, *given)
            return await connection.fetch(text, *arguments), total

    @asynccontextmanager
    async def _connection(
        self, tenant: str | None = None
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        """A connection that sees the rows of `tenant`, for one transaction; without one, only what is of no tenant."""
        try:
            pool = self._pool or await self._open()
            async with pool.acquire(timeout=self._timeout_s) as connection:
                if tenant is None:
                    yield connection
                    return
                async with connection.transaction(readonly=True):
                    await connection.execute("SELECT set_config('aura.tenant', $1, true)", tenant)
                    yield connection
        except AWAY as error:
            raise ReadsUnavailable(f"{type(error).__name__}: {error}") from error

    async def _open(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._dsn,
                    min_size=0,
                    max_size=self._connections_max,
                    timeout=self._timeout_s,
                    command_timeout=self._timeout_s,
                    init=pool_init(TENANT, lambda s: self.observe(s)),
                    server_settings={
                        "timezone": "UTC",
                        "application_name": "aura-api",
                        "default_transaction_read_only": "on",
                        "statement_timeout": str(int(self._timeout_s * 1000)),
                    },
                )
            return self._pool


def _stored(row: Row) -> dict[int, Stored]:
    numbers = zip(row["next_offsets"], row["last_seqs"], row["commands_offsets"], strict=True)
    return {partition: Stored(*three) for partition, three in zip(row["partitions"], numbers, strict=True)}


def _transaction(row: Row) -> dict[str, Any]:
    names = (
        "tenant_id",
        "customer_id",
        "type",
        "status",
        "state",
        "reason",
        "asset",
        "from_account_id",
        "to_account_id",
    )
    more = ("idempotency_key", "created_at", "updated_at", "expires_at", "seq", "partition", "journal_ids")
    captured, by_bank = row["captured_amount"], row["by_bank"]
    return {name: row[name] for name in names + more} | {
        "transaction_id": str(row["transaction_id"]),
        "amount": int(row["amount"]),
        "captured_amount": None if captured is None else int(captured),
        "by_bank": None if by_bank is None else orjson.loads(by_bank),
    }


def _entry(row: Row) -> dict[str, Any]:
    return dict(row) | {"transaction_id": str(row["transaction_id"]), "amount": int(row["amount"])}


def _balances(row: Row) -> Balances:
    return Balances(int(row["posted"]), int(row["pending"]), int(row["available"]))
