"""Each thing that must never be true is planted, with the guards taken off, and found by its check."""

from __future__ import annotations

import asyncio
import itertools
import json
import uuid
from typing import Any

import pytest

from aura_stream.cli import main
from aura_stream.ledger.verify import CHECKS, digest, verify
from aura_stream.ledger.writer import LedgerWriter
from tests.ledger.builders import CLEARING, Shard, a_deposit, a_town, transaction_id
from tests.ledger.conftest import Connection, offences, write_all
from tests.rows import row

TRANSFER = "(SELECT transaction_id FROM ledger.transactions WHERE idempotency_key = 't4')"

PLANTS = {
    "an amount changed": (
        "UPDATE ledger.entries SET amount = amount + 1 WHERE journal_id = 1 AND leg = 0",
        "journals_balanced",
    ),
    "an entry removed": ("DELETE FROM ledger.entries WHERE journal_id = 2 AND leg = 1", "leg_sets_complete"),
    "a journal's entries removed": ("DELETE FROM ledger.entries WHERE journal_id = 2", "leg_sets_complete"),
    "entries without a journal": ("DELETE FROM ledger.journals WHERE journal_id = 2", "entries_agree_with_journals"),
    "an entry moved to another tenant": (
        "UPDATE ledger.entries SET tenant_id = 'demo' WHERE journal_id = 1",
        "entries_agree_with_journals",
    ),
    "a journal number missing": (
        "DELETE FROM ledger.entries WHERE journal_id = 2; DELETE FROM ledger.journals WHERE journal_id = 2",
        "journal_numbers_dense",
    ),
    "the last journal missing": (
        """DELETE FROM ledger.entries e USING ledger.sink_offsets o WHERE o.partition = 0 AND e.journal_id = o.last_journal;
        DELETE FROM ledger.journals j USING ledger.sink_offsets o WHERE o.partition = 0 AND j.journal_id = o.last_journal
        """,  # noqa: E501  # one statement per line
        "journal_numbers_dense",
    ),
    "a unit missing": ("DELETE FROM ledger.units WHERE partition = 0 AND seq = 2", "units_dense"),
    "the last unit missing": (
        "DELETE FROM ledger.units u USING ledger.sink_offsets o WHERE u.partition = o.partition AND u.seq = o.last_seq",
        "units_dense",
    ),
    "a unit known before its predecessor": (
        "UPDATE ledger.units SET committed_at = '2000-01-01' WHERE partition = 0 AND seq = 3",
        "units_dense",
    ),
    "a journal of no unit": ("UPDATE ledger.journals SET journal_seq = 99 WHERE journal_id = 3", "journals_sealed"),
    "commands read twice": (
        "UPDATE ledger.units SET inputs = '[[\"commands\", 1, 5]]' WHERE partition = 0 AND seq = 2",
        "commands_covered",
    ),
    "signals read twice": (
        'UPDATE ledger.units SET inputs = \'[["signals", 1, 2], ["signals", 2, 3]]\' WHERE partition = 0 AND seq = 3',
        "commands_covered",
    ),
    "a command without an outcome": (
        "UPDATE ledger.units SET counters = counters || '{\"answers\": 2}' WHERE partition = 0 AND seq = 2",
        "commands_answered",
    ),
    "an overdraft in between": (
        """UPDATE ledger.entries SET amount = amount * 100 WHERE journal_id = 2;
        UPDATE ledger.entries SET amount = amount * 100 WHERE transaction_id = """
        + TRANSFER,
        "customers_never_negative",
    ),
    "an entry in another customer's partition": (
        "UPDATE ledger.accounts SET partition = 5 WHERE account_id = 'bob:EUR'",
        "customers_keep_to_their_accounts",
    ),
    "entries of an account never opened": (
        "DELETE FROM ledger.accounts WHERE account_id = 'bob:EUR'",
        "customers_keep_to_their_accounts",
    ),
    "money made from nothing": (
        "UPDATE ledger.entries SET amount = 1001 WHERE journal_id = 1 AND leg = 0",
        "sums_zero",
    ),
    "a key used twice": (
        """ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_idempotency;
        UPDATE ledger.transactions SET idempotency_key = 't1' WHERE idempotency_key = 't5'""",
        "idempotency_keys_unique",
    ),
    "a status changed by hand": (
        "UPDATE ledger.transactions SET status = 'completed' WHERE idempotency_key = 't3'",
        "histories_whole",
    ),
    "a status that came back": (
        """UPDATE ledger.transactions SET seq = 2, status = 'processing', state = 'sent', history =
        '[{"seq": 1, "status": "failed", "state": "refused"}, {"seq": 2, "status": "processing", "state": "sent"}]'
        WHERE idempotency_key = 't5'""",
        "histories_whole",
    ),
    "an event missing": (
        "UPDATE ledger.transactions SET history = history - 1 WHERE idempotency_key = 'h3'",
        "histories_whole",
    ),
    "a journal that its transaction does not list": (
        "UPDATE ledger.transactions SET journal_ids = '{}' WHERE idempotency_key = 't4'",
        "transactions_know_their_journals",
    ),
    "a listed journal that is not there": (
        "UPDATE ledger.transactions SET journal_ids = journal_ids || 77::bigint WHERE idempotency_key = 't4'",
        "transactions_know_their_journals",
    ),
    "completed with another amount": (
        "UPDATE ledger.transactions SET amount = 999 WHERE idempotency_key = 't4'",
        "completed_moved_the_amount",
    ),
    "completed without a journal": (
        """UPDATE ledger.transactions SET status = 'completed', state = 'completed', reason = NULL, amount = 5,
        history = '[{"seq": 1, "status": "completed", "state": "completed"}]' WHERE idempotency_key = 't5'""",
        "completed_moved_the_amount",
    ),
    "failed but not returned": (
        "UPDATE ledger.transactions SET status = 'failed' WHERE idempotency_key = 't4'",
        "failed_moved_nothing",
    ),
    "a deposit by bank that has ended and still holds": (
        """UPDATE ledger.transactions SET history = jsonb_set(history, '{0,by_bank}', '{}'), status = 'completed'
        WHERE idempotency_key = 'h4'""",
        "settlements_leave_nothing_behind",
    ),
    "a reserve without its tokens": (
        "UPDATE ledger.entries SET account_id = '@reserve:AEUR:EUR' WHERE journal_id = 1 AND account_id LIKE '@bank:%'",
        "tokens_have_their_reserve",
    ),
    "less at the bank than is owed": (
        "UPDATE ledger.entries SET account_id = '@bank:bank-b:operating:EUR' WHERE account_id LIKE '@bank:%:trust:%'",
        "trust_covers_what_is_owed",
    ),
    "money in transit that nobody waits for": (
        "UPDATE ledger.entries SET account_id = '@rail:ach:in_transit:EUR' WHERE journal_id = 1 AND leg = 0",
        "in_transit_is_pending",
    ),
    "a payout that was made twice": (
        """UPDATE ledger.transactions t SET type = 'withdrawal', amount = t.amount / 2,
            history = jsonb_set(history, '{0,by_bank}', '{"rail": "sepa"}')
        FROM ledger.journals j WHERE j.journal_id = 1 AND j.transaction_id = t.transaction_id;
        UPDATE ledger.entries SET amount = -amount WHERE journal_id = 1""",
        "nothing_settled_twice",
    ),
    "money in suspense that nobody tells of": (
        """UPDATE ledger.transactions t SET history = jsonb_set(history, '{0,by_bank}', '{"rail": "sepa"}')
        FROM ledger.journals j WHERE j.journal_id = 1 AND j.transaction_id = t.transaction_id;
        UPDATE ledger.entries SET account_id = '@suspense:unmatched:EUR' WHERE journal_id = 1 AND leg = 0""",
        "suspense_is_told",
    ),
    "a hold that holds nothing": (
        "UPDATE ledger.transactions SET amount = 6 WHERE idempotency_key = 'h4'",
        "held_is_open_holds",
    ),
    "money in flight without a transfer": (
        "UPDATE ledger.transactions SET amount = 8 WHERE idempotency_key = 't3'",
        "clearing_is_in_flight",
    ),
    "a checkpoint that lies": (
        "UPDATE ledger.balance_checkpoints SET available = available - 1 WHERE account_id = 'alice:EUR'",
        "balances_are_sums",
    ),
    "a row that its block does not hash": (
        "UPDATE ledger.journals SET kind = 'transfer.returned' WHERE journal_id = 3",
        "chain_holds",
    ),
    "a checkpoint of another block": (
        "UPDATE ledger.balance_checkpoints SET effective_min = '2000-01-01' WHERE account_id = 'alice:EUR'",
        "checkpoints_true",
    ),
}


async def plant(connection: Connection, statements: str) -> None:
    """Changes rows as only a superuser can who takes the guards off."""
    tables = ("entries", "journals", "units", "chain_blocks", "transactions", "accounts", "balance_checkpoints")
    for table in (*tables, "sink_offsets"):
        await connection.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER USER")
    await connection.execute(statements)


@pytest.fixture
async def town(owner: Connection, writer: LedgerWriter) -> Connection:
    await write_all(writer, *a_town())
    await owner.fetchval("SELECT ledger.write_checkpoints('default', 'alice:EUR', 3)")
    assert await offences(owner) == {}
    return owner


@row("A09", "A11")
@pytest.mark.parametrize("what", PLANTS)
async def test_verify_finds_what_was_planted(town: Connection, what: str) -> None:
    statements, name = PLANTS[what]

    await plant(town, statements)

    found = await offences(town)
    assert name in found
    assert found[name]


def test_every_check_has_a_plant() -> None:
    assert {name for _, name in PLANTS.values()} == {check.__name__ for check in CHECKS}


async def test_verify_says_what_it_looked_at(town: Connection) -> None:
    checked = {check.name: (check.checked, check.things) for check in await verify(town)}

    assert checked["journals_balanced"] == (18, "journals")
    assert checked["commands_covered"] == (22, "command offsets")
    assert checked["commands_answered"] == (22, "answers")
    assert {name for name, (count, _) in checked.items() if not count} == {
        *("settlements_leave_nothing_behind", "tokens_have_their_reserve", "in_transit_is_pending"),
        *("nothing_settled_twice", "suspense_is_told"),
    }


async def test_partitions_that_are_not_at_the_same_point_are_given_time(
    owner: Connection, writer: LedgerWriter
) -> None:
    """The sender's completion is here before the receiver's half: no fault, but only for as long as we wait."""
    alice, bob = a_town()
    await writer.claim(0)
    await writer.write(0, alice.records)
    between = {"transactions_know_their_journals", "completed_moved_the_amount", "clearing_is_in_flight"}

    assert set(await offences(owner)) == between

    await write_all(writer, bob)
    assert await offences(owner) == {}


class Road:
    """Transfers from alice (partition 0) to bob (1), of which one is always credited and not yet completed."""

    def __init__(self, writer: LedgerWriter) -> None:
        self.writer, self.alice, self.bob = writer, Shard(0), Shard(1)
        self.told = 0
        self.going = asyncio.Event()

    async def open(self) -> None:
        a, b = self.alice, self.bob
        a.unit(a.account("alice:EUR"), a_deposit(a, "alice:EUR", 1_000_000, "d1"), commands=2)
        b.unit(b.account("bob:EUR"))
        await write_all(self.writer, a, b)

    async def credit(self, key: str) -> str:
        """Sends one and credits it; returns its id."""
        a, b, id_ = self.alice, self.bob, transaction_id("alice", key)
        sent = a.journal(id_, ("alice:EUR", "available", 1), (CLEARING, "available", -1), kind="transfer.sent")
        about: dict[str, Any] = {"from_account_id": "alice:EUR", "to_account_id": "bob:EUR", "amount": 1}
        begun = a.transaction("alice", key, sent, event="transfer.sent", status="processing", state="sent", **about)
        await self.writer.write(0, [a.unit(begun)])
        got = b.journal(id_, (CLEARING, "available", 1), ("bob:EUR", "available", -1), kind="transfer.received")
        credited = b.received("alice", key, "bob:EUR", got, amount="1")
        await self.writer.write(1, [b.unit(credited, inputs=[["signals", b.number, b.number]])])
        return id_

    async def complete(self, key: str, half: int) -> None:
        a = self.alice
        done = a.change(
            "alice", key, event="transfer.completed", status="completed", state="completed", also_journal=half
        )
        self.told += 1
        await self.writer.write(0, [a.unit(done, inputs=[["signals", self.told, self.told]])])

    async def run(self) -> None:
        """On and on: the next one is credited before the last one is completed."""
        await self.credit("t0")
        for number in itertools.count():
            half = (1 << 48) + self.bob.number
            await self.credit(f"t{number + 1}")
            await self.complete(f"t{number}", half)
            self.going.set()


@row("S20")
async def test_a_ledger_with_steady_traffic_is_good_and_what_stays_between_is_named(
    owner: Connection, writer: LedgerWriter
) -> None:
    """At every moment one transfer is between two partitions, and always another: no fault. One that stays is."""
    road = Road(writer)
    await road.open()
    traffic = asyncio.create_task(road.run())
    await asyncio.wait_for(road.going.wait(), 60)
    between = {"transactions_know_their_journals", "clearing_is_in_flight"}
    try:
        assert between <= (await offences(owner)).keys(), "what is asked once is asked between two of them"

        assert await offences(owner, settle_s=60) == {}
    finally:
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)


async def test_a_transfer_that_is_never_completed_is_named_among_those_that_are(
    owner: Connection, writer: LedgerWriter
) -> None:
    road = Road(writer)
    await road.open()
    lost = uuid.UUID(await road.credit("lost"))
    traffic = asyncio.create_task(road.run())
    await asyncio.wait_for(road.going.wait(), 60)
    try:
        found = await offences(owner, settle_s=3)
    finally:
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)
    for name in ("transactions_know_their_journals", "clearing_is_in_flight"):
        offender = found.pop(name)
        assert isinstance(offender, dict) and offender["transaction_id"] == lost
    assert found == {}


async def test_the_digest_is_of_the_money_alone(ledger: str, owner: Connection, writer: LedgerWriter) -> None:
    shard = Shard()
    shard.unit(shard.account("alice:EUR"), a_deposit(shard, "alice:EUR", 5, "d1"), commands=2)
    await write_all(writer, shard)
    before = await digest(owner)
    assert before == await digest(owner)

    await writer.write(0, [shard.unit(a_deposit(shard, "alice:EUR", 5, "d2"))])
    after = await digest(owner)
    assert after != before

    await plant(owner, "UPDATE ledger.units SET committed_at = committed_at + interval '1 day'")
    assert await digest(owner) == after
    await plant(owner, "UPDATE ledger.entries SET account_id = 'carol:EUR' WHERE leg = 1 AND journal_id = 2")
    assert await digest(owner) != after


@pytest.mark.parametrize(("statements", "code"), [("SELECT 1", 0), ("DELETE FROM ledger.units WHERE partition = 1", 1)])
async def test_aura_ledger_verify_answers_with_its_exit_code(
    town: Connection, ledger: str, capsys: pytest.CaptureFixture[str], statements: str, code: int
) -> None:
    await plant(town, statements)

    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, ["ledger", "verify", "--json", "--settle", "0", "--dsn", ledger])

    assert (ended.value.code or 0) == code
    printed = json.loads(capsys.readouterr().out)
    bad = {row["name"] for row in printed if not row["good"]}
    assert bad == ({"units_dense", "journals_sealed", "commands_covered", "chain_holds"} if code else set())


def test_aura_ledger_verify_says_when_it_could_not_check(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["ledger", "verify", "--dsn", "postgresql://nobody@127.0.0.1:1/none"])
    assert ended.value.code == 3
    assert "AURA_POSTGRES_DSN" in capsys.readouterr().err
