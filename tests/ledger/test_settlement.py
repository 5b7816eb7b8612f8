"""Deposits by bank and withdrawals in Postgres: the sink takes every line of theirs, and the ledger verifies."""

from __future__ import annotations

import asyncpg
import pytest

from aura_stream.ledger.verify import _SETTLES
from aura_stream.ledger.writer import LedgerWriter
from tables.transactions import TRANSACTIONS
from tests.domain.golden import FOLDER, Player
from tests.domain.world import NAMES
from tests.ledger.conftest import Connection, offences

ONE_TOWN = (
    *("deposit_sepa", "deposit_chain", "deposit_mint_lost", "withdrawal_failed", "pauses", "withdrawal_returned"),
    *("deposit_rejected", "deposit_returned_early"),
)
"""Scenarios that may follow each other, under the same rules."""


async def written(writer: LedgerWriter) -> Player:
    """All scenarios of one town, in Postgres."""
    player = Player()
    for name in ONE_TOWN:
        player.play((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    for partition in range(player.world.partitions):
        await writer.claim(partition)
        log = player.world.driver.topics[NAMES.journal][partition]
        for start in range(0, len(log), 7):
            await writer.write(partition, [(r.offset, r.value or b"") for r in log[start : start + 7]])
    return player


@pytest.mark.row("A05", "A08", "A09", "A10", "A11")
async def test_a05_a09_a10_a11_settlements_are_written_and_verify(owner: Connection, writer: LedgerWriter) -> None:
    player = await written(writer)

    assert await offences(owner) == {}
    rows = await owner.fetch("SELECT transaction_id, status, state, seq FROM ledger.transactions")
    kept = player.world.table(TRANSACTIONS.prefix, TRANSACTIONS.decode)
    assert {row["transaction_id"].bytes: tuple(row)[1:] for row in rows} == {
        key: (t.status, t.state, t.seq) for key, t in kept.items()
    }
    for account in ("alice:EUR", "alice:AEUR", "alice:USD", "alice:AUSD"):
        sums = await owner.fetchrow("SELECT * FROM ledger.balance_as_of('default', $1)", account)
        stored = player.world.account(account)
        assert sums is not None
        assert sums["available"] == stored.available
        assert sums["posted"] == stored.available + stored.held
        status = await owner.fetchval("SELECT status FROM ledger.accounts WHERE account_id = $1", account)
        assert status == stored.status
    codes = await owner.fetchval(
        "SELECT count(*) FROM ledger.transactions WHERE history -> -1 -> 'by_bank' ->> 'code' = 'R01'"
    )
    assert codes > 0


@pytest.mark.row("A09", "A10")
@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
async def test_b3_i10_i11_every_golden_scenario_verifies_while_it_goes_on(
    owner: Connection, writer: LedgerWriter, name: str
) -> None:
    player = Player()
    player.play((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    partitions = range(player.world.partitions)
    logs = {one: player.world.driver.topics[NAMES.journal][one] for one in partitions}
    for partition in partitions:
        await writer.claim(partition)
    # In the order of time: the last step is a whole ledger, those before it are what a sink may have just then.
    records = [(partition, record) for partition, log in logs.items() for record in log]
    records.sort(key=lambda one: (one[1].timestamp, one[1].offset))
    for number, (partition, record) in enumerate(records):
        await writer.write(partition, [(record.offset, record.value or b"")])
        if number % 4 == 0:
            # What compares partitions may be ahead in one of them; nothing else may ever be false.
            assert {name: row for name, row in (await offences(owner)).items() if name not in _SETTLES} == {}

    assert await offences(owner) == {}


@pytest.mark.row("A09")
async def test_a09_only_a_return_may_follow_what_is_completed(owner: Connection, writer: LedgerWriter) -> None:
    await written(writer)
    change = "UPDATE ledger.transactions SET status = $1, seq = seq + 1 WHERE status = $2"

    for after in ("failed", "processing", "requires_attention"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(change, after, "completed")
    for before in ("failed", "canceled", "returned"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await owner.execute(change, "completed", before)
    await owner.execute(change, "returned", "completed")
