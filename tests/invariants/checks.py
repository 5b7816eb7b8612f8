"""What must always be true of a ledger at rest, one function each, numbered as in the list of invariants.

Each takes a :class:`Snapshot` and returns how many things it looked at, or raises :class:`Violation` with the first
that is wrong. They share no code with what they check, but for decoding its messages and, in `i09_log_decides`, the
very machines that are run again. What banks and chain say (B3 to B5, I10, I11) is held against the ledger in
`tests/settlements/books.py`; here their transactions are like any other, but that a bank may take back what was done.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from agents.ledger import Ledger
from agents.worker import NAMES
from aura_stream.domain.ids import record_key
from aura_stream.domain.state import Account, Rules, Transaction
from aura_stream.engine.errors import EngineError
from aura_stream.engine.partitioner import Partitioner
from aura_stream.engine.store import MemoryStore
from aura_stream.engine.unit import Memory, Output
from aura_stream.journal import AccountLine, AnswerLine, ChangeLine, Journal, Line, ReceivedLine, TransactionLine
from tests.e2e.client import Attempt, Intent
from tests.invariants.snapshot import Answer, Row, Snapshot, fold, table_of
from topics import COMMANDS, DEAD_LETTERS, JOURNAL, SIGNALS, TRANSACTION_EVENTS

TERMINAL = {"completed", "failed", "canceled", "returned"}
TAKEN_BACK = ("completed", "returned")  # by a bank; nothing else follows what is done
WAITING = {"awaiting_funds", "held"}
JOURNALS = 1 << 48
VOLATILE = {"command_id", "request_id"}
"""Members of an answer that name the request and not its outcome."""
Address = tuple[str, str, str]


class Violation(AssertionError):
    """An invariant does not hold."""


def must(holds: object, message: str) -> None:
    """Raises :class:`Violation` unless it holds."""
    if not holds:
        raise Violation(message)


def equal(what: str, one: object, other: object) -> None:
    """Raises :class:`Violation`, showing both, unless they are equal."""
    must(one == other, f"{what}: {one!r:.600} is not {other!r:.600}")


Invariant = Callable[[Snapshot], int]


# --- money -----------------------------------------------------------------------------------------------------------


def i01_conservation(found: Snapshot) -> int:
    """Per tenant and asset, all entries sum to zero."""
    sums: Counter[tuple[str, str]] = Counter()
    for entry in found.entries:
        sums[entry["tenant_id"], entry["asset"]] += int(entry["amount"])
    for where, total in sums.items():
        equal(f"sum of {where}", total, 0)
    return len(found.entries)


def i02_balanced(found: Snapshot) -> int:
    """Every journal has two entries or more, numbered, of one asset and tenant, debits equal to credits."""
    legs = _by(found.entries, "journal_id")
    for journal in found.journals:
        mine = legs.pop(journal["journal_id"], [])
        where = f"journal {journal['journal_id']}"
        must(len(mine) >= 2, f"{where} has {len(mine)} entries")
        equal(f"{where}, legs", [entry["leg"] for entry in mine], list(range(journal["leg_count"])))
        equal(f"{where}, sum", sum(int(entry["amount"]) for entry in mine), 0)
        must(not any(int(entry["amount"]) == 0 for entry in mine), f"{where} has an empty entry")
        for name in ("tenant_id", "asset", "transaction_id", "partition"):
            equal(f"{where}, {name}", {entry[name] for entry in mine}, {journal[name]})
    must(not legs, f"entries without a journal: {list(legs)[:3]}")
    return len(found.journals)


def i03_no_overdraft(found: Snapshot) -> int:
    """No layer of a customer's account is below zero after any of its entries."""
    balances: Counter[tuple[str, str, str]] = Counter()
    for entry in _customers(found):
        key = (entry["tenant_id"], entry["account_id"], entry["layer"])
        balances[key] -= int(entry["amount"])
        must(balances[key] >= 0, f"{key} is at {balances[key]} after journal {entry['journal_id']}")
    return len(balances)


def i04_continuity(found: Snapshot) -> int:
    """Journal records and journals of a partition are numbered without a hole; an account's count is of its entries."""
    for partition, units in found.units.items():
        equal(f"seq of partition {partition}", [unit.seq for unit in units], list(range(1, len(units) + 1)))
        stored = [row["seq"] for row in found.tables["units"] if row["partition"] == partition]
        equal(f"units of partition {partition}", stored, [unit.seq for unit in units])
        numbers = [row["journal_id"] % JOURNALS for row in found.journals if row["partition"] == partition]
        equal(f"journals of partition {partition}", numbers, list(range(1, len(numbers) + 1)))
    counts = Counter((entry["tenant_id"], entry["account_id"]) for entry in _customers(found))
    for (tenant, account_id), (_, account) in _accounts(found).items():
        equal(f"{tenant}/{account_id}, entries", account.entries, counts[tenant, account_id])
    return sum(counts.values())


def i12_holds(found: Snapshot) -> int:
    """An account's held layer is the sum of its open holds; every other hold has ended."""
    held: Counter[tuple[str, str]] = Counter()
    for entry in found.entries:
        if entry["layer"] == "held":
            held[entry["tenant_id"], entry["account_id"]] -= int(entry["amount"])
    open_: Counter[tuple[str, str]] = Counter()
    holds = [row for row in found.transactions.values() if row["type"] == "hold"]
    for row in holds:
        if row["state"] == "held":
            open_[row["tenant_id"], row["from_account_id"]] += int(row["amount"])
        else:
            must(row["status"] in TERMINAL, f"hold {row['transaction_id']} is {row['status']}/{row['state']}")
    equal("held and open holds", +held, +open_)
    return len(holds)


def clearing_is_empty(found: Snapshot) -> int:
    """Nothing is under way, so every clearing account is at zero."""
    sums: Counter[tuple[str, str]] = Counter()
    for entry in found.entries:
        if entry["account_id"].startswith("@clearing:"):
            sums[entry["tenant_id"], entry["account_id"]] += int(entry["amount"])
    for account, total in sums.items():
        equal(f"{account}", total, 0)
    return len(sums)


# --- commands and outcomes -------------------------------------------------------------------------------------------


def i05_one_outcome_each(found: Snapshot) -> int:
    """The n-th command of a partition has the n-th answer: each exactly one. What still waits has a name and time."""
    for partition, records in found.commands.items():
        answers = found.answers[partition]
        for record, answer in zip(records, answers, strict=False):
            where = f"command {partition}/{record.offset}"
            if isinstance(answer, AnswerLine) and answer.kind == "dead_letter":
                equal(f"{where}, dead letter", (answer.topic, answer.offset), (record.topic, record.offset))
            else:
                equal(f"{where}, answered command", answer.command_id, _said(record.value).get("id"))
        equal(f"answers in partition {partition}", len(answers), len(records))
    for row in found.transactions.values():
        if row["status"] not in TERMINAL:
            must(row["state"] in WAITING, f"{row['transaction_id']} is left {row['status']}/{row['state']}")
    return sum(len(records) for records in found.commands.values())


def i06_nothing_lost(found: Snapshot) -> int:
    """What Kafka acknowledged to a client is in the log as it was sent; what HTTP answered is in the log too."""
    values = {(p, record.offset): record.value for p, log in found.commands.items() for record in log}
    ids = {_said(value).get("id") for value in values.values()}
    addresses = {_address(value) for value in values.values()}
    count = 0
    for intent, attempt in _attempts(found):
        count += 1
        if attempt.door == "kafka":
            if attempt.acknowledged:
                place = (attempt.partition, attempt.offset)
                must(place in values, f"acknowledged and lost: {intent} at {place}")
                equal(f"bytes at {place}", values[place], attempt.value)
            continue
        must(
            attempt.status in (0, 200, 201, 202, 404, 409, 422, 503), f"{intent}: HTTP {attempt.status} {attempt.body}"
        )
        if attempt.acknowledged:
            must(intent.address in addresses, f"HTTP {attempt.status} and not in the log: {intent}")
            if attempt.command_id:
                must(
                    attempt.command_id in ids, f"HTTP {attempt.status}: command {attempt.command_id} is not in the log"
                )
        if attempt.status == 503:
            must((attempt.retry_after or "").isdigit(), f"503 without Retry-After: {attempt}")
    for one in found.client.malformed:
        if one.attempt is not None and one.attempt.acknowledged:
            equal(f"bytes of {one.reason}", values.get((one.attempt.partition, one.attempt.offset)), one.value)
    return count


def i07_nothing_invented(found: Snapshot) -> int:
    """Every command was sent by a client, every transaction was wanted by one, every entry belongs to one of those."""
    sent = {attempt.value for _, attempt in _attempts(found) if attempt.door == "kafka"}
    sent |= {one.value for one in found.client.malformed}
    asked = {(intent.address, _content(intent.type, intent.data)) for intent in found.client.intents}
    for log in found.commands.values():
        for record in log:
            if record.value not in sent:
                said = _said(record.value)
                content = _content(said.get("type", ""), said.get("data", {}))
                must((_address(record.value), content) in asked, f"nobody sent {record.value!r:.300}")
    wanted = {intent.transaction_id: intent for intent in found.client.intents if intent.submits}
    for id_, row in found.transactions.items():
        if id_ in found.of_keys:
            continue
        must(id_ in wanted, f"nobody wanted transaction {id_}: {row}")
        address = (row["tenant_id"], row["customer_id"], row["idempotency_key"])
        equal(f"transaction {id_}, address", address, wanted[id_].address)
    for entry in found.entries:
        must(str(entry["transaction_id"]) in wanted.keys() | found.of_keys, f"an entry of nobody's: {entry}")
    return len(found.transactions)


def i05_expected_outcomes(found: Snapshot) -> int:
    """Every outcome is one that the client's intent may have; nothing that the system took is without one."""
    outcomes = _outcomes(found)
    count = 0
    for intent in found.client.intents:
        if not any(attempt.acknowledged for attempt in intent.attempts):
            continue
        count += 1
        if intent.submits and "refused:idempotency_key_reused" not in intent.may:
            row = found.transactions.get(intent.transaction_id)
            must(row is not None, f"accepted and without a transaction: {intent}")
            assert row is not None
            reason = f":{row['reason']}" if row["reason"] else ""
            outcome = f"{row['status']}/{row['state']}{reason}"
        else:
            mine = outcomes.get((intent.address, _content(intent.type, intent.data)))
            must(mine, f"accepted and without an outcome: {intent}")
            outcome = mine[0] if mine else ""
        must(outcome in intent.may, f"{outcome} is none of {sorted(intent.may)}: {intent}")
    return count


def i08_idempotent(found: Snapshot) -> int:
    """A key has one effect at most; later uses repeat the first outcome or are refused, and HTTP answers the same."""
    first: dict[Address, tuple[str, Answer]] = {}
    effects: Counter[Address] = Counter()
    for record, answer in _answered(found):
        address = _address(record)
        if isinstance(answer, AnswerLine) and answer.kind == "dead_letter":
            continue
        said = _said(record)
        content = _content(said["type"], said["data"])
        must(not isinstance(answer, AnswerLine) or answer.kind != "repeat" or address in first, f"repeat of {address}")
        if address not in first:
            first[address] = (content, answer)
        elif content == first[address][0]:
            repeated = isinstance(answer, AnswerLine) and answer.kind == "repeat"
            must(repeated, f"{address} was used before, and is answered {answer}")
            reason = "" if isinstance(first[address][1], AccountLine) else getattr(first[address][1], "reason", "")
            assert isinstance(answer, AnswerLine)
            if isinstance(first[address][1], AnswerLine):
                equal(f"{address}, reason of the repeat", answer.reason, reason)
        else:
            reused = isinstance(answer, AnswerLine) and answer.reason == "idempotency_key_reused"
            must(reused, f"{address} was used for something else, and is answered {answer}")
        effects[address] += not isinstance(answer, AnswerLine)
    for address, count in effects.items():
        must(count <= 1, f"{address} had {count} effects")
    for intent in found.client.intents:
        decided = [attempt for attempt in intent.attempts if attempt.decided]
        for attempt in decided[1:]:
            equal(f"status of the repeated {intent.type} {intent.key}", attempt.status, decided[0].status)
            # It may say less (the words of a refusal are not kept; without Postgres only the outcome is known), but
            # nothing else.
            mine, before = _lasting(attempt), _lasting(decided[0])
            both = mine.keys() & before.keys()
            must(both >= {"status"}, f"{intent.type} {intent.key}: a repeat without a status: {attempt}")
            equal(
                f"body of the repeated {intent.type} {intent.key}",
                {name: mine[name] for name in both},
                {name: before[name] for name in both},
            )
    return len(first)


def money_as_wanted(found: Snapshot) -> int:
    """Every account holds what the client's intents add up to, given which of them took effect: by its own sums.

    This is the ledger of the outside; it knows amounts only from what it asked for.
    """
    expected: Counter[tuple[str, str, str]] = Counter()

    def move(tenant: str, source: tuple[str, str], target: tuple[str, str], amount: int) -> None:
        expected[tenant, *source] -= amount
        expected[tenant, *target] += amount

    outcomes = _outcomes(found)
    captures: dict[str, Intent] = {}
    for intent in found.client.intents:
        if intent.type == "hold.capture":
            done = outcomes.get((intent.address, _content(intent.type, intent.data)), [])
            if "done" in done:
                must(intent.transaction_id not in captures, f"hold {intent.transaction_id} was captured twice")
                captures[intent.transaction_id] = intent
    by_bank = set(found.of_keys)
    for intent in {one.transaction_id: one for one in reversed(found.client.intents) if one.submits}.values():
        row = found.transactions.get(intent.transaction_id)
        if row is None:
            continue
        if intent.by_bank:
            by_bank.add(intent.transaction_id)
            continue
        tenant, data, amount = intent.tenant, intent.data, intent.minor()
        if intent.type == "deposit.submit":
            if row["status"] == "completed":
                asset = data["account_id"].split(":")[1]
                move(tenant, (f"@bank:sandbox:trust:{asset}", "available"), (data["account_id"], "available"), amount)
        elif intent.type == "transfer.submit":
            if row["status"] == "completed":
                move(tenant, (data["from_account_id"], "available"), (data["to_account_id"], "available"), amount)
        elif row["state"] == "held":
            move(tenant, (data["account_id"], "available"), (data["account_id"], "held"), amount)
        elif row["state"] == "captured":
            must(intent.transaction_id in captures, f"hold {intent.transaction_id} was captured by nobody")
            taken = intent.minor(captures[intent.transaction_id].data.get("amount"))
            move(tenant, (data["account_id"], "available"), (data["to_account_id"], "available"), taken)
    actual: Counter[tuple[str, str, str]] = Counter()
    for entry in found.entries:
        if str(entry["transaction_id"]) not in by_bank:  # what those move is asked of the banks' books
            actual[entry["tenant_id"], entry["account_id"], entry["layer"]] -= int(entry["amount"])
    for key in expected.keys() | actual.keys():
        equal(f"balance of {key}", actual[key], expected[key])
    return len(expected)


# --- one truth -------------------------------------------------------------------------------------------------------


def i09_tables_are_sums(found: Snapshot) -> int:
    """Accounts in the changelog = rows and SUM(entries) in Postgres: status, available, held, pending, entries."""
    sums: Counter[tuple[str, str, str]] = Counter()
    counts: Counter[tuple[str, str]] = Counter()
    for entry in _customers(found):
        sums[entry["tenant_id"], entry["account_id"], entry["layer"]] -= int(entry["amount"])
        counts[entry["tenant_id"], entry["account_id"]] += 1
    rows = {(row["tenant_id"], row["account_id"]): row for row in found.accounts}
    accounts = _accounts(found)
    equal("accounts in changelog and Postgres", sorted(accounts), sorted(rows))
    for key, (partition, account) in accounts.items():
        kept = (account.status, account.available, account.held, account.pending_in, account.entries, partition)
        summed = (
            rows[key]["status"],
            *(sums[(*key, layer)] for layer in ("available", "held", "pending_in")),
            counts[key],
            rows[key]["partition"],
        )
        equal(f"{key} (status, available, held, pending, entries, partition)", kept, summed)
    return len(accounts)


def i09_transactions_agree(found: Snapshot) -> int:
    """Transactions in the changelog = rows in Postgres; an account's open items are the transactions that need it."""
    kept: dict[str, tuple[object, ...]] = {}
    open_: Counter[tuple[str, str]] = Counter()
    for partition, state in found.state.items():
        for key, one in table_of(state, b"t", Transaction).items():
            id_ = str(uuid.UUID(bytes=key))
            kept[id_] = (
                *(partition, one.tenant, one.customer, one.type, one.status, one.state, one.reason, one.asset),
                *(one.amount, one.from_account, one.to_account, one.captured, one.seq),
            )
            if one.status not in TERMINAL:
                open_[one.tenant, one.from_account or one.to_account] += 1
    rows = {
        id_: (
            *(row["partition"], row["tenant_id"], row["customer_id"], row["type"], row["status"], row["state"]),
            *(row["reason"] or "", row["asset"], int(row["amount"]), row["from_account_id"] or ""),
            *(row["to_account_id"] or "", int(row["captured_amount"] or 0), row["seq"]),
        )
        for id_, row in found.transactions.items()
    }
    equal("ids in changelog and Postgres", kept.keys() ^ rows.keys(), set())
    for id_, one in kept.items():
        equal(f"transaction {id_}", one, rows[id_])
    for name, (_, account) in _accounts(found).items():
        equal(f"open items of {name}", account.open_items, open_[name])
    return len(kept)


def i09_journal_is_rows(found: Snapshot) -> int:
    """The entries in Postgres are those of the journal topic, each of them, and no other."""
    said: dict[tuple[int, int], tuple[object, ...]] = {}
    for partition, _, line in found.lines:
        for journal in _journals(line):
            for leg, entry in enumerate(journal.entries):
                place = (partition * JOURNALS + journal.number, leg)
                must(place not in said, f"the journal topic has {place} twice")
                said[place] = (
                    journal.transaction_id,
                    journal.tenant,
                    journal.asset,
                    entry.account_id,
                    entry.layer,
                    int(entry.amount),
                )
    rows = {
        (row["journal_id"], row["leg"]): (
            str(row["transaction_id"]),
            row["tenant_id"],
            row["asset"],
            row["account_id"],
            row["layer"],
            int(row["amount"]),
        )
        for row in found.entries
    }
    equal("entries in journal and Postgres", sorted(said.keys() ^ rows.keys())[:5], [])
    for place, entry_said in said.items():
        equal(f"entry {place}", rows[place], entry_said)
    return len(said)


def i09_log_decides(found: Snapshot) -> int:
    """The machines, run again over the recorded inputs of every unit, give the same topics and the same state."""
    count = 0
    signals: dict[int, dict[int, list[bytes | None]]] = defaultdict(lambda: defaultdict(list))
    for target, log in found.signals.items():
        for record in log:
            # By who sent it: a lane writes under the number of its partition too.
            signals[orjson.loads(record.value or b"")["source"]][target].append(record.value)
    for partition, log in found.journal.items():
        outputs, state = _run_again(found, partition)
        by_topic: dict[str, list[Output]] = defaultdict(list)
        for output in outputs:
            by_topic[output.topic].append(output)
        _same(f"journal {partition}", [o.value for o in by_topic[JOURNAL.name]], [r.value for r in log])
        for topic, there in ((TRANSACTION_EVENTS, found.events), (DEAD_LETTERS, found.dead_letters)):
            mine = [(o.key, o.value) for o in by_topic[topic.name]]
            _same(f"{topic.name} {partition}", mine, [(r.key, r.value) for r in there[partition]])
        sent: dict[int, list[bytes | None]] = defaultdict(list)
        for output in by_topic[SIGNALS.name]:
            sent[output.partition].append(output.value)
        for target in sent.keys() | signals[partition].keys():
            _same(f"signals {partition} to {target}", sent[target], signals[partition][target])
        for key in state.keys() | found.state[partition].keys():
            equal(f"state {partition} {key!r}", found.state[partition].get(key), state.get(key))
        count += len(log)
    return count


def a11_status_is_the_last_event(found: Snapshot) -> int:
    """A transaction's row says what its last event says; events are numbered without a hole and each is unique."""
    series: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    ids: Counter[str] = Counter()
    for log in found.events.values():
        for record in log:
            event = orjson.loads(record.value or b"")
            ids[event["id"]] += 1
            equal("key of an event", record.key, record_key(event["tenant"], event["customer"]))
            if event["seq"]:
                series[event["transaction_id"], event["customer"]].append(event)
    must(all(count == 1 for count in ids.values()), f"events sent twice: {[i for i, n in ids.items() if n > 1][:3]}")
    for (id_, customer), events in series.items():
        equal(f"seq of {id_} for {customer}", [event["seq"] for event in events], list(range(1, len(events) + 1)))
        row = found.transactions.get(id_)
        must(row is not None, f"events of the unknown transaction {id_}")
        assert row is not None
        if customer == row["customer_id"]:
            last = events[-1]
            said = (last["status"], last["state"], last["reason"], last["seq"])
            equal(f"last event of {id_}", said, (row["status"], row["state"], row["reason"] or "", row["seq"]))
            history = [(one["seq"], one["status"], one["state"]) for one in row["history"]]
            equal(f"history of {id_}", history, [(one["seq"], one["status"], one["state"]) for one in events])
            over = [event["status"] in TERMINAL for event in events]
            if any(event["data"].get("by_bank") for event in events):
                continue  # what a bank or the chain says afterwards is told too
            equal(f"terminal events of {id_}", over, [False] * (len(events) - 1) + over[-1:])
    owners = {id_: row["customer_id"] for id_, row in found.transactions.items()}
    missing = [id_ for id_, owner in owners.items() if (id_, owner) not in series]
    must(not missing, f"transactions without events: {missing[:3]}")
    return sum(len(events) for events in series.values())


# --- what clients saw ------------------------------------------------------------------------------------------------


def i14_never_back(found: Snapshot) -> int:
    """What a client is told of a transaction never goes back, an accepted id is never unknown, order is kept."""
    accepted: dict[str, float] = {}
    for intent, attempt in _attempts(found):
        if intent.submits and attempt.acknowledged and attempt.ended and attempt.door == "http":
            accepted[intent.transaction_id] = min(attempt.ended, accepted.get(intent.transaction_id, attempt.ended))
    told: dict[str, list[tuple[float, float, int, str]]] = defaultdict(list)
    for read in found.client.reads:
        since = accepted.get(read.transaction_id)
        if read.code == 404:
            must(since is None or read.began < since, f"404 for an accepted id: {read}")
        elif read.code == 503:
            must((read.retry_after or "").isdigit(), f"503 without Retry-After: {read}")
            must(read.problem in ("ledger_behind", "service_unavailable"), f"{read}")
        else:
            equal(f"status of {read}", read.code, 200)
            told[read.transaction_id].append((read.began, read.ended, read.seq, read.status))
    for id_, reads in told.items():
        for _, ended, seq, status in reads:
            for began, _, later, later_status in reads:
                if began > ended:
                    must(later >= seq, f"{id_} went back from event {seq} to {later}")
                    stays = status not in TERMINAL or (status, later_status) in ((status, status), TAKEN_BACK)
                    must(stays, f"{id_}: {later_status} after {status}")
        row = found.transactions.get(id_)
        must(row is not None and all(seq <= row["seq"] for _, _, seq, _ in reads), f"{id_}: told more than is")
    lanes: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for intent, attempt in _attempts(found):
        if attempt.door == "kafka" and attempt.acknowledged:
            lanes[intent.tenant, intent.customer].append(attempt)
    for lane, attempts in lanes.items():
        attempts.sort(key=lambda one: one.offset)
        latest_start = 0.0
        for attempt in attempts:
            must(attempt.ended >= latest_start, f"{lane}: {attempt} was over before one before it had begun")
            latest_start = max(latest_start, attempt.began)
    return len(found.client.reads)


def i15_dead_letters(found: Snapshot) -> int:
    """Dead letters + refused + done = consumed; a dead letter is its original, and says why and where it stood."""
    for partition, records in found.commands.items():
        dead = [one for one in found.answers[partition] if isinstance(one, AnswerLine) and one.kind == "dead_letter"]
        letters = found.dead_letters[partition]
        equal(f"dead letters of partition {partition}", len(letters), len(dead))
        originals = {record.offset: record for record in records}
        for letter, answer in zip(letters, dead, strict=True):
            headers = dict(letter.headers)
            original = originals[int(headers["aura-offset"])]
            equal("key and value of a dead letter", (letter.key, letter.value), (original.key, original.value))
            equal("topic of a dead letter", headers["aura-topic"].decode(), COMMANDS.name)
            equal("partition of a dead letter", int(headers["aura-partition"]), partition)
            equal("reason of a dead letter", headers["aura-reason"].decode(), answer.reason)
        consumed = max(
            [row["commands_offset"] for row in found.sink_offsets if row["partition"] == partition], default=0
        )
        equal(f"consumed of partition {partition}", consumed, len(records))
    expected = {
        (one.attempt.partition, one.attempt.offset): one.reason
        for one in found.client.malformed
        if one.attempt is not None and one.attempt.acknowledged
    }
    got = {
        (p, answer.offset): answer.reason
        for p, answers in found.answers.items()
        for answer in answers
        if isinstance(answer, AnswerLine) and answer.kind == "dead_letter"
    }
    for place, reason in expected.items():
        equal(f"reason at {place}", got.get(place), reason)
    equal("dead letters that nobody expected", sorted(got.keys() - expected.keys()), [])
    return len(got)


def i16_tenants_apart(found: Snapshot) -> int:
    """No entry, journal or event of a transaction is in another tenant, and no journal touches two."""
    tenants = {id_: row["tenant_id"] for id_, row in found.transactions.items()}
    for row in [*found.entries, *found.journals]:
        equal(f"tenant of {row}", row["tenant_id"], tenants.get(str(row["transaction_id"])))
    accounts = {(row["tenant_id"], row["account_id"]) for row in found.accounts}
    for entry in _customers(found):
        must((entry["tenant_id"], entry["account_id"]) in accounts, f"an account of another tenant: {entry}")
    for log in found.events.values():
        for record in log:
            event = orjson.loads(record.value or b"")
            if event["seq"]:
                equal("tenant of an event", event["tenant"], tenants.get(event["transaction_id"]))
    return len(found.entries)


INVARIANTS: tuple[Invariant, ...] = (
    i01_conservation,
    i02_balanced,
    i03_no_overdraft,
    i04_continuity,
    i05_one_outcome_each,
    i05_expected_outcomes,
    i06_nothing_lost,
    i07_nothing_invented,
    i08_idempotent,
    i09_tables_are_sums,
    i09_transactions_agree,
    i09_journal_is_rows,
    i09_log_decides,
    i12_holds,
    i14_never_back,
    i15_dead_letters,
    i16_tenants_apart,
    a11_status_is_the_last_event,
    clearing_is_empty,
    money_as_wanted,
)


# --- reading ---------------------------------------------------------------------------------------------------------


def _by(rows: list[Row], name: str) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[name]].append(row)
    return found


def _customers(found: Snapshot) -> list[Row]:
    return [entry for entry in found.entries if not entry["account_id"].startswith("@")]


def _accounts(found: Snapshot) -> dict[tuple[str, str], tuple[int, Account]]:
    """Partition and account by (tenant, account id), from the changelog."""
    accounts: dict[tuple[str, str], tuple[int, Account]] = {}
    for partition, state in found.state.items():
        for key, account in table_of(state, b"a", Account).items():
            tenant, _, account_id = key.decode().partition("/")
            must((tenant, account_id) not in accounts, f"{key!r} is in two partitions")
            accounts[tenant, account_id] = (partition, account)
    return accounts


def _attempts(found: Snapshot) -> list[tuple[Intent, Attempt]]:
    return [(intent, attempt) for intent in found.client.intents for attempt in intent.attempts]


def _answered(found: Snapshot) -> list[tuple[bytes | None, Answer]]:
    """Every command's bytes with its answer."""
    return [
        (record.value, answer)
        for partition, records in found.commands.items()
        for record, answer in zip(records, found.answers[partition], strict=False)
    ]


def _outcomes(found: Snapshot) -> dict[tuple[Address, str], list[str]]:
    """What became of each (address, content), repeats left out: `done` or `refused:reason`."""
    outcomes: dict[tuple[Address, str], list[str]] = defaultdict(list)
    for value, answer in _answered(found):
        if isinstance(answer, AnswerLine) and answer.kind != "refused":
            continue
        said = _said(value)
        outcome = f"refused:{answer.reason}" if isinstance(answer, AnswerLine) else "done"
        outcomes[_address(value), _content(said["type"], said["data"])].append(outcome)
    return outcomes


def _said(value: bytes | None) -> dict[str, Any]:
    try:
        said = json.loads(value or b"")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _address(value: bytes | None) -> Address:
    said = _said(value)
    return str(said.get("tenant")), str(said.get("customer")), str(said.get("idempotency_key"))


def _content(type_: str, data: object) -> str:
    return json.dumps([type_, data], sort_keys=True)


def _lasting(attempt: Attempt) -> dict[str, Any]:
    lasting = {name: value for name, value in attempt.body.items() if name not in VOLATILE}
    if isinstance(lasting.get("error"), dict):
        lasting["error"] = {name: value for name, value in lasting["error"].items() if name != "timestamp"}
    return lasting


def _journals(line: Line) -> list[Journal]:
    return line.journals if isinstance(line, TransactionLine | ChangeLine | ReceivedLine) else []


def _same(what: str, one: list[Any], other: list[Any]) -> None:
    for place, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        equal(f"{what}, record {place}", mine, theirs)
    equal(f"{what}, records", len(one), len(other))


def _run_again(found: Snapshot, partition: int) -> tuple[list[Output], dict[bytes, bytes]]:
    """All outputs of a partition and its state, computed anew from the commands and signals in the recorded order."""
    logs = {
        "commands": {record.offset: record for record in found.commands[partition]},
        "signals": {record.offset: record for record in found.signals[partition]},
    }
    store, outputs = MemoryStore(), []
    memory: Memory | None = None
    for unit in found.units[partition]:
        if not unit.last:
            continue  # its inputs stand in its last part
        if unit.rules:
            rules = msgspec.json.decode(unit.rules, type=Rules)
            memory = Memory(
                partition,
                actor=Ledger(rules),
                names=NAMES,
                store=store,
                partitioner=Partitioner(found.partitions),
                rules=unit.rules.encode(),
                rules_hash=str(unit.inputs[0][1]),
            )
        if memory is None:
            raise Violation(f"partition {partition}: no unit before {unit.seq} has recorded its rules")
        batch = [
            logs[str(kind)][offset]
            for kind, *where in unit.inputs
            if kind in logs
            for offset in range(int(where[0]), int(where[1]) + 1)
            if offset in logs[str(kind)]
        ]
        try:
            again, _ = memory.run(batch, recorded=unit.inputs)
        except EngineError as error:
            raise Violation(f"unit {partition}/{unit.seq} cannot be computed from its inputs: {error}") from error
        finished = again.finish()
        outputs.extend(finished.outputs)
        memory.adopt(finished)
    return outputs, fold_store(store)


def fold_store(store: MemoryStore) -> dict[bytes, bytes]:
    """All that a store holds."""
    return dict(store.scan(b"", b"\xff"))


__all__ = ["INVARIANTS", "Invariant", "Violation", "fold", "fold_store"]
