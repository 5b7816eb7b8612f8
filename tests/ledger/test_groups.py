"""Writes of several partitions in one transaction: each unit once, and no partition pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from aura_stream.ledger.connection import WRITER
from aura_stream.ledger.writer import Diverged, Fenced, LedgerWriter, Unavailable
from tests.ledger.builders import BANK, Shard, a_deposit, transaction_id
from tests.ledger.conftest import Connection, as_role, offences
from tests.rows import row
from tests.torture.proxies import Net, PostgresProxy


def shards(count: int = 4) -> list[Shard]:
    """Partitions with a first unit that opens an account and others that move money and change what began."""
    made = []
    for partition in range(count):
        shard, name = Shard(partition), f"c{partition}"
        shard.unit(shard.account(f"{name}:EUR"), a_deposit(shard, f"{name}:EUR", 100, "d"), commands=2)
        shard.unit(
            shard.account(f"{name}:EUR", "account.frozen"),
            shard.transaction(name, "t", event="transfer.sent", status="processing", state="sent"),
            shard.refused(name, "r"),
            commands=3,
        )
        shard.unit(
            a_deposit(shard, f"{name}:EUR", 5, "e"),
            shard.account(f"{name}:EUR", "account.unfrozen"),
            shard.change(name, "t", event="transfer.failed", status="failed", state="refused"),
            commands=2,
        )
        made.append(shard)
    return made


async def positions(owner: Connection) -> dict[int, int]:
    """The last seq of each partition."""
    rows = await owner.fetch("SELECT partition, last_seq FROM ledger.sink_offsets ORDER BY 1")
    return {row["partition"]: row["last_seq"] for row in rows}


async def together(
    writer: LedgerWriter, *writes: tuple[int, Sequence[tuple[int, bytes]]]
) -> list[BaseException | None]:
    """What writes end with that are called in the same moment."""
    return await asyncio.gather(*[writer.write(*write) for write in writes], return_exceptions=True)


@asynccontextmanager
async def held_up(owner: Connection) -> AsyncIterator[None]:
    """No write gets beyond its units until the context ends."""
    async with owner.transaction():
        await owner.execute("LOCK TABLE ledger.units IN ACCESS EXCLUSIVE MODE")
        yield


async def one_waits_at_postgres(owner: Connection) -> None:
    while not await owner.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)


async def transactions_of(owner: Connection, first: int = 0) -> int:
    """In how many database transactions the blocks from a seq on were written."""
    return int(
        await owner.fetchval("SELECT count(DISTINCT xmin::text) FROM ledger.chain_blocks WHERE seq >= $1", first)
    )


async def claim_all(writer: LedgerWriter, made: Sequence[Shard]) -> None:
    for shard in made:
        await writer.claim(shard.partition)
        await writer.write(shard.partition, shard.records[:1])


async def go_on(writer: LedgerWriter, made: Sequence[Shard]) -> None:
    """What a sink does after any doubt: claims, and writes what is not there yet."""
    for shard in made:
        claim = await writer.claim(shard.partition)
        await writer.write(shard.partition, [r for r in shard.records if r[0] >= claim.next_offset])


async def everything_is_there_once(owner: Connection, made: Sequence[Shard]) -> None:
    assert await positions(owner) == {shard.partition: 3 for shard in made}
    assert await owner.fetchval("SELECT count(*) FROM ledger.entries") == 4 * len(made)
    assert await owner.fetchval("SELECT count(*) FROM ledger.transactions WHERE status = 'failed'") == len(made)
    assert await offences(owner) == {}


async def test_what_waits_becomes_one_transaction(owner: Connection, writer: LedgerWriter) -> None:
    made = shards()
    await claim_all(writer, made)
    async with held_up(owner):
        first = asyncio.create_task(writer.write(0, made[0].records[1:]))
        await one_waits_at_postgres(owner)
        rest = [asyncio.create_task(writer.write(s.partition, s.records[1:])) for s in made[1:]]
        await asyncio.sleep(0)
        assert not first.done()

    await asyncio.gather(first, *rest)
    assert await transactions_of(owner, 2) == 2
    await everything_is_there_once(owner, made)


async def test_a_group_is_bounded_and_what_is_left_over_does_not_wait_for_it(
    owner: Connection, writer: LedgerWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aura_stream.ledger.writer.GROUP_BYTES", 2000)
    made = shards(8)
    await claim_all(writer, made)

    assert await together(writer, *[(s.partition, s.records[1:]) for s in made]) == [None] * 8

    assert 1 < await transactions_of(owner, 2) <= 8
    await everything_is_there_once(owner, made)


@row("X24")
async def test_x24_a_fenced_partition_does_not_hold_up_the_others_of_its_group(
    ledger: str, owner: Connection, writer: LedgerWriter
) -> None:
    made = shards()
    await claim_all(writer, made)
    async with await LedgerWriter.connect(ledger) as other:
        await other.claim(2)

        errors = await together(writer, *[(s.partition, s.records[1:]) for s in made])

        assert [type(error) for error in errors] == [type(None), type(None), Fenced, type(None)]
        assert "partition 2" in str(errors[2])
        assert await positions(owner) == {0: 3, 1: 3, 2: 1, 3: 3}
        with pytest.raises(Fenced, match="not claimed"):
            await writer.write(2, made[2].records[1:])
        await other.write(2, made[2].records[1:])

    await everything_is_there_once(owner, made)


async def test_a_partition_that_a_frozen_owner_has_locked_does_not_hold_up_the_others_of_its_group(
    ledger: str, owner: Connection, writer: LedgerWriter
) -> None:
    made = shards()
    await claim_all(writer, made)
    frozen = await as_role(ledger, WRITER)
    await frozen.execute("BEGIN")
    await frozen.execute("UPDATE ledger.sink_offsets SET next_offset = 99, last_seq = 99 WHERE partition = 1")

    errors = await together(writer, *[(s.partition, s.records[1:]) for s in made])

    assert [type(error) for error in errors] == [type(None), Unavailable, type(None), type(None)]
    await go_on(writer, made)
    frozen.terminate()
    await everything_is_there_once(owner, made)


def _unbalanced(shard: Shard) -> None:
    booked = shard.journal(
        transaction_id(f"c{shard.partition}", "bad"),
        (f"c{shard.partition}:EUR", "available", 5),
        (BANK, "available", -4),
    )
    shard.unit(shard.transaction(f"c{shard.partition}", "bad", booked))


def _begins_twice(shard: Shard) -> None:
    shard.unit(a_deposit(shard, f"c{shard.partition}:EUR", 100, "d"))


def _unknown_change(shard: Shard) -> None:
    shard.unit(
        shard.change(f"c{shard.partition}", "?", event="transfer.failed", status="failed", state="refused", seq=2)
    )


def _unknown_account(shard: Shard) -> None:
    shard.unit(shard.account("nobody:EUR", "account.frozen"))


@pytest.mark.parametrize(
    ("spoil", "constraint", "seq"),
    [
        (_unbalanced, "entries_balanced", 2),  # of a whole COPY the server names no row: the first of the batch
        (_begins_twice, "transactions_pkey", 4),
        (_unknown_change, "transactions_seq", 4),
        (_unknown_account, "accounts_pkey", 2),  # of one statement: the first that changes an account
    ],
)
async def test_a_diverged_partition_is_named_and_the_others_of_its_group_are_written(
    owner: Connection, writer: LedgerWriter, spoil: Callable[[Shard], None], constraint: str, seq: int
) -> None:
    made = shards()
    spoil(made[1])
    await claim_all(writer, made)

    errors = await together(writer, *[(s.partition, s.records[1:]) for s in made])

    assert [type(error) for error in errors] == [type(None), Diverged, type(None), type(None)]
    error = errors[1]
    assert isinstance(error, Diverged)
    assert (error.partition, error.seq, error.constraint) == (1, seq, constraint)
    assert await positions(owner) == {0: 3, 1: 1, 2: 3, 3: 3}
    assert await offences(owner) == {}


@pytest.fixture
def proxy(ledger: str) -> Iterator[PostgresProxy]:
    with Net() as net:
        found = PostgresProxy(net, ledger)
        found.start()
        yield found


@row("X22")
@pytest.mark.parametrize("marker", [b"BEGIN", b'"ledger"."entries"', b'"ledger"."units"', b"COMMIT"])
@pytest.mark.parametrize("deliver", [True, False])
async def test_x22_a_group_whose_connection_is_cut_is_claimed_again_and_written_once(
    ledger: str, owner: Connection, proxy: PostgresProxy, marker: bytes, deliver: bool
) -> None:
    made = shards()
    async with await LedgerWriter.connect(proxy.through(ledger)) as writer:
        await claim_all(writer, made)
        proxy.lose(marker, answer=deliver)

        errors = await together(writer, *[(s.partition, s.records[1:]) for s in made])

        assert proxy.cuts == 1
        assert [type(error) for error in errors] == [Unavailable] * 4
        assert [f"partition {partition}" in str(error) for partition, error in enumerate(errors)] == [True] * 4
        committed = marker == b"COMMIT" and deliver
        assert await positions(owner) == dict.fromkeys(range(4), 3 if committed else 1)
        await go_on(writer, made)
    await everything_is_there_once(owner, made)


async def test_a_write_that_is_cancelled_under_way_does_no_harm_to_the_others_of_its_group(
    owner: Connection, writer: LedgerWriter
) -> None:
    made = shards()
    await claim_all(writer, made)
    async with held_up(owner):
        tasks = [asyncio.create_task(writer.write(s.partition, s.records[1:])) for s in made]
        await one_waits_at_postgres(owner)
        tasks[1].cancel()
        await asyncio.wait(tasks[1:2])

    errors = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in errors] == [type(None), asyncio.CancelledError, type(None), type(None)]
    with pytest.raises(Fenced, match="not claimed"):
        await writer.write(1, made[1].records[1:])
    await go_on(writer, made)
    await everything_is_there_once(owner, made)


async def test_a_write_that_is_cancelled_before_its_group_begins_is_not_written(
    owner: Connection, writer: LedgerWriter
) -> None:
    made = shards()
    await claim_all(writer, made)
    async with held_up(owner):
        tasks = [asyncio.create_task(writer.write(0, made[0].records[1:]))]
        await one_waits_at_postgres(owner)
        tasks += [asyncio.create_task(writer.write(s.partition, s.records[1:])) for s in made[1:]]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.wait(tasks[2:3])

    await asyncio.gather(*tasks, return_exceptions=True)

    assert await positions(owner) == {0: 3, 1: 3, 2: 1, 3: 3}
    await go_on(writer, made)
    await everything_is_there_once(owner, made)


async def test_closing_ends_what_is_under_way(ledger: str, owner: Connection) -> None:
    made = shards()
    async with await LedgerWriter.connect(ledger) as writer:
        await claim_all(writer, made)
        async with held_up(owner):
            tasks = [asyncio.create_task(writer.write(s.partition, s.records[1:])) for s in made]
            await one_waits_at_postgres(owner)
            await writer.close()
            errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [Unavailable] * 4
        await go_on(writer, made)
    await everything_is_there_once(owner, made)
