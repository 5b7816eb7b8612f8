"""What anyone can see from outside: the topics, read as a consumer reads them, and the rows in Postgres."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from aura_stream.demo.book import Book
from aura_stream.demo.doors import COMMANDS, STEP_HEADER
from aura_stream.demo.figures import Latencies
from aura_stream.ledger.connection import READER, connect

JOURNAL: Final = "aura.journal.v1"
EVENTS: Final = ("aura.transaction-events.v1", "aura.account-events.v1")
DEAD_LETTERS: Final = "aura.dead-letters.v1"
POLL_S: Final = 0.02
"""How often Postgres is asked how far it is: a measured latency is at most this much too long."""

_POSITIONS: Final = "SELECT partition, next_offset, commands_offset FROM ledger.sink_offsets"
# Only what is new since the last look: the sums stay cheap however long the demo plays.
_NEW_ENTRIES: Final = """
SELECT o.partition, o.last_journal, o.next_offset, e.asset, coalesce(e.clearing, false) AS clearing,
    coalesce(e.total, 0) AS total, coalesce(e.count, 0) AS count
FROM ledger.sink_offsets o
JOIN unnest($1::int[], $2::bigint[]) AS seen (partition, journal) USING (partition)
LEFT JOIN LATERAL (
    SELECT asset, account_id LIKE '@clearing:%' AS clearing, sum(amount) AS total, count(*) AS count
    FROM ledger.entries
    WHERE journal_id > (o.partition::bigint << 48) + seen.journal
        AND journal_id <= (o.partition::bigint << 48) + o.last_journal
    GROUP BY 1, 2
) e ON true
"""
_NEW_UNITS: Final = """
SELECT u.partition, u.seq, (u.counters ->> 'transactions')::int AS transactions
FROM ledger.units u JOIN unnest($1::int[], $2::bigint[]) AS seen (partition, seq) USING (partition)
WHERE u.seq > seen.seq ORDER BY u.partition, u.seq
"""


class Topics:
    """Reads commands, journal, events and dead letters from their beginning and tells the book."""

    def __init__(self, bootstrap: str, partitions: int, book: Book, decided: Latencies) -> None:
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._book = book
        self._decided = decided
        self._sent_at: dict[str, float] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self.commands_end = Counter[int]()
        self.commands_applied = Counter[int]()
        self.journal_end = Counter[int]()
        self.flight = Flight()

    async def start(self) -> None:
        """Connects and takes all partitions."""
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        await self._consumer.start()
        topics = (COMMANDS, JOURNAL, *EVENTS, DEAD_LETTERS)
        self._consumer.assign([TopicPartition(topic, n) for topic in topics for n in range(self._partitions)])

    async def stop(self) -> None:
        """Disconnects."""
        if self._consumer is not None:
            await self._consumer.stop()

    def sent(self, command_id: str, at: float) -> None:
        """A command whose decision is timed was sent at this monotonic time."""
        self._sent_at[command_id] = at

    async def run(self) -> None:
        """Reads until it is cancelled."""
        assert self._consumer is not None
        while True:
            for place, records in (await self._consumer.getmany(timeout_ms=500)).items():
                for record in records:
                    self._read(place, record)
            # One turn of the loop for everybody else: a full buffer is handed out without waiting.
            await asyncio.sleep(0)

    def _read(self, place: TopicPartition, record: Any) -> None:
        if place.topic == JOURNAL:
            self._journal(place.partition, record)
        elif place.topic in EVENTS:
            self._book.event(orjson.loads(record.value))
        elif place.topic == COMMANDS:
            self.commands_end[place.partition] = record.offset + 1
            number = int(dict(record.headers).get(STEP_HEADER, b"-1"))
            try:
                message = orjson.loads(record.value or b"")
            except orjson.JSONDecodeError:
                message = None
            self._book.command(place.partition, record.offset, number, message)
        else:
            headers = dict(record.headers)
            self._book.dead_letter(
                int(headers["aura-partition"]),
                int(headers["aura-offset"]),
                headers["aura-reason"].decode(),
                record.key,
                record.value,
            )

    def _journal(self, partition: int, record: Any) -> None:
        now = time.monotonic()
        unit = orjson.loads(record.value)
        self.journal_end[partition] = record.offset + 1
        for line in unit["lines"]:
            sent_at = self._sent_at.pop(line.get("command_id", ""), None)
            if sent_at is not None:
                self._decided.add(now - sent_at)
            self._book.line(partition, line)
            self.flight.line(partition, record.offset, line)
        for source, *range_ in unit.get("inputs", ()):
            if source == "commands":
                self.commands_applied[partition] = int(range_[1]) + 1

    async def have_all(self) -> bool:
        """Whether every record that is in the topics now was read."""
        assert self._consumer is not None
        ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        for place, end in ends.items():
            if await self._consumer.position(place) < end:
                return False
        return True

    @property
    def ledger_lag(self) -> int:
        """Commands that are in Kafka and not decided."""
        return sum(max(0, end - self.commands_applied[n]) for n, end in self.commands_end.items())


class Flight:
    """The money under way between customers, from the amounts that the journal's lines tell, not from its entries."""

    def __init__(self) -> None:
        self._assets: dict[str, str] = {}
        self._amounts: dict[str, int] = {}
        self._steps: dict[int, deque[tuple[int, str, int]]] = {}
        self._totals = Counter[str]()

    def line(self, partition: int, offset: int, line: dict[str, Any]) -> None:
        """A line of the journal record at this offset."""
        event, id_ = line.get("event", ""), line.get("id", "")
        asset, amount = line.get("asset", ""), 0
        if event == "hold.placed":
            self._assets[id_] = asset
        elif event == "transfer.sent":
            self._assets[id_], self._amounts[id_] = asset, int(line["amount"])
            amount = self._amounts[id_]
        elif event == "hold.capturing":
            asset, amount = self._assets[id_], int(line["captured"])
            self._amounts[id_] = amount
        elif event == "transfer.received":
            amount = -int(line["amount"])
        elif event in ("transfer.returned", "hold.returned"):
            asset, amount = self._assets[id_], -self._amounts[id_]
        if line.get("status") in ("completed", "failed", "canceled") and line["line"] != "received":
            self._assets.pop(id_, None)
            self._amounts.pop(id_, None)
        if amount:
            self._steps.setdefault(partition, deque()).append((offset, asset, amount))

    def up_to(self, positions: dict[int, int]) -> dict[str, int]:
        """Per asset, of all records below these offsets; they never go back."""
        for partition, steps in self._steps.items():
            while steps and steps[0][0] < positions.get(partition, 0):
                _, asset, amount = steps.popleft()
                self._totals[asset] += amount
        return dict(self._totals)


@dataclass(slots=True)
class Rows:
    """What Postgres holds, as last seen."""

    entries: int = 0
    journals: int = 0
    transactions: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    clearing: Counter[str] = field(default_factory=Counter)
    expected_clearing: dict[str, int] = field(default_factory=dict)
    seen_at: float = 0.0

    @property
    def is_balanced(self) -> bool:
        """Whether the entries of every asset sum to zero."""
        return not any(self.sums.values())

    @property
    def clears(self) -> bool:
        """Whether clearing holds what is under way."""
        assets = set(self.clearing) | set(self.expected_clearing)
        return all(self.clearing[asset] == self.expected_clearing.get(asset, 0) for asset in assets)


class Database:
    """Asks Postgres how far it is (often, for latencies) and what it holds (every second)."""

    def __init__(self, dsn: str, partitions: int, topics: Topics, committed: Latencies) -> None:
        self._dsn = dsn
        self._partitions = range(partitions)
        self._topics = topics
        self._committed = committed
        self._sent: dict[int, deque[tuple[int, float]]] = {n: deque() for n in self._partitions}
        self._journals = dict.fromkeys(self._partitions, 0)
        self._seqs = dict.fromkeys(self._partitions, 0)
        self._connections: list[asyncpg.Connection[asyncpg.Record]] = []
        self.positions = dict.fromkeys(self._partitions, 0)
        self.rows = Rows()
        self.problem = ""

    def sent(self, partition: int, offset: int, at: float) -> None:
        """A command at this offset, sent at this monotonic time."""
        self._sent[partition].append((offset, at))

    @property
    def sink_lag(self) -> int:
        """Journal records (offsets) that are not in Postgres."""
        return sum(max(0, end - self.positions[n]) for n, end in self._topics.journal_end.items())

    async def run(self) -> None:
        """Asks until it is cancelled."""
        await asyncio.gather(self._forever(self._follow, POLL_S), self._forever(self._look, 1.0))

    async def close(self) -> None:
        """Disconnects."""
        for connection in self._connections:
            await connection.close(timeout=2)

    async def _forever(self, ask: Any, pause_s: float) -> None:
        connection: asyncpg.Connection[asyncpg.Record] | None = None
        while True:
            try:
                if connection is None or connection.is_closed():
                    connection = await connect(self._dsn, READER, application_name="aura demo")
                    self._connections.append(connection)
                await ask(connection)
                self.problem = ""
                await asyncio.sleep(pause_s)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self.problem = str(error) or type(error).__name__
                connection = None
                await asyncio.sleep(0.5)

    async def _follow(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        rows = await connection.fetch(_POSITIONS)
        now = time.monotonic()
        for partition, next_offset, commands_offset in rows:
            self.positions[partition] = next_offset
            waiting = self._sent[partition]
            while waiting and waiting[0][0] < commands_offset:
                self._committed.add(now - waiting.popleft()[1])

    async def _look(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        partitions = list(self._partitions)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            entries = await connection.fetch(_NEW_ENTRIES, partitions, [self._journals[n] for n in partitions])
            units = await connection.fetch(_NEW_UNITS, partitions, [self._seqs[n] for n in partitions])
        positions = {}
        for row in entries:
            positions[row["partition"]] = row["next_offset"]
            self.rows.journals += row["last_journal"] - self._journals[row["partition"]]
            self._journals[row["partition"]] = row["last_journal"]
            if row["asset"] is not None:
                self.rows.entries += row["count"]
                self.rows.sums[row["asset"]] += int(row["total"])
                if row["clearing"]:
                    self.rows.clearing[row["asset"]] -= int(row["total"])  # credit-normal: money there is positive
        for row in units:
            self._seqs[row["partition"]] = row["seq"]
            self.rows.transactions += row["transactions"]
        await self._wait_for_topics(positions)
        self.rows.expected_clearing = self._topics.flight.up_to(positions)
        self.rows.seen_at = time.monotonic()

    async def _wait_for_topics(self, positions: dict[int, int]) -> None:
        """Our reader of the journal must have seen what Postgres holds, before the two are compared."""
        for _ in range(250):
            if not _is_behind(self._topics.journal_end, positions.items()):
                return
            await asyncio.sleep(POLL_S)


def _is_behind(ends: Counter[int], positions: Iterable[tuple[int, int]]) -> bool:
    return any(ends[partition] < offset for partition, offset in positions)
