"""Transactions of identity: each names its tenant, and the database shows nothing of another (row level security)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from aura_stream.ledger.connection import (
    CONNECT_TIMEOUT_S,
    IDENTITY,
    PLATFORM,
    Observe,
    close_pool,
    connect,
    create_pool,
)

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.QueryCanceledError,
    asyncpg.SerializationError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_NOT_LET_IN = (*_AWAY, asyncpg.InsufficientPrivilegeError)
"""While a connection is made: the login may not act in its role."""


class IdentityUnavailable(Exception):
    """The database of users and keys does not answer: nobody can be let in, so nobody is."""


class Database:
    """A pool that acts as `aura_identity`, made when it is first needed."""

    def __init__(self, dsn: str, size_max: int) -> None:
        self._dsn = dsn
        self._size_max = size_max
        self.observe: Observe = lambda _: None
        """Is told how long each query took, in seconds."""
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def tenant(self, tenant: str) -> AsyncIterator[Connection]:
        """A transaction that sees one tenant. Raises :class:`IdentityUnavailable`."""
        async with self._transaction() as connection:
            # Local to the transaction: the next user of this connection begins without a tenant.
            await connection.execute("SELECT set_config('aura.tenant', $1, true)", tenant)
            yield connection

    @asynccontextmanager
    async def platform(self) -> AsyncIterator[Connection]:
        """A transaction across tenants, in a role of its own: for operators and auditors, who are written down."""
        async with self._transaction() as connection:
            await connection.execute("SELECT set_config('role', $1, true)", PLATFORM)
            yield connection

    @asynccontextmanager
    async def nobody(self) -> AsyncIterator[Connection]:
        """A transaction without a tenant: functions that work before one is known, and what belongs to no tenant."""
        async with self._transaction() as connection:
            yield connection

    async def session(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection for one's own, as the feed listens on. Raises :class:`IdentityUnavailable`."""
        try:
            # A heartbeat that a crash loses is sent again: no commit of it has to wait for the disk.
            return await connect(
                self._dsn,
                IDENTITY,
                command_timeout_s=CONNECT_TIMEOUT_S,
                application_name="aura identity feed",
                settings={"synchronous_commit": "off"},
            )
        except _NOT_LET_IN as error:
            raise IdentityUnavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Ends all connections."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await close_pool(pool)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        try:
            pool = await self._opened()
            connection = await pool.acquire(timeout=CONNECT_TIMEOUT_S)
        except _NOT_LET_IN as error:
            raise IdentityUnavailable(f"{type(error).__name__}: {error}") from error
        try:
            async with connection.transaction():
                yield connection
        except _AWAY as error:
            raise IdentityUnavailable(f"{type(error).__name__}: {error}") from error
        finally:
            await pool.release(connection)

    async def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await create_pool(
                        self._dsn,
                        IDENTITY,
                        size_max=self._size_max,
                        application_name="aura identity",
                        observe=lambda s: self.observe(s),
                    )
        return self._pool
