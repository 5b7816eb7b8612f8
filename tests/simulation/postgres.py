"""A database that knows the sink's statements and no others: rows, the lock of a partition, lost commits.

Statements are recognised by identity, so that a changed one is noticed here. Rows are read from the COPY text, as the
server would; keys, sums and the order of a transaction's changes are checked as its constraints and triggers do.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg

from aura_stream.domain.assets import SCALES
from aura_stream.domain.state import may_follow
from aura_stream.ledger import writer
from aura_stream.ledger.rows import COPY_COLUMNS
from tests.simulation.copied import rows_of
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.cluster import Process
    from tests.simulation.log import Broker

LOCK_TIMEOUT_S = 2.0
KEEPALIVE_S = 11.0  # until the server notices that a client is gone without a word
IDLE_TRANSACTION_S = 10.0
KEYS = {
    "journals": ("journal_id",),
    "entries": ("journal_id", "leg"),
    "transactions": ("transaction_id",),
    "accounts": ("tenant_id", "account_id"),
    "refusals": ("partition", "journal_seq", "line"),
    "units": ("partition", "seq"),
}
Row = dict[str, Any]
Rows = dict[tuple[str, ...], Row]


@dataclass(slots=True)
class Offsets:
    """A row of ledger.sink_offsets."""

    next_offset: int = 0
    last_seq: int = 0
    epoch: int = 1
    last_journal: int = 0
    chain_hash: bytes = b""  # of the last block; the server keeps no others


@dataclass(slots=True)
class Session:
    """A session of the server. What it writes is seen by others when it commits."""

    open: bool = True
    began: float = -1.0  # of its transaction; -1 for none
    locked: set[int] = field(default_factory=set)  # the partitions whose rows it holds
    offsets: dict[int, Offsets] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)


class Server:
    """The database server."""

    def __init__(self, broker: Broker) -> None:
        self._world = broker  # for its clock and context
        self.down = False
        self.tables: dict[str, Rows] = {table: {} for table in COPY_COLUMNS}
        self.offsets: dict[int, Offsets] = {}
        self.locks: dict[int, Session] = {}
        self.sessions: dict[int, Session] = {}
        self.commits = 0
        self._count = 0
        self._freed = asyncio.Event()

    @property
    def now(self) -> float:
        """Seconds."""
        return self._world.loop.now

    def open(self) -> Session:
        """A new session."""
        self._count += 1
        session = self.sessions[self._count] = Session()
        return session

    def begin(self, session: Session) -> None:
        """BEGIN."""
        session.began = self.now
        self._world.later(IDLE_TRANSACTION_S, self._idle, session, session.began)

    def _idle(self, session: Session, began: float) -> None:
        if session.began == began:
            self.end(session)

    def end(self, session: Session) -> None:
        """Ends a session; what it has not committed never was."""
        session.open = False
        self.roll_back(session)

    def roll_back(self, session: Session) -> None:
        """Forgets a transaction."""
        for partition in session.locked:
            if self.locks.get(partition) is session:
                del self.locks[partition]
        session.locked, session.began, session.offsets, session.rows = set(), -1.0, {}, {}
        freed, self._freed = self._freed, asyncio.Event()
        freed.set()

    def commit(self, session: Session) -> None:
        """COMMIT: all of it, at once."""
        if not session.open or session.began < 0:
            return
        for table, rows in session.rows.items():
            self.tables[table].update(rows)
        self.offsets.update(session.offsets)
        self.commits += 1
        self.roll_back(session)

    def restart(self) -> None:
        """All sessions end."""
        for session in list(self.sessions.values()):
            self.end(session)
        self.sessions.clear()

    async def lock(self, session: Session, partition: int) -> None:
        """The lock of a partition's row. Raises LockNotAvailableError."""
        until = self.now + LOCK_TIMEOUT_S
        while (holder := self.locks.get(partition)) is not None and holder is not session:
            try:
                async with asyncio.timeout_at(until):
                    await self._freed.wait()
            except TimeoutError:
                raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout") from None
            if not session.open:
                raise asyncpg.ConnectionDoesNotExistError("the session has been ended")
        self.locks[partition] = session
        session.locked.add(partition)

    def row(self, session: Session, table: str, key: tuple[str, ...]) -> Row | None:
        """A row as a session sees it."""
        return session.rows.get(table, {}).get(key) or self.tables[table].get(key)

    def put(self, session: Session, table: str, key: tuple[str, ...], row: Row) -> None:
        """Writes a row in a transaction."""
        session.rows.setdefault(table, {})[key] = row


class SimulatedConnection:
    """Stands for `asyncpg.Connection`."""

    def __init__(self, server: Server, process: Process) -> None:
        self.server, self.process = server, process
        self.session = server.open()
        self._closed = False

    def is_closed(self) -> bool:
        """Whether the client knows that it is of no more use."""
        return self._closed

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Ends the session."""
        self.terminate()

    def terminate(self) -> None:
        """Drops the connection; the server hears of it soon, or much later."""
        if self._closed or self.process.dead:
            return
        self.hang_up()

    def hang_up(self) -> None:
        """What the kernel does for a client that is gone."""
        self._closed = True
        faults = self.process.faults
        wait = KEEPALIVE_S if faults.happens(faults.profile.late * 0.3) else faults.random.choice((0.0, 0.01))
        self.server._world.later(wait, self.server.end, self.session)

    async def _step(self, what: str) -> None:
        await self.process.step(f"postgres {what}")
        faults = self.process.faults
        if self.server.down or not self.session.open:
            await self._lost("connection was closed in the middle of operation")
        if what != "COMMIT" and faults.happens(faults.profile.postgres * 0.1):
            await self._lost(what)

    async def _lost(self, what: str) -> None:
        faults = self.process.faults
        self._closed = True
        if faults.silence():
            await asyncio.sleep(60.0)  # the caller's time-out comes first
        self.server._world.later(faults.random.choice((0.0, 0.5)), self.server.end, self.session)
        raise asyncpg.ConnectionDoesNotExistError(what)

    async def execute(self, query: str, *arguments: Any) -> str:
        """Statements without rows; returns the command tag."""
        if query == "COMMIT":
            return await self._commit()
        await self._step(query.split()[0])
        if query == "BEGIN":
            self.server.begin(self.session)
            return "BEGIN"
        if query is writer._CHANGE:
            return f"UPDATE {self._change(*arguments)}"
        if query is writer._CHANGE_ACCOUNTS:
            return f"UPDATE {self._change_accounts(*arguments)}"
        assert query.startswith("SELECT set_config("), query
        return "SELECT 1"

    async def _commit(self) -> str:
        await self._step("COMMIT")
        process, faults = self.process, self.process.faults
        if not faults.happens(faults.profile.postgres):
            self.server.commit(self.session)
            await process.step("postgres committed")
            return "COMMIT"
        fate = faults.random.choice(("request lost", "reply lost", "late"))
        process.trace(f"postgres COMMIT: {fate}")
        faults.counts[f"commits {fate}"] += 1
        if fate == "reply lost":
            self.server.commit(self.session)
        elif fate == "late":
            self.server._world.later(faults.lateness(), self.server.commit, self.session)
            await asyncio.sleep(faults.lateness())
        await self._lost(f"COMMIT: {fate}")
        return ""

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        """Statements with rows."""
        if query is writer._FENCE:
            await self._step("FENCE")
            return await self._fence(query.partition("WHERE")[2], *arguments)
        await self._step("fetch")
        if query is writer._END_HOLDER:
            if (holder := self.server.locks.get(arguments[0])) is not None:
                self.server.end(holder)
            return []
        assert query == "SELECT asset, scale FROM ledger.assets", query
        return [{"asset": asset, "scale": scale} for asset, scale in SCALES.items()]

    async def fetchrow(self, query: str, *arguments: Any) -> Any:
        """Statements with one row."""
        await self._step("fetchrow")
        if query is writer._CLAIM:
            return await self._claim(*arguments)
        if query is writer._HEAD:
            found = self.server.offsets[arguments[0]]
            return (*arguments, found.last_seq, found.chain_hash) if found.last_seq else None
        assert query is writer._MISSED_CHANGE, query
        return None

    async def copy_to_table(
        self,
        table: str,
        *,
        schema_name: str,
        columns: tuple[str, ...],
        source: Any,
        format: str = "text",  # noqa: A002 - asyncpg's name
    ) -> str:
        """COPY FROM STDIN. Raises UniqueViolationError and CheckViolationError, as constraints do."""
        await self._step(f"COPY {table}")
        assert schema_name == "ledger" and columns == COPY_COLUMNS[table]
        totals: Counter[str] = Counter()
        count = 0
        for fields in rows_of(table, bytes(source), columns, format):
            count += 1
            row: Row = dict(fields)
            if table == "transactions":
                row["seq"] = int(row["seq"])
            key = tuple(str(row[column]) for column in KEYS[table])
            if self.server.row(self.session, table, key) is not None:
                raise asyncpg.UniqueViolationError(f"{table}: {key} is already there")
            self.server.put(self.session, table, key, row)
            if table == "entries":
                totals[row["journal_id"]] += int(row["amount"])
        if any(totals.values()):
            raise asyncpg.CheckViolationError(f"journals out of balance: {+totals}")
        return f"COPY {count}"

    async def _claim(self, partition: int) -> Row:
        await self.server.lock(self.session, partition)
        found = self.server.offsets.get(partition)
        if found is None:
            found = self.server.offsets[partition] = Offsets()
        else:
            found.epoch += 1
        self.server.roll_back(self.session)  # one statement, committed: gives the lock back
        row = {name: getattr(found, name) for name in ("next_offset", "last_seq", "epoch", "last_journal")}
        self.process.trace(f"claims {partition} {row}")
        await self.process.step("postgres claimed")
        return row

    async def _fence(self, where: str, partitions: list[int], *columns: list[Any]) -> list[Row]:
        *wanted, block_partitions, _, _, hashes = columns
        last_hash = dict(zip(block_partitions, hashes, strict=True))
        moved: list[Row] = []
        for partition, *values in zip(partitions, *wanted, strict=True):
            await self.server.lock(self.session, partition)
            found = self.server.offsets.get(partition)
            next_offset, epoch, last_seq, new_offset, new_seq, new_journal, *_ = values
            # The statement is read as far as a fault could be planted in it.
            if found is None or not all(
                holds
                for condition, holds in (
                    ("o.next_offset = w.next_offset", found.next_offset == next_offset),
                    ("o.epoch = w.epoch", found.epoch == epoch),
                    ("o.last_seq = w.last_seq", found.last_seq == last_seq),
                )
                if condition in where
            ):
                continue
            self.session.offsets[partition] = Offsets(new_offset, new_seq, epoch, new_journal, last_hash[partition])
            moved.append({"partition": partition, "committed_at": writer._EPOCH})
        return moved

    def _change(self, *columns: Sequence[Any]) -> int:
        changed = 0
        for partition, id_, first, seq, tenant, customer, status, state, reason, at, captured, journals, history in zip(
            *columns, strict=True
        ):
            row = self.server.row(self.session, "transactions", (id_,))
            if row is None or row["seq"] != first - 1 or row["partition"] != str(partition):
                continue
            if (row["tenant_id"], row["customer_id"]) != (tenant, customer):
                continue
            if not may_follow(row["status"], status):
                raise asyncpg.CheckViolationError(f"transaction {id_} is {row['status']} and final")
            ids = [*_ids(row["journal_ids"]), *_ids(journals)]
            new = {"seq": seq, "status": status, "state": state, "reason": reason or "\\N", "updated_at": at}
            new |= {"journal_ids": f"{{{','.join(ids)}}}", "captured_amount": captured or "\\N"}
            new["history"] = f"{row['history'][:-1]},{history[1:]}"
            self.server.put(self.session, "transactions", (id_,), row | new)
            changed += 1
        return changed

    def _change_accounts(self, *columns: Sequence[Any]) -> int:
        changed = 0
        for partition, tenant, account, status, at in zip(*columns, strict=True):
            row = self.server.row(self.session, "accounts", (tenant, account))
            if row is not None and row["partition"] == str(partition):
                closed = at if status == "closed" else "\\N"
                self.server.put(
                    self.session, "accounts", (tenant, account), row | {"status": status, "closed_at": closed}
                )
                changed += 1
        return changed


def _ids(array: str) -> list[str]:
    return [id_ for id_ in array.strip("{}").split(",") if id_]


def connector(server: Server) -> Any:
    """Stands for `asyncpg.connect`."""

    async def connect(*_: Any, timeout: float, **__: Any) -> SimulatedConnection:  # noqa: ASYNC109 - asyncpg's
        process: Process = PROCESS.get()
        await process.step("postgres connect")
        if server.down:
            raise ConnectionRefusedError("the database system is starting up")
        connection = SimulatedConnection(server, process)
        process.connections.append(connection)
        return connection

    return connect
