"""Every checker finds what is planted for it: one that passes here is itself broken.

The snapshot is made by the real machines and the real writer, over lists instead of topics; a copy of it is then
falsified in one place.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import msgspec
import orjson
import pytest

from agents.ledger import Ledger
from agents.worker import NAMES
from aura_stream.domain.state import Account, Rules
from aura_stream.engine.driver import Driver, LogRecord
from aura_stream.journal import DECODE, ENCODE, AnswerLine, ChangeLine, TransactionLine
from aura_stream.ledger.migrations import migrate
from aura_stream.ledger.writer import LedgerWriter
from tests.e2e.client import CUSTOMERS, TENANTS, Attempt, Client, Intent, Malformed, Read, envelope, partition_of
from tests.e2e.stack import PARTITIONS
from tests.invariants import checks, coherent
from tests.invariants.checks import INVARIANTS, Violation, fold_store
from tests.invariants.snapshot import Remembered, Snapshot, rows

RULES = Rules(TENANTS, "sandbox")
STORIES = 200


class Offline(Client):
    """The client, sending to a driver; every seventh command is told as if it had gone over HTTP."""

    def __init__(self, driver: Driver) -> None:
        super().__init__("", "", "", seed=7)
        self.driver = driver
        self.clock = 0.0
        self._turn = itertools.count()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Nothing is needed."""
        yield

    async def put(self, intent: Intent, *, command_id: str = "") -> Attempt:
        """Appends to the commands, and acknowledges at once."""
        self._note(intent)
        first = intent.attempts[0].command_id if intent.attempts else ""
        command_id = command_id or first or self._uuid()
        value = envelope(intent, command_id)
        attempt = Attempt("kafka", self._tick(), command_id, value=value)
        intent.attempts.append(attempt)
        key = f"{intent.tenant}/{intent.customer}".encode()
        record = self.driver.append(NAMES.commands, partition_of(intent.tenant, intent.customer), key, value, 1_000)
        attempt.partition, attempt.offset, attempt.ended = record.partition, record.offset, self._tick()
        if next(self._turn) % 7 == 0:
            answer = {"id": intent.transaction_id, "command_id": command_id, "status": "created"}
            intent.attempts.append(
                Attempt("http", self._tick(), command_id, self._tick(), status=202, body=answer, value=b"")
            )
        return attempt

    async def put_raw(self, bytes_: Malformed) -> None:
        """Appends bytes as they are."""
        self.malformed.append(bytes_)
        record = self.driver.append(NAMES.commands, bytes_.partition, bytes_.key, bytes_.value, 1_000)
        bytes_.attempt = Attempt("kafka", self._tick(), "", self._tick(), record.partition, record.offset)

    def __deepcopy__(self, memo: dict[int, Any]) -> Offline:
        other = copy.copy(self)  # what it noted is copied, the ledger behind it is not
        for name in ("intents", "malformed", "reads"):
            setattr(other, name, copy.deepcopy(getattr(self, name), memo))
        return other

    def _tick(self) -> float:
        self.clock += 1.0
        return self.clock


async def made(dsn: str) -> Snapshot:
    """A ledger after a mixed load, as the invariants see it."""
    encoded = msgspec.json.encode(RULES)
    driver = Driver(Ledger(RULES), NAMES, partitions=PARTITIONS, rules=encoded)
    client = Offline(driver)
    await client.prepare()
    driver.run()
    for _ in range(STORIES):
        await client.tell(client.story("kafka"), "kafka")
    for bad in client.bad_bytes():
        await client.put_raw(bad)
    driver.run()
    http = [attempt for intent in client.intents for attempt in intent.attempts if attempt.door == "http"]
    assert http
    await migrate(dsn)
    async with await LedgerWriter.connect(dsn) as writer:
        for partition in range(PARTITIONS):
            await writer.claim(partition)
            log = driver.topics[NAMES.journal][partition]
            await writer.write(partition, [(record.offset, record.value or b"") for record in log])
    connection = await asyncpg.connect(dsn)
    try:
        tables = await rows(connection)
    finally:
        await connection.close()
    done = [row for row in tables["transactions"] if row["status"] == "completed"]
    for number, row in enumerate(done[:20]):
        at = client.clock + 10 * number
        client.reads += [Read(str(row["transaction_id"]), at, at + 1, 200, row["seq"], row["status"])] * 2

    def log_of(name: str) -> dict[int, list[LogRecord]]:
        return {partition: list(driver.topics[name][partition]) for partition in range(PARTITIONS)}

    return Snapshot(
        PARTITIONS,
        log_of(NAMES.commands),
        log_of(NAMES.signals),
        log_of(NAMES.journal),
        log_of("aura.transaction-events.v1"),
        log_of(NAMES.dead_letters),
        {partition: fold_store(store) for partition, store in enumerate(driver.stores)},
        tables,
        client,
    )


_MADE: list[Snapshot] = []


@pytest.fixture
async def found(database: str) -> AsyncIterator[Snapshot]:
    """A copy of the snapshot, to be falsified."""
    if not _MADE:
        _MADE.append(await made(database))
    yield copy.deepcopy(_MADE[0])


def offending(found: Snapshot) -> set[str]:
    """The names of the invariants that do not hold."""
    names = set()
    for check in INVARIANTS:
        # The views of a snapshot are cached; what was falsified must be seen.
        for name in ("units", "lines", "answers", "transactions"):
            found.__dict__.pop(name, None)
        try:
            check(found)
        except Violation:
            names.add(check.__name__)
    return names


def test_nothing_is_found_where_nothing_is_planted(found: Snapshot) -> None:
    looked_at = {check.__name__: check(found) for check in INVARIANTS}
    assert offending(found) == set()
    assert not [name for name, count in looked_at.items() if count < 3], looked_at
    reasons = {one.reason for one in found.client.malformed}
    states = {row["state"] for row in found.transactions.values()}
    assert len(reasons) >= 12 and states >= {"completed", "credited", "returned", "refused", "captured", "held"}


Plant = Callable[[Snapshot], None]
PLANTS: dict[str, tuple[Plant, set[str]]] = {}
"""What is planted, and at least which invariants must name it."""


def plant(*names: str) -> Callable[[Plant], Plant]:
    def keep(function: Plant) -> Plant:
        PLANTS[function.__name__] = (function, set(names))
        return function

    return keep


def edit_lines(found: Snapshot, change: Callable[[list[Any]], list[Any] | None]) -> None:
    """Rewrites the first journal record for which `change` gives new lines."""
    for log in found.journal.values():
        for place, record in enumerate(log):
            unit = DECODE(record.value or b"")
            if (lines := change(list(unit.lines))) is not None:
                log[place] = replace(record, value=ENCODE(msgspec.structs.replace(unit, lines=lines)))
                return
    raise AssertionError("nothing to falsify")


def entry(found: Snapshot, account: str = "c") -> dict[str, Any]:
    """The last entry of a customer."""
    return next(row for row in reversed(found.tables["entries"]) if row["account_id"].startswith(account))


@plant("i05_one_outcome_each", "i09_log_decides")
def a_lost_outcome(found: Snapshot) -> None:
    edit_lines(found, lambda lines: lines[1:] if isinstance(lines[0], AnswerLine | TransactionLine) else None)


@plant("i05_one_outcome_each", "i09_journal_is_rows")
def an_effect_twice(found: Snapshot) -> None:
    def twice(lines: list[Any]) -> list[Any] | None:
        at = [n for n, line in enumerate(lines) if isinstance(line, TransactionLine) and line.journals]
        return [*lines, lines[at[0]]] if at else None

    edit_lines(found, twice)


@plant("i02_balanced", "i09_tables_are_sums", "money_as_wanted", "i04_continuity")
def a_doubled_credit_in_postgres(found: Snapshot) -> None:
    row = entry(found)
    found.tables["entries"].append(row | {"leg": 7})


@plant("i08_idempotent", "i09_log_decides")
def a_repeat_that_moved_money(found: Snapshot) -> None:
    """The first line stands for the repeat too: the dedupe did not work."""
    first = {line.id: line for _, _, line in found.lines if isinstance(line, TransactionLine)}

    def again(lines: list[Any]) -> list[Any] | None:
        for place, line in enumerate(lines):
            if isinstance(line, AnswerLine) and line.kind == "repeat" and line.transaction_id in first:
                original = msgspec.structs.replace(first[line.transaction_id], command_id=line.command_id)
                return [*lines[:place], original, *lines[place + 1 :]]
        return None

    edit_lines(found, again)


@plant("i01_conservation", "i02_balanced", "i09_journal_is_rows", "money_as_wanted", "i09_tables_are_sums")
def an_entry_altered(found: Snapshot) -> None:
    entry(found)["amount"] += 1


@plant("i09_journal_is_rows", "money_as_wanted", "i09_tables_are_sums")
def two_entries_altered_in_balance(found: Snapshot) -> None:
    """Balanced and conserving, so only those who know better can see it."""
    row = entry(found)
    row["account_id"] = next(f"{one}:{row['asset']}" for one in CUSTOMERS if not row["account_id"].startswith(one))


@plant("i09_tables_are_sums", "i09_log_decides")
def a_balance_off_by_one_in_the_changelog(found: Snapshot) -> None:
    for state in found.state.values():
        for key, value in state.items():
            if key[:1] == b"a":
                account = msgspec.json.decode(value, type=Account)
                state[key] = msgspec.json.encode(msgspec.structs.replace(account, available=account.available + 1))
                return


@plant("i04_continuity", "i09_tables_are_sums")
def an_entry_uncounted_in_the_changelog(found: Snapshot) -> None:
    for state in found.state.values():
        for key, value in state.items():
            if key[:1] == b"a" and (account := msgspec.json.decode(value, type=Account)).entries:
                state[key] = msgspec.json.encode(msgspec.structs.replace(account, entries=account.entries - 1))
                return


@plant("i06_nothing_lost", "i05_one_outcome_each")
def an_accepted_command_lost(found: Snapshot) -> None:
    found.commands[0].pop()


@plant("i06_nothing_lost", "i05_expected_outcomes")
def a_false_202(found: Snapshot) -> None:
    lost = found.client.transfer("default", "c0:EUR", "c1:EUR", "1.00", "completed/completed")
    body = {"id": lost.transaction_id, "command_id": "00000000-0000-4000-8000-000000000000", "status": "created"}
    lost.attempts.append(Attempt("http", 1.0, body["command_id"], 2.0, status=202, body=body))
    found.client.intents.append(lost)


@plant("i06_nothing_lost")
def a_503_without_retry_after(found: Snapshot) -> None:
    found.client.intents[0].attempts.append(Attempt("http", 1.0, "", 2.0, status=503))


@plant("i07_nothing_invented")
def a_command_of_nobodys(found: Snapshot) -> None:
    stranger = found.client.transfer("default", "c0:EUR", "c0:EUR:save", "1.00")
    log = found.commands[partition_of("default", "c0")]
    log[-1] = replace(log[-1], value=envelope(stranger, "00000000-0000-4000-8000-000000000001"))


@plant("i07_nothing_invented")
def a_transaction_of_nobodys(found: Snapshot) -> None:
    found.client.intents = [one for one in found.client.intents if one.type != "transfer.submit"]


@plant("i03_no_overdraft")
def an_overdraft(found: Snapshot) -> None:
    """The first money of an account comes after it was spent."""
    mine = [row for row in found.tables["entries"] if row["account_id"] == "c0:EUR" and row["tenant_id"] == "default"]
    found.tables["entries"].remove(mine[0])
    found.tables["entries"].append(mine[0])


@plant("i12_holds", "i09_transactions_agree")
def a_hold_forgotten(found: Snapshot) -> None:
    row = next(row for row in found.tables["transactions"] if row["state"] == "held")
    row["status"], row["state"] = "canceled", "released"


@plant("a11_status_is_the_last_event", "i09_transactions_agree")
def a_status_that_no_event_told(found: Snapshot) -> None:
    row = next(row for row in found.tables["transactions"] if row["status"] == "completed")
    row["status"], row["state"] = "failed", "returned"


@plant("i14_never_back")
def a_read_that_went_back(found: Snapshot) -> None:
    last = found.client.reads[-1]
    found.client.reads.append(replace(last, began=last.ended + 1, ended=last.ended + 2, seq=0, status="created"))


@plant("i14_never_back")
def an_accepted_id_unknown(found: Snapshot) -> None:
    accepted = next(
        intent
        for intent in found.client.intents
        if intent.submits and any(attempt.status == 202 for attempt in intent.attempts)
    )
    found.client.reads.append(Read(accepted.transaction_id, 1e9, 1e9 + 1, 404))


@plant("i14_never_back")
def an_order_that_was_turned(found: Snapshot) -> None:
    lane = [
        attempt
        for intent in found.client.intents
        for attempt in intent.attempts
        if (intent.tenant, intent.customer) == ("default", "c0") and attempt.door == "kafka"
    ]
    lane[0].offset, lane[-1].offset = lane[-1].offset, lane[0].offset


@plant("i15_dead_letters", "i09_log_decides")
def a_dead_letter_without_its_bytes(found: Snapshot) -> None:
    log = next(log for log in found.dead_letters.values() if log)
    log[0] = replace(log[0], value=b"something else")


@plant("i15_dead_letters", "i09_log_decides")
def a_dead_letter_lost(found: Snapshot) -> None:
    next(log for log in found.dead_letters.values() if log).pop()


@plant("i15_dead_letters")
def a_dead_letter_that_was_no_poison(found: Snapshot) -> None:
    found.client.malformed.pop()


@plant("i16_tenants_apart", "i02_balanced")
def an_entry_in_another_tenant(found: Snapshot) -> None:
    row = entry(found)
    row["tenant_id"] = next(one for one in TENANTS if one != row["tenant_id"])


@plant("clearing_is_empty", "money_as_wanted", "i01_conservation")
def money_stuck_in_clearing(found: Snapshot) -> None:
    """The receiver's half was forgotten."""
    row = next(row for row in reversed(found.tables["entries"]) if row["account_id"].startswith("@clearing:"))
    found.tables["entries"].remove(row)


@plant("i04_continuity")
def a_journal_record_skipped(found: Snapshot) -> None:
    found.journal[0].pop(len(found.journal[0]) // 2)


@plant("i09_log_decides")
def a_decision_that_the_log_does_not_give(found: Snapshot) -> None:
    """All copies agree with one another, and none with the commands."""

    def late(lines: list[Any]) -> list[Any] | None:
        at = [n for n, line in enumerate(lines) if isinstance(line, ChangeLine)]
        return [
            msgspec.structs.replace(line, at=line.at + 1) if n in at[:1] else line for n, line in enumerate(lines)
        ] if at else None  # fmt: skip

    edit_lines(found, late)


@plant("i05_expected_outcomes")
def a_refusal_that_was_not_due(found: Snapshot) -> None:
    row = next(row for row in found.tables["transactions"] if row["status"] == "completed")
    row["status"], row["state"], row["reason"] = "failed", "refused", "account_frozen"


@plant("a11_status_is_the_last_event")
def an_event_twice(found: Snapshot) -> None:
    log = next(log for log in found.events.values() if log)
    log.append(log[-1])


@plant("i08_idempotent")
def a_second_answer_that_differs(found: Snapshot) -> None:
    one = next(one for one in found.client.intents if one.submits)
    for status in ("completed", "failed"):
        body = {"id": one.transaction_id, "status": status}
        one.attempts.append(Attempt("http", 1.0, one.attempts[0].command_id, 2.0, status=201, body=body))


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_what_is_planted_is_found(found: Snapshot, name: str) -> None:
    falsify, must_be_named = PLANTS[name]
    falsify(found)
    assert offending(found) >= must_be_named


def test_every_invariant_has_a_plant() -> None:
    named = set().union(*(names for _, names in PLANTS.values()))
    assert named == {check.__name__ for check in checks.INVARIANTS}


def test_an_entry_rewritten_between_two_looks_is_found(found: Snapshot) -> None:
    remembered = Remembered()
    assert coherent.i13_unaltered(copy.deepcopy(found), remembered) > 100
    coherent.i13_unaltered(copy.deepcopy(found), remembered)
    entry(found)["posted_at"] = None
    with pytest.raises(Violation):
        coherent.i13_unaltered(found, remembered)


async def test_a_ledger_without_its_triggers_is_found(database: str) -> None:
    await made(database)
    connection = await asyncpg.connect(database)
    try:
        assert await coherent.i13_immutable(connection) == 6
        await connection.execute("ALTER TABLE ledger.entries DISABLE TRIGGER USER")
        with pytest.raises(Violation):
            await coherent.i13_immutable(connection)
    finally:
        await connection.close()


def test_the_clients_commands_are_what_any_client_would_send(found: Snapshot) -> None:
    for log in found.commands.values():
        assert any(orjson.loads(record.value)["tenant"] == "demo" for record in log if record.value[:1] == b"{")  # type: ignore[index,arg-type]
