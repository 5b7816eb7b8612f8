"""The sink's writer: journal records become rows, and the position in the journal moves, in one database transaction.

The fence makes that exactly once: a partition's batch is written only if the partition's row still holds the position,
the epoch and the seq that it was made for. After any doubt the caller claims again and reads where it stands; nothing
is guessed, nothing is skipped, nothing is inserted "if not there".
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

import asyncpg

from aura_stream.ledger import chain_walk, checkpoints
from aura_stream.ledger.chain import GENESIS, Head
from aura_stream.ledger.connection import CONNECT_TIMEOUT_S, WRITER, connect
from aura_stream.ledger.errors import Diverged, Fenced, LedgerError, NotMigrated, Unavailable
from aura_stream.ledger.migrations import check_assets
from aura_stream.ledger.rows import BINARY, COPY_COLUMNS, Batch, copy_texts, timestamp, units_text

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

__all__ = ["Claim", "Diverged", "Fenced", "LedgerError", "LedgerWriter", "NotMigrated", "Unavailable"]

APPLICATION_NAME: Final = "aura ledger writer"
_SESSION: Final = {
    "synchronous_commit": "on",
    "statement_timeout": "15s",
    "lock_timeout": "2s",
    "jit": "off",
    # Planned once, since planning costs as much as a small write. The tables grow from nothing under load, so each plan
    # has to be right at any size: row by row, by index.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_COUNTED_ACCOUNTS_MAX: Final = 100_000
GROUP_BYTES: Final = 1 << 20
"""What waits of this size, in bytes of records, is written at once, whatever else is under way."""
PAUSE_S: Final = 0.005
"""Between two groups: a unit that comes alone is written at once, those that come close together in one commit."""

_CLAIM: Final = """
INSERT INTO ledger.sink_offsets AS o (partition) VALUES ($1)
ON CONFLICT (partition) DO UPDATE SET epoch = o.epoch + 1
RETURNING next_offset, last_seq, epoch, last_journal
"""
# A sink that froze in the middle of a COPY keeps the row locked for ever: no time-out of Postgres reaches it there.
_END_HOLDER: Final = """
SELECT pg_terminate_backend(l.pid, 2000)
FROM ledger.sink_offsets o
JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = o.xmax AND l.granted
WHERE o.partition = $1
"""
# The blocks of the chain go with it: one statement less, and none without the fence.
_FENCE: Final = """
WITH fence AS (
    UPDATE ledger.sink_offsets o
    SET next_offset = w.new_offset, last_seq = w.new_seq, last_journal = w.new_journal,
        committed_at = greatest(clock_timestamp(), o.committed_at),
        commands_offset = coalesce(w.commands, o.commands_offset),
        signals_offset = coalesce(w.signals, o.signals_offset),
        shard_time = coalesce(w.at, o.shard_time)
    FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::timestamptz[])
        AS w (partition, next_offset, epoch, last_seq, new_offset, new_seq, new_journal, commands, signals, at)
    WHERE o.partition = w.partition AND o.next_offset = w.next_offset AND o.epoch = w.epoch AND o.last_seq = w.last_seq
    RETURNING o.partition, o.committed_at
), sealed AS (
    INSERT INTO ledger.chain_blocks (partition, seq, journal_offset, hash)
    SELECT b.partition, b.seq, b.journal_offset, b.hash
    FROM fence
    JOIN unnest($11::int[], $12::bigint[], $13::bigint[], $14::bytea[]) AS b (partition, seq, journal_offset, hash)
        ON b.partition = fence.partition
)
SELECT partition, committed_at FROM fence
"""
# Asked after the claim: from then on nobody else can add one.
_HEAD: Final = """
SELECT partition, seq, hash FROM ledger.chain_blocks WHERE partition = $1 ORDER BY seq DESC LIMIT 1
"""
_CHANGE: Final = """
UPDATE ledger.transactions t
SET status = c.status, state = c.state, reason = nullif(c.reason, ''), updated_at = c.at::timestamptz, seq = c.seq,
    captured_amount = nullif(c.captured, '')::numeric,
    journal_ids = t.journal_ids || c.journal_ids::bigint[], history = t.history || c.history::jsonb
FROM unnest($1::int[], $2::text[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[])
    AS c (partition, id, first_seq, seq, tenant, customer, status, state, reason, at, captured, journal_ids, history)
WHERE t.transaction_id = c.id::uuid AND t.seq = c.first_seq - 1 AND t.partition = c.partition
    AND t.tenant_id = c.tenant AND t.customer_id = c.customer
"""
_MISSED_CHANGE: Final = """
SELECT c.id, c.first_seq, t.seq, t.status
FROM unnest($2::text[], $3::int[], $4::text[], $5::text[]) AS c (id, first_seq, tenant, customer)
LEFT JOIN ledger.transactions t ON t.transaction_id = c.id::uuid AND t.partition = $1
    AND t.tenant_id = c.tenant AND t.customer_id = c.customer
WHERE (t.seq = c.first_seq - 1) IS NOT TRUE
LIMIT 1
"""
_CHANGE_ACCOUNTS: Final = """
UPDATE ledger.accounts a
SET status = c.status, closed_at = CASE c.status WHEN 'closed' THEN c.at::timestamptz END
FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::text[]) AS c (partition, tenant, account, status, at)
WHERE a.tenant_id = c.tenant AND a.account_id = c.account AND a.partition = c.partition
"""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_copy_place = re.compile(r"COPY (\w+), line (\d+)").search
_log = logging.getLogger(__name__)

# What says that the journal cannot be what the ledger holds: constraints (our triggers too) and values.
_DIVERGED: Final = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
# What passes: no answer, no room, a lock, a server that goes down or is only a standby.
_PASSING: Final = ("08", "40", "53", "55P03", "57", "58", "25P", "25006")

# One partition's row may be locked by a former owner: that is no reason for others to wait.
_LOCKED: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


class Claim(NamedTuple):
    """Where a partition stands in Postgres, and the epoch under which its owner may write."""

    next_offset: int
    last_seq: int
    epoch: int


@dataclass(slots=True)
class _Position:
    next_offset: int
    last_seq: int
    epoch: int
    last_journal: int
    chain_hash: bytes


@dataclass(slots=True, eq=False)
class _Write:
    """One partition's batch on its way."""

    position: _Position
    batch: Batch
    done: asyncio.Future[None]

    def fail(self, error: BaseException) -> None:
        if not self.done.done():  # else its caller has been cancelled
            self.done.set_exception(error)


class _Apart(Exception):
    """A group does not go through. Whose fault it is shows when each of it is written alone."""


class LedgerWriter:
    """Writes journal records of claimed partitions. One per process; partitions may be written side by side.

    What several partitions have waiting while a write is under way becomes one transaction, since a commit costs as
    much as the rows of many small units. Each partition stands or falls by its own fence, and a group that is refused
    is written one by one: no partition is held up by another's fault.

    Raises :class:`Fenced` and :class:`Unavailable` (claim again, seek to its position, go on) and :class:`Diverged`
    (stop the partition loudly). An error of the database that is none of these is raised as it is: the set-up is wrong.
    """

    def __init__(
        self,
        dsn: str,
        *,
        connections_max: int = 4,
        timeout_s: float = 20.0,
        checkpoint_entries: int = checkpoints.ENTRIES,
    ) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._checkpoint_entries = checkpoint_entries
        self._connections_max = connections_max
        self._slots = asyncio.Semaphore(connections_max)
        self._idle: list[Connection] = []
        self._positions: dict[int, _Position] = {}
        self._entries_since: Counter[tuple[int, str, str]] = Counter()
        self._waiting: list[_Write] = []
        self._groups = 0  # under way
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(
        cls,
        dsn: str,
        *,
        connections_max: int = 4,
        timeout_s: float = 20.0,
        checkpoint_entries: int = checkpoints.ENTRIES,
    ) -> Self:
        """A writer whose database answers and fits this program.

        Raises :class:`NotMigrated` and :class:`Unavailable`. `timeout_s` bounds each piece of work at
        the database; a write may have to wait for the one before.
        """
        writer = cls(dsn, connections_max=connections_max, timeout_s=timeout_s, checkpoint_entries=checkpoint_entries)
        async with writer._connection() as connection:
            await check_assets(connection)
        return writer

    async def claim(self, partition: int) -> Claim:
        """Makes this writer the owner of a partition and says where to go on; a former owner can write no more.

        A transaction of the former owner that is still running is waited for and then ended. Raises
        :class:`Unavailable`.
        """
        self._positions.pop(partition, None)
        try:
            row = await self._claimed(partition)
        except asyncpg.LockNotAvailableError:
            _log.warning("partition %d is locked by a former owner; its session is ended", partition)
            await self._end_holder(partition)
            with _translated(partition):
                row = await self._claimed(partition)
        head = await self._chain_head(partition, row["epoch"], row["last_seq"])
        self._positions[partition] = _Position(
            row["next_offset"], row["last_seq"], row["epoch"], row["last_journal"], head.hash if head else GENESIS
        )
        return Claim(row["next_offset"], row["last_seq"], row["epoch"])

    async def write(self, partition: int, records: Sequence[tuple[int, bytes]]) -> None:
        """Writes the next records of a claimed partition (Kafka offset and value, in order), all or none.

        When it returns they are durable. Raises :class:`Diverged`, :class:`Fenced` and :class:`Unavailable`; after the
        last two the partition must be claimed again.
        """
        if not records:
            return
        position = self._positions.get(partition)
        if position is None:
            raise Fenced(f"partition {partition} is not claimed by this writer")
        batch = Batch(partition, position.last_seq, position.last_journal, position.chain_hash)
        batch.next_offset = position.next_offset
        for offset, value in records:
            if offset < batch.next_offset:
                self._positions.pop(partition, None)
                raise Fenced(f"partition {partition}: offset {offset} is below the next one, {batch.next_offset}")
            batch.add(offset, value)
        batch.close()
        try:
            await self._in_a_group(_Write(position, batch, asyncio.get_running_loop().create_future()))
        except (Fenced, Unavailable, asyncio.CancelledError):
            self._positions.pop(partition, None)
            raise
        position.next_offset, position.last_seq = batch.next_offset, batch.last_seq
        position.last_journal, position.chain_hash = batch.last_journal, batch.chain_hash
        await self._write_checkpoints(batch)

    def head(self, partition: int) -> Head | None:
        """Where the chain of a claimed partition stands, committed; None before its first unit."""
        position = self._positions.get(partition)
        if position is None or not position.last_seq:
            return None
        return Head(partition, position.last_seq, position.chain_hash)

    def release(self, partition: int) -> None:
        """Forgets a partition: it can be written again only after a claim."""
        self._positions.pop(partition, None)

    async def close(self) -> None:
        """Ends what is under way, of which nobody awaits the end any more, and closes the connections."""
        self._positions.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._idle:
            connection = self._idle.pop()
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=2)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _in_a_group(self, write: _Write) -> None:
        """Has a batch written together with those of other partitions that come while another group is under way."""
        self._waiting.append(write)
        full = sum([waiting.batch.size for waiting in self._waiting]) >= GROUP_BYTES
        if not self._groups or (full and self._groups < self._connections_max):
            self._groups += 1
            task = asyncio.create_task(self._write_groups(), name="ledger writer")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            await write.done
        finally:
            if write in self._waiting:
                self._waiting.remove(write)

    async def _write_groups(self) -> None:
        """Writes group after group until nothing waits."""
        group: list[_Write] = []
        try:
            while self._waiting:
                group = self._next_group()
                await self._write_group(group)
                await asyncio.sleep(PAUSE_S)
        except BaseException as error:
            for write in (*group, *self._waiting):
                write.fail(Unavailable(f"partition {write.batch.partition}: {error!r}"))
            raise
        finally:
            self._groups -= 1

    def _next_group(self) -> list[_Write]:
        size = count = 0
        while count < len(self._waiting) and size < GROUP_BYTES:
            size += self._waiting[count].batch.size
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _write_group(self, group: list[_Write]) -> None:
        """Writes a group in one transaction. When it is refused, each is written alone, and answers for itself.

        Nothing depends on knowing what became of a group: the fence lets nothing be written twice.
        """
        alone = group[0].batch if len(group) == 1 else None
        try:
            async with self._connection(alone, passing=() if alone else _LOCKED) as connection:
                await _write(connection, group)
        except Unavailable as error:
            for write in group:
                write.fail(error if alone else Unavailable(f"partition {write.batch.partition}: {error}"))
        except Exception as error:  # noqa: BLE001 - it goes to those who wait
            if alone:
                return group[0].fail(error)
            _log.info("a group of %d partitions is written one by one: %s", len(group), error)
            await asyncio.gather(*[self._write_group([write]) for write in group if not write.done.done()])
        else:
            for write in group:
                if not write.done.done():
                    write.done.set_result(None)
        return None

    async def _claimed(self, partition: int) -> asyncpg.Record:
        async with self._connection(passing=(asyncpg.LockNotAvailableError,)) as connection:
            row = await connection.fetchrow(_CLAIM, partition)
            assert row is not None  # an upsert returns its row
            return row

    async def _chain_head(self, partition: int, epoch: int, last_seq: int) -> Head | None:
        """The last block of a partition just claimed; units that an older program left unsealed get theirs."""
        async with self._connection() as connection:
            row = await connection.fetchrow(_HEAD, partition)
            head = Head(*row) if row else None
            if (head.seq if head else 0) < last_seq:
                _log.warning("partition %d: units without a block are sealed, up to seq %d", partition, last_seq)
                head = await chain_walk.seal_missing(connection, partition, epoch, head)
            return head

    async def _end_holder(self, partition: int) -> None:
        with _translated(partition):
            # As the login itself: only then may it end sessions of the same login.
            connection: Connection = await asyncpg.connect(self._dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=10)
            try:
                await connection.execute("SELECT set_config('lock_timeout', '2s', false)")
                await connection.fetch(_END_HOLDER, partition)
            finally:
                connection.terminate()

    async def _write_checkpoints(self, batch: Batch) -> None:
        """Writes the checkpoints that are due. They save reading and prove nothing, so a failure is only logged."""
        due = []
        counts, partition = self._entries_since, batch.partition
        for (tenant, account), entries in batch.touched.items():
            key = (partition, tenant, account)
            counts[key] += entries
            if counts[key] >= self._checkpoint_entries:
                due.append(key)
        if len(counts) > _COUNTED_ACCOUNTS_MAX:
            busy = self._checkpoint_entries // 4
            self._entries_since = Counter({key: count for key, count in counts.items() if count >= busy})
        if not due:
            return
        try:
            async with self._connection() as connection:
                for _, tenant, account in due:
                    await checkpoints.write(connection, tenant, account, self._checkpoint_entries, partition)
        except (LedgerError, asyncpg.PostgresError) as error:
            _log.warning("checkpoints of partition %d not written: %s", partition, error)
        for key in due:
            self._entries_since.pop(key, None)

    @contextlib.asynccontextmanager
    async def _connection(
        self, batch: Batch | None = None, *, passing: tuple[type[Exception], ...] = ()
    ) -> AsyncIterator[Connection]:
        """A connection for one piece of work; after any error it is thrown away, since its state is unknown.

        Errors come out translated, except those in `passing`.
        """
        connection: Connection | None = None
        try:
            with _translated(batch.partition if batch else None, batch, passing):
                async with asyncio.timeout(self._timeout_s), self._slots:
                    connection = self._idle.pop() if self._idle else None
                    if connection is None or connection.is_closed():
                        connection = await connect(
                            self._dsn, WRITER, application_name=APPLICATION_NAME, settings=_SESSION
                        )
                    yield connection
                    self._idle.append(connection)
                    connection = None
        finally:
            if connection is not None:
                connection.terminate()


@contextlib.contextmanager
def _translated(
    partition: int | None, batch: Batch | None = None, passing: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turns errors of the database and of the way to it into ours."""
    prefix = "" if partition is None else f"partition {partition}: "
    try:
        yield
    except passing:
        raise
    except _DIVERGED as error:
        if batch is None:
            raise
        place = _copy_place(error.context or "") if hasattr(error, "context") else None
        seq = batch.seq_of_row(place[1], int(place[2])) if place else batch.first_seq
        constraint = getattr(error, "constraint_name", None) or type(error).__name__
        raise Diverged(batch.partition, seq, constraint, _one_line(error)) from error
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(_PASSING):
            raise Unavailable(f"{prefix}{_one_line(error)}") from error
        raise
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise Unavailable(f"{prefix}{type(error).__name__}: {error}") from error


def _one_line(error: asyncpg.PostgresError) -> str:
    detail = getattr(error, "detail", None)
    return " ".join(f"{error}{f' ({detail})' if detail and detail not in str(error) else ''}".split())


async def _write(connection: Connection, group: Sequence[_Write]) -> None:
    """One transaction for the whole group. Of several writes none is blamed: :class:`_Apart`."""
    batches = [write.batch for write in group]
    texts = copy_texts(batches)
    await connection.execute("BEGIN")
    committed_at = await _pass_fence(connection, group)
    if len(committed_at) < len(group):
        if len(group) > 1:
            raise _Apart(f"{len(group) - len(committed_at)} of {len(group)} partitions are fenced")
        position = group[0].position
        raise Fenced(f"partition {batches[0].partition}: epoch {position.epoch} at seq {position.last_seq} is over")
    for table in ("journals", "entries", "transactions", "accounts", "refusals"):
        if table in texts:
            await _copy(connection, table, texts[table])
    await _change_transactions(connection, batches)
    await _change_accounts(connection, batches)
    # The units come last: their trigger compares what they name with what is here.
    await _copy(connection, "units", units_text(batches, committed_at))
    await connection.execute("COMMIT")


async def _pass_fence(connection: Connection, group: Sequence[_Write]) -> dict[int, datetime]:
    """Moves the positions; the partitions that were where they had to be, and since when this is known."""
    positions, batches = [write.position for write in group], [write.batch for write in group]
    rows = await connection.fetch(
        _FENCE,
        [batch.partition for batch in batches],
        *([p.next_offset for p in positions], [p.epoch for p in positions], [p.last_seq for p in positions]),
        *([b.next_offset for b in batches], [b.last_seq for b in batches], [b.last_journal for b in batches]),
        *([b.commands_offset for b in batches], [b.signals_offset for b in batches]),
        [None if b.shard_time is None else _EPOCH + timedelta(milliseconds=b.shard_time) for b in batches],
        [b.partition for b in batches for _ in b.unit_offsets],
        [seq for b in batches for seq in range(b.first_seq, b.last_seq + 1)],
        *([offset for b in batches for offset in b.unit_offsets], [hash_ for b in batches for hash_ in b.unit_hashes]),
    )
    return {row["partition"]: row["committed_at"] for row in rows}


async def _copy(connection: Connection, table: str, data: bytes) -> None:
    # A memoryview is sent as it is, which the stubs do not know; asyncpg takes bytes for a file's name.
    source: Any = memoryview(data)
    format_: Literal["binary", "text"] = "binary" if table in BINARY else "text"
    columns = COPY_COLUMNS[table]
    await connection.copy_to_table(table, schema_name="ledger", columns=columns, source=source, format=format_)


async def _change_transactions(connection: Connection, batches: Sequence[Batch]) -> None:
    changes = [(batch.partition, id_, row) for batch in batches for id_, row in batch.changes.items()]
    if not changes:
        return
    partitions, ids, rows = zip(*changes, strict=True)
    first_seqs = [row.first_seq for row in rows]
    tenants, customers = [row.first.tenant for row in rows], [row.first.customer for row in rows]
    lasts = [row.last for row in rows]
    tag = await connection.execute(
        _CHANGE,
        *(partitions, ids, first_seqs, [row.seq for row in rows], tenants, customers),
        *([last.status for last in lasts], [last.state for last in lasts], [last.reason for last in lasts]),
        *([timestamp(last.at) for last in lasts], [row.captured for row in rows]),
        [f"{{{','.join(map(str, row.journal_ids))}}}" for row in rows],
        [f"[{','.join(row.history)}]" for row in rows],
    )
    if tag == f"UPDATE {len(rows)}":
        return
    if len(batches) > 1:
        raise _Apart(f"{tag} of {len(rows)} changed transactions")
    batch = batches[0]
    missed = await connection.fetchrow(_MISSED_CHANGE, batch.partition, ids, first_seqs, tenants, customers)
    found = "it is not there" if missed is None or missed["seq"] is None else f"seq {missed['seq']} is there"
    missed_id = missed["id"] if missed else "?"
    wanted = f"transaction {missed_id}: seq {missed['first_seq'] if missed else '?'} follows nothing: {found}"
    seq = batch.changes[missed_id].journal_seq if missed else batch.first_seq
    raise Diverged(batch.partition, seq, "transactions_seq", wanted)


async def _change_accounts(connection: Connection, batches: Sequence[Batch]) -> None:
    changes = [(batch.partition, *key, row) for batch in batches for key, row in batch.account_changes.items()]
    if not changes:
        return
    partitions, tenants, accounts, rows = zip(*changes, strict=True)
    tag = await connection.execute(
        _CHANGE_ACCOUNTS,
        *(partitions, tenants, accounts, [row.status for row in rows], [timestamp(row.at) for row in rows]),
    )
    if tag == f"UPDATE {len(rows)}":
        return
    if len(batches) > 1:
        raise _Apart(f"{tag} of {len(rows)} changed accounts")
    seq = min(row.journal_seq for row in rows)
    found = f"{tag} of {len(rows)} changed accounts: one is missing"
    raise Diverged(batches[0].partition, seq, "accounts_pkey", found)
