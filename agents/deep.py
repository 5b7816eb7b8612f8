"""`aura ledger verify --deep`: tables, changelog, journal, entries and chain agree at the same unit, under traffic.

For each partition the changelog is read up to what is committed: that is the state after some unit N, since a unit's
records are one Kafka transaction. Then:

- the local store of a worker on this machine, opened for reading beside it, holds what the changelog says at its unit;
- Postgres, read in one snapshot as of N, has the same sums and number of entries for every account, the same status of
  every account and transaction, the same offsets applied and the same number of journals;
- every record of the journal topic makes the rows and the block of the chain that are in Postgres;
- the published heads are blocks of that chain.

Of the lanes to banks and chain: local stores and changelog, counted calls and kept attempts, nonces (`lanes_again.py`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import TopicPartition

import topics
from agents.worker import NAMES
from aura_stream import journal
from aura_stream.domain.state import Account, Transaction
from aura_stream.engine.errors import StoreFailed
from aura_stream.engine.kafka import Kafka, RealKafka
from aura_stream.engine.restore import POSITION_KEY
from aura_stream.engine.store import read_beside
from aura_stream.engine.unit import STATE_KEY, ShardState
from aura_stream.journal import JOURNALS_PER_PARTITION, AccountLine
from aura_stream.ledger import chain_walk
from aura_stream.ledger.chain import GENESIS, Head, decode_head
from aura_stream.ledger.connection import READER, connect
from aura_stream.ledger.errors import Diverged
from aura_stream.ledger.rows import Batch
from aura_stream.ledger.verify import Check
from aura_stream.settings import Settings
from tables.balances import BALANCES
from tables.transactions import TRANSACTIONS

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

ATTEMPTS = 3
"""A difference is believed when it is there every time: a log that is compacted while it is read may lack a value."""

State = dict[bytes, bytes]
_state_seq = msgspec.json.Decoder(ShardState).decode


@dataclass(slots=True)
class Seen:
    """What was looked at, in all partitions."""

    keys: int = 0
    stores: int = 0
    store_keys: int = 0
    accounts: int = 0
    entries: int = 0
    transactions: int = 0
    units: list[int] = field(default_factory=list)

    def add(self, other: Seen) -> None:
        """Counts what was seen elsewhere as well."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Behind(Exception):
    """The sink does not reach the unit that is compared, so nothing can be said."""


async def deep(settings: Settings, settle_s: float = 10.0) -> list[Check]:
    """Runs the checks; see the module. Raises :class:`Behind` when a sink does not catch up within `settle_s`."""
    from agents.lanes_again import deep_lanes

    kafka = RealKafka(settings.kafka)
    connection = await connect(settings.postgres_read_dsn, READER, command_timeout_s=None)
    try:
        await kafka.start()
        seen = Seen()
        tables: dict[str, Any] | None = None
        ledger: dict[str, Any] | None = None
        for partition in range(settings.partitions):
            for _ in range(ATTEMPTS):
                here = Seen()
                bad_store, state = await compare_stores(settings, kafka, partition, here)
                bad_row = await _compare_ledger(connection, kafka, partition, state, settle_s, here)
                if not bad_store and not bad_row:
                    break
            seen.add(here)
            tables, ledger = tables or bad_store, ledger or bad_row
        units, bad_unit = await _compare_journal(settings, kafka, connection)
        try:
            heads = await published_heads(kafka, settings.partitions)
            compared, bad_head = await chain_walk.compare_heads(connection, heads)
        except ValueError as error:
            compared, bad_head = 0, {"topic": topics.CHAIN_HEADS.name, "what": f"a record is no head: {error}"}
        of_lanes = await deep_lanes(settings, kafka, connection, settle_s)
    finally:
        await connection.close(timeout=5)
        await kafka.stop()
    at = f"at units {seen.units}"
    return [
        Check(
            "tables_are_changelog",
            f"The local stores found here ({seen.stores}) hold, key by key, what the changelog holds at their unit.",
            seen.store_keys,
            "keys",
            tables,
        ),
        Check(
            "changelog_is_entries",
            f"Accounts and transactions in the changelog are what Postgres holds as of the same unit ({at}).",
            seen.accounts + seen.transactions,
            f"accounts and transactions, {seen.entries} entries, {seen.keys} keys",
            ledger,
        ),
        Check(
            "rows_are_journal",
            "Every record of the journal topic makes just the rows and the block of the chain that are in Postgres.",
            units,
            "units",
            bad_unit,
        ),
        Check(
            "heads_are_blocks",
            "The heads published in Kafka are blocks of the chain in Postgres.",
            compared,
            "heads",
            bad_head,
        ),
        *of_lanes,
    ]


# --- the state -------------------------------------------------------------------------------------------------------


async def read_changelog(
    kafka: Kafka, partition: int, seqs: frozenset[int] = frozenset(), topic: str = NAMES.changelog
) -> tuple[State, list[State]]:
    """The committed state of a partition, and what it was right after each of the units `seqs`, if they are found."""
    changelog = TopicPartition(topic, partition)
    start = (await kafka.starts([changelog]))[changelog]
    end = (await kafka.committed_ends([changelog]))[changelog]
    state: State = {}
    found: list[State] = []
    async for records in kafka.read(changelog, start, end):
        for record in records:
            key = record.key or b""
            if record.value is None:
                state.pop(key, None)
                continue
            state[key] = record.value
            if key == STATE_KEY and seqs and _state_seq(record.value).seq in seqs:
                found.append(state.copy())
    return state, found


def state_seq(state: State) -> int:
    """The unit after which the state was so; 0 for the empty one."""
    kept = state.get(STATE_KEY)
    return _state_seq(kept).seq if kept is not None else 0


def state_digest(state: State) -> str:
    """The sha256 of all keys and values in order; where a store stands in its changelog is not part of it."""
    total = sha256()
    for key in sorted(state):
        if key != POSITION_KEY:
            for part in (key, state[key]):
                total.update(len(part).to_bytes(4, "big") + part)
    return total.hexdigest()


def stores_of(settings: Settings, partition: int, role: str = "ledger") -> Iterator[Path]:
    """The local stores of a partition below the state directory, of any worker of this machine."""
    assert settings.state_dir is not None
    yield from sorted(settings.state_dir.glob(f"*/{settings.app_id}-{role}-{partition}"))
    yield from sorted(settings.state_dir.glob(f"*/{settings.app_id}-{role}-{partition}.*"))


async def compare_stores(
    settings: Settings,
    kafka: Kafka,
    partition: int,
    seen: Seen,
    *,
    role: str = "ledger",
    changelog: str = NAMES.changelog,
) -> tuple[dict[str, Any] | None, State]:
    """The stores first, then the changelog, which then has what they have; the first difference, and the state."""
    stores: dict[int, tuple[Path, State]] = {}
    unreadable: dict[str, Any] | None = None
    for path in stores_of(settings, partition, role):
        try:
            local = read_beside(path)
        except StoreFailed as error:
            unreadable = {"partition": partition, "store": str(path), "what": str(error)}
            continue
        local.pop(POSITION_KEY, None)
        if seq := state_seq(local):
            stores[seq] = path, local
    # Only the newest has an owner; another may have been left at a unit that the compacted changelog has forgotten.
    newest = max(stores, default=0)
    for _ in range(100):
        seqs = frozenset([newest]) if newest else frozenset[int]()
        state, at_units = await read_changelog(kafka, partition, seqs, changelog)
        if state_seq(state) >= newest:
            break
        await asyncio.sleep(0.05)  # a commit is acknowledged a moment before its marks are in every partition
    if newest and at_units:
        path, local = stores[newest]
        seen.stores += 1
        seen.store_keys += len(local)
        if local != at_units[-1]:
            return _first_difference(partition, path, local, at_units[-1]), state
    elif newest > state_seq(state):
        return {"partition": partition, "store": str(stores[newest][0]), "what": "ahead of the changelog"}, state
    # A damaged directory that a worker has already replaced by a fresh one is no offence.
    return None if stores else unreadable, state


def _first_difference(partition: int, path: Path, local: State, changelog: State) -> dict[str, Any]:
    key = min(key for key in local.keys() | changelog.keys() if local.get(key) != changelog.get(key))
    return {
        "partition": partition,
        "store": str(path),
        "key": _key(key),
        "in_the_table": _text(local.get(key)),
        "in_the_changelog": _text(changelog.get(key)),
    }


def _key(key: bytes) -> str:
    if key[:1] == TRANSACTIONS.prefix and len(key) == 17:
        return f"transaction {uuid.UUID(bytes=key[1:])}"
    return repr(key)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


# --- Postgres as of a unit -------------------------------------------------------------------------------------------


async def _compare_ledger(
    connection: Connection, kafka: Kafka, partition: int, state: State, settle_s: float, seen: Seen
) -> dict[str, Any] | None:
    seq = state_seq(state)
    await wait_for_unit(connection, partition, seq, settle_s)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await compare_state(connection, kafka, partition, state, seen)


async def wait_for_unit(connection: Connection, partition: int, seq: int, settle_s: float) -> None:
    """Until a unit is in Postgres. Raises :class:`Behind`."""
    give_up = time.monotonic() + settle_s
    while seq:
        last = await connection.fetchval("SELECT last_seq FROM ledger.sink_offsets WHERE partition = $1", partition)
        if (last or 0) >= seq:
            return
        if time.monotonic() > give_up:
            raise Behind(
                f"partition {partition}: Postgres is at unit {last or 0}, the changelog at {seq}, after waiting "
                f"{settle_s:g} s."
            )
        await asyncio.sleep(0.05)


async def compare_state(
    connection: Connection, kafka: Kafka, partition: int, state: State, seen: Seen | None = None
) -> dict[str, Any] | None:
    """The first thing in which a state differs from Postgres as of the same unit. To be called inside a snapshot."""
    seen = seen or Seen()
    shard = _state_seq(state[STATE_KEY]) if STATE_KEY in state else ShardState()
    unit: dict[str, Any] = {"partition": partition, "unit": shard.seq}
    seen.units.append(shard.seq)
    seen.keys += len(state)
    if not shard.seq:
        return None
    row = await connection.fetchrow(_AS_OF, partition, shard.seq)
    if row is None:
        return unit | {"table": "units", "what": "the unit is not in Postgres"}
    applied = {source: shard.applied.get(source, -1) for source in ("commands", "signals")}
    there = {"commands": row["commands"], "signals": row["signals"]}
    if (shard.counters.get("journals", 0), applied) != (row["journals"], there):
        return unit | {"changelog": [shard.counters, applied], "postgres": [row["journals"], there]}
    return await _compare_accounts(
        connection, kafka, partition, shard.seq, row["journals"], state, unit, seen
    ) or await _compare_transactions(connection, partition, shard.seq, state, unit, seen)


_AS_OF = """
SELECT (SELECT (counters ->> 'last_journal')::bigint FROM ledger.units WHERE partition = $1 AND seq = $2) AS journals,
    coalesce(max((i ->> 2)::bigint) FILTER (WHERE i ->> 0 = 'commands'), -1) AS commands,
    coalesce(max((i ->> 2)::bigint) FILTER (WHERE i ->> 0 = 'signals'), -1) AS signals
FROM ledger.units u LEFT JOIN LATERAL jsonb_array_elements(u.inputs) i ON true
WHERE u.partition = $1 AND u.seq <= $2
HAVING bool_or(u.seq = $2)
"""
_SUMS = """
SELECT tenant_id, account_id, count(*) AS entries,
    coalesce(-sum(amount) FILTER (WHERE layer = 'available'), 0)::text AS available,
    coalesce(-sum(amount) FILTER (WHERE layer = 'held'), 0)::text AS held,
    coalesce(-sum(amount) FILTER (WHERE layer = 'pending_in'), 0)::text AS pending_in
FROM ledger.entries WHERE journal_id > $1 AND journal_id <= $2 AND account_id NOT LIKE '@%' GROUP BY 1, 2
"""


async def _compare_accounts(
    connection: Connection,
    kafka: Kafka,
    partition: int,
    seq: int,
    journals: int,
    state: State,
    unit: dict[str, Any],
    seen: Seen,
) -> dict[str, Any] | None:
    base = partition * JOURNALS_PER_PARTITION
    sums = {
        f"{row['tenant_id']}/{row['account_id']}": (
            row["entries"], int(row["available"]), int(row["held"]), int(row["pending_in"])
        )
        for row in await connection.fetch(_SUMS, base, base + journals)
    }  # fmt: skip
    rows = {
        f"{row['tenant_id']}/{row['account_id']}": (row["status"], row["opened_at"], row["closed_at"])
        for row in await connection.fetch(
            """SELECT tenant_id, account_id, status, (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at,
                coalesce(extract(epoch FROM closed_at) * 1000, 0)::bigint AS closed_at
            FROM ledger.accounts WHERE partition = $1""",
            partition,
        )
    }
    # The table of accounts has no history: what later units have changed is left out of its comparison.
    later = await _accounts_changed_after(connection, kafka, partition, seq)
    prefix = BALANCES.prefix
    for key, value in state.items():
        if key[:1] != prefix:
            continue
        name = key[1:].decode()
        account: Account = BALANCES.decode(value)
        here = (account.entries, account.available, account.held, account.pending_in)
        there = sums.pop(name, (0, 0, 0, 0))
        seen.accounts += 1
        seen.entries += account.entries
        if here != there:
            what = "entries, available, held, pending_in"
            return unit | {"account": name, "what": what, "changelog": list(here), "postgres": list(there)}
        row = rows.pop(name, None)
        status = (account.status, account.opened_at, account.closed_at)
        if name not in later and row != status:
            what = "status, opened_at, closed_at"
            return unit | {"account": name, "what": what, "changelog": list(status), "postgres": row and list(row)}
    left = sorted(sums.keys() | (rows.keys() - later))
    return unit | {"account": left[0], "what": "not in the changelog"} if left else None


async def _accounts_changed_after(connection: Connection, kafka: Kafka, partition: int, seq: int) -> set[str]:
    offset = await connection.fetchval(
        "SELECT journal_offset FROM ledger.chain_blocks WHERE partition = $1 AND seq = $2", partition, seq
    )
    end = await connection.fetchval("SELECT next_offset FROM ledger.sink_offsets WHERE partition = $1", partition)
    topic = TopicPartition(NAMES.journal, partition)
    changed: set[str] = set()
    async for records in kafka.read(topic, 0 if offset is None else offset + 1, end):
        for record in records:
            lines = journal.DECODE(record.value or b"").lines
            changed.update(f"{line.tenant}/{line.account_id}" for line in lines if isinstance(line, AccountLine))
    return changed


async def _compare_transactions(
    connection: Connection, partition: int, seq: int, state: State, unit: dict[str, Any], seen: Seen
) -> dict[str, Any] | None:
    left = {key for key in state if key[:1] == TRANSACTIONS.prefix}
    rows = connection.cursor(
        """SELECT transaction_id, type, tenant_id, customer_id, asset, amount::text AS amount,
            coalesce(from_account_id, '') AS from_account_id, coalesce(to_account_id, '') AS to_account_id,
            (extract(epoch FROM created_at) * 1000)::bigint AS created_at,
            coalesce(captured_amount, 0)::text AS captured, history::text AS history
        FROM ledger.transactions WHERE partition = $1""",
        partition,
        prefetch=1000,
    )
    async for row in rows:
        history = msgspec.json.decode(row["history"])
        events = [event for event in history if event["journal_seq"] <= seq]
        if not events:
            continue
        last = events[-1]
        key = TRANSACTIONS.prefix + row["transaction_id"].bytes
        left.discard(key)
        seen.transactions += 1
        value = state.get(key)
        there = {
            "type": row["type"], "tenant": row["tenant_id"], "customer": row["customer_id"], "asset": row["asset"],
            "amount": int(row["amount"]), "from_account": row["from_account_id"], "to_account": row["to_account_id"],
            "created_at": row["created_at"], "status": last["status"], "state": last["state"],
            "reason": last.get("reason", ""), "seq": last["seq"],
        }  # fmt: skip
        if len(events) == len(history):
            there["captured"] = int(row["captured"])
        if value is None:
            return unit | {"transaction": str(row["transaction_id"]), "what": "not in the changelog"}
        found: Transaction = TRANSACTIONS.decode(value)
        for name, wanted in there.items():
            if getattr(found, name) != wanted:
                return unit | {
                    "transaction": str(row["transaction_id"]), "what": name, "changelog": getattr(found, name),
                    "postgres": wanted,
                }  # fmt: skip
    return unit | {"transaction": _key(min(left)), "what": "not in Postgres"} if left else None


# --- the journal and the chain ---------------------------------------------------------------------------------------


async def _compare_journal(
    settings: Settings, kafka: Kafka, connection: Connection
) -> tuple[int, dict[str, Any] | None]:
    """Every block in Postgres is what the journal's record makes, and its rows too (`chain_holds` compares those)."""
    units = 0
    for partition in range(settings.partitions):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            seq, hash_, last_journal = 0, GENESIS, 0
            last = await connection.fetchval(
                "SELECT coalesce(max(seq), 0)::bigint FROM ledger.chain_blocks WHERE partition = $1", partition
            )
            async for records in _journal(kafka, partition):
                blocks = {
                    row["seq"]: row["hash"]
                    for row in await connection.fetch(
                        "SELECT seq, hash FROM ledger.chain_blocks WHERE partition = $1 AND seq > $2 AND seq <= $3",
                        *(partition, seq, seq + len(records)),
                    )
                }
                for offset, value in records:
                    if seq == last:
                        break  # the sink has not written the rest when the snapshot was taken
                    batch = Batch(partition, seq, last_journal, hash_)
                    try:
                        batch.add(offset, value)
                    except Diverged as error:
                        return units, {"partition": partition, "offset": offset, "what": str(error)}
                    seq, hash_, last_journal = batch.last_seq, batch.chain_hash, batch.last_journal
                    units += 1
                    if blocks.get(seq) != hash_:
                        named = await chain_walk.compare_unit(connection, batch)
                        what = "the block is not that of the journal's record"
                        return units, named or {"partition": partition, "seq": seq, "what": what, "hash": hash_.hex()}
                if seq == last:
                    break
            if seq < last:
                ends = f"Postgres has units up to {last}, the journal topic ends at {seq}"
                return units, {"partition": partition, "seq": seq + 1, "what": ends}
    return units, None


async def _journal(kafka: Kafka, partition: int) -> Any:
    topic = TopicPartition(NAMES.journal, partition)
    start = (await kafka.starts([topic]))[topic]
    end = (await kafka.committed_ends([topic]))[topic]
    async for records in kafka.read(topic, start, end):
        yield [(record.offset, record.value or b"") for record in records]


async def name_row(kafka: Kafka, connection: Connection, partition: int, seq: int) -> dict[str, Any] | None:
    """The first row of a unit that is not what the unit's journal record makes, or None when all are."""
    last_journal = 0
    found = 0
    async for records in _journal(kafka, partition):
        for offset, value in records:
            found += 1
            if found == seq:
                batch = Batch(partition, seq - 1, last_journal)
                batch.add(offset, value)
                return await chain_walk.compare_unit(connection, batch)
            lines = journal.DECODE(value).lines
            booked = [booked.number for line in lines for booked in getattr(line, "journals", ())]
            last_journal = max(last_journal, *booked) if booked else last_journal
    return None


async def published_heads(kafka: Kafka, partitions: int) -> list[Head]:
    """All heads that are still in the topic. Raises ValueError when a record is none."""
    heads: list[Head] = []
    for number in range(partitions):
        topic = TopicPartition(topics.CHAIN_HEADS.name, number)
        start = (await kafka.starts([topic]))[topic]
        end = (await kafka.committed_ends([topic]))[topic]
        async for records in kafka.read(topic, start, end):
            heads.extend(decode_head(record.value or b"") for record in records)
    return heads
