"""Who owns the database changes it, guards off: the chain names the block, the journal the row, a head kept outside

the chain that was written anew.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

import topics
from aura_stream.cli import main
from aura_stream.ledger import chain_walk
from aura_stream.ledger.chain import Head, decode_head, encode_head
from aura_stream.ledger.errors import Fenced
from aura_stream.ledger.migrations import migrate
from aura_stream.ledger.rows import Batch
from aura_stream.ledger.writer import LedgerWriter
from tests.ledger.builders import Shard, a_deposit, a_town, a_transfer
from tests.ledger.conftest import Connection, offences, write_all
from tests.ledger.test_verify import plant

ALICE, SAVINGS = "alice:EUR", "alice:EUR:savings"


def a_month(deposits: int = 6) -> Shard:
    """Units 1 to `deposits` + 1, each with one journal; then one with two."""
    shard = Shard()
    shard.unit(shard.account(ALICE), shard.account(SAVINGS), commands=2)
    for number in range(deposits):
        shard.unit(a_deposit(shard, ALICE, 100 + number, f"d{number}"))
    shard.unit(a_transfer(shard, ALICE, SAVINGS, 5, "t1"), a_transfer(shard, ALICE, SAVINGS, 6, "t2"), commands=2)
    return shard


@pytest.fixture
async def month(owner: Connection, writer: LedgerWriter) -> Shard:
    shard = a_month()
    await write_all(writer, shard)
    assert await offences(owner) == {}
    return shard


def batch_of(shard: Shard, seq: int) -> Batch:
    """The unit `seq` as its journal record says it."""
    whole = Batch(0, 0, 0)
    for offset, value in shard.records[: seq - 1]:
        whole.add(offset, value)
    alone = Batch(0, whole.last_seq, whole.last_journal, whole.chain_hash)
    alone.add(*shard.records[seq - 1])
    return alone


# What an owner does, the unit that the chain names, and what the journal then says of the row.
TAMPERED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "altered: an amount, on both legs, so that the journal balances and all else adds up": (
        "UPDATE ledger.entries SET amount = amount + sign(amount) WHERE journal_id = 3",
        4,
        {"table": "entries", "journal_id": 3, "leg": 0, "what": "altered",
         "columns": {"amount": {"here": "103", "in_the_journal": "102"}}},
    ),
    "altered: the account that was credited": (
        f"UPDATE ledger.entries SET account_id = '{SAVINGS}' WHERE journal_id = 2 AND leg = 1",
        3,
        {"table": "entries", "journal_id": 2, "leg": 1, "what": "altered",
         "columns": {"account_id": {"here": SAVINGS, "in_the_journal": ALICE}}},
    ),
    "altered: a date, by the smallest step there is": (
        """UPDATE ledger.entries SET effective_at = effective_at - interval '1 microsecond' WHERE journal_id = 4;
        UPDATE ledger.journals SET effective_at = effective_at - interval '1 microsecond' WHERE journal_id = 4""",
        5,
        {"table": "journals", "journal_id": 4, "what": "altered"},
    ),
    "altered: what a unit says that it read": (
        "UPDATE ledger.units SET inputs = '[[\"commands\", 0, 0]]' WHERE seq = 1",
        1,
        {"table": "units", "seq": 1, "what": "altered"},
    ),
    "removed: one entry": (
        "DELETE FROM ledger.entries WHERE journal_id = 5 AND leg = 1",
        6,
        {"table": "entries", "journal_id": 5, "leg": 1, "what": "missing"},
    ),
    "removed: a journal with its entries": (
        "DELETE FROM ledger.entries WHERE journal_id = 1; DELETE FROM ledger.journals WHERE journal_id = 1",
        2,
        {"table": "journals", "journal_id": 1, "what": "missing"},
    ),
    "removed: a unit": ("DELETE FROM ledger.units WHERE seq = 4", 4, {"table": "units", "seq": 4, "what": "missing"}),
    "removed: all of the last unit, and the sink's row set back": (
        """DELETE FROM ledger.entries WHERE journal_id >= 7; DELETE FROM ledger.journals WHERE journal_id >= 7;
        DELETE FROM ledger.units WHERE seq = 8;
        UPDATE ledger.sink_offsets SET last_seq = 7, last_journal = 6, next_offset = 14""",
        8,
        {"table": "units", "seq": 8, "what": "missing"},
    ),
    "inserted: an entry into a journal that is there": (
        """INSERT INTO ledger.entries SELECT journal_id, 2, transaction_id, tenant_id, account_id, asset, amount, layer,
        partition, effective_at, posted_at FROM ledger.entries WHERE journal_id = 2 AND leg = 1""",
        3,
        {"table": "entries", "journal_id": 2, "leg": 2, "what": "added"},
    ),
    "reordered: two journals of one unit change places": (
        """UPDATE ledger.entries SET journal_id = 100 WHERE journal_id = 7;
        UPDATE ledger.journals SET journal_id = 100 WHERE journal_id = 7;
        UPDATE ledger.entries SET journal_id = 7 WHERE journal_id = 8;
        UPDATE ledger.journals SET journal_id = 7 WHERE journal_id = 8;
        UPDATE ledger.entries SET journal_id = 8 WHERE journal_id = 100;
        UPDATE ledger.journals SET journal_id = 8 WHERE journal_id = 100""",
        8,
        {"table": "journals", "journal_id": 7, "what": "reordered"},
    ),
    "reordered: two units change places": (
        """UPDATE ledger.units SET seq = 100 WHERE seq = 3; UPDATE ledger.units SET seq = 3 WHERE seq = 4;
        UPDATE ledger.units SET seq = 4 WHERE seq = 100""",
        3,
        {"table": "units", "seq": 3, "what": "altered"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
async def test_trust_a_row_changed_by_the_owner_is_named(
    month: Shard, owner: Connection, ledger: str, what: str
) -> None:
    statements, seq, row = TAMPERED[what]

    await plant(owner, statements)

    found = (await offences(owner))["chain_holds"]
    assert isinstance(found, dict)
    assert (found["partition"], found["seq"]) == (0, seq), found
    named = await chain_walk.compare_unit(owner, batch_of(month, seq))
    assert named is not None
    assert {key: named[key] for key in row} == row


async def test_trust_a_journal_inserted_by_the_owner_is_named(month: Shard, owner: Connection) -> None:
    await plant(
        owner,
        """INSERT INTO ledger.journals SELECT 9, partition, transaction_id, tenant_id, kind, asset, leg_count,
            effective_at, posted_at, 9 FROM ledger.journals WHERE journal_id = 8;
        INSERT INTO ledger.entries SELECT 9, leg, transaction_id, tenant_id, account_id, asset, amount, layer,
            partition, effective_at, posted_at FROM ledger.entries WHERE journal_id = 8""",
    )

    found = (await offences(owner))["chain_holds"]
    assert isinstance(found, dict)
    assert (found["journal_id"], found["what"]) == (9, "rows that no unit has booked")


async def test_trust_a_journal_in_a_partition_of_the_owners_own_is_named(month: Shard, owner: Connection) -> None:
    await plant(
        owner,
        """INSERT INTO ledger.journals SELECT (77::bigint << 48) + 1, 77, transaction_id, tenant_id, kind, asset,
            leg_count, effective_at, posted_at, 1 FROM ledger.journals WHERE journal_id = 8""",
    )

    found = (await offences(owner))["chain_holds"]
    assert isinstance(found, dict)
    assert (found["journal_id"], found["table"]) == ((77 << 48) + 1, "journals")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger.chain_blocks SET hash = sha256('x') WHERE seq = 5",
        "DELETE FROM ledger.chain_blocks WHERE seq = 5",
        "UPDATE ledger.chain_blocks SET seq = 99 WHERE seq = 5",
    ],
)
async def test_trust_a_block_changed_by_the_owner_is_named(month: Shard, owner: Connection, statement: str) -> None:
    await plant(owner, statement)

    found = (await offences(owner))["chain_holds"]
    assert isinstance(found, dict)
    assert (found["partition"], found["seq"]) == (0, 5)


async def rewrite(owner: Connection, statements: str) -> None:
    """Changes rows, and then writes the whole chain anew so that it fits them."""
    await plant(owner, f"{statements}; DELETE FROM ledger.chain_blocks")
    epoch = await owner.fetchval("SELECT epoch FROM ledger.sink_offsets WHERE partition = 0")
    assert await chain_walk.seal_missing(owner, 0, epoch, None)


async def test_trust_a_chain_rewritten_by_the_owner_is_found_by_a_head_kept_outside(
    month: Shard, owner: Connection, writer: LedgerWriter, ledger: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kept = [Head(0, seq, batch_of(month, seq).chain_hash) for seq in (2, 5, 8)]
    assert kept[-1] == writer.head(0)
    assert await chain_walk.compare_heads(owner, kept) == (3, None)
    file = tmp_path / "heads"
    file.write_bytes(b"\n".join(encode_head(head) for head in kept))
    await rewrite(
        owner,
        """UPDATE ledger.entries SET amount = amount + sign(amount) WHERE journal_id = 3;
        UPDATE ledger.transactions SET amount = amount + 1 WHERE idempotency_key = 'd2'""",
    )
    assert await offences(owner) == {}, "nothing inside the database tells"

    _, found = await chain_walk.compare_heads(owner, kept)
    assert found is not None
    assert (found["seq"], found["rewritten_after_seq"], found["what"]) == (5, 2, "the chain was rewritten")

    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, ["ledger", "verify", "--json", "--heads", str(file), "--dsn", ledger])
    assert ended.value.code == 1
    bad = {row["name"]: row["offender"] for row in json.loads(capsys.readouterr().out) if not row["good"]}
    assert list(bad) == ["heads_hold"]
    assert bad["heads_hold"]["seq"] == 5


async def test_trust_a_ledger_cut_short_is_found_by_a_head_kept_outside(month: Shard, owner: Connection) -> None:
    await rewrite(
        owner,
        """DELETE FROM ledger.entries WHERE journal_id >= 7; DELETE FROM ledger.journals WHERE journal_id >= 7;
        DELETE FROM ledger.units WHERE seq = 8; DELETE FROM ledger.transactions WHERE idempotency_key LIKE 't_';
        UPDATE ledger.sink_offsets SET last_seq = 7, last_journal = 6, next_offset = 14, commands_offset = 8""",
    )
    assert await offences(owner) == {}, "nothing inside the database tells"

    _, found = await chain_walk.compare_heads(owner, [Head(0, 8, batch_of(month, 8).chain_hash)])
    assert found is not None
    assert (found["seq"], found["what"]) == (8, "the block is not there")


async def test_trust_a_rebuilt_ledger_has_the_same_chain_however_it_was_batched(
    ledger: str, owner: Connection, postgres: Any, unique: str
) -> None:
    town = a_town()
    async with await LedgerWriter.connect(ledger) as writer:
        await write_all(writer, *town)
        one_by_one = [writer.head(0), writer.head(1)]
    await owner.execute(f"CREATE DATABASE again_{unique}")
    try:
        again = postgres.dsn(database=f"again_{unique}")
        await migrate(again)
        async with await LedgerWriter.connect(again) as writer:
            for shard in town:
                await writer.claim(shard.partition)
                await writer.write(shard.partition, shard.records)
            assert [writer.head(0), writer.head(1)] == one_by_one
    finally:
        await owner.execute(f"DROP DATABASE again_{unique} WITH (FORCE)")


async def test_trust_units_of_an_older_program_are_sealed_at_the_next_claim(
    month: Shard, owner: Connection, writer: LedgerWriter
) -> None:
    head = writer.head(0)
    await plant(owner, "DELETE FROM ledger.chain_blocks WHERE seq > 3")
    assert "chain_holds" in await offences(owner)

    await writer.claim(0)

    assert writer.head(0) == head
    assert await offences(owner) == {}
    await writer.write(0, [month.unit(a_deposit(month, ALICE, 1, "later"))])
    assert await offences(owner) == {}


async def test_a08_a_fenced_sink_leaves_no_block(month: Shard, owner: Connection, ledger: str) -> None:
    async with await LedgerWriter.connect(ledger) as late:
        await late.claim(0)
        await owner.execute("UPDATE ledger.sink_offsets SET epoch = epoch + 1")
        with pytest.raises(Fenced):
            await late.write(0, [month.unit(a_deposit(month, ALICE, 1, "late"))])
        assert late.head(0) is None

    assert await owner.fetchval("SELECT max(seq) FROM ledger.chain_blocks") == 8
    assert await offences(owner) == {}


async def test_a09_blocks_are_append_only(month: Shard, owner: Connection) -> None:
    for statement in (
        "UPDATE ledger.chain_blocks SET seq = 9",
        "DELETE FROM ledger.chain_blocks",
        "TRUNCATE ledger.chain_blocks",
    ):
        with pytest.raises(Exception, match="append-only"):
            await owner.execute(statement)


def test_a_head_is_read_as_it_was_written() -> None:
    head = Head(3, 17, bytes(range(32)))
    assert decode_head(encode_head(head)) == head
    schema = json.loads((Path(topics.__file__).parent / "schemas" / topics.CHAIN_HEADS.schema).read_text("utf-8"))
    jsonschema_rs.validate(schema, json.loads(encode_head(head)))
    for bad in ("{}", "[]", '{"partition":1,"seq":1,"hash":"00"}', '{"partition":1,"seq":1,"hash":"zz"}'):
        with pytest.raises(ValueError, match=r".+"):
            decode_head(bad)
