"""Balances are sums of entries, now and as of any time, whatever was back-dated and wherever checkpoints lie."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aura_stream.ledger import checkpoints
from aura_stream.ledger.connection import WRITER
from aura_stream.ledger.writer import LedgerWriter
from tests.ledger.builders import BANK, T0, Shard, a_deposit, transaction_id
from tests.ledger.conftest import Connection, as_role, offences, write_all
from tests.rows import row

SECOND = 1000


class Fact(NamedTuple):
    """One entry, as the naive sum sees it."""

    account: str
    layer: str
    amount: int
    effective_at: datetime
    partition: int
    seq: int


class Step(NamedTuple):
    """One journal: who, how much, how far back-dated; then perhaps a new unit, perhaps a checkpoint."""

    partition: int
    amount: int
    layer: str
    back_s: int
    checkpoint: int  # entries per block, 0 for none


def when(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 1),
        st.integers(1, 10**25),
        st.sampled_from(["available", "held", "pending_in"]),
        st.integers(0, 60),
        st.sampled_from([0, 0, 0, 1, 2, 3]),
    ),
    min_size=1,
    max_size=25,
)


def naive(
    facts: list[Fact], known: dict[tuple[int, int], datetime], account: str, effective: datetime, known_at: datetime
) -> tuple[int, int, int]:
    """posted, pending, available: all that was effective and known by then, added up."""
    sign = 1 if account == BANK else -1
    sums = {"available": 0, "held": 0, "pending_in": 0}
    for fact in facts:
        in_time = fact.effective_at <= effective and known[fact.partition, fact.seq] <= known_at
        if fact.account == account and in_time:
            sums[fact.layer] += sign * fact.amount
    return sums["available"] + sums["held"], sums["pending_in"], sums["available"]


@row("A10")
@given(steps=STEPS, probes=st.lists(st.tuples(st.integers(-5, 90), st.integers(0, 30)), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a10_the_balance_as_of_any_two_times_is_the_naive_sum(
    ledger: str, steps: list[Step], probes: list[tuple[int, int]]
) -> None:
    owner: Connection = await asyncpg.connect(ledger)
    first = 2 * int(await owner.fetchval("SELECT count(*) / 2 FROM ledger.sink_offsets"))
    tenant = f"t{first}"
    shards = [Shard(first, tenant), Shard(first + 1, tenant)]
    facts: list[Fact] = []
    try:
        async with await LedgerWriter.connect(ledger, checkpoint_entries=1000) as writer:
            for number, shard in enumerate(shards):
                await writer.claim(shard.partition)
                await writer.write(shard.partition, [shard.unit(shard.account(f"c{number}:EUR"))])
            for number, step in enumerate(steps):
                shard = shards[step.partition]
                account = f"c{step.partition}:EUR"
                effective = shard.at - step.back_s * SECOND
                ident = transaction_id("c", f"k{number}", tenant)
                legs = ((BANK, "available", step.amount), (account, step.layer, -step.amount))
                await writer.write(
                    shard.partition,
                    [
                        shard.unit(
                            shard.received(
                                "c", f"k{number}", account, shard.journal(ident, *legs, effective_at=effective)
                            )
                        )
                    ],
                )
                facts += [Fact(a, layer, n, when(effective), shard.partition, shard.seq) for a, layer, n in legs]
                if step.checkpoint:
                    for name in (BANK, account):
                        await checkpoints.write(owner, tenant, name, step.checkpoint)
        rows = await owner.fetch("SELECT partition, seq, committed_at FROM ledger.units WHERE partition >= $1", first)
        known = {(r["partition"], r["seq"]): r["committed_at"] for r in rows}
        forever = datetime.max.replace(tzinfo=UTC)
        times = sorted(known.values())
        questions = [(forever, forever)]
        for shift, place in probes:
            questions.append((when(T0 - shift * SECOND + 300), times[place % len(times)]))
            questions.append((when(T0 - shift * SECOND), forever))
            questions.append((forever, times[place % len(times)] - timedelta(microseconds=1)))
        for effective_at, known_at in questions:
            for account in (BANK, "c0:EUR", "c1:EUR"):
                row = await owner.fetchrow(
                    "SELECT * FROM ledger.balance_as_of($1, $2, $3, $4)", tenant, account, effective_at, known_at
                )
                assert row is not None
                assert tuple(map(int, row.values())) == naive(facts, known, account, effective_at, known_at)
        assert not {"checkpoints_true", "balances_are_sums"} & (await offences(owner)).keys()
    finally:
        owner.terminate()


async def test_a_back_dated_entry_that_is_recorded_later_counts_in_the_past(
    owner: Connection, writer: LedgerWriter
) -> None:
    """What others miss: the entry lies behind a checkpoint in its effective time and after it in the journal."""
    shard = Shard()
    shard.unit(shard.account("alice:EUR"))
    for number in range(6):
        shard.unit(a_deposit(shard, "alice:EUR", 10, f"d{number}"))
    await write_all(writer, shard)
    early, before = when(T0 + 25), await owner.fetchval("SELECT max(committed_at) FROM ledger.units")
    assert await checkpoints.write(owner, "default", "alice:EUR", 2) == 3
    await writer.claim(0)
    await writer.write(0, [shard.unit(a_deposit(shard, "alice:EUR", 1, "late", effective_at=T0 + 5))])

    query = "SELECT posted::int FROM ledger.balance_as_of('default', 'alice:EUR', $1, $2)"
    forever = datetime.max.replace(tzinfo=UTC)

    assert await owner.fetchval(query, early, forever) == 21
    assert await owner.fetchval(query, early, before) == 20
    assert await owner.fetchval(query, forever, forever) == 61


async def test_checkpoints_cannot_overlap_and_blocks_never_split_a_journal(
    ledger: str, owner: Connection, writer: LedgerWriter
) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 100, "d"), commands=2)
    for number in range(9):
        ident = transaction_id("alice", f"h{number}")
        booked = shard.journal(ident, ("alice:EUR", "available", 1), ("alice:EUR", "held", -1))
        held = {"event": "hold.placed", "status": "processing", "state": "held", "from_account_id": "alice:EUR"}
        shard.unit(shard.transaction("alice", f"h{number}", booked, amount=1, **held))
    await write_all(writer, shard)

    connection = await as_role(ledger, WRITER)
    written = [await checkpoints.write(connection, "default", "alice:EUR", 3) for _ in range(3)]
    await connection.close()

    assert written[0] >= 5
    assert written[1:] == [0, 0]
    assert await offences(owner) == {}
    row = await owner.fetchrow("SELECT * FROM ledger.balances WHERE account_id = 'alice:EUR'")
    assert row is not None
    assert (int(row["posted"]), int(row["available"])) == (100, 91)


async def test_the_sink_writes_checkpoints_of_busy_accounts_as_it_goes(ledger: str, owner: Connection) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"))
    for number in range(25):
        shard.unit(a_deposit(shard, "alice:EUR", 1, f"d{number}"))
    async with await LedgerWriter.connect(ledger, checkpoint_entries=10) as writer:
        await write_all(writer, shard)

    rows = await owner.fetch("SELECT account_id, entry_count FROM ledger.balance_checkpoints ORDER BY 1, 2")
    assert [tuple(r) for r in rows] == [(BANK, 10), (BANK, 20), ("alice:EUR", 10), ("alice:EUR", 20)]
    assert await offences(owner) == {}


async def test_an_account_without_entries_has_a_balance_of_zero(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"))
    await write_all(writer, shard)

    row = await owner.fetchrow("SELECT posted, pending, available FROM ledger.balances WHERE account_id = 'alice:EUR'")
    assert row is not None
    assert tuple(map(int, row.values())) == (0, 0, 0)
    nobody = await owner.fetchrow("SELECT * FROM ledger.balance_as_of('default', 'nobody:EUR')")
    assert nobody is not None
    assert tuple(map(int, nobody.values())) == (0, 0, 0)


async def test_same_named_customers_of_two_tenants_never_meet(owner: Connection, writer: LedgerWriter) -> None:
    ours, theirs = Shard(0, "default"), Shard(1, "demo")
    for shard, amount in ((ours, 5), (theirs, 7)):
        shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", amount, "d"), commands=2)
    await write_all(writer, ours, theirs)

    rows = await owner.fetch(
        "SELECT tenant_id, posted::int FROM ledger.balances WHERE account_id = 'alice:EUR' ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("default", 5), ("demo", 7)]
    assert await offences(owner) == {}
