"""The writer: what a journal record becomes, once."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aura_stream import journal
from aura_stream.ledger.writer import Diverged, Fenced, LedgerWriter
from tests.ledger.builders import BANK, CLEARING, T0, Shard, a_deposit, a_town, a_transfer, transaction_id
from tests.ledger.conftest import Connection, offences, write_all
from tests.rows import row


async def count(connection: Connection, table: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM ledger.{table}"))


@row("A11", "A21")
async def test_a21_every_state_and_entry_of_a_scenario_is_in_the_tables(
    owner: Connection, writer: LedgerWriter
) -> None:
    alice, bob = a_town()
    await write_all(writer, alice, bob)

    rows = await owner.fetch("SELECT idempotency_key, customer_id, status, state FROM ledger.transactions")
    assert {(r["customer_id"], r["idempotency_key"]): (r["status"], r["state"]) for r in rows} == {
        ("alice", "d1"): ("completed", "completed"),
        ("bob", "d1"): ("completed", "completed"),
        ("alice", "t1"): ("completed", "completed"),
        ("alice", "t2"): ("failed", "returned"),
        ("alice", "t3"): ("processing", "sent"),
        ("alice", "h1"): ("completed", "captured"),
        ("alice", "h2"): ("canceled", "released"),
        ("alice", "h3"): ("completed", "captured"),
        ("alice", "h4"): ("processing", "held"),
        ("alice", "h5"): ("processing", "capturing"),
        ("alice", "t4"): ("completed", "completed"),
        ("alice", "t5"): ("failed", "refused"),
    }
    balances = {
        r["account_id"]: tuple(map(int, r[2:]))
        for r in await owner.fetch("SELECT tenant_id, account_id, posted, pending, available FROM ledger.balances")
    }
    assert balances == {
        "alice:EUR": (1000 - 100 - 7 - 25 - 10 - 4 - 200, 0, 1000 - 100 - 7 - 25 - 10 - 4 - 200 - 5),
        "alice:EUR:savings": (225, 0, 225),
        "bob:EUR": (160, 0, 160),
        BANK: (1050, 0, 1050),
        CLEARING: (11, 0, 11),
    }
    flight = await owner.fetchrow("SELECT * FROM ledger.in_flight")
    assert flight is not None
    assert tuple(flight.values()) == ("default", "EUR", 11)
    assert await count(owner, "refusals") == 1
    assert await offences(owner) == {}


@row("A05")
async def test_a05_one_row_tells_a_transactions_whole_story(owner: Connection, writer: LedgerWriter) -> None:
    await write_all(writer, *a_town())

    row = await owner.fetchrow("SELECT * FROM ledger.transactions WHERE idempotency_key = 'h3'")

    assert row is not None
    assert row["transaction_id"] == uuid.UUID(transaction_id("alice", "h3"))
    assert (row["type"], row["amount"], row["captured_amount"], row["seq"]) == ("hold", 10, 10, 3)
    assert row["expires_at"] == datetime.fromtimestamp(T0 / 1000 + 86_400, UTC)
    events = json.loads(row["history"])
    assert [e["type"] for e in events] == ["hold.placed", "hold.capturing", "hold.captured"]
    assert [e["seq"] for e in events] == [1, 2, 3]
    assert [e.get("command_id") for e in events][1:] == ["c3", None]
    booked = await owner.fetch(
        "SELECT journal_id FROM ledger.journals WHERE transaction_id = $1", row["transaction_id"]
    )
    assert sorted(row["journal_ids"]) == sorted(r["journal_id"] for r in booked)
    assert [i >> 48 for i in row["journal_ids"]] == [0, 0, 1]


@row("A08")
async def test_a08_batches_of_any_size_give_the_same_rows(owner: Connection, writer: LedgerWriter) -> None:
    """A transaction that begins and ends in one batch is one plain insert; the row is the same as in many steps."""
    alice, bob = a_town()
    await write_all(writer, alice, bob)
    columns = (
        """transaction_id, status, state, reason, captured_amount, created_at, updated_at, seq, journal_ids, history"""
    )
    wanted = await owner.fetch(f"SELECT {columns} FROM ledger.transactions ORDER BY 1")
    await owner.execute("SET session_replication_role = replica")
    for table in (
        "transactions",
        "journals",
        "entries",
        "units",
        "chain_blocks",
        "refusals",
        "accounts",
        "sink_offsets",
    ):
        await owner.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER ALL")
        await owner.execute(f"TRUNCATE ledger.{table}")
        await owner.execute(f"ALTER TABLE ledger.{table} ENABLE TRIGGER ALL")

    for shard in (alice, bob):
        await writer.claim(shard.partition)
        await writer.write(shard.partition, shard.records)

    assert await owner.fetch(f"SELECT {columns} FROM ledger.transactions ORDER BY 1") == wanted
    assert await offences(owner) == {}


async def test_position_counts_commands_and_signals_only_when_they_are_whole(
    owner: Connection, writer: LedgerWriter
) -> None:
    shard = Shard(3)
    shard.unit(shard.account("alice:EUR"), last=False)
    shard.unit(a_deposit(shard, "alice:EUR", 5, "d"), commands=2)
    shard.unit(inputs=[["signals", 4, 9], ["clock", T0 + 7]])
    await writer.claim(3)
    query = "SELECT next_offset, last_seq, last_journal, commands_offset, signals_offset FROM ledger.sink_offsets"

    await writer.write(3, shard.records[:1])
    assert tuple((await owner.fetch(query))[0]) == (1, 1, 0, 0, 0)
    await writer.write(3, shard.records[1:2])
    assert tuple((await owner.fetch(query))[0]) == (3, 2, 1, 2, 0)
    await writer.write(3, shard.records[2:])
    assert tuple((await owner.fetch(query))[0]) == (5, 3, 1, 2, 10)
    units = await owner.fetch("SELECT inputs, counters, last FROM ledger.units ORDER BY seq")
    assert [json.loads(u["inputs"]) for u in units] == [
        [],
        [["commands", 0, 1]],
        [["signals", 4, 9], ["clock", T0 + 7]],
    ]
    assert [u["last"] for u in units] == [False, True, True]
    assert json.loads(units[1]["counters"])["answers"] == 1


async def test_what_is_known_grows_in_the_order_of_the_journal(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"))
    for number in range(5):
        shard.unit(a_deposit(shard, "alice:EUR", 1, f"d{number}"))
    await write_all(writer, shard)

    known = [r["committed_at"] for r in await owner.fetch("SELECT committed_at FROM ledger.units ORDER BY seq")]
    assert known == sorted(known)
    assert len(set(known)) == 6


async def test_a_second_claim_fences_the_first_owner(ledger: str, owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"))
    shard.unit(a_deposit(shard, "alice:EUR", 5, "d"))
    assert await writer.claim(0) == (0, 0, 1)
    await writer.write(0, shard.records[:1])
    async with await LedgerWriter.connect(ledger) as second:
        assert await second.claim(0) == (1, 1, 2)

        with pytest.raises(Fenced):
            await writer.write(0, shard.records[1:])
        with pytest.raises(Fenced, match="not claimed"):
            await writer.write(0, shard.records[1:])
        await second.write(0, shard.records[1:])

    assert await count(owner, "entries") == 2
    assert await writer.claim(0) == (3, 2, 3)


async def test_a_repeated_batch_is_refused(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d"), commands=2)
    shard.unit(a_deposit(shard, "alice:EUR", 5, "e"))
    await writer.claim(0)
    await writer.write(0, shard.records)

    for again in (shard.records, shard.records[1:]):
        with pytest.raises(Fenced):
            await writer.write(0, again)
        assert (await writer.claim(0))[:2] == (3, 2)
    assert await count(owner, "entries") == 4


async def test_a_repeat_under_new_offsets_is_divergence(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d"), commands=2)
    await write_all(writer, shard)

    with pytest.raises(Diverged, match="units_dense") as caught:
        await writer.write(0, [(10, shard.records[0][1])])
    assert (caught.value.partition, caught.value.seq) == (0, 2)


@pytest.mark.parametrize("batch", [[0, 2], [1], [0, 1, 1], [0, 2, 1]])
async def test_a_gap_in_the_seqs_is_divergence(owner: Connection, writer: LedgerWriter, batch: list[int]) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"))
    shard.unit(a_deposit(shard, "alice:EUR", 5, "d"))
    shard.unit(a_deposit(shard, "alice:EUR", 5, "e"))
    await writer.claim(0)

    with pytest.raises(Diverged, match="units_dense"):
        await writer.write(0, [(offset, shard.records[number][1]) for offset, number in enumerate(batch)])
    assert await count(owner, "units") == 0
    assert await writer.claim(0) == (0, 0, 2)


async def diverges(writer: LedgerWriter, shard: Shard, already: int) -> Diverged:
    """What writing everything after `already` records raises."""
    await writer.claim(shard.partition)
    if already:
        await writer.write(shard.partition, shard.records[:already])
    with pytest.raises(Diverged) as caught:
        await writer.write(shard.partition, shard.records[already:])
    return caught.value


@pytest.mark.parametrize("together", [True, False])
async def test_a_transaction_that_begins_twice_is_divergence_and_names_its_seq(
    owner: Connection, writer: LedgerWriter, together: bool
) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d"))
    shard.unit(a_deposit(shard, "alice:EUR", 6, "x"))
    shard.unit(a_deposit(shard, "alice:EUR", 5, "d"))

    error = await diverges(writer, shard, 0 if together else 1)

    assert (error.partition, error.seq, error.constraint) == (0, 3, "transactions_pkey")
    assert await count(owner, "units") == (0 if together else 1)


@pytest.mark.parametrize("together", [True, False])
async def test_a_change_out_of_order_is_divergence(owner: Connection, writer: LedgerWriter, together: bool) -> None:
    shard = Shard()
    shard.unit(shard.transaction("alice", "t", event="transfer.sent", status="processing", state="sent"))
    shard.unit()
    shard.unit(shard.change("alice", "t", event="transfer.completed", status="completed", state="completed", seq=3))

    error = await diverges(writer, shard, 0 if together else 2)

    assert (error.seq, error.constraint) == (3, "transactions_seq")
    assert await owner.fetchval("SELECT max(seq) FROM ledger.transactions") == (None if together else 1)


async def test_a_change_of_an_unknown_transaction_is_divergence(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.change("alice", "t", event="transfer.completed", status="completed", state="completed", seq=2))

    error = await diverges(writer, shard, 0)

    assert (error.seq, error.constraint) == (1, "transactions_seq")
    assert "not there" in error.detail or "nothing" in error.detail


@row("A11")
@pytest.mark.parametrize("together", [True, False])
async def test_a11_a_status_that_leaves_its_end_is_divergence(
    owner: Connection, writer: LedgerWriter, together: bool
) -> None:
    shard = Shard()
    shard.unit(shard.transaction("alice", "t", event="transfer.failed", status="failed", state="refused"))
    shard.unit(shard.change("alice", "t", event="transfer.completed", status="completed", state="completed"))

    await diverges(writer, shard, 0 if together else 1)

    assert await count(owner, "units") == (0 if together else 1)


@pytest.mark.parametrize(
    ("amounts", "constraint"),
    [((5, -4), "entries_balanced"), ((5,), "journals_leg_count_check"), ((0, 0), "entries_amount_check")],
)
async def test_a_bad_journal_is_divergence_and_leaves_nothing(
    owner: Connection, writer: LedgerWriter, amounts: tuple[int, ...], constraint: str
) -> None:
    shard = Shard()
    ident = transaction_id("alice", "d")
    booked = shard.journal(ident, *[("alice:EUR", "available", amount) for amount in amounts])
    shard.unit(shard.account("alice:EUR"), shard.transaction("alice", "d", booked))

    error = await diverges(writer, shard, 0)

    assert (error.seq, error.constraint) == (1, constraint)
    assert [await count(owner, table) for table in ("journals", "entries", "transactions", "units", "accounts")] == [
        0
    ] * 5


@pytest.mark.parametrize("amount", ["1.5", "NaN", "Infinity", "1e3", "", "9" * 39])
async def test_an_amount_that_is_no_integer_of_38_digits_is_divergence(writer: LedgerWriter, amount: str) -> None:
    shard = Shard()
    booked = journal.Journal(
        1, transaction_id("alice", "d"), "k", "default", "EUR", T0, T0,
        [journal.Entry("alice:EUR", "available", amount), journal.Entry(BANK, "available", f"-{amount}")],
    )  # fmt: skip
    shard.unit(shard.transaction("alice", "d", booked))

    await diverges(writer, shard, 0)


async def test_amounts_of_38_digits_are_exact(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    amount = int("9" * 38)
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", amount, "d"), commands=2)
    await write_all(writer, shard)

    row = await owner.fetchrow("SELECT * FROM ledger.balance_as_of('default', 'alice:EUR')")
    assert row is not None
    assert int(row["posted"]) == amount


async def test_a_hole_in_the_journal_numbers_is_divergence(writer: LedgerWriter) -> None:
    shard = Shard()
    shard.number = 1
    shard.unit(a_deposit(shard, "alice:EUR", 5, "d"))

    assert (await diverges(writer, shard, 0)).constraint == "journal_numbers_dense"


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"\xff", b'{"partition":0}', b'{"partition":1,"seq":1,"at":0,"lines":[]}']
)
async def test_bytes_that_are_no_record_of_the_partition_are_divergence(writer: LedgerWriter, value: bytes) -> None:
    await writer.claim(0)
    with pytest.raises(Diverged):
        await writer.write(0, [(0, value)])


async def test_accounts_open_freeze_and_close(owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), shard.account("alice:BTC:cold"), shard.account("bob:EUR"), commands=3)
    shard.unit(shard.account("bob:EUR", "account.frozen"))
    shard.unit(shard.account("alice:EUR", "account.frozen"), shard.account("alice:EUR", "account.closed"), commands=2)
    await writer.claim(0)
    await writer.write(0, shard.records[:2])
    await writer.write(0, shard.records[2:])

    rows = {r["account_id"]: r for r in await owner.fetch("SELECT * FROM ledger.accounts")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "alice:EUR": "closed", "alice:BTC:cold": "open", "bob:EUR": "frozen",
    }  # fmt: skip
    assert rows["alice:BTC:cold"]["name"] == "cold"
    assert rows["alice:EUR"]["closed_at"] is not None
    assert rows["bob:EUR"]["closed_at"] is None
    assert await offences(owner) == {}


@pytest.mark.parametrize(
    "events",
    [["account.opened", "account.opened"], ["account.frozen"], ["account.opened", "account.closed", "account.frozen"]],
)
@pytest.mark.parametrize("together", [True, False])
async def test_an_account_that_cannot_change_so_is_divergence(
    writer: LedgerWriter, events: list[str], together: bool
) -> None:
    shard = Shard()
    for event in events:
        shard.unit(shard.account("alice:EUR", event))

    await diverges(writer, shard, 0 if together else len(events) - 1)


@row("X24")
async def test_x24_two_sinks_that_race_write_every_unit_once(
    ledger: str, owner: Connection, writer: LedgerWriter
) -> None:
    """One wallet, a hundred trades, two writers that both believe to own the partition."""
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 10_000, "seed"), commands=2)
    shard.unit(shard.account("alice:EUR:savings"))
    for number in range(100):
        shard.unit(a_transfer(shard, "alice:EUR", "alice:EUR:savings", number + 1, f"t{number}"))

    async def sink(own: LedgerWriter) -> None:
        while True:
            claim = await own.claim(0)
            try:
                for record in shard.records:
                    if record[0] >= claim.next_offset:
                        await own.write(0, [record])
                        await asyncio.sleep(0)
                return
            except Fenced:
                continue

    async with await LedgerWriter.connect(ledger) as other:
        await asyncio.gather(sink(writer), sink(other))

    balances = await owner.fetch("SELECT account_id, available FROM ledger.balances WHERE account_id LIKE 'alice%'")
    assert {r["account_id"]: int(r["available"]) for r in balances} == {"alice:EUR": 4950, "alice:EUR:savings": 5050}
    assert await offences(owner) == {}


PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(keys=st.lists(PRINTABLE, min_size=1, max_size=20, unique=True), details=st.lists(ANYTHING, max_size=20))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_text_comes_back_as_it_was(ledger: str, keys: list[str], details: list[str]) -> None:
    """Keys are any printable ASCII; details may hold anything. Only NUL, which Postgres cannot hold, changes."""
    owner = await asyncpg.connect(ledger)
    try:
        async with await LedgerWriter.connect(ledger) as writer:
            partition = int(await owner.fetchval("SELECT coalesce(max(partition), -1) + 1 FROM ledger.sink_offsets"))
            shard = Shard(partition, f"t{partition}")
            shard.unit(
                *[
                    shard.transaction(
                        "alice", key, event="transfer.failed", status="failed", state="refused", command_id=key
                    )
                    for key in keys
                ]
            )
            shard.unit(*[shard.refused("alice", f"r{n}", detail=detail) for n, detail in enumerate(details)])
            shard.unit(
                *[
                    shard.change(
                        "alice", key, event="transfer.failed", status="failed", state=key, reason=key, command_id=key
                    )
                    for key in keys
                ]
            )
            await writer.claim(partition)
            await writer.write(partition, shard.records[:2])
            await writer.write(partition, shard.records[2:])
        rows = await owner.fetch(
            "SELECT idempotency_key, state, reason, history FROM ledger.transactions WHERE partition = $1", partition
        )
        stored = await owner.fetch("SELECT detail FROM ledger.refusals WHERE partition = $1 ORDER BY line", partition)
    finally:
        owner.terminate()

    assert {r["idempotency_key"] for r in rows} == set(keys)
    for found in rows:
        key = found["idempotency_key"]
        assert (found["state"], found["reason"]) == (key, key)
        assert [e["command_id"] for e in json.loads(found["history"])] == [key, key]
    assert [r["detail"] or "" for r in stored] == [detail.replace("\x00", "\ufffd") for detail in details]


async def test_a_change_of_all_that_was_sent_moves_no_row(owner: Connection, writer: LedgerWriter) -> None:
    alice = Shard(0)
    keys = [str(uuid.UUID(int=number)) for number in range(300)]
    for number in range(0, 300, 100):
        alice.unit(
            *[
                alice.transaction(
                    "alice",
                    key,
                    alice.journal(
                        transaction_id("alice", key), ("alice:EUR", "available", 100), (CLEARING, "available", -100)
                    ),
                    event="transfer.sent",
                    status="processing",
                    state="sent",
                    from_account_id="alice:EUR",
                    to_account_id="bob:EUR:savings",
                )
                for key in keys[number : number + 100]
            ]
        )
    await write_all(writer, alice)
    pages = "SELECT transaction_id, (ctid::text::point)[0] AS page FROM ledger.transactions ORDER BY 1"
    before = [tuple(row) for row in await owner.fetch(pages)]

    done = {"event": "transfer.completed", "status": "completed", "state": "completed"}
    answered = alice.unit(*[alice.change("alice", key, also_journal=(1 << 48) + 1, **done) for key in keys])
    await writer.write(0, [answered])

    assert await owner.fetchval("SELECT count(*) FROM ledger.transactions WHERE status = 'completed'") == 300
    # A row that stays in its page while no indexed column changes touches no index.
    assert [tuple(row) for row in await owner.fetch(pages)] == before
