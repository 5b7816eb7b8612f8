"""The login roles of the embedded Postgres are no superusers: what they need works all the same, and nothing more."""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg
import pytest

from aura_stream.embedded import PostgresServer
from aura_stream.embedded.postgres import IDENTITY, READER, WRITER
from aura_stream.ledger import connection as roles
from aura_stream.ledger.verify import verify
from aura_stream.ledger.writer import LedgerWriter
from tests.ledger.builders import Shard, a_deposit
from tests.ledger.conftest import as_role, write_all


@pytest.fixture
def logins(postgres: object, ledger: str) -> tuple[str, str]:
    if not isinstance(postgres, PostgresServer):
        pytest.skip("somebody else's Postgres has its own logins")
    database = urlsplit(ledger).path[1:]
    return postgres.dsn(user=WRITER, database=database), postgres.dsn(user=READER, database=database)


async def test_the_writers_login_writes_and_ends_a_frozen_session_of_its_own(logins: tuple[str, str]) -> None:
    dsn, _ = logins
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d"), commands=2)
    async with await LedgerWriter.connect(dsn, checkpoint_entries=1) as writer:
        await write_all(writer, shard)
        frozen = await as_role(dsn, roles.WRITER)
        await frozen.execute("BEGIN")
        await frozen.execute("UPDATE ledger.sink_offsets SET epoch = epoch + 1")

        assert await writer.claim(0) == (1, 1, 2)
        frozen.terminate()


async def test_the_readers_login_reads_and_proves_and_writes_nothing(logins: tuple[str, str]) -> None:
    _, dsn = logins
    reader = await as_role(dsn, roles.READER)
    assert all(check.good for check in await verify(reader))
    await reader.close()

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_role(dsn, roles.WRITER)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await LedgerWriter.connect(dsn)


async def test_sec16_the_apis_login_sees_nothing_before_it_acts_in_a_role(postgres: object, ledger: str) -> None:
    if not isinstance(postgres, PostgresServer):
        pytest.skip("somebody else's Postgres has its own logins")
    dsn = postgres.dsn(user=IDENTITY, database=urlsplit(ledger).path[1:])
    raw = await asyncpg.connect(dsn)
    try:
        for table in ("identity.users", "identity.audit_log", "events.log", "ledger.entries"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await raw.fetch(f"SELECT * FROM {table}")
        for role in (roles.IDENTITY, roles.PLATFORM):
            await roles.act_as(raw, role)
            await raw.fetch("SELECT tenant_id FROM identity.tenants")
    finally:
        await raw.close()
