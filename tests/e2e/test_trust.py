"""Tables, changelog, journal and Postgres say the same while traffic runs; each is made anew from the others."""

from __future__ import annotations

import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

import topics
from agents import rebuild
from agents.deep import read_changelog, state_digest, stores_of
from aura_stream.domain.state import Account
from aura_stream.engine.kafka import RealKafka
from aura_stream.engine.store import RocksStore
from aura_stream.ledger import chain_walk
from aura_stream.ledger.chain import Head, encode_head
from aura_stream.ledger.verify import digest
from tables.balances import BALANCES
from tests.e2e.client import Client, partition_of
from tests.e2e.stack import PARTITIONS, E2EStack, eventually
from tests.invariants.coherent import assert_coherent
from tests.rows import row

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.timeout(240)
ACCOUNT = BALANCES.prefix + b"default/c1:EUR"
DEEP = ("tables_are_changelog", "changelog_is_entries", "rows_are_journal", "heads_are_blocks", "heads_hold")
CHANGELOG = topics.CHANGELOG.name
AT_REST = ("--settle", "1")
"""Of a ledger that nobody writes: what is wrong stays wrong, and need not be asked for ten seconds."""
GENTLE = 8.0
"""Stories per second while everything is computed again: traffic must go on, but each of its records is computed again
by this test and by all that come later, so that a busy machine would have ever more to do."""


async def verify(stack: E2EStack, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = await stack.aura("ledger", "verify", "--json", *options)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


async def changelog_digests(stack: E2EStack) -> dict[int, str]:
    kafka = RealKafka(stack.bootstrap)
    await kafka.start()
    try:
        return {p: state_digest((await read_changelog(kafka, p))[0]) for p in range(PARTITIONS)}
    finally:
        await kafka.stop()


def digests(done: CompletedProcess[str]) -> dict[int, str]:
    assert done.returncode == 0, done.stderr
    return {row["partition"]: row["digest"] for row in json.loads(done.stdout)}


@asynccontextmanager
async def stopped(stack: E2EStack, *roles: str) -> AsyncIterator[None]:
    """With these roles ended in order, and started again afterwards."""
    await stack.quiet()
    for role in roles:
        assert await stack.terminate(f"{role}-0") == 0
    try:
        yield
    finally:
        for role in roles:
            await stack.ensure(role)


async def put(stack: E2EStack, topic: str, partition: int, key: bytes, value: bytes | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, key, partition)
    finally:
        await producer.stop()


@row("X20", "A08")
async def test_trust_all_copies_agree_at_the_same_unit_while_traffic_runs(stack: E2EStack, client: Client) -> None:
    units = "SELECT sum(last_seq)::bigint AS units FROM ledger.sink_offsets"
    async with client.loading(per_second=GENTLE):
        await client.reached(60, stack.logs)
        before = (await stack.fetch(units))[0]["units"]
        for _ in range(2):
            code, checks = await verify(stack, "--deep", "--heads", "topic", "--settle", "60")
            assert code == 0, {name: check["offender"] for name, check in checks.items() if not check["good"]}
            counts = {name: checks[name]["checked"] for name in DEEP}
            assert all(counts.values()), counts
        assert (await stack.fetch(units))[0]["units"] > before, "traffic went on meanwhile"
    await assert_coherent(stack, client)
    assert f"found here ({PARTITIONS})" in (await verify(stack, "--deep"))[1]["tables_are_changelog"]["holds"]


async def test_trust_nothing_is_said_of_a_ledger_that_is_behind(stack: E2EStack, client: Client) -> None:
    async with stopped(stack, "sink"):
        await client.load(10)

        async def decided() -> str:
            done = await stack.aura("ledger", "verify", "--deep", "--settle", "0.2")
            assert done.returncode in (0, 3), done.stderr
            return "" if done.returncode == 3 and "Postgres is at unit" in done.stderr else done.stdout

        await eventually(decided, 60, "the changelog is ahead of Postgres", stack.logs)
    await assert_coherent(stack, client)


async def test_trust_heads_are_published_after_their_commit(stack: E2EStack, client: Client, tmp_path: Path) -> None:
    await client.load(20)
    await stack.quiet()
    connection = await stack.connect()
    try:
        here = await chain_walk.heads(connection)

        async def missing() -> str:
            done = await stack.aura("ledger", "heads")
            told = done.stdout.splitlines()
            (tmp_path / "heads").write_text(done.stdout)
            left = [head for head in here if encode_head(head).decode() not in told]
            return f"{left} of {told}" if left else ""

        await eventually(missing, 60, "the last heads are in the topic", stack.logs)
    finally:
        await connection.close()
    done = await stack.aura("ledger", "heads", "--database")
    assert done.stdout.splitlines() == [encode_head(head).decode() for head in here]
    await client.load(20)
    await stack.quiet()
    code, checks = await verify(stack, "--heads", str(tmp_path / "heads"))
    assert (code, checks["heads_hold"]["good"]) == (0, True)
    assert checks["heads_hold"]["checked"] >= PARTITIONS

    ahead = Head(here[0].partition, here[0].seq + 10_000, bytes(32))
    (tmp_path / "ahead").write_bytes(encode_head(ahead))
    code, checks = await verify(stack, "--heads", str(tmp_path / "ahead"))
    assert (code, checks["heads_hold"]["offender"]["what"]) == (1, "the block is not there")


async def test_trust_a_rewritten_chain_is_named_row_by_row_from_the_journal(stack: E2EStack, client: Client) -> None:
    await client.load(20)
    await stack.quiet()
    async with stopped(stack, "sink"):
        connection = await stack.connect()
        tables = ("entries", "chain_blocks")
        try:
            row = await connection.fetchrow(
                "SELECT journal_id, partition, amount FROM ledger.entries WHERE leg = 0 LIMIT 1"
            )
            assert row is not None
            blocks = await connection.fetch(
                "SELECT * FROM ledger.chain_blocks WHERE partition = $1 ORDER BY seq", row["partition"]
            )
            change = "UPDATE ledger.entries SET amount = amount + $2 * sign(amount) WHERE journal_id = $1"
            try:
                for table in tables:
                    await connection.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER USER")
                await connection.execute(change, row["journal_id"], 1)

                checks = (await verify(stack, *AT_REST))[1]
                named = checks["chain_holds"]["offender"]["row"]
                assert (named["table"], named["journal_id"], named["what"]) == ("entries", row["journal_id"], "altered")

                epoch = await connection.fetchval(
                    "SELECT epoch FROM ledger.sink_offsets WHERE partition = $1", row["partition"]
                )
                await connection.execute("DELETE FROM ledger.chain_blocks WHERE partition = $1", row["partition"])
                assert await chain_walk.seal_missing(connection, row["partition"], epoch, None)

                code, checks = await verify(stack, "--deep", *AT_REST)
                assert code == 1
                assert checks["chain_holds"]["good"], "the owner has written the chain anew"
                assert checks["heads_are_blocks"]["offender"]["what"] == "the chain was rewritten"
                named = checks["rows_are_journal"]["offender"]
                assert (named["table"], named["journal_id"], named["what"]) == ("entries", row["journal_id"], "altered")
                assert named["columns"]["amount"]["in_the_journal"] == str(int(row["amount"]))
            finally:
                await connection.execute(change, row["journal_id"], -1)
                await connection.execute("DELETE FROM ledger.chain_blocks WHERE partition = $1", row["partition"])
                await connection.executemany(
                    "INSERT INTO ledger.chain_blocks VALUES ($1, $2, $3, $4)", [tuple(block) for block in blocks]
                )
                for table in tables:
                    await connection.execute(f"ALTER TABLE ledger.{table} ENABLE ALWAYS TRIGGER immutable")
                    await connection.execute(f"ALTER TABLE ledger.{table} ENABLE ALWAYS TRIGGER immutable_whole")
                await connection.execute("ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER balanced")
        finally:
            await connection.close()
    await assert_coherent(stack, client)


async def test_trust_a_forged_changelog_is_named(stack: E2EStack, client: Client) -> None:
    """One more minor unit for c1, written to the changelog by a stranger, and only there."""
    await client.load(10)
    partition = partition_of("default", "c1")
    async with stopped(stack, "ledger"):
        kafka = RealKafka(stack.bootstrap)
        await kafka.start()
        true = (await read_changelog(kafka, partition))[0][ACCOUNT]
        await kafka.stop()
        account = msgspec.json.decode(true, type=Account)
        forged = msgspec.json.encode(msgspec.structs.replace(account, available=account.available + 1))
        await put(stack, CHANGELOG, partition, ACCOUNT, forged)
        try:
            code, checks = await verify(stack, "--deep")
            assert code == 1
            named = checks["changelog_is_entries"]["offender"]
            assert (named["partition"], named["account"]) == (partition, "default/c1:EUR")
            assert named["changelog"][1] == named["postgres"][1] + 1
        finally:
            await put(stack, CHANGELOG, partition, ACCOUNT, true)
    await assert_coherent(stack, client)


async def test_n26_lost_or_altered_tables_are_named_and_restored(stack: E2EStack, client: Client) -> None:
    await client.load(30)
    before = await stack.aura("rebuild", "tables")
    assert before.returncode == 3
    assert "is open in a running worker" in before.stderr
    partition = partition_of("default", "c1")
    async with stopped(stack, "ledger"):
        wanted = await changelog_digests(stack)
        (path,) = stores_of(stack.settings, partition)
        store = RocksStore(path)
        store.write([(ACCOUNT, b'["open",1000000,0,0,0,1,0,0]')])
        store.close()
        code, checks = await verify(stack, "--deep")
        assert code == 1
        named = checks["tables_are_changelog"]["offender"]
        assert (named["partition"], named["key"], named["store"]) == (partition, repr(ACCOUNT), str(path))

        assert digests(await stack.aura("rebuild", "tables", "--json")) == wanted
        assert (await verify(stack, "--deep"))[0] == 0

        for other in stores_of(stack.settings, (partition + 1) % PARTITIONS):
            shutil.rmtree(other)
        for file in path.glob("*.sst"):
            file.write_bytes(b"\xff" * file.stat().st_size)
        (path / "CURRENT").write_bytes(b"nothing\n")
        assert (await verify(stack, "--deep"))[1]["tables_are_changelog"]["offender"]["store"] == str(path)
        assert digests(await stack.aura("rebuild", "tables", "--json")) == wanted
    await client.load(10)
    await assert_coherent(stack, client)


async def test_n27_a_lost_changelog_is_written_anew_from_commands_signals_and_journal(
    stack: E2EStack, client: Client
) -> None:
    await client.load(60)
    await stack.quiet()
    refused = await stack.aura("rebuild", "changelog")
    assert refused.returncode == 3
    assert "workers are members of the group" in refused.stderr
    async with stopped(stack, "ledger"):
        wanted = await changelog_digests(stack)
        kafka = RealKafka(stack.bootstrap)
        await kafka.start()
        first, _ = await read_changelog(kafka, 0)
        await kafka.stop()
        refused = await stack.aura("rebuild", "changelog")
        assert refused.returncode == 3
        assert "holds a state" in refused.stderr

        admin = AIOKafkaAdminClient(bootstrap_servers=stack.bootstrap)
        await admin.start()
        await admin.delete_topics([CHANGELOG])

        async def there() -> str:
            return "it is still there" if CHANGELOG in await admin.list_topics() else ""

        await eventually(there, 30, "the changelog topic is deleted", stack.logs)
        await admin.close()
        # A worker with nothing left must not begin at the first command again.
        assert (await stack.aura("topics", "apply")).returncode == 0
        for partition in range(PARTITIONS):
            for path in stores_of(stack.settings, partition):
                shutil.rmtree(path)
        size = stack.log_size("ledger-0")
        process = await stack.call(stack.launch, "ledger", 0)
        assert await stack.call(process.wait, 60.0), stack.logs()
        assert process.returncode not in (0, None)
        assert "aura rebuild changelog" in stack.log_of("ledger-0")[size:]

        # A rebuild that was interrupted had written one partition; the next one writes the others.
        kafka = RealKafka(stack.bootstrap)
        await kafka.start()
        await rebuild._write_changelog(stack.settings, kafka, 0, first)
        await kafka.stop()

        async def refused_still() -> str:
            done = await stack.aura("rebuild", "changelog", "--json")
            if "workers are members" in done.stderr:  # until the session of the one that has just ended is over
                return done.stderr
            assert digests(done) == wanted
            return ""

        await eventually(refused_still, 60, "the changelog is written anew", stack.logs)
        assert await changelog_digests(stack) == wanted
    await client.load(30)
    found = await assert_coherent(stack, client)
    assert found.entries
    assert (await verify(stack, "--deep"))[0] == 0


@row("S20")
async def test_n33_postgres_is_written_anew_from_the_journal_with_the_same_digest_and_chain(
    stack: E2EStack, client: Client
) -> None:
    await client.load(40)
    await stack.quiet()
    refused = await stack.aura("rebuild", "postgres")
    assert refused.returncode == 3
    assert "workers are members of the group" in refused.stderr
    connection = await stack.connect()
    try:
        here = stack.local.postgres.dsn(database="again")
        await connection.execute("CREATE DATABASE again")
        async with client.loading(per_second=GENTLE):
            result = await rebuilt(stack, here)
        assert result["digest"] == result["digest_of_source"] != ""
        assert result["heads"] >= PARTITIONS and result["entries"] > 0
        again = await stack.aura("rebuild", "postgres", "--into", here)
        assert again.returncode == 3
        assert "already holds a ledger" in again.stderr

        await stack.quiet()
        await connection.execute("DROP DATABASE again WITH (FORCE)")
        await connection.execute("CREATE DATABASE again")
        result = await rebuilt(stack, here)
        assert result["digest"] == result["digest_of_source"]
        code, checks = await verify(stack, "--heads", "topic", "--dsn", here)
        assert code == 0, checks
    finally:
        await connection.execute("DROP DATABASE IF EXISTS again WITH (FORCE)")
        await connection.close()
    await assert_coherent(stack, client)


async def test_trust_a_lost_ledger_is_written_anew_in_its_place(stack: E2EStack, client: Client) -> None:
    await client.load(20)
    await stack.quiet()
    async with stopped(stack, "sink"):
        connection = await stack.connect()
        before = (await digest(connection), await chain_walk.heads(connection))
        name = await connection.fetchval("SELECT current_database()")
        await connection.close()
        connection = await asyncpg.connect(stack.local.postgres.dsn(database="template1"))
        try:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        result = await rebuilt(stack, "")
        assert (result["digest"], result["digest_of_source"]) == (before[0], "")
        assert result["heads"] >= PARTITIONS
        connection = await stack.connect()
        assert await chain_walk.heads(connection) == before[1]
        await connection.close()
    await client.load(20)
    await assert_coherent(stack, client)
    assert (await verify(stack, "--deep"))[0] == 0


@row("S20")
async def test_trust_everything_is_computed_again_while_traffic_runs(stack: E2EStack, client: Client) -> None:
    async with client.loading(per_second=GENTLE):
        await client.reached(60, stack.logs)
        for _ in range(2):
            done = await stack.aura("rebuild", "--json")
            assert done.returncode == 0, done.stdout + done.stderr
            result = json.loads(done.stdout)
            assert result["same"] and result["signals"] > 0 and result["entries"] > 0
    await assert_coherent(stack, client)


async def rebuilt(stack: E2EStack, into: str) -> dict[str, Any]:
    done = await stack.aura("rebuild", "postgres", "--json", *(["--into", into] if into else []))
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["same"]
    return result
