"""The wire is cut, the server dies, a sink freezes: all of a batch is there or nothing, and a claim tells which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from aura_stream.embedded import PostgresServer
from aura_stream.ledger.connection import WRITER
from aura_stream.ledger.migrations import migrate
from aura_stream.ledger.writer import LedgerWriter, Unavailable
from tests.ledger.builders import Shard, a_deposit
from tests.ledger.conftest import Connection, as_role, offences
from tests.rows import row
from tests.torture.proxies import Net, PostgresProxy


def a_shard() -> Shard:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d1"), commands=2)
    sent = shard.transaction("alice", "t", event="transfer.failed", status="failed", state="refused")
    shard.unit(a_deposit(shard, "alice:EUR", 7, "d2"), sent, shard.refused("alice", "r"), commands=3)
    return shard


@pytest.fixture
def proxy(ledger: str) -> Iterator[PostgresProxy]:
    """A wire to the ledger's server that can be cut at a message."""
    with Net() as net:
        found = PostgresProxy(net, ledger)
        found.start()
        yield found


async def available(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT available FROM ledger.balance_as_of('default', 'alice:EUR')"))


@row("X22")
async def test_x22_a_lost_commit_reply_is_unavailable_and_the_claim_shows_it_committed(
    ledger: str, owner: Connection, proxy: PostgresProxy
) -> None:
    shard = a_shard()
    async with await LedgerWriter.connect(proxy.through(ledger)) as writer:
        await writer.claim(0)
        await writer.write(0, shard.records[:1])
        proxy.lose(b"COMMIT", answer=True)

        with pytest.raises(Unavailable):
            await writer.write(0, shard.records[1:])

        assert proxy.cuts == 1
        assert (await writer.claim(0))[:2] == (3, 2)
    assert await available(owner) == 12
    assert await offences(owner) == {}


@row("X22")
@pytest.mark.parametrize(
    "marker",
    [
        *(b"BEGIN", b"UPDATE ledger.sink_offsets", b'"ledger"."journals"', b'"ledger"."entries"'),
        *(b'"ledger"."transactions"', b'"ledger"."refusals"', b'"ledger"."units"', b"COMMIT"),
    ],
)
@pytest.mark.parametrize("deliver", [True, False])
async def test_x22_a_cut_at_any_step_leaves_all_of_the_batch_or_nothing(
    ledger: str, owner: Connection, proxy: PostgresProxy, marker: bytes, deliver: bool
) -> None:
    """Whatever was lost, the next claim says where to go on, and going on there gives every unit once."""
    shard = a_shard()
    async with await LedgerWriter.connect(proxy.through(ledger)) as writer:
        await writer.claim(0)
        proxy.lose(marker, answer=deliver)

        with pytest.raises(Unavailable):
            await writer.write(0, shard.records)

        assert proxy.cuts == 1
        committed = marker == b"COMMIT" and deliver
        claim = await writer.claim(0)
        assert claim[:2] == ((3, 2) if committed else (0, 0))
        assert await available(owner) == (12 if committed else 0)
        await writer.write(0, [record for record in shard.records if record[0] >= claim.next_offset])
    assert await available(owner) == 12
    assert await offences(owner) == {}


async def test_a_cut_while_claiming_is_unavailable(ledger: str, proxy: PostgresProxy) -> None:
    async with await LedgerWriter.connect(proxy.through(ledger)) as writer:
        proxy.lose(b"INSERT INTO ledger.sink_offsets", answer=True)
        with pytest.raises(Unavailable):
            await writer.claim(0)
        assert (await writer.claim(0))[:2] == (0, 0)


async def test_a_server_that_cannot_be_reached_is_unavailable(ledger: str) -> None:
    with pytest.raises(Unavailable):
        await LedgerWriter.connect(f"{ledger.rpartition('@')[0]}@127.0.0.1:1/nothing")


async def test_a_batch_that_takes_too_long_is_unavailable_and_not_written(ledger: str, owner: Connection) -> None:
    shard = a_shard()
    async with await LedgerWriter.connect(ledger, timeout_s=1.0) as writer:
        await writer.claim(0)
        async with owner.transaction():
            await owner.execute("LOCK TABLE ledger.units IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(Unavailable):
                await writer.write(0, shard.records)
        claim = await writer.claim(0)
        assert claim[:2] == (0, 0)
        await writer.write(0, shard.records)
    assert await offences(owner) == {}


@pytest.mark.parametrize("where", ["between statements", "in a COPY"])
async def test_a_sink_that_freezes_in_a_transaction_does_not_hold_up_the_next_owner(
    ledger: str, owner: Connection, writer: LedgerWriter, where: str
) -> None:
    frozen = await as_role(ledger, WRITER)
    await writer.claim(0)
    await frozen.execute("BEGIN")
    await frozen.execute("UPDATE ledger.sink_offsets SET next_offset = 99, last_seq = 99 WHERE partition = 0")
    copying: asyncio.Task[str] | None = None
    if where == "in a COPY":
        started = asyncio.Event()

        async def never_ends() -> AsyncIterator[bytes]:
            started.set()
            await asyncio.Event().wait()
            yield b""

        copying = asyncio.create_task(frozen.copy_to_table("units", schema_name="ledger", source=never_ends()))
        await started.wait()

    assert await writer.claim(0) == (0, 0, 2)

    shard = a_shard()
    await writer.write(0, shard.records)
    if copying is None:
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError)):
            await frozen.execute("COMMIT")
    else:
        copying.cancel()
    frozen.terminate()
    assert (await writer.claim(0))[:2] == (3, 2)
    assert await offences(owner) == {}


async def test_a_session_ended_by_an_operator_is_unavailable(
    ledger: str, owner: Connection, writer: LedgerWriter
) -> None:
    shard = a_shard()
    await writer.claim(0)
    operator: Connection = await asyncpg.connect(ledger)
    async with owner.transaction():
        # In the middle of its work: one that ends between two pieces of work may be noticed, and replaced, in time.
        await owner.execute("LOCK TABLE ledger.units IN ACCESS EXCLUSIVE MODE")
        writing = asyncio.create_task(writer.write(0, shard.records))
        while True:
            if await operator.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND application_name = 'aura ledger writer' AND datname = current_database()"
            ):
                break
            await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await writing
    await operator.close()
    assert (await writer.claim(0))[:2] == (0, 0)
    await writer.write(0, shard.records)
    assert await offences(owner) == {}


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_server_that_dies_in_between_loses_nothing_that_was_answered(tmp_path: Path, how: str) -> None:
    shard = a_shard()
    with PostgresServer(tmp_path / "postgres", tied=True) as server:
        dsn = server.dsn()
        await migrate(dsn)
        async with await LedgerWriter.connect(dsn) as writer:
            await writer.claim(0)
            await writer.write(0, shard.records[:1])
            if how == "kill":
                server.kill()
                with pytest.raises(Unavailable):
                    await writer.write(0, shard.records[1:])
                with pytest.raises(Unavailable):
                    await writer.claim(0)
                server.start()
            else:
                server.restart()
                with pytest.raises(Unavailable):
                    await writer.write(0, shard.records[1:])
            assert (await writer.claim(0))[:2] == (1, 1)
            await writer.write(0, shard.records[1:])
        connection = await asyncpg.connect(dsn)
        assert await available(connection) == 12
        assert await offences(connection) == {}
        await connection.close()
