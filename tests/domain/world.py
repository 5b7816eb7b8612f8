"""A small ledger world over the engine's driver: send commands, let time pass, read answers, tables and entries.

`check` holds the invariants of the whole business; every test may call it at any time between units.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from agents.ledger import Ledger
from aura_stream import journal
from aura_stream.domain.events import DECODE as DECODE_EVENT
from aura_stream.domain.events import Event, TransactionEvent
from aura_stream.domain.ids import derived_id, id_text, parse_account_id, record_key
from aura_stream.domain.state import Account, Rules, Transaction, may_follow
from aura_stream.engine.driver import Driver, LogRecord
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.unit import Memory, Names
from aura_stream.journal import (
    AccountLine,
    AnswerLine,
    ChangeLine,
    ClockLine,
    Line,
    PauseLine,
    ReceivedLine,
    TransactionLine,
    UnitRecord,
)
from tables.balances import BALANCES, balance_key
from tables.transactions import TRANSACTIONS
from topics import account_events, commands, dead_letters, signals, transaction_events
from topics import journal as journal_topic
from topics.changelog import CHANGELOG

NAMES = Names(
    commands=commands.COMMANDS.name,
    signals=signals.SIGNALS.name,
    journal=journal_topic.JOURNAL.name,
    dead_letters=dead_letters.DEAD_LETTERS.name,
    changelog=CHANGELOG.name,
)
EVENTS = transaction_events.TRANSACTION_EVENTS.name
ACCOUNT_EVENTS = account_events.ACCOUNT_EVENTS.name
START = 1_800_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR


_NO_OUTCOME = ("idempotency_key_reused", "paused")
"""Refusals that leave the key as it is."""


@dataclass(frozen=True)
class Sent:
    """A command that was sent."""

    record: LogRecord
    command_id: str
    transaction_id: str
    message: dict[str, Any]


class World:
    """A ledger of four partitions in memory; `at` is the broker's time."""

    def __init__(self, mode: str = "sandbox", partitions: int = 4) -> None:
        self.rules = Rules(("default", "demo"), mode)
        self.partitions = partitions
        self.driver = Driver(Ledger(self.rules), NAMES, partitions=partitions, rules=msgspec.json.encode(self.rules))
        self.at = START
        self.count = 0

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, type_: str, customer: str, *, key: str = "", tenant: str = "default", **data: Any) -> Sent:
        """Writes a command; nothing runs yet."""
        self.count += 1
        key = key or f"key-{self.count}"
        message = {
            "id": str(uuid.UUID(int=self.count)),
            "type": type_,
            "tenant": tenant,
            "customer": customer,
            "idempotency_key": key,
            "issued_at": "2026-11-20T10:00:00Z",
            "data": data,
        }
        record = self.raw(record_key(tenant, customer), json.dumps(message).encode())
        return Sent(record, str(message["id"]), id_text(derived_id(tenant, customer, key)), message)

    def raw(self, key: bytes, value: bytes | None, partition: int | None = None) -> LogRecord:
        """Writes any bytes to the commands topic."""
        where = self.driver.partitioner(key) if partition is None else partition
        return self.driver.append(NAMES.commands, where, key, value, self.at)

    def do(self, type_: str, customer: str, **rest: Any) -> Any:
        """Sends a command, runs until nothing moves, and returns the line that answers it."""
        sent = self.send(type_, customer, **rest)
        self.driver.run()
        return self.answer(sent)

    def again(self, sent: Sent, **changes: Any) -> Any:
        """Sends a command again with another id, runs, and returns its answer."""
        message = sent.message | {"data": sent.message["data"] | changes}
        self.count += 1
        message["id"] = str(uuid.UUID(int=self.count))
        record = self.raw(sent.record.key or b"", json.dumps(message).encode())
        self.driver.run()
        return self.answer(Sent(record, message["id"], sent.transaction_id, message))

    def wait(self, milliseconds: int) -> None:
        """Lets time pass."""
        self.at += milliseconds
        self.settle()

    def tick(self, partition: int) -> None:
        """Lets the clock speak in a partition. As in a worker, it does so only when no command or signal waits."""
        self.driver.run()
        while self.driver.step(partition, clock=self.at):
            self.driver.run()

    def settle(self) -> None:
        """Runs until nothing moves and nothing is due by the clock."""
        for partition in range(self.partitions):
            self.tick(partition)

    def open(self, account_id: str, amount: str = "", tenant: str = "default") -> None:
        """Opens an account, with money if an amount is given."""
        customer, asset, name = parse_account_id(account_id)
        named = {"name": name} if name else {}
        assert isinstance(self.do("account.open", customer, tenant=tenant, asset=asset, **named), AccountLine)
        if amount:
            deposit = self.do("deposit.submit", customer, tenant=tenant, account_id=account_id, amount=amount)
            confirmed = self.do("deposit.confirm", customer, tenant=tenant, transaction_id=deposit.id)
            assert confirmed.event == "deposit.credited"

    # --- looking ---------------------------------------------------------------------------------------------------

    def units(self, partition: int) -> list[UnitRecord]:
        """All journal records of a partition."""
        return [journal.DECODE(r.value or b"") for r in self.driver.topics[NAMES.journal][partition]]

    def lines(self) -> Iterator[tuple[int, Line]]:
        """All lines with their partitions."""
        for partition in range(self.partitions):
            for unit in self.units(partition):
                for line in unit.lines:
                    yield partition, line

    def answers(self, sent: Sent) -> list[Line]:
        """The lines that answer a command."""
        return [
            line
            for _, line in self.lines()
            if not isinstance(line, ReceivedLine) and line.command_id == sent.command_id
        ]

    def answer(self, sent: Sent) -> Line:
        """The one line that answers a command."""
        (line,) = self.answers(sent)
        return line

    def events(self) -> list[TransactionEvent]:
        """All events, partition by partition."""
        return [DECODE_EVENT(value) for value in self.driver.values(EVENTS)]

    def account_events(self) -> list[Event]:
        """All events of accounts, partition by partition."""
        return [msgspec.json.decode(value, type=Event) for value in self.driver.values(ACCOUNT_EVENTS)]

    def types(self, transaction_id: str, customer: str = "") -> list[str]:
        """The types of a transaction's events, in order."""
        return [
            e.type
            for e in self.events()
            if e.transaction_id == transaction_id and customer in ("", e.customer) and e.seq
        ]

    def account(self, account_id: str, tenant: str = "default") -> Account:
        """An account as its table holds it."""
        found = self.find(account_id, tenant)
        assert found is not None
        return found

    def find(self, account_id: str, tenant: str = "default") -> Account | None:
        """An account, or None."""
        key = BALANCES.prefix + balance_key(tenant, account_id)
        for store in self.driver.stores:
            if (value := store.get(key)) is not None:
                return BALANCES.decode(value)
        return None

    def transaction(self, transaction_id: str) -> Transaction:
        """A transaction as its table holds it."""
        found = self.table(TRANSACTIONS.prefix, TRANSACTIONS.decode)[uuid.UUID(transaction_id).bytes]
        assert isinstance(found, Transaction)
        return found

    def table(self, prefix: bytes, decode: Any) -> dict[bytes, Any]:
        """All rows of a table, of all partitions."""
        rows: dict[bytes, Any] = {}
        for store in self.driver.stores:
            for full, value in store.scan(prefix, bytes([prefix[0] + 1])):
                assert full[1:] not in rows, "one key in two partitions"
                rows[full[1:]] = decode(value)
        return rows

    def money(self) -> dict[bytes, bytes]:
        """What no refusal may change: accounts and transactions, as they are stored."""
        return {
            key: value
            for store in self.driver.stores
            for prefix in (BALANCES.prefix, TRANSACTIONS.prefix)
            for key, value in store.scan(prefix, bytes([prefix[0] + 1]))
        }

    # --- invariants ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Holds everything that must be true between units."""
        layers: Counter[tuple[str, str, str]] = Counter()
        counts: Counter[tuple[str, str]] = Counter()
        totals: Counter[tuple[str, str]] = Counter()
        booked: set[int] = set()
        received: dict[str, ReceivedLine] = {}
        states: dict[str, tuple[int, str, str]] = {}
        statuses: dict[tuple[str, str], str] = {}
        lines_by_place: dict[str, Line] = {}
        for partition in range(self.partitions):
            number = 0
            for expected, unit in enumerate(self.units(partition), 1):
                assert (unit.partition, unit.seq) == (partition, expected)
                for place, line in enumerate(unit.lines):
                    lines_by_place[f"{partition}-{unit.seq}-{place}"] = line
                    if isinstance(line, TransactionLine):
                        assert line.id not in states, "a transaction began twice"
                        states[line.id] = (1, line.status, line.state)
                    elif isinstance(line, ChangeLine):
                        seq, status, _ = states[line.id]
                        assert line.seq == seq + 1
                        assert may_follow(status, line.status), "a terminal status changed"
                        states[line.id] = (line.seq, line.status, line.state)
                    elif isinstance(line, ReceivedLine):
                        assert line.id not in received, "a credit was handled twice"
                        received[line.id] = line
                    elif isinstance(line, AccountLine):
                        statuses[line.tenant, line.account_id] = line.status
                    if isinstance(line, AccountLine | AnswerLine | PauseLine | ClockLine):
                        continue
                    for booking in line.journals:
                        number += 1
                        assert booking.number == number, "journal numbers have a hole"
                        assert booking.kind == line.event
                        assert booking.transaction_id == line.id
                        assert booking.effective_at <= booking.posted_at
                        booked.add(journal.journal_id(partition, number))
                        assert len(booking.entries) >= 2
                        assert sum(int(entry.amount) for entry in booking.entries) == 0, "a journal is out of balance"
                        for entry in booking.entries:
                            amount = int(entry.amount)
                            assert amount != 0
                            layers[booking.tenant, entry.account_id, entry.layer] -= amount
                            counts[booking.tenant, entry.account_id] += 1
                            totals[booking.tenant, booking.asset] += amount
                            if entry.account_id[0] != "@":
                                assert parse_account_id(entry.account_id).asset == booking.asset
                                assert layers[booking.tenant, entry.account_id, entry.layer] >= 0, "below zero"
        assert not any(totals.values()), "money was made or lost"
        self._check_tables(layers, counts, states, statuses, received, booked)
        self._check_answers()
        self._check_events(lines_by_place)

    def _check_tables(
        self,
        layers: Counter[tuple[str, str, str]],
        counts: Counter[tuple[str, str]],
        states: dict[str, tuple[int, str, str]],
        statuses: dict[tuple[str, str], str],
        received: dict[str, ReceivedLine],
        booked: set[int],
    ) -> None:
        transactions = self.table(TRANSACTIONS.prefix, TRANSACTIONS.decode)
        assert {id_text(key): (t.seq, t.status, t.state) for key, t in transactions.items()} == states
        held: Counter[tuple[str, str]] = Counter()
        open_items: Counter[tuple[str, str]] = Counter()
        flight: Counter[tuple[str, str]] = Counter()
        for key, t in transactions.items():
            if t.state == "awaiting_funds":
                open_items[t.tenant, t.to_account] += 1
            elif t.state in ("held", "sent", "capturing"):
                open_items[t.tenant, t.from_account] += 1
            if t.state == "held":
                held[t.tenant, t.from_account] += t.amount
            if t.state in ("sent", "capturing"):
                half = received.get(id_text(key))
                if half is None or half.event == "transfer.refused":
                    flight[t.tenant, t.asset] += t.captured if t.type == "hold" else t.amount
            assert (t.deadline > 0) == (t.status == "processing")
        clearing = {
            (tenant, a.split(":")[1]): n for (tenant, a, _), n in layers.items() if a.startswith("@clearing") and n
        }
        assert clearing == {k: n for k, n in flight.items() if n}, "clearing is not the money in flight"
        accounts = self.table(BALANCES.prefix, BALANCES.decode)
        assert {tuple(key.decode().split("/")): a.status for key, a in accounts.items()} == statuses
        for key, account in accounts.items():
            where: Any = tuple(key.decode().split("/"))
            assert account.available == layers[*where, "available"]
            assert account.held == layers[*where, "held"] == held[where]
            assert account.pending_in == layers[*where, "pending_in"]
            assert account.entries == counts[where]
            assert account.open_items == open_items[where]
            if account.status == "closed":
                assert account.available == account.held == account.pending_in == account.open_items == 0
        for _, line in self.lines():
            if isinstance(line, ChangeLine) and line.also_journal:
                assert line.also_journal in booked

    def _check_answers(self) -> None:
        """Each command has exactly one answer, and a repeat answers what was answered first."""
        commands_done: Counter[int] = Counter()
        answered: Counter[int] = Counter()
        asked: Counter[str] = Counter()
        told: Counter[str] = Counter()
        for partition, shard in enumerate(self.driver.shards):
            commands_done[partition] = shard.state.applied.get("commands", -1) + 1
            for record in self.driver.topics[NAMES.commands][partition][: commands_done[partition]]:
                asked[_command_id(record)] += 1
        first: dict[tuple[str, str, str], Any] = {}
        keys: dict[str, tuple[str, str, str]] = {}
        for records in self.driver.topics[NAMES.commands].values():
            for record in records:
                command_id, key = _command_id(record), _idempotency(record)
                if key is not None:
                    keys[command_id] = key
        for partition, line in self.lines():
            if isinstance(line, ReceivedLine) or (not isinstance(line, AnswerLine) and not line.command_id):
                continue
            answered[partition] += 1
            told[line.command_id] += 1
            if isinstance(line, AnswerLine) and (line.kind == "dead_letter" or line.reason in _NO_OUTCOME):
                continue
            key = keys[line.command_id]
            if isinstance(line, AnswerLine) and line.kind == "repeat":
                kind, then = first[key]
                if kind == "transaction":
                    assert line.transaction_id == then
                else:
                    assert (line.reason, line.transaction_id, line.account_id, line.status, line.state) == then
            elif key not in first or isinstance(line, AccountLine | PauseLine | ClockLine):
                first[key] = _outcome(line)
            else:
                # Only the key of a command that moves no money may be used again, after a day.
                assert first[key][0] == "account"
                first[key] = _outcome(line)
        assert answered == commands_done
        assert told == asked

    def _check_events(self, lines: dict[str, Line]) -> None:
        events, of_accounts = self.events(), self.account_events()
        ids = [e.id for e in events] + [e.id for e in of_accounts]
        assert len(set(ids)) == len(ids)
        expected = {
            place for place, line in lines.items() if not isinstance(line, AnswerLine) or line.kind == "refused"
        }
        assert set(ids) == expected
        seqs: dict[tuple[str, str], int] = defaultdict(int)
        for event in events:
            line = lines[event.id]
            assert event.id.startswith(f"{event.partition}-{event.journal_seq}-")
            assert event.type == ("command.refused" if isinstance(line, AnswerLine) else line.event)
            assert (event.tenant, event.customer) == (line.tenant, line.customer)
            assert not isinstance(line, AccountLine)
            assert event.reason == ("" if isinstance(line, PauseLine | ClockLine) else line.reason)
            if event.seq:
                seqs[event.transaction_id, event.customer] += 1
                assert event.seq == seqs[event.transaction_id, event.customer]
        for about in of_accounts:
            line = lines[about.id]
            assert isinstance(line, AccountLine | AnswerLine)
            assert about.id.startswith(f"{about.partition}-{about.journal_seq}-")
            assert about.type == ("command.refused" if isinstance(line, AnswerLine) else line.event)
            assert (about.tenant_id, about.customer_id) == (line.tenant, line.customer)
            assert about.data.get("reason", "") == (line.reason if isinstance(line, AnswerLine) else "")
            assert about.causation_id == line.command_id
            if about.seq:
                seqs[about.data["account_id"], about.tenant_id] += 1
                assert about.seq == seqs[about.data["account_id"], about.tenant_id]

    def check_rebuild(self) -> None:
        """The recorded inputs, fed into empty shards, give the same journal, events and signals, byte by byte."""
        for partition in range(self.partitions):
            shard = Memory(
                partition,
                actor=Ledger(self.rules),
                names=NAMES,
                store=MemoryStore(),
                partitioner=self.driver.partitioner,
                rules=msgspec.json.encode(self.rules),
                rules_hash=self.driver.shards[partition].rules_hash,
            )
            made: dict[tuple[str, int], list[bytes | None]] = defaultdict(list)
            for unit in self.units(partition):
                if not unit.last:
                    continue
                batch = [
                    record
                    for kind, *where in unit.inputs
                    if kind in ("commands", "signals")
                    for record in self.driver.topics[NAMES.commands if kind == "commands" else NAMES.signals][
                        partition
                    ][int(where[0]) : int(where[1]) + 1]
                ]
                computed, taken = shard.run(batch, recorded=unit.inputs)
                assert taken == len(batch)
                finished = computed.finish()
                for output in finished.outputs:
                    made[output.topic, output.partition].append(output.value)
                shard.adopt(finished)
            for topic in (NAMES.journal, EVENTS, NAMES.dead_letters):
                assert made[topic, partition] == [r.value for r in self.driver.topics[topic][partition]]
            for target in range(self.partitions):
                sent = [
                    r.value
                    for r in self.driver.topics[NAMES.signals][target]
                    if json.loads(r.value or b"")["source"] == partition
                ]
                assert made[NAMES.signals, target] == sent


def _outcome(line: Any) -> tuple[str, Any]:
    if isinstance(line, TransactionLine):
        return "transaction", line.id
    if isinstance(line, ChangeLine):
        return "action", ("", line.id, "", line.status, line.state)
    if isinstance(line, AccountLine):
        return "account", ("", "", line.account_id, line.status, "")
    if isinstance(line, PauseLine):
        return "account", ("", line.id, "", line.status, "")
    if isinstance(line, ClockLine):
        return "account", ("", "", "", line.status, "")
    kind = "account" if line.command_type.startswith(("account.", "pause.", "clock.")) else "action"
    return kind, (line.reason, line.transaction_id, line.account_id, "", "")


def _command_id(record: LogRecord) -> str:
    message = _message(record)
    found = message.get("id", "")
    return found if isinstance(found, str) and len(found) == 36 else ""


def _idempotency(record: LogRecord) -> tuple[str, str, str] | None:
    message = _message(record)
    key = message.get("tenant"), message.get("customer"), message.get("idempotency_key")
    return key if all(isinstance(part, str) for part in key) else None  # type: ignore[return-value]  # just checked


def _message(record: LogRecord) -> dict[str, Any]:
    try:
        message = json.loads(record.value or b"")
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
