"""The demo's own book: what was asked, what must come of it, what came. It knows nothing of how the product works.

Pure: the runner tells it what was sent and what was seen on the topics; it says what is still open, what the balances
must be, and where the two differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from aura_stream.demo.settled import Settled
from aura_stream.demo.steps import MAKES, Expect, Step, http_status
from aura_stream.domain.gas import GAS

ENDS: Final[dict[str, tuple[str, str]]] = {
    "transfer.sent": ("processing", "sent"),
    "transfer.completed": ("completed", "completed"),
    "transfer.returned": ("failed", "returned"),
    "transfer.failed": ("failed", "refused"),
    "deposit.submitted": ("processing", "awaiting_funds"),
    "deposit.credited": ("completed", "credited"),
    "deposit.rejected": ("failed", "rejected"),
    "deposit.canceled": ("canceled", "canceled"),
    "deposit.failed": ("failed", "refused"),
    "hold.placed": ("processing", "held"),
    "hold.capturing": ("processing", "capturing"),
    "hold.captured": ("completed", "captured"),
    "hold.returned": ("failed", "returned"),
    "hold.released": ("canceled", "released"),
    "hold.canceled": ("canceled", "canceled"),
    "hold.expired": ("canceled", "expired"),
    "hold.failed": ("failed", "refused"),
}
"""Event -> the status and state that it leaves, as the contract has them."""

DIFFERENCES_MAX: Final = 1000

Kind = Literal["decided", "repeats", "dead letters", "http"]


class Difference(NamedTuple):
    """Something that is not as it must be: what it is about, and which command."""

    kind: Kind
    text: str


@dataclass(slots=True)
class Asked:
    """One idempotency key: what was asked with it, how often, and how it was answered."""

    ref: str
    type: str
    expect: Expect
    transaction: str
    tenant: str
    repeats: int = 0
    reuses: int = 0
    records: int = 0
    outcomes: int = 0
    seen_repeats: int = 0
    seen_reuses: int = 0
    outcome: str = ""
    reason: str = ""
    decided_at: int = 0
    events: list[str] = field(default_factory=list)
    is_http: bool = False
    is_checked: bool = False

    @property
    def refusals(self) -> int:
        """How many events `command.refused` it must have led to: what is refused as a transaction has a row instead."""
        leaves_no_row = self.type not in MAKES or self.reason == "paused"
        return (self.outcome == "refused" and leaves_no_row) + self.seen_reuses

    def final(self, deadline_ms: int) -> Expect:
        """What had to become of it, given when it was decided."""
        late = self.expect.late
        return late if late is not None and deadline_ms and self.decided_at >= deadline_ms else self.expect


@dataclass(slots=True)
class Transaction:
    """A transaction as the topics told it."""

    asked: list[Asked] = field(default_factory=list)
    deadline_ms: int = 0
    events: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    received: list[tuple[str, str]] = field(default_factory=list)
    received_lines: list[tuple[str, str]] = field(default_factory=list)
    status: str = ""

    @property
    def settles(self) -> bool:
        """Whether banks and the chain have a part in it."""
        return any(asked.expect.settles for asked in self.asked)

    def expected_events(self) -> list[str]:
        """The events that its commands must have led to, in order."""
        return [event for asked in self.asked for event in asked.final(self.deadline_ms).events]

    def expected_received(self) -> list[tuple[str, str]]:
        """The events that its receiver must have got."""
        finals = (asked.final(self.deadline_ms) for asked in self.asked)
        return [(expect.receiver, expect.received) for expect in finals if expect.received]

    def expected_reason(self) -> str:
        """The reason that its row must end with."""
        last = self.expected_events()[-1]
        if last in ("deposit.rejected", "hold.expired"):
            return last.partition(".")[2]
        if ENDS[last][0] != "failed":
            return ""
        return next((e.reason for a in self.asked if last in (e := a.final(self.deadline_ms)).events), "")


@dataclass(slots=True)
class Figures:
    """What the view shows of the book."""

    sent: Counter[str] = field(default_factory=Counter)
    decided: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    bad_requests: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    repeats: int = 0


class Book:
    """See the module. Every method may be called in any order in which the topics deliver."""

    def __init__(self) -> None:
        self.figures = Figures()
        self.asked: dict[str, Asked] = {}
        self.transactions: dict[str, Transaction] = {}
        self.balances: Counter[tuple[str, str]] = Counter()
        self.accounts: dict[tuple[str, str], str] = {}
        self.differences: list[Difference] = []
        self.settled = Settled()
        self._open: dict[str, Asked] = {}
        self._by_command: dict[str, str] = {}
        self._early: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._dead_sent: dict[int, tuple[str, bytes | None, bytes | None]] = {}
        self._dead_at: dict[tuple[int, int], int] = {}
        self._dead_seen: dict[tuple[int, int], tuple[str, bytes | None, bytes | None]] = {}
        self._dead_lines: dict[tuple[int, int], str] = {}
        self._dead_open = 0
        self.unanswered = 0
        """HTTP requests that are under way."""

    def differ(self, kind: Kind, text: str) -> None:
        """Notes a difference."""
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(Difference(kind, text))

    # --- what was sent ---

    def sent(self, step: Step, now: datetime) -> None:
        """A step goes out."""
        self.figures.sent[step.door] += 1
        outcome = step.expect.outcome
        if outcome == "bad_request":
            return
        if outcome == "dead_letter":
            key, value = step.record(now)
            self._dead_sent[step.number] = (step.expect.reason, key, value)
            self._dead_open += 1
            return
        if step.door == "kafka":
            self._by_command[step.command_id] = step.ref
        if outcome in ("repeat", "reused"):
            asked = self.asked[step.ref]
            asked.repeats += outcome == "repeat"
            asked.reuses += outcome == "reused"
        else:
            asked = Asked(step.ref, step.type, step.expect, step.transaction, step.tenant)
            self.asked[step.ref] = asked
            if step.transaction:
                transaction = self.transactions.setdefault(step.transaction, Transaction())
                transaction.asked.append(asked)
                if step.expires_in_s:
                    transaction.deadline_ms = int((now.timestamp() + step.expires_in_s) * 1000)
        asked.is_http |= step.door == "http"
        self._open[step.ref] = asked

    def answered(self, step: Step, status: int, code: str, replayed: bool, tries: int) -> None:
        """An HTTP answer. 202 says nothing yet; anything else must be the outcome."""
        self.figures.answers[str(status)] += 1
        expect = step.expect
        if expect.outcome == "bad_request":
            self.figures.bad_requests[code] += 1
        if status == 202 and expect.outcome != "bad_request":
            return
        right = http_status(step)
        if expect.settles and code == "bank_rejected":
            return  # the bank was faster than the answer; the book of settlements says whether it may have done so
        if (status, code) != (right, expect.reason):
            asked = self.asked.get(step.ref)
            deadline = self.transactions[step.transaction].deadline_ms if step.transaction in self.transactions else 0
            if asked is None or expect.late is None or not deadline or code != expect.late.reason:
                wanted = f"{right} {expect.reason}".strip()
                self.differ(
                    "http", f"{step.type} {step.ref}: answered {status} {code}".rstrip() + f", expected {wanted}"
                )
        elif expect.outcome == "repeat" and not replayed:
            self.differ("http", f"{step.type} {step.ref}: a repeat was answered without Idempotent-Replayed")
        elif replayed and expect.outcome != "repeat" and tries == 1:
            self.differ("http", f"{step.type} {step.ref}: a first request was answered as a repeat")

    def gave_up(self, step: Step, why: str) -> None:
        """An HTTP request was never answered."""
        self.differ("http", f"{step.type} {step.ref}: no answer: {why}")

    # --- what was seen ---

    def command(self, partition: int, offset: int, step_number: int, message: dict[str, Any] | None) -> None:
        """A record of the commands topic. `step_number` is -1 for those that came over HTTP."""
        if step_number in self._dead_sent:
            self._dead_at[partition, offset] = step_number
            self._match_dead(partition, offset)
            return
        if message is None:
            self.differ("decided", f"commands {partition}/{offset}: a record that nobody sent")
            return
        ref = f"{message['tenant']}/{message['customer']}/{message['idempotency_key']}"
        asked = self.asked.get(ref)
        if asked is None:
            self.differ("decided", f"commands {partition}/{offset}: {ref} was not asked for")
            return
        asked.records += 1
        self._by_command[message["id"]] = ref
        for early in self._early.pop(message["id"], ()):
            if "line" in early:
                self._answer(message["id"], early)
            else:
                self.event(early)

    def line(self, partition: int, line: dict[str, Any]) -> None:
        """A line of the journal."""
        kind = line["line"]
        if kind == "received":
            entry = (line["customer"], line["event"])
            self.transactions.setdefault(line["id"], Transaction()).received_lines.append(entry)
            return
        if kind == "answer" and line["kind"] == "dead_letter":
            self.figures.decided += 1
            self.figures.dead_letters[line["reason"]] += 1
            self._dead_lines[partition, line["offset"]] = line["reason"]
            self._match_dead(partition, line["offset"])
            return
        if line.get("type") == GAS:
            return  # what the minters' keys get and pay is for the chain to say
        if kind in ("transaction", "change"):
            self._moved_on(line)
        if kind in ("transaction", "change", "pause"):
            self.settled.line(line)
        if command_id := line.get("command_id", ""):
            self.figures.decided += 1
            self._answer(command_id, line)

    def _answer(self, command_id: str, line: dict[str, Any]) -> None:
        """The line that answers a command; it waits until the command itself was seen."""
        if command_id not in self._by_command:
            self._early[command_id].append(line)
            return
        kind = line["line"]
        asked = self.asked[self._by_command[command_id]]
        if kind == "answer" and line["kind"] == "repeat":
            asked.seen_repeats += 1
            self.figures.repeats += 1
            return
        if kind == "answer":
            reason = line["reason"]
            self.figures.reasons[reason] += 1
            if reason == "idempotency_key_reused":
                asked.seen_reuses += 1
                return
            asked.outcome, asked.reason = "refused", reason
        else:
            failed = kind == "transaction" and line["status"] == "failed"
            asked.outcome, asked.reason = ("refused", line["reason"]) if failed else ("done", "")
        asked.outcomes += 1
        asked.decided_at = line["at"]
        if kind == "account":
            self.accounts[line["tenant"], line["account_id"]] = line["status"]

    def _moved_on(self, line: dict[str, Any]) -> None:
        transaction = self.transactions.setdefault(line["id"], Transaction())
        seq = line.get("seq", 1)
        if seq != len(transaction.changes) + 1:
            self.differ(
                "decided",
                f"journal: transaction {line['id']}: line {seq} ({line['event']}) after {transaction.changes}",
            )
        transaction.changes.append(line["event"])
        statuses = self.figures.statuses
        if transaction.status:
            statuses[transaction.status] -= 1
        transaction.status = line["status"]
        statuses[transaction.status] += 1
        if line["status"] == "failed" and line["event"] != "deposit.rejected":  # that one was asked for
            self.figures.reasons[line["reason"]] += 1

    def event(self, event: dict[str, Any]) -> None:
        """An event of `aura.transaction-events.v1` or `aura.account-events.v1`."""
        id_, seq = event.get("transaction_id", ""), event["seq"]
        if not id_ or not seq:  # about an account, a pause, or a refused command
            command_id = event.get("command_id") or event.get("causation_id")
            if not command_id:  # everybody has a pause; a return has frozen an account
                return
            if command_id not in self._by_command:
                self._early[command_id].append(event)
                return
            self.asked[self._by_command[command_id]].events.append(event["type"])
            return
        if event["type"].startswith(f"{GAS}."):
            return
        transaction = self.transactions.setdefault(id_, Transaction())
        if event["type"] in ("transfer.received", "transfer.refused"):
            transaction.received.append((event["customer"], event["type"]))
            return
        if seq != len(transaction.events) + 1:
            self.differ(
                "decided", f"events: transaction {id_}: event {seq} ({event['type']}) after {transaction.events}"
            )
        transaction.events.append(event["type"])

    def dead_letter(self, partition: int, offset: int, reason: str, key: bytes | None, value: bytes | None) -> None:
        """A record of the dead letters; partition and offset are those of the command."""
        if (partition, offset) in self._dead_seen:
            self.differ("dead letters", f"commands {partition}/{offset} is there twice")
        self._dead_seen[partition, offset] = (reason, key, value)
        self._match_dead(partition, offset)

    def _match_dead(self, partition: int, offset: int) -> None:
        place = (partition, offset)
        if place not in self._dead_at or place not in self._dead_seen or place not in self._dead_lines:
            return
        number = self._dead_at.pop(place)
        sent, seen, line = self._dead_sent[number], self._dead_seen[place], self._dead_lines.pop(place)
        self._dead_open -= 1
        where = f"step {number} (commands {partition}/{offset})"
        if seen[0] != sent[0] or line != sent[0]:
            self.differ("dead letters", f"{where}: reason {seen[0]}, in the journal {line}, expected {sent[0]}")
        if seen[1:] != sent[1:]:
            self.differ("dead letters", f"{where}: key or value are not the bytes that were sent")
        # Kept to notice a second one; the bytes are no longer needed.
        self._dead_seen[place] = (sent[0], None, None)
        self._dead_sent[number] = (sent[0], None, None)

    # --- what is open, what differs ---

    def is_decided(self, step: Step) -> bool:
        """Whether a command has its outcome."""
        return bool(self.asked[step.ref].outcomes)

    def settle(self) -> int:
        """Checks what has ended, books its money; how many commands are still open."""
        for ref in [ref for ref, asked in self._open.items() if self._is_settled(asked)]:
            asked = self._open.pop(ref)
            self._check(asked)
        return len(self._open) + self._dead_open + self.unanswered

    def _is_settled(self, asked: Asked) -> bool:
        if not asked.outcomes or asked.seen_reuses < asked.reuses or asked.seen_repeats < asked.repeats:
            return False
        if asked.outcomes + asked.seen_repeats + asked.seen_reuses < asked.records:
            return False
        if asked.events.count("command.refused") < asked.refusals:
            return False
        if not asked.transaction:
            return asked.outcome == "refused" or bool(asked.events)
        transaction = self.transactions[asked.transaction]
        wanted, received = len(transaction.expected_events()), len(transaction.expected_received())
        return (
            min(len(transaction.events), len(transaction.changes)) >= wanted
            and min(len(transaction.received), len(transaction.received_lines)) >= received
        )

    def _check(self, asked: Asked) -> None:
        """One key that has ended: its money, and the outcome against what was expected."""
        if asked.is_checked:
            return
        asked.is_checked = True
        transaction = self.transactions.get(asked.transaction)
        expect = asked.final(transaction.deadline_ms if transaction else 0)
        wanted = ("refused", expect.reason) if expect.outcome == "refused" else ("done", "")
        if (asked.outcome, asked.reason) != wanted:
            got = f"{asked.outcome} {asked.reason}".strip()
            self.differ("decided", f"{asked.type} {asked.ref}: {got}, expected {' '.join(wanted).strip()}")
        for account, amount in expect.moves:
            self.balances[asked.tenant, account] += amount

    def final_differences(self) -> list[Difference]:
        """Everything that differs, once nothing moves any more: `settle` must have been called."""
        found = list(self.differences)
        found += [
            Difference("decided", f"{asked.type} {asked.ref}: {self._what_is_missing(asked)}")
            for asked in self._open.values()
        ]
        found += [Difference("dead letters", text) for text in self._dead_differences()]
        for asked in self.asked.values():
            found += self._exactly_once(asked)
        for id_, transaction in self.transactions.items():
            found += [Difference("decided", text) for text in _same_everywhere(id_, transaction)]
        found += [Difference("decided", f"command {id_}: an answer to what nobody sent") for id_ in self._early]
        return found

    def _dead_differences(self) -> Iterable[str]:
        for place, number in self._dead_at.items():
            yield f"step {number} (commands {place[0]}/{place[1]}) never came"
        lost = self._dead_open - len(self._dead_at)
        if lost > 0:
            yield f"{lost} malformed records never reached the commands topic"
        for place in self._dead_lines:
            yield f"commands {place[0]}/{place[1]} was put aside, and nobody expected it"

    def _what_is_missing(self, asked: Asked) -> str:
        if not asked.records:
            return "not in the commands topic"
        if not asked.outcomes:
            return "not decided"
        transaction = self.transactions.get(asked.transaction)
        if transaction is not None and transaction.events != transaction.expected_events():
            return f"events {transaction.events}, expected {transaction.expected_events()}"
        return "repeats, receiver's events or answers are missing"

    def _exactly_once(self, asked: Asked) -> Iterable[Difference]:
        where = f"{asked.type} {asked.ref}"
        if asked.outcomes > 1:
            yield Difference("decided", f"{where}: {asked.outcomes} outcomes of one key")
        if asked.seen_reuses != asked.reuses:
            yield Difference(
                "repeats", f"{where}: {asked.seen_reuses} refusals of another content, expected {asked.reuses}"
            )
        answers = asked.outcomes + asked.seen_repeats + asked.seen_reuses
        if answers != asked.records:
            yield Difference("decided", f"{where}: {asked.records} commands, {answers} answers")
        # A client that got no answer repeats its HTTP request by itself; over Kafka each repeat is ours.
        if asked.seen_repeats < asked.repeats or (not asked.is_http and asked.seen_repeats > asked.repeats):
            yield Difference(
                "repeats", f"{where}: {asked.seen_repeats} repeats were recognised, {asked.repeats} were sent"
            )
        if (events := asked.events.count("command.refused")) != asked.refusals:
            yield Difference("decided", f"{where}: {events} events command.refused, expected {asked.refusals}")
        if not asked.transaction:
            made = [event for event in asked.events if event != "command.refused"]
            wanted = list(asked.expect.events) if asked.outcome == "done" else []
            if made != wanted:
                yield Difference("decided", f"{where}: events {made}, expected {wanted}")

    def expected_rows(self) -> dict[str, tuple[str, str, str]]:
        """Transaction -> status, state and reason of its row."""
        rows = {}
        for id_, transaction in self.transactions.items():
            if not transaction.settles and (events := transaction.expected_events()):
                rows[id_] = (*ENDS[events[-1]], transaction.expected_reason())
        return rows

    def expected_balances(self) -> dict[tuple[str, str], int]:
        """(tenant, account) -> what must be available, for all accounts that were opened."""
        return {place: self.balances[place] for place in self.accounts}


def _same_everywhere(id_: str, transaction: Transaction) -> Iterable[str]:
    """Events and journal must tell the expected story, to the owner and to the receiver."""
    if not transaction.asked:
        yield f"transaction {id_}: nobody asked for it"
        return
    where = f"transaction {id_} ({transaction.asked[0].ref})"
    # What banks and the chain do on the way is theirs: both topics must tell the same of it.
    wanted = transaction.changes if transaction.settles else transaction.expected_events()
    for name, seen in (("events", transaction.events), ("journal", transaction.changes)):
        if seen != wanted:
            yield f"{where}: {name} {seen}, expected {wanted}"
    received = sorted(transaction.expected_received())
    for name, got in (("events", transaction.received), ("journal", transaction.received_lines)):
        if sorted(got) != received:
            yield f"{where}: the receiver's {name} {got}, expected {received}"
