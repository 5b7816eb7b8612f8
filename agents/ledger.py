"""The ledger: decodes a command, reads tables, lets a machine decide, writes tables, journal and events.

Each handler has the same four steps, and everything it writes belongs to one unit of work of the engine. What is
decided, and why, stands in `aura_stream/domain`.

A command gets exactly one answer in the journal: the line of the transaction it began, changed, or of the account, or
an answer line (repeated, refused, dead letter).
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from aura_stream.domain import accounts, deposits, holds, ids, transfers
from aura_stream.domain.assets import format_amount
from aura_stream.domain.commands import Command, fingerprint, format_time, parse_command
from aura_stream.domain.events import ENCODE, Event, EventData, TransactionEvent
from aura_stream.domain.ids import derived_id, id_bytes, id_text, parse_account_id, record_key
from aura_stream.domain.ledger import Accounts, Decision, owned, refused
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.requests import (
    AccountCommand,
    AccountRequest,
    Action,
    ActionCommand,
    Submission,
    SubmitCommand,
    read_account,
    read_action,
    read_submission,
)
from aura_stream.domain.signals import Answer, Credit, Signal
from aura_stream.domain.state import COMPLETED, FAILED, Account, IdempotencyKey, Posting, Rules, Transaction
from aura_stream.engine.errors import Poison
from aura_stream.engine.unit import Record, Unit
from aura_stream.journal import (
    AccountLine,
    AnswerLine,
    ChangeLine,
    Entry,
    Journal,
    ReceivedLine,
    TransactionLine,
    journal_id,
)
from tables.balances import BALANCES, balance_key
from tables.idempotency_keys import IDEMPOTENCY_KEYS
from tables.transactions import TRANSACTIONS
from topics.account_events import ACCOUNT_EVENTS
from topics.transaction_events import TRANSACTION_EVENTS

# What each command, answer and deadline is decided by.
SUBMITS: Final = {
    "transfer.submit": transfers.submit,
    "deposit.submit": deposits.submit,
    "hold.place": holds.place,
}
ACTIONS: Final = {
    "deposit.confirm": {"deposit": deposits.confirm},
    "deposit.reject": {"deposit": deposits.reject},
    "hold.capture": {"hold": holds.capture},
    "hold.release": {"hold": holds.release},
    "transaction.cancel": {"deposit": deposits.cancel, "hold": holds.cancel, "transfer": transfers.cancel},
}
ACCOUNTS: Final = {
    "account.open": accounts.open_account,
    "account.freeze": accounts.freeze,
    "account.unfreeze": accounts.unfreeze,
    "account.close": accounts.close,
}
ANSWERS: Final = {"transfer": transfers.answered, "hold": holds.answered}
DEADLINES: Final = {"deposit": deposits.deadline, "transfer": transfers.deadline, "hold": holds.deadline}

EXPIRING: Final = frozenset({"awaiting_funds", "held"})
"""States that end by their deadline. Elsewhere a deadline only calls a person."""

KEY_LIFE_MS: Final = 24 * 60 * 60 * 1000
"""How long the idempotency key of a command that moves no money is remembered."""

_EVENTS: Final = TRANSACTION_EVENTS.name
_ACCOUNT_EVENTS: Final = ACCOUNT_EVENTS.name


class Ledger:
    """The actor of a partition. `rules` are the settings that decisions depend on; they are recorded by the engine."""

    signal_type: Any = Signal

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._tenants = frozenset(rules.tenants)

    # --- commands --------------------------------------------------------------------------------------------------

    def command(self, unit: Unit, record: Record) -> None:
        """One command. Raises :class:`Poison` when it cannot be meant; then it burns no key."""
        try:
            command = parse_command(record.value)
            self._check_address(unit, record, command)
            key = derived_id(command.tenant, command.customer, command.idempotency_key)
            content = fingerprint(command)
            if isinstance(command, SubmitCommand):
                submission = read_submission(command, id_text(key), content, unit.at)
                if not self._repeated(unit, command, key, content):
                    self._submit(unit, command, key, submission)
            elif isinstance(command, ActionCommand):
                action = read_action(command, unit.at, self.rules)
                if not self._repeated(unit, command, key, content):
                    self._act(unit, command, key, content, action)
            else:
                request = read_account(command)
                if not self._repeated(unit, command, key, content):
                    self._account(unit, command, key, content, request)
        except Invalid as error:
            where = f" (at {error.pointer})" if error.pointer else ""
            raise Poison(error.reason, error.detail + where) from None

    def _check_address(self, unit: Unit, record: Record, command: Command) -> None:
        if command.tenant not in self._tenants:
            raise Invalid("tenant_not_found", f"{command.tenant} is not a tenant here", "/tenant")
        key = record_key(command.tenant, command.customer)
        if record.key != key:
            raise Invalid("wrong_key", f"the record's key is {record.key!r:.80}, it must be {key.decode()}")
        partition = unit.partition_of(key)
        if partition != unit.partition:
            raise Invalid(
                "wrong_partition",
                f"{key.decode()} belongs to partition {partition}, not {unit.partition}; "
                "set partitioner=murmur2_random in clients built on librdkafka",
            )

    def _submit(self, unit: Unit, command: SubmitCommand, key: bytes, asked: Submission) -> None:
        at = unit.at
        try:
            decision = SUBMITS[command.type](asked, _reader(asked.tenant), at)
        except Refused as refusal:
            decision = refused(asked, refusal.reason, at)
        journals = _write(unit, key, asked.transaction_id, None, decision)
        after = decision.transaction
        _event_of(unit, asked.transaction_id, decision.event, after, command.id)
        unit.line(
            TransactionLine(
                asked.transaction_id,
                command.id,
                after.tenant,
                after.customer,
                after.type,
                decision.event,
                after.status,
                after.state,
                after.asset,
                str(after.amount),
                command.idempotency_key,
                at,
                after.reason,
                after.from_account,
                after.to_account,
                after.deadline if after.state in EXPIRING else 0,
                journals,
            )
        )

    def _act(self, unit: Unit, command: ActionCommand, key: bytes, content: str, asked: Action) -> None:
        before = TRANSACTIONS.get(asked.transaction_id)
        try:
            if asked.refusal is not None:
                raise asked.refusal
            before = owned(before, command.tenant, command.customer)
            decide = ACTIONS[command.type].get(before.type)
            if decide is None:
                raise Refused("invalid_state_transition", f"the transaction is a {before.type}")
            decision = decide(before, asked, _reader(command.tenant), unit.at)
        except Refused as refusal:
            self._refuse(unit, command, key, content, refusal, transaction_id=asked.id_text)
            return
        after = decision.transaction
        done = IdempotencyKey(content, "done", "", asked.id_text, "", after.status, after.state, seq=after.seq)
        IDEMPOTENCY_KEYS.set(key, done)
        _change(unit, asked.transaction_id, before, decision, command.id)

    def _account(self, unit: Unit, command: AccountCommand, key: bytes, content: str, asked: AccountRequest) -> None:
        at, table_key = unit.at, balance_key(command.tenant, asked.account_id)
        try:
            event, account = ACCOUNTS[command.type](asked, BALANCES.get(table_key), at)
        except Refused as refusal:
            self._refuse(unit, command, key, content, refusal, account_id=asked.account_id)
            return
        BALANCES.set(table_key, account)
        done = IdempotencyKey(content, "done", "", "", asked.account_id, account.status, "", at + KEY_LIFE_MS)
        IDEMPOTENCY_KEYS.set(key, done)
        data = {"account_id": asked.account_id, "asset": asked.asset, "name": asked.name, "status": account.status}
        _account_event(unit, event, command, account.seq, data)
        unit.line(
            AccountLine(
                command.tenant,
                command.customer,
                asked.account_id,
                asked.asset,
                event,
                account.status,
                at,
                command.id,
                command.idempotency_key,
                asked.name,
            )
        )

    def _repeated(self, unit: Unit, command: Command, key: bytes, content: str) -> bool:
        """Answers a command whose idempotency key was used before; False when it is new."""
        first = TRANSACTIONS.get(key)
        if first is not None:
            if first.fingerprint == content:
                _answer(
                    unit,
                    command,
                    "repeat",
                    reason=first.reason,
                    transaction_id=id_text(key),
                    status=first.status,
                    state=first.state,
                    seq=first.seq,
                )
                return True
        else:
            known = IDEMPOTENCY_KEYS.get(key)
            if known is None:
                return False
            if known.fingerprint == content:
                _answer(
                    unit,
                    command,
                    "repeat",
                    reason=known.reason,
                    detail=known.detail,
                    transaction_id=known.transaction_id,
                    account_id=known.account_id,
                    status=known.status,
                    state=known.state,
                    seq=known.seq,
                )
                return True
        _refused(unit, command, Refused("idempotency_key_reused", "the key was used for another request"))
        return True

    def _refuse(
        self,
        unit: Unit,
        command: ActionCommand | AccountCommand,
        key: bytes,
        content: str,
        refusal: Refused,
        transaction_id: str = "",
        account_id: str = "",
    ) -> None:
        """Burns the key of a command that business refuses, and answers it."""
        expires_at = unit.at + KEY_LIFE_MS if command.MOVES_NO_MONEY else 0
        burnt = IdempotencyKey(
            content,
            "refused",
            refusal.reason,
            transaction_id,
            account_id,
            expires_at=expires_at,
            detail=refusal.detail,
        )
        IDEMPOTENCY_KEYS.set(key, burnt)
        _refused(unit, command, refusal, transaction_id, account_id)

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        """Answers bytes that are no command, as far as they say who sent them."""
        said = _said(record.value)
        unit.line(
            AnswerLine(
                "dead_letter",
                unit.at,
                said.get("id", ""),
                said.get("type", ""),
                said.get("tenant", ""),
                said.get("customer", ""),
                said.get("idempotency_key", ""),
                reason,
                _printable(detail),
                topic=record.topic,
                offset=record.offset,
            )
        )

    # --- signals and deadlines -------------------------------------------------------------------------------------

    def signal(self, unit: Unit, signal: Signal) -> None:
        """A credit from another customer, or the answer to one that was sent from here."""
        if isinstance(signal, Credit):
            self._receive(unit, signal)
        else:
            key = id_bytes(signal.transaction_id)
            before = TRANSACTIONS.get(key)
            if before is None:
                raise LookupError(f"an answer to the unknown transaction {signal.transaction_id}")
            decision = ANSWERS[before.type](before, signal, _reader(before.tenant), unit.at)
            _change(unit, key, before, decision, also_journal=signal.journal_id)

    def _receive(self, unit: Unit, credit: Credit) -> None:
        key = balance_key(credit.tenant, credit.to_account)
        try:
            account, postings = transfers.receive(credit, BALANCES.get(key))
        except Refused as refusal:
            self._send_back(unit, credit, refusal.reason)
            return
        BALANCES.set(key, account)
        journals = [
            _journal(
                unit,
                credit.transaction_id,
                "transfer.received",
                credit.tenant,
                credit.asset,
                credit.effective_at,
                postings,
            )
        ]
        number = journal_id(unit.partition, journals[0].number)
        _received(
            unit, credit, "transfer.received", Answer(credit.transaction_id, credit.tenant, True, "", number), journals
        )

    def refuse(self, unit: Unit, signal: Signal, reason: str, detail: str) -> None:
        """A signal that raised: a credit goes back; an answer cannot, so it stops the shard."""
        if not isinstance(signal, Credit):
            raise TypeError(f"an answer could not be handled: {detail}")
        self._send_back(unit, signal, reason)

    def _send_back(self, unit: Unit, credit: Credit, reason: str) -> None:
        _received(unit, credit, "transfer.refused", Answer(credit.transaction_id, credit.tenant, False, reason), [])

    def deadline(self, unit: Unit, key: bytes) -> None:
        """The deadline of a transaction has come."""
        before = TRANSACTIONS.get(key)
        if before is None or not 0 < before.deadline <= unit.at:
            raise LookupError(f"a deadline that transaction {id_text(key)} does not have")
        _change(unit, key, before, DEADLINES[before.type](before, _reader(before.tenant), unit.at))


# --- reading and writing ---------------------------------------------------------------------------------------------


def _reader(tenant: str) -> Accounts:
    """The tenant's accounts as the machines read them."""

    def read(account_id: str) -> Account | None:
        return BALANCES.get(balance_key(tenant, account_id))

    return read


def _write(
    unit: Unit, key: bytes, transaction_id: str, before: Transaction | None, decision: Decision
) -> list[Journal]:
    """Puts a decision into tables, deadlines and signals; returns its journals for the line."""
    after = decision.transaction
    TRANSACTIONS.set(key, after)
    for account_id, account in decision.accounts.items():
        BALANCES.set(balance_key(after.tenant, account_id), account)
    was = before.deadline if before is not None else 0
    if was != after.deadline:
        if was:
            unit.clear_deadline(key, was)
        if after.deadline:
            unit.deadline(key, after.deadline)
    if (credit := decision.credit) is not None:
        unit.signal(record_key(credit.tenant, parse_account_id(credit.to_account).customer), credit)
    if not decision.postings:
        return []
    return [
        _journal(
            unit, transaction_id, decision.event, after.tenant, after.asset, decision.effective_at, decision.postings
        )
    ]


def _journal(
    unit: Unit,
    transaction_id: str,
    kind: str,
    tenant: str,
    asset: str,
    effective_at: int,
    postings: tuple[Posting, ...],
) -> Journal:
    entries = [Entry(posting.account, posting.layer, str(posting.amount)) for posting in postings]
    number = unit.next_number("journals")
    return Journal(number, transaction_id, kind, tenant, asset, effective_at, unit.at, entries)


def _change(
    unit: Unit, key: bytes, before: Transaction, decision: Decision, command_id: str = "", also_journal: int = 0
) -> None:
    """Writes and tells that a transaction moved on."""
    transaction_id, after = id_text(key), decision.transaction
    journals = _write(unit, key, transaction_id, before, decision)
    _event_of(unit, transaction_id, decision.event, after, command_id)
    unit.line(
        ChangeLine(
            transaction_id,
            after.tenant,
            after.customer,
            after.type,
            after.seq,
            decision.event,
            after.status,
            after.state,
            unit.at,
            after.reason,
            command_id,
            str(after.captured) if after.captured else "",
            also_journal,
            journals,
        )
    )


def _received(unit: Unit, credit: Credit, event: str, answer: Answer, journals: list[Journal]) -> None:
    """Tells the receiver what became of a credit, and answers its sender."""
    sender = parse_account_id(credit.from_account).customer
    receiver = parse_account_id(credit.to_account).customer
    unit.signal(record_key(credit.tenant, sender), answer)
    status, state = (COMPLETED, "received") if answer.accepted else (FAILED, "refused")
    amount = format_amount(credit.amount, credit.asset)
    data = EventData(amount, credit.asset, credit.from_account, credit.to_account)
    _event(unit, event, credit.tenant, receiver, credit.transaction_id, 1, status, state, answer.reason, "", data)
    unit.line(
        ReceivedLine(
            credit.transaction_id,
            credit.tenant,
            receiver,
            credit.to_account,
            credit.asset,
            str(credit.amount),
            event,
            unit.at,
            answer.reason,
            credit.from_account,
            journals,
        )
    )


def _refused(unit: Unit, command: Command, refusal: Refused, transaction_id: str = "", account_id: str = "") -> None:
    if isinstance(command, AccountCommand):
        said = {"command_type": command.type, "account_id": account_id, "reason": refusal.reason}
        _account_event(unit, "command.refused", command, 0, said | {"detail": refusal.detail})
    else:
        data = EventData(account_id=account_id, command_type=command.type, detail=refusal.detail)
        tenant, customer = command.tenant, command.customer
        _event(unit, "command.refused", tenant, customer, transaction_id, 0, "", "", refusal.reason, command.id, data)
    _answer(
        unit,
        command,
        "refused",
        reason=refusal.reason,
        detail=refusal.detail,
        transaction_id=transaction_id,
        account_id=account_id,
    )


def _answer(unit: Unit, command: Command, kind: Any, **what: Any) -> None:
    unit.line(
        AnswerLine(
            kind,
            unit.at,
            command.id,
            command.type,
            command.tenant,
            command.customer,
            command.idempotency_key,
            **what,
        )
    )


def _event_of(unit: Unit, transaction_id: str, event: str, after: Transaction, command_id: str) -> None:
    """Sends the event of a transaction's new state."""
    asset = after.asset
    data = EventData(
        format_amount(after.amount, asset),
        asset,
        after.from_account,
        after.to_account,
        format_amount(after.captured, asset) if after.captured else "",
        format_time(after.deadline) if after.state in EXPIRING else "",
    )
    _event(
        unit,
        event,
        after.tenant,
        after.customer,
        transaction_id,
        after.seq,
        after.status,
        after.state,
        after.reason,
        command_id,
        data,
    )


def _event(
    unit: Unit,
    type_: str,
    tenant: str,
    customer: str,
    transaction_id: str,
    seq: int,
    status: str,
    state: str,
    reason: str,
    command_id: str,
    data: EventData,
) -> None:
    """Sends an event. It is called before the line is added that it belongs to, so that its id names that line."""
    partition, journal_seq = unit.partition, unit.seq
    event = TransactionEvent(
        f"{partition}-{journal_seq}-{unit.line_number}",
        type_,
        1,
        tenant,
        customer,
        transaction_id,
        seq,
        status,
        state,
        reason,
        command_id,
        format_time(unit.at),
        partition,
        journal_seq,
        data,
    )
    unit.send(_EVENTS, record_key(tenant, customer), ENCODE(event))


def _account_event(unit: Unit, type_: str, command: Command, seq: int, data: dict[str, str]) -> None:
    """Sends what became of a command about an account; as :func:`_event`, before its line is added."""
    event = Event(
        f"{unit.partition}-{unit.seq}-{unit.line_number}",
        type_,
        1,
        command.tenant,
        command.customer,
        seq,
        format_time(unit.at),
        "",
        command.id,
        {name: value for name, value in data.items() if value},
        unit.partition,
        unit.seq,
    )
    unit.send(_ACCOUNT_EVENTS, record_key(command.tenant, command.customer), ENCODE(event))


_SAID: Final = {
    "id": re.compile(ids.UUID_PATTERN),
    "type": re.compile(r"[a-z_.]{1,64}"),
    "tenant": re.compile(ids.TENANT_PATTERN),
    "customer": re.compile(ids.CUSTOMER_PATTERN),
    "idempotency_key": re.compile(ids.IDEMPOTENCY_KEY_PATTERN),
}


def _said(value: bytes | None) -> dict[str, str]:
    """What of an envelope can be read in bytes that are no command; only well-formed values, they travel on."""
    try:
        message = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(message, dict):
        return {}
    return {
        field: text
        for field, form in _SAID.items()
        if isinstance(text := message.get(field), str) and form.fullmatch(text)
    }


def _printable(text: str) -> str:
    """Text that every store takes: a NUL or half a surrogate in a sender's bytes must not stop the sink."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text[:1000])
