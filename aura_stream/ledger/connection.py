"""Connections to the ledger, always in a role: nothing runs as the owner but migrations.

A DSN may log in as the owner (embedded, tests), as a superuser or as a login that is a member of one role; each
session then acts as `aura_writer` or `aura_reader`, so that a program can do no more than its part.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import asyncpg

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

OWNER: Final = "aura_owner"
WRITER: Final = "aura_writer"
READER: Final = "aura_reader"
IDENTITY: Final = "aura_identity"
PLATFORM: Final = "aura_platform"
EVENTS: Final = "aura_events"
TENANT: Final = "aura_tenant"
RECONCILER: Final = "aura_reconciler"

CONNECT_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 2.0

AWAY: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What is raised when Postgres does not answer; the last when a connection breaks while it is given back."""

Observe = Callable[[float], None]
"""Is told seconds."""

_SESSION: Final = {
    "timezone": "UTC",
    # A client that is gone must not keep its locks: noticed after 5 + 3 * 2 s of silence.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "idle_in_transaction_session_timeout": "10s",
}


async def connect(
    dsn: str,
    role: str = READER,
    *,
    timeout_s: float = CONNECT_TIMEOUT_S,
    command_timeout_s: float | None = 60.0,
    application_name: str = "aura ledger",
    settings: dict[str, str] | None = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """One connection that acts as `role`; `settings` are added to the session's.

    Raises asyncpg's and the system's errors as they are; `InsufficientPrivilegeError` when the login is no member.
    """
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        dsn,
        timeout=timeout_s,
        command_timeout=command_timeout_s,
        server_settings={**_SESSION, "application_name": application_name, **(settings or {})},
    )
    try:
        await act_as(connection, role)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def act_as(connection: Connection, role: str) -> None:
    """Makes a session act as `role` until it ends."""
    await connection.execute("SELECT set_config('role', $1, false)", role)


def pool_init(role: str, observe: Observe | None = None) -> Callable[[Connection], Coroutine[Any, Any, None]]:
    """The `init` of `asyncpg.create_pool` that makes each connection act as `role` (a pool's reset keeps the role).

    `observe` is told of each query how long it took, in seconds.
    """

    async def init(connection: Connection) -> None:
        await act_as(connection, role)
        if observe is not None:
            connection.add_query_logger(lambda query: observe(query.elapsed))

    return init


async def create_pool(
    dsn: str,
    role: str = READER,
    *,
    size_max: int = 8,
    application_name: str = "aura ledger",
    observe: Observe | None = None,
) -> asyncpg.Pool[asyncpg.Record]:
    """A pool whose connections act as `role`; close it after use. It connects when it is first used."""
    pool: asyncpg.Pool[asyncpg.Record] = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size_max,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=30,
        init=pool_init(role, observe),
        server_settings={**_SESSION, "application_name": application_name},
    )
    await pool
    return pool


async def close_pool(pool: asyncpg.Pool[asyncpg.Record]) -> None:
    """Closes a pool in order, and by force what Postgres does not let go in time.

    A task that was cancelled in a query may still be giving its connection back: to cut that off is an error that
    nobody awaits, in the log of a process that stops as it should.
    """
    with contextlib.suppress(*AWAY):  # what fails in close() has cut the connections off itself
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await pool.close()
