"""The database refuses what must never be true, whoever asks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from pogo_core.util import migrate as pogo

from aura_stream.domain.assets import SCALES
from aura_stream.ledger import migrations
from aura_stream.ledger.connection import OWNER, READER, WRITER, create_pool
from aura_stream.ledger.errors import NotMigrated
from aura_stream.ledger.writer import LedgerWriter
from tests.ledger.builders import Shard, a_deposit, transaction_id
from tests.ledger.conftest import Connection, as_role, offences, write_all
from tests.rows import row

IMMUTABLE = ("assets", "journals", "entries", "refusals", "units", "balance_checkpoints")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = (asyncpg.RestrictViolationError, asyncpg.InsufficientPrivilegeError)


async def test_migrations_are_safe_side_by_side_and_again(database: str) -> None:
    applied = await asyncio.gather(*[migrations.migrate(database) for _ in range(3)])

    assert sorted(len(names) for names in applied) == [0, 0, len(await migrations.status(database))]
    assert all(migration.applied for migration in await migrations.status(database))


async def test_a_missing_schema_and_a_changed_scale_are_found_at_the_start(database: str) -> None:
    with pytest.raises(NotMigrated, match="aura db migrate"):
        await LedgerWriter.connect(database)
    await migrations.migrate(database)
    connection = await asyncpg.connect(database)
    await connection.execute("ALTER TABLE ledger.assets DISABLE TRIGGER immutable")
    await connection.execute("UPDATE ledger.assets SET scale = 3 WHERE asset = 'EUR'")

    with pytest.raises(NotMigrated, match="EUR"):
        await LedgerWriter.connect(database)
    with pytest.raises(NotMigrated, match="EUR"):
        await migrations.migrate(database)
    await connection.close()


async def test_assets_are_those_of_the_program(owner: Connection) -> None:
    assert {r["asset"]: r["scale"] for r in await owner.fetch("SELECT asset, scale FROM ledger.assets")} == SCALES


async def test_the_ledger_is_not_rolled_back(owner: Connection) -> None:
    with pytest.raises(Exception, match="Failed to rollback"):
        await pogo.rollback(owner, migrations.MIGRATIONS, schema_name=migrations.SCHEMA)
    assert await owner.fetchval("SELECT count(*) FROM ledger.assets") == len(SCALES)


@row("A09", "X23")
@pytest.mark.parametrize("who", [WRITER, READER, OWNER, "superuser", "replica"])
@pytest.mark.parametrize("table", IMMUTABLE)
async def test_a09_what_is_written_is_never_changed_or_removed(
    ledger: str, owner: Connection, writer: LedgerWriter, table: str, who: str
) -> None:
    shard = Shard()
    shard.unit(
        shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d"), shard.refused("alice", "r"), commands=3
    )
    await write_all(writer, shard)
    await owner.fetchval("SELECT ledger.write_checkpoints('default', 'alice:EUR', 1)")
    before = await owner.fetch(f"SELECT * FROM ledger.{table}")
    assert before
    column = next(iter(before[0].keys()))
    if who in (WRITER, READER, OWNER):
        await owner.execute(f"SET ROLE {who}")
    elif who == "replica":
        await owner.execute("SET session_replication_role = replica")

    for statement in (
        f"UPDATE ledger.{table} SET {column} = {column}",
        f"DELETE FROM ledger.{table}",
        f"TRUNCATE ledger.{table} CASCADE",
        f"MERGE INTO ledger.{table} t USING (SELECT) s ON true WHEN MATCHED THEN DELETE",
    ):
        with pytest.raises(REFUSED):
            await owner.execute(statement)

    assert await owner.fetch(f"SELECT * FROM ledger.{table}") == before


@row("A09")
@pytest.mark.parametrize("who", [WRITER, READER, OWNER, "replica"])
async def test_a09_projections_lose_no_row_either(owner: Connection, who: str) -> None:
    await owner.execute("INSERT INTO ledger.sink_offsets (partition) VALUES (0)")
    await owner.execute("SET session_replication_role = replica" if who == "replica" else f"SET ROLE {who}")

    for table in ("transactions", "accounts", "sink_offsets"):
        with pytest.raises(REFUSED):
            await owner.execute(f"TRUNCATE ledger.{table} CASCADE")
    with pytest.raises(REFUSED):
        await owner.execute("DELETE FROM ledger.sink_offsets")


async def test_the_reader_cannot_write(ledger: str) -> None:
    reader = await as_role(ledger, READER)
    for table in (*IMMUTABLE, "transactions", "accounts", "sink_offsets"):
        assert await reader.fetchval(f"SELECT count(*) FROM ledger.{table}") is not None
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute(f"INSERT INTO ledger.{table} SELECT * FROM ledger.{table}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.fetchval("SELECT ledger.write_checkpoints('default', 'a:EUR')")
    await reader.close()


async def test_the_writer_may_change_projections_only(ledger: str) -> None:
    connection = await as_role(ledger, WRITER)
    changeable = await connection.fetch(
        """SELECT table_name, column_name FROM information_schema.column_privileges
        WHERE table_schema = 'ledger' AND grantee = 'aura_writer' AND privilege_type = 'UPDATE'"""
    )
    tables = {row["table_name"] for row in changeable}
    forbidden = {"transaction_id", "tenant_id", "customer_id", "amount", "asset", "idempotency_key", "account_id"}

    assert tables == {"transactions", "accounts", "sink_offsets"}
    assert not forbidden & {row["column_name"] for row in changeable}
    for statement in (
        "INSERT INTO ledger.assets VALUES ('DOGE', 8)",
        """INSERT INTO ledger.balance_checkpoints VALUES
            ('t', 'a:EUR', 'EUR', 0, 0, 1, 1, 1, 0, 0, now(), now(), now())""",
        "UPDATE ledger.transactions SET amount = 1",
        "ALTER TABLE ledger.entries DISABLE TRIGGER ALL",
        "DROP TRIGGER balanced ON ledger.entries",
        "SET session_replication_role = replica",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_neither_role_owns_anything(owner: Connection) -> None:
    owners = await owner.fetch(
        """SELECT DISTINCT pg_get_userbyid(relowner) AS name FROM pg_class WHERE relnamespace = 'ledger'::regnamespace
        UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace"""
    )
    assert [row["name"] for row in owners] == [OWNER]


async def test_a_pool_keeps_its_role_when_connections_return(ledger: str) -> None:
    pool = await create_pool(ledger, READER, size_max=1)
    for _ in range(2):
        assert await pool.fetchval("SELECT current_user") == READER
    await pool.close()


@row("X20")
async def test_x20_no_float_and_no_money_column_without_scale_zero(owner: Connection) -> None:
    types = await owner.fetch(
        """SELECT table_name, column_name, data_type, numeric_scale FROM information_schema.columns
        WHERE table_schema = 'ledger'"""
    )
    assert not [row for row in types if row["data_type"] in ("real", "double precision", "money")]
    amounts = [
        row for row in types if row["column_name"] in ("amount", "captured_amount") and row["table_name"] != "in_flight"
    ]
    assert len(amounts) == 3
    assert all(row["numeric_scale"] == 0 for row in amounts)


@row("A10")
async def test_a10_no_table_has_a_balance_column(owner: Connection) -> None:
    columns = await owner.fetch(
        """SELECT c.table_name, c.column_name FROM information_schema.columns c
        JOIN information_schema.tables t USING (table_schema, table_name)
        WHERE c.table_schema = 'ledger' AND t.table_type = 'BASE TABLE'
            AND c.column_name ~ 'balance|posted$|^available$|^pending$'"""
    )
    # Checkpoints are append-only sums, derived from the entries and never needed.
    assert {row["table_name"] for row in columns} == {"balance_checkpoints"}


async def test_every_table_of_a_tenant_has_its_tenant(owner: Connection) -> None:
    without = await owner.fetch(
        """SELECT table_name FROM information_schema.tables t WHERE table_schema = 'ledger' AND NOT EXISTS (
            SELECT FROM information_schema.columns c
            WHERE c.table_schema = 'ledger' AND c.table_name = t.table_name AND c.column_name = 'tenant_id')"""
    )
    assert {row["table_name"] for row in without} == {"assets", "units", "chain_blocks", "sink_offsets"}


@pytest.mark.parametrize(
    ("account", "side"),
    [
        *(("alice:EUR", "C"), ("bank:EUR", "C"), ("@clearing:EUR", "C"), ("@rail:sepa:outgoing:EUR", "C")),
        *(("@rail:sepa:in_transit:EUR", "D"), ("@bank:sandbox:trust:EUR", "D"), ("@custody:gold:XAU", "D")),
        *(("@receivable:returns:EUR", "D"), ("@expense:gas:ETH", "D"), ("@merchant:lp:EUR", "D")),
        *(("@income:fees:transfer:EUR", "C"), ("@suspense:unmatched:EUR", "C"), ("@equity:opening:EUR", "C")),
    ],
)
async def test_normal_side_follows_the_chart_of_accounts(owner: Connection, account: str, side: str) -> None:
    assert await owner.fetchval("SELECT ledger.normal_side($1)", account) == side


def a_journal(number: int = 1, legs: int = 2, **values: Any) -> tuple[Any, ...]:
    row = {"tenant": "default", "asset": "EUR", **values}
    ident = transaction_id("alice", f"j{number}")
    return (number, 0, ident, row["tenant"], "deposit.completed", row["asset"], legs, NOW, NOW, 1)


def an_entry(leg: int, amount: int, number: int = 1, **values: Any) -> tuple[Any, ...]:
    row = {"tenant": "default", "asset": "EUR", "key": f"j{number}", "layer": "available", "at": NOW, **values}
    ident = transaction_id("alice", row["key"])
    return (number, leg, ident, row["tenant"], "a:EUR", row["asset"], amount, row["layer"], 0, row["at"], NOW)


async def insert(connection: Connection, table: str, *rows: tuple[Any, ...]) -> None:
    await connection.copy_records_to_table(table, schema_name="ledger", records=list(rows))


@row("A09")
@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([an_entry(0, 5), an_entry(1, -4)], id="unbalanced"),
        pytest.param([an_entry(0, 5)], id="one leg missing"),
        pytest.param([an_entry(0, 5), an_entry(1, -2), an_entry(2, -3)], id="a leg too many"),
        pytest.param([an_entry(1, 5), an_entry(2, -5)], id="legs not from 0"),
        pytest.param([an_entry(0, 5), an_entry(2, -5)], id="legs with a hole"),
        pytest.param([an_entry(0, 5), an_entry(1, -5, tenant="demo")], id="another tenant"),
        pytest.param([an_entry(0, 5), an_entry(1, -5, asset="USD")], id="another asset"),
        pytest.param([an_entry(0, 5, key="x"), an_entry(1, -5, key="x")], id="another transaction"),
        pytest.param([an_entry(0, 5, at=datetime(2020, 1, 1, tzinfo=UTC)), an_entry(1, -5)], id="another time"),
        pytest.param([an_entry(0, 5, number=2), an_entry(1, -5, number=2)], id="no journal"),
        pytest.param([an_entry(0, 0), an_entry(1, 0)], id="zero amounts"),
        pytest.param([an_entry(0, 5, layer="posted"), an_entry(1, -5)], id="unknown layer"),
    ],
)
@pytest.mark.parametrize("who", [WRITER, "replica"])
async def test_a09_entries_that_are_no_whole_balanced_journal_are_refused(
    ledger: str, owner: Connection, entries: list[tuple[Any, ...]], who: str
) -> None:
    await owner.execute("SET session_replication_role = replica" if who == "replica" else f"SET ROLE {who}")
    await insert(owner, "journals", a_journal())

    with pytest.raises(asyncpg.CheckViolationError):
        await insert(owner, "entries", *entries)

    await insert(owner, "entries", an_entry(0, 5), an_entry(1, -5))
    assert await owner.fetchval("SELECT count(*) FROM ledger.entries") == 2


async def test_a_leg_cannot_be_added_later(ledger: str) -> None:
    connection = await as_role(ledger, WRITER)
    await insert(connection, "journals", a_journal(legs=4), a_journal(2))
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "entries", an_entry(0, 5), an_entry(1, -5))
    await insert(connection, "entries", an_entry(0, 5, 2), an_entry(1, -5, 2))

    for late in ([an_entry(2, 1, 2), an_entry(3, -1, 2)], [an_entry(0, 5, 2), an_entry(1, -5, 2)]):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await insert(connection, "entries", *late)
    await connection.close()


async def test_an_unknown_asset_is_refused(ledger: str) -> None:
    connection = await as_role(ledger, WRITER)
    await insert(connection, "journals", a_journal(asset="DOGE"))
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "entries", an_entry(0, 5, asset="DOGE"), an_entry(1, -5, asset="DOGE"))
    await connection.close()


@pytest.mark.parametrize("with_entries", [True, False])
async def test_a_unit_seals_only_what_is_there(ledger: str, with_entries: bool) -> None:
    connection = await as_role(ledger, WRITER)
    await insert(connection, "journals", a_journal(1), a_journal(2))
    await insert(connection, "entries", an_entry(0, 5), an_entry(1, -5))
    if with_entries:
        await insert(connection, "entries", an_entry(0, 5, 2), an_entry(1, -5, 2))
    unit = (0, 1, "[]", '{"first_journal": 1, "last_journal": 2, "entries": 4}', True, None, NOW, NOW)

    if with_entries:
        await insert(connection, "units", unit)
    else:
        with pytest.raises(asyncpg.CheckViolationError, match="units 1 to 1 of partition 0"):
            await insert(connection, "units", unit)
    await connection.close()


@row("A11")
async def test_a11_a_status_never_leaves_its_end(ledger: str, owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d"), commands=2)
    await write_all(writer, shard)

    for statement in (
        "UPDATE ledger.transactions SET status = 'processing', seq = seq + 1",
        "UPDATE ledger.transactions SET status = 'failed', seq = seq + 1",
        "UPDATE ledger.transactions SET seq = seq",
        "UPDATE ledger.transactions SET amount = 6, seq = seq + 1",
        "UPDATE ledger.sink_offsets SET next_offset = next_offset - 1",
        "UPDATE ledger.sink_offsets SET epoch = epoch - 1",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(statement)
    assert await offences(owner) == {}
