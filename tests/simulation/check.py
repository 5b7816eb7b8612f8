"""What must hold when a run is over: asked of the log, the tables and the rows, each by a way of its own."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import TopicPartition

from agents.ledger import Ledger
from agents.worker import NAMES
from aura_stream import journal
from aura_stream.domain.assets import SCALES
from aura_stream.domain.state import Rules
from aura_stream.engine.kafka import Producer
from aura_stream.engine.replay import Replay, ReplayDiffers, compare_signals
from aura_stream.engine.restore import POSITION_KEY
from aura_stream.engine.shard import Shard
from aura_stream.engine.unit import Record
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, ClockLine, Line, TransactionLine
from tests.domain.world import World as Book
from tests.simulation.world import LEDGER, PARTITIONS, World
from topics import ACCOUNT_EVENTS, TRANSACTION_EVENTS

if TYPE_CHECKING:
    from tests.simulation.workload import Client


class Reader:
    """The log for those who only read it."""

    def __init__(self, world: World) -> None:
        self._broker = world.broker

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    def producer(self, transactional_id: str) -> Producer:
        """A reader has none."""
        raise NotImplementedError

    async def starts(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Nothing is ever deleted."""
        return dict.fromkeys(partitions, 0)

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The ends."""
        return {tp: len(self._broker.at((tp.topic, tp.partition)).records) for tp in partitions}

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The last stable offsets."""
        return {tp: self._broker.at((tp.topic, tp.partition)).stable for tp in partitions}

    async def read(self, partition: TopicPartition, start: int, end: int) -> AsyncGenerator[list[Record], None]:
        """All at once."""
        yield list(self._broker.at((partition.topic, partition.partition)).committed(start, end))


class Checker:
    """All checks of one run; each adds what it finds to `found`."""

    def __init__(self, world: World, client: Client) -> None:
        self.world, self.client = world, client
        self.found: list[str] = []
        self.shards = {
            partition.number: partition
            for partition in world.partitions(LEDGER)
            if isinstance(partition, Shard) and partition.state == "working"
        }
        self.topics: dict[str, dict[int, list[Any]]] = defaultdict(dict)
        for topic in (*NAMES, TRANSACTION_EVENTS.name, ACCOUNT_EVENTS.name):
            for number in range(PARTITIONS):
                log = world.broker.at((topic, number))
                self.topics[topic][number] = log.committed(0, len(log.records))
        self.states: dict[int, dict[bytes, bytes]] = {}

    async def run(self) -> list[str]:
        """Runs all; returns what is wrong."""
        if set(self.shards) != set(range(PARTITIONS)):
            return [f"only partitions {sorted(self.shards)} have an owner"]
        for check in (self.accepted, self.tables, self.book, self.amounts, self.settled, self.clock, self.rows):
            self._try(check.__name__, check)
        try:
            await self.replay()
        except (ReplayDiffers, AssertionError, msgspec.MsgspecError, LookupError) as error:
            self.found.append(f"replay: {error!r}")
        return self.found

    def _try(self, name: str, check: Callable[[], None]) -> None:
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever a broken state makes of a checker is a finding
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.found.append(f"{name}: {type(error).__name__}: {str(error)[:600]} (line {where.lineno}: {where.line})")

    def accepted(self) -> None:
        """What was acknowledged is in the log, and every record of the log was handled."""
        there = Counter(
            (record.partition, record.value) for log in self.topics[NAMES.commands].values() for record in log
        )
        asked = Counter(self.client.acknowledged)
        assert all(there[command] >= 1 for command in asked), "an acknowledged command is not in the log"
        for number, shard in self.shards.items():
            for topic in (NAMES.commands, NAMES.signals):
                records = self.topics[topic][number]
                last = records[-1].offset if records else -1
                assert shard.applied(topic) == last, (
                    f"{topic}-{number}: applied {shard.applied(topic)}, the last is {last}"
                )

    def tables(self) -> None:
        """Each partition's store is the fold of its changelog."""
        for number, shard in self.shards.items():
            store: Any = shard._store
            state = {key: value for key, value in store.memory._data.items() if key != POSITION_KEY}
            fold: dict[bytes, bytes] = {}
            for record in self.topics[NAMES.changelog][number]:
                if record.value is None:
                    fold.pop(record.key, None)
                else:
                    fold[record.key] = record.value
            self.states[number] = state
            different = [key for key in {**state, **fold} if state.get(key) != fold.get(key)]
            key = different[0] if different else b""
            assert not different, (
                f"partition {number}: store and changelog differ at {different[:3]}, "
                f"{state.get(key)!r} against {fold.get(key)!r}"
            )

    def book(self) -> None:
        """The invariants of the business, over journal, tables, answers and events."""
        book = Book.__new__(Book)
        book.rules, book.partitions = self.world.rules, PARTITIONS
        stores = [self.shards[number]._store for number in range(PARTITIONS)]
        book.driver = SimpleNamespace(  # type: ignore[assignment]
            topics=self.topics,
            stores=stores,
            shards=[self.shards[number]._memory for number in range(PARTITIONS)],
            values=lambda topic: [r.value for p in range(PARTITIONS) for r in self.topics[topic][p]],
        )
        book.check()

    def amounts(self) -> None:
        """What was booked is what was asked for, in exact decimals."""
        asked: dict[str, Any] = {}
        for log in self.topics[NAMES.commands].values():
            for record in log:
                with contextlib.suppress(ValueError):
                    message = json.loads(record.value)
                    if isinstance(message, dict) and "data" in message:
                        asked[message["id"]] = message["data"]
        for line in self._lines():
            if isinstance(line, TransactionLine):
                amount = Decimal(asked[line.command_id]["amount"]).scaleb(SCALES[line.asset])
                assert amount == Decimal(line.amount), f"{line.id}: {amount} was asked for, {line.amount} is booked"
            for booked in getattr(line, "journals", ()):
                for entry in booked.entries:
                    assert str(int(entry.amount)) == entry.amount, f"{entry} is no integer"

    def settled(self) -> None:
        """No money is under way when nothing is, and nothing that should have ended by its deadline waits."""
        states: dict[str, str] = {}
        for line in self._lines():
            if isinstance(line, TransactionLine | ChangeLine):
                states[line.id] = line.state
        waiting = {id_: state for id_, state in states.items() if state in ("sent", "capturing", "held")}
        assert not waiting, f"at rest, but not ended: {waiting}"

    def clock(self) -> None:
        """Everybody has the same time in the end, and nobody's ever went back."""
        moved = {number: shard._memory.moved_ms for number, shard in self.shards.items() if shard._memory is not None}
        told = [line.moved_ms for line in self._lines() if isinstance(line, ClockLine)]
        assert set(moved.values()) == {max(told, default=0)}, f"the clock is moved by {moved}, told was {told}"
        for number, records in self.topics[NAMES.journal].items():
            times = [journal.DECODE(record.value).at for record in records]
            assert times == sorted(times), f"the time of partition {number} goes back"

    def _lines(self) -> Iterator[Line]:
        for log in self.topics[NAMES.journal].values():
            for record in log:
                yield from journal.DECODE(record.value).lines

    def rows(self) -> None:
        """Postgres holds what the journal says, and nothing else."""
        expected = Rows()
        server = self.world.server
        for number, records in self.topics[NAMES.journal].items():
            for record in records:
                expected.add(journal.DECODE(record.value))
            position = server.offsets.get(number)
            wanted = (records[-1].offset + 1, len(records)) if records else (0, 0)
            assert position is not None and (position.next_offset, position.last_seq) == wanted, (
                f"partition {number}: Postgres is at {position}, the journal at {wanted}"
            )
        tables = server.tables
        entries = {
            (int(r["journal_id"]), int(r["leg"])): (
                r["tenant_id"],
                r["account_id"],
                r["asset"],
                r["layer"],
                r["amount"],
            )
            for r in tables["entries"].values()
        }
        _same("entries", entries, expected.entries)
        transactions = {
            r["transaction_id"]: (r["status"], r["state"], r["seq"], r["journal_ids"], r["captured_amount"])
            for r in tables["transactions"].values()
        }
        _same("transactions", transactions, expected.transactions)
        accounts = {(r["tenant_id"], r["account_id"]): r["status"] for r in tables["accounts"].values()}
        _same("accounts", accounts, expected.accounts)
        _same("refusals", dict.fromkeys(tables["refusals"]), dict.fromkeys(expected.refusals))
        _same("units", dict.fromkeys(tables["units"]), dict.fromkeys(expected.units))
        _same("journals", dict.fromkeys(int(key) for (key,) in tables["journals"]), dict.fromkeys(expected.journals))

    async def replay(self) -> None:
        """The recorded inputs, computed anew from nothing, lead to the same bytes and the same tables."""
        replays = [Replay(number, Reader(self.world), NAMES, PARTITIONS, _actor) for number in range(PARTITIONS)]
        for number, again in enumerate(replays):
            async for _ in again.run():
                pass
            store: Any = again.store
            assert store._data == self.states.get(number), f"partition {number}: a rebuild has other tables"
        compare_signals(replays)


class Rows:
    """The rows that a journal stands for, folded without the sink's code."""

    def __init__(self) -> None:
        self.entries: dict[tuple[int, int], tuple[str, ...]] = {}
        self.transactions: dict[str, tuple[Any, ...]] = {}
        self.accounts: dict[tuple[str, str], str] = {}
        self.refusals: list[tuple[str, ...]] = []
        self.units: list[tuple[str, ...]] = []
        self.journals: list[int] = []

    def add(self, unit: journal.UnitRecord) -> None:
        """One record."""
        self.units.append((str(unit.partition), str(unit.seq)))
        for place, line in enumerate(unit.lines):
            booked = (
                [] if isinstance(line, AccountLine | AnswerLine | ClockLine) else self._journals(unit.partition, line)
            )
            if isinstance(line, AccountLine):
                self.accounts[line.tenant, line.account_id] = line.status
            elif isinstance(line, AnswerLine):
                if line.kind == "refused":
                    self.refusals.append((str(unit.partition), str(unit.seq), str(place)))
            elif isinstance(line, TransactionLine):
                self._transaction(line.id, line, 1, [], booked, "")
            elif isinstance(line, ChangeLine):
                before = self.transactions[line.id]
                also = [line.also_journal] if line.also_journal else []
                self._transaction(line.id, line, line.seq, _ids(before[3]) + also, booked, line.captured)

    def _journals(self, partition: int, line: Any) -> list[int]:
        for booked in line.journals:
            number = journal.journal_id(partition, booked.number)
            self.journals.append(number)
            for leg, entry in enumerate(booked.entries):
                where = (booked.tenant, entry.account_id, booked.asset, entry.layer, entry.amount)
                self.entries[number, leg] = where
        return [journal.journal_id(partition, booked.number) for booked in line.journals]

    def _transaction(self, id_: str, line: Any, seq: int, ids: list[int], booked: list[int], captured: str) -> None:
        listed = "{" + ",".join(str(number) for number in [*ids, *booked]) + "}"
        self.transactions[id_] = (line.status, line.state, seq, listed, captured or "\\N")


def _same(what: str, found: dict[Any, Any], expected: dict[Any, Any]) -> None:
    different = [
        key for key in {**found, **expected} if (key in found) != (key in expected) or found[key] != expected[key]
    ]
    if different:
        key = different[0]
        raise AssertionError(
            f"{len(different)} {what} differ: {key} is {found.get(key, 'missing')!r}, "
            f"the journal says {expected.get(key, 'nothing of it')!r}"
        )


def _ids(listed: str) -> list[int]:
    return [int(number) for number in listed.strip("{}").split(",") if number]


def _actor(rules: str) -> Ledger:
    return Ledger(msgspec.json.decode(rules, type=Rules))
