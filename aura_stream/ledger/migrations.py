"""Brings the schema up to date. Two programs may do so at once; the second waits and finds nothing to do."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
from pogo_core.migration import topological_sort
from pogo_core.util import migrate as pogo
from pogo_core.util import sql as pogo_sql

from aura_stream.domain.assets import SCALES
from aura_stream.ledger.connection import (
    CONNECT_TIMEOUT_S,
    EVENTS,
    IDENTITY,
    OWNER,
    PLATFORM,
    READER,
    RECONCILER,
    TENANT,
    WRITER,
)
from aura_stream.ledger.errors import NotMigrated

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

MIGRATIONS: Final = Path(__file__).parent.parent / "sql" / "migrations"
SCHEMA: Final = "ledger"
LOGINS: Final = (
    ("aura_write", WRITER),
    ("aura_write", EVENTS),
    ("aura_write", RECONCILER),
    ("aura_read", READER),
    ("aura_read", TENANT),
    ("aura_auth", IDENTITY),
    ("aura_auth", PLATFORM),
)
"""Login roles of the embedded Postgres and what they may act as."""
_BY_WORD_ONLY: Final = "aura_auth"
"""This login may do nothing before it acts in a role: one of them sees every tenant, and nobody may by accident."""

_NEW: Final = """\
-- {words}.
{depends}
-- migrate: apply

SET LOCAL ROLE aura_owner;

RESET ROLE;

-- migrate: rollback

SET LOCAL ROLE aura_owner;

RESET ROLE;
"""
_LOCK: Final = 0x61757261_6C656467  # "auraledg": the advisory lock of migrations
_log = logging.getLogger(__name__)


class Migration(NamedTuple):
    """One migration and whether the database has it."""

    name: str
    applied: bool


async def migrate(dsn: str) -> list[str]:
    """Applies what is missing, grants the logins their roles, fills the assets; the names that were applied.

    `dsn` must log in as the owner of the database or a superuser. Safe to run anywhere, any number of times, side by
    side. Raises `pogo_core.error.BadMigrationError` (the database is then as it was before that migration),
    :class:`NotMigrated` when the assets do not fit, and asyncpg's errors.
    """
    async with _session(dsn) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        before = await _status(connection)
        await pogo.apply(connection, MIGRATIONS, schema_name=SCHEMA, logger=_log)
        await _grant_logins(connection)
        await _fill_assets(connection)
        await check_assets(connection)
        return [migration.name for migration in before if not migration.applied]


async def rollback(dsn: str) -> str | None:
    """Takes back the newest migration that the database has; its name, None: it has none.

    Raises `pogo_core.error.BadMigrationError` for a migration that cannot be taken back (what is stored would be lost);
    the database is then as it was.
    """
    async with _session(dsn) as connection:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        applied = [migration.name for migration in await _status(connection) if migration.applied]
        if not applied:
            return None
        await pogo.rollback(connection, MIGRATIONS, schema_name=SCHEMA, count=1, logger=_log)
        return applied[-1]


def new_migration(words: str, folder: Path = MIGRATIONS) -> Path:
    """Writes an empty migration behind all that there are; its file. Raises ValueError for words that make no name."""
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    if not name:
        raise ValueError(f"{words!r} has no letter or digit")
    before = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    number = int(before[-1].name[:4]) + 1 if before else 1
    path = folder / f"{number:04d}_{name}.sql"
    depends = f"-- depends: {before[-1].stem}\n" if before else ""
    path.write_text(_NEW.format(words=words.strip().capitalize(), depends=depends), encoding="utf-8")
    return path


async def status(dsn: str) -> list[Migration]:
    """All migrations of this program, in order, and whether the database has them."""
    async with _session(dsn) as connection:
        return await _status(connection)


async def check_assets(connection: Connection) -> None:
    """Compares the table of assets with the program's; every program does so when it starts.

    Raises :class:`NotMigrated` when the schema is missing or an asset is missing or has another scale: amounts
    would be read wrongly.
    """
    try:
        rows = await connection.fetch("SELECT asset, scale FROM ledger.assets")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise NotMigrated("the ledger's schema is missing: run `aura db migrate`") from error
    stored = {row["asset"]: row["scale"] for row in rows}
    wrong = {asset: stored.get(asset) for asset, scale in SCALES.items() if stored.get(asset) != scale}
    if wrong:
        raise NotMigrated(f"assets differ (stored scales: {wrong}): run `aura db migrate`; a scale never changes")


@contextlib.asynccontextmanager
async def _session(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "aura migrate"}
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def _status(connection: asyncpg.Connection[asyncpg.Record]) -> list[Migration]:
    await pogo_sql.ensure_pogo_sync(connection)
    found = await pogo_sql.read_migrations(MIGRATIONS, connection, schema_name=SCHEMA)
    return [Migration(m.id, m.applied) for m in topological_sort([m.load() for m in sorted(found, key=lambda m: m.id)])]


async def _grant_logins(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    missing = await connection.fetch(
        """SELECT format('GRANT %I TO %I WITH INHERIT %s', m.role, m.login, (m.login <> $3)::text) AS statement
        FROM unnest($1::text[], $2::text[]) AS m (login, role)
        WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = m.login)
            AND NOT EXISTS (
                SELECT FROM pg_auth_members g WHERE g.roleid = m.role::regrole AND g.member = to_regrole(m.login)
                    AND g.inherit_option = (m.login <> $3)
            )""",
        [login for login, _ in LOGINS],
        [role for _, role in LOGINS],
        _BY_WORD_ONLY,
    )
    for row in missing:
        await connection.execute(row["statement"])


async def _fill_assets(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    async with connection.transaction():
        await connection.execute("SELECT set_config('role', $1, true)", OWNER)
        await connection.execute(
            """INSERT INTO ledger.assets (asset, scale)
            SELECT * FROM unnest($1::text[], $2::int[]) ON CONFLICT DO NOTHING""",
            list(SCALES),
            list(SCALES.values()),
        )
