"""The ledger: decodes a command, reads tables, lets a machine decide, writes tables, journal and events.

Each handler has the same four steps, and everything it writes belongs to one unit of work of the engine. What is
decided, and why, stands in `aura_stream/domain`.

A command gets exactly one answer in the journal: the line of the transaction it began, changed, or of the account, or
an answer line (repeated, refused, dead letter).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import orjson

from agents import clock, settlements, tenants
from agents.writing import (
    KEY_LIFE_MS,
    begin,
    change,
    journal_of,
    reader,
    received,
    refuse,
    repeated,
    send_account_event,
    tell_refused,
)
from aura_stream.domain import accounts, deposits, holds, ids, transfers, velocity
from aura_stream.domain.commands import (
    ClockAdvance,
    Command,
    TenantOpen,
    Transfer,
    fingerprint,
    parse_command,
    read_transfer,
)
from aura_stream.domain.ids import derived_id, id_bytes, id_text, record_key
from aura_stream.domain.ledger import Decision, owned, refused
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.requests import (
    MAKES,
    AccountCommand,
    AccountRequest,
    Action,
    ActionCommand,
    ChildCommand,
    PauseCommand,
    Submission,
    SubmitCommand,
    plain_transfer,
    read_account,
    read_action,
    read_child,
    read_submission,
)
from aura_stream.domain.signals import (
    Answer,
    Applied,
    BankFact,
    ChainFact,
    ClockMoved,
    ClockTaken,
    Credit,
    Matched,
    NativeMoved,
    Paused,
    Signal,
    TenantKnown,
    TenantOpened,
    TokensIn,
)
from aura_stream.domain.state import IdempotencyKey, Rules
from aura_stream.engine.errors import Poison
from aura_stream.engine.unit import Record, Unit
from aura_stream.journal import AccountLine, AnswerLine, journal_id
from tables.balances import BALANCES, balance_key
from tables.idempotency_keys import IDEMPOTENCY_KEYS
from tables.sent import SENT, sent_key
from tables.settlements import SETTLEMENTS
from tables.transactions import TRANSACTIONS

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
    # Only of what goes through a bank: `settlements.MACHINES`.
    "transaction.approve": {},
    "transaction.reject": {},
    "transaction.resolve": {},
}
ACCOUNTS: Final = {
    "account.open": accounts.open_account,
    "account.freeze": accounts.freeze,
    "account.unfreeze": accounts.unfreeze,
    "account.close": accounts.close,
}
ANSWERS: Final = {"transfer": transfers.answered, "hold": holds.answered}
DEADLINES: Final = {"deposit": deposits.deadline, "transfer": transfers.deadline, "hold": holds.deadline}


class Ahead(msgspec.Struct, frozen=True):
    """A transfer that was read before its turn: nothing is the matter with it, as far as its message tells."""

    command: Transfer
    key: bytes
    asked: Submission
    keys: tuple[bytes, bytes]  # where its idempotency key would stand, had it been used


class Ledger:
    """The actor of a partition. `rules` are the settings that decisions depend on; they are recorded by the engine."""

    signal_type: Any = Signal

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._tenants = frozenset(rules.tenants)

    # --- commands --------------------------------------------------------------------------------------------------

    def read_ahead(self, unit: Unit, records: Sequence[Record]) -> list[Ahead | None]:
        """What the plain transfers among commands ask for; None for all that :meth:`command` must look into.

        One step over all of them before the next one: that is what makes each step cheap.
        """
        read = [(number, record.key, read_transfer(record.value)) for number, record in enumerate(records)]
        known = [
            (number, transfer)
            for number, key, transfer in read
            if transfer is not None
            and key == record_key(transfer.tenant, transfer.customer)
            and unit.partition_of(key) == unit.partition
        ]
        keys = [derived_id(one.tenant, one.customer, one.idempotency_key) for _, one in known]
        contents = [fingerprint(one) for _, one in known]
        texts = [id_text(key) for key in keys]
        asked = [plain_transfer(one, *told) for (_, one), *told in zip(known, texts, contents, strict=True)]
        ahead: list[Ahead | None] = [None] * len(records)
        for (number, transfer), key, submission in zip(known, keys, asked, strict=True):
            if submission is not None:
                rows = (TRANSACTIONS.full(key), IDEMPOTENCY_KEYS.full(key))
                ahead[number] = Ahead(transfer, key, submission, rows)
        return ahead

    def command(self, unit: Unit, record: Record) -> None:
        """One command. Raises :class:`Poison` when it cannot be meant; then it burns no key."""
        ahead: Ahead | None = unit.ahead
        if ahead is not None and self._knows(ahead.command.tenant):
            if not repeated(unit, ahead.command, ahead.key, ahead.asked.fingerprint):
                self._submit(unit, ahead.command, ahead.key, ahead.asked)
            return
        try:
            command = parse_command(record.value)
            self._check_address(unit, record, command)
            key = derived_id(command.tenant, command.customer, command.idempotency_key)
            content = fingerprint(command)
            if isinstance(command, SubmitCommand):
                submission = read_submission(command, id_text(key), content, unit.at)
                if not repeated(unit, command, key, content):
                    self._submit(unit, command, key, submission)
            elif isinstance(command, ActionCommand):
                action = read_action(command, unit.at, self.rules)
                if not repeated(unit, command, key, content):
                    self._act(unit, command, key, content, action)
            elif isinstance(command, ChildCommand):
                parent = read_child(command)
                if not repeated(unit, command, key, content):
                    settlements.submit_again(unit, command, key, content, parent, self.rules)
            elif isinstance(command, PauseCommand):
                if not repeated(unit, command, key, content):
                    settlements.pause(unit, command, key, content, self.rules)
            elif isinstance(command, TenantOpen):
                if not repeated(unit, command, key, content):
                    tenants.open_tenant(unit, command, key, content, self._tenants)
            elif isinstance(command, ClockAdvance):
                if not repeated(unit, command, key, content):
                    clock.advance(unit, command, key, content, self.rules)
            else:
                request = read_account(command)
                if not repeated(unit, command, key, content):
                    self._account(unit, command, key, content, request)
        except Invalid as error:
            where = f" (at {error.pointer})" if error.pointer else ""
            raise Poison(error.reason, error.detail + where) from None

    def _check_address(self, unit: Unit, record: Record, command: Command) -> None:
        if not self._knows(command.tenant):
            raise Invalid("tenant_not_found", f"{command.tenant} is not a tenant here", "/tenant")
        key = record_key(command.tenant, command.customer)
        if record.key != key:
            raise Invalid("wrong_key", f"the record's key is {record.key!r:.80}, it must be {key.decode()}")
        if (partition := unit.partition_of(key)) != unit.partition:
            raise Invalid(
                "wrong_partition",
                f"{key.decode()} belongs to partition {partition}, not {unit.partition}; "
                "set partitioner=murmur2_random in clients built on librdkafka",
            )

    def _knows(self, tenant: str) -> bool:
        return tenant in self._tenants or tenants.is_known(tenant)

    def _submit(self, unit: Unit, command: SubmitCommand, key: bytes, asked: Submission) -> None:
        at = unit.at
        decision: Decision
        try:
            sent = self._counted(asked, at) if self.rules.settlement.day_limits else None
            if asked.through is not None:
                decision = settlements.submit(unit, asked, self.rules)
            else:
                if asked.type == "deposit":
                    deposits.check_mode(self.rules.mode)
                if settlements.PAUSES_SET in unit.counters:
                    settlements.check_pauses(asked)
                decision = SUBMITS[command.type](asked, reader(asked.tenant), at)
        except Refused as refusal:
            if refusal.reason == "paused":
                # "Not now" is no outcome: the same key may be used again.
                tell_refused(unit, command, refusal, asked.transaction_id)
                return
            decision, sent = refused(asked, refusal.reason, at, refusal.available), None
        if sent is not None:
            SENT.set(sent_key(asked.tenant, asked.customer, asked.asset), sent)
        begin(unit, command, key, asked.transaction_id, decision)

    def _counted(self, asked: Submission, at: int) -> velocity.Sent | None:
        limit = velocity.limit_of(self.rules.settlement, asked)
        if limit is None or asked.refusal is not None:
            return None
        return velocity.counted(limit, SENT.get(sent_key(asked.tenant, asked.customer, asked.asset)), asked, at)

    def _act(self, unit: Unit, command: ActionCommand, key: bytes, content: str, asked: Action) -> None:
        before = TRANSACTIONS.get(asked.transaction_id)
        decision: Decision
        try:
            if asked.refusal is not None:
                raise asked.refusal
            before = owned(before, command.tenant, command.customer)
            row = SETTLEMENTS.get(asked.transaction_id) if before.type in settlements.MACHINES else None
            decide = ACTIONS[command.type].get(before.type)
            if row is not None:
                decision = settlements.act(unit, command, before, asked.transaction_id, row, self.rules)
            elif decide is None:
                raise Refused("invalid_state_transition", f"the transaction is a {before.type}")
            else:
                decision = decide(before, asked, reader(command.tenant), unit.at)
        except Refused as refusal:
            refuse(unit, command, key, content, refusal, transaction_id=asked.id_text)
            return
        after = decision.transaction
        done = IdempotencyKey(content, "done", "", asked.id_text, "", after.status, after.state, seq=after.seq)
        IDEMPOTENCY_KEYS.set(key, done)
        change(unit, asked.transaction_id, before, decision, command.id)
        settlements.go_on(unit, asked.transaction_id, decision, self.rules)

    def _account(self, unit: Unit, command: AccountCommand, key: bytes, content: str, asked: AccountRequest) -> None:
        at, table_key = unit.at, balance_key(command.tenant, asked.account_id)
        try:
            event, account = ACCOUNTS[command.type](asked, BALANCES.get(table_key), at)
        except Refused as refusal:
            refuse(unit, command, key, content, refusal, account_id=asked.account_id)
            return
        BALANCES.set(table_key, account)
        done = IdempotencyKey(content, "done", "", "", asked.account_id, account.status, "", at + KEY_LIFE_MS)
        IDEMPOTENCY_KEYS.set(key, done)
        data = {"account_id": asked.account_id, "asset": asked.asset, "name": asked.name, "status": account.status}
        send_account_event(unit, event, command.tenant, command.customer, command.id, account.seq, data)
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

    def dead_letter(self, unit: Unit, record: Record, reason: str, detail: str) -> None:
        """Answers bytes that are no command, as far as they say who sent them."""
        said = _said(record.value)
        given = ""
        is_whole = {"tenant", "customer", "idempotency_key"} <= said.keys()
        if reason == "internal_error" and is_whole and said.get("type") in MAKES:
            # It was a command, so its id may have been given with a receipt: whoever asks for it is told.
            given = id_text(derived_id(said["tenant"], said["customer"], said["idempotency_key"]))
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
                transaction_id=given,
            )
        )

    # --- signals and deadlines -------------------------------------------------------------------------------------

    def signal(self, unit: Unit, signal: Signal) -> None:
        """What another partition or a lane tells: a credit, the answer to one, a fact, tokens, a pause, the time."""
        if isinstance(signal, Credit):
            self._receive(unit, signal)
        elif isinstance(signal, Answer):
            key = id_bytes(signal.transaction_id)
            before = TRANSACTIONS.get(key)
            if before is None:
                raise LookupError(f"an answer to the unknown transaction {signal.transaction_id}")
            if before.type in ANSWERS:
                decision = ANSWERS[before.type](before, signal, reader(before.tenant), unit.at)
            else:
                decision = settlements.answered(unit, key, before, signal, self.rules)
            change(unit, key, before, decision, also_journal=signal.journal_id)
        elif isinstance(signal, BankFact | ChainFact):
            settlements.fact(unit, signal, self.rules)
        elif isinstance(signal, Paused):
            settlements.paused(unit, signal)
        elif isinstance(signal, Applied):
            settlements.applied(unit, signal)
        elif isinstance(signal, TenantOpened):
            tenants.opened(unit, signal)
        elif isinstance(signal, TokensIn):
            settlements.tokens_in(unit, signal)
        elif isinstance(signal, NativeMoved):
            settlements.native_moved(unit, signal)
        elif isinstance(signal, TenantKnown):
            tenants.known_by_one_more(signal)
        elif isinstance(signal, ClockMoved):
            clock.moved(unit, signal)
        elif isinstance(signal, ClockTaken):
            clock.taken_by_one_more(unit, signal)
        else:
            settlements.unmatched(unit, signal)

    def _receive(self, unit: Unit, credit: Credit) -> None:
        key = balance_key(credit.tenant, credit.to_account)
        try:
            account, postings = transfers.receive(credit, BALANCES.get(key))
            if isinstance(credit, Matched) and credit.deposit_id:
                settlements.check_awaited(unit, credit, self.rules)
        except Refused as refusal:
            self._send_back(unit, credit, refusal.reason)
            return
        BALANCES.set(key, account)
        journals = [
            journal_of(
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
        received(
            unit, credit, "transfer.received", Answer(credit.transaction_id, credit.tenant, True, "", number), journals
        )
        if isinstance(credit, Matched) and credit.deposit_id:
            settlements.set_aside(unit, credit, self.rules)

    def refuse(self, unit: Unit, signal: Signal, reason: str, detail: str) -> None:
        """A signal that raised: a credit goes back, a fact needs a person; the others stop the shard."""
        if isinstance(signal, BankFact | ChainFact):
            settlements.park(unit, signal, self.rules)
            return
        if not isinstance(signal, Credit):
            raise TypeError(f"a signal could not be handled: {detail}")
        self._send_back(unit, signal, reason)

    def _send_back(self, unit: Unit, credit: Credit, reason: str) -> None:
        received(unit, credit, "transfer.refused", Answer(credit.transaction_id, credit.tenant, False, reason), [])

    def deadline(self, unit: Unit, key: bytes) -> None:
        """The deadline of a transaction has come, or a pause was lifted."""
        if settlements.drains(key):
            settlements.drain(unit, key, self.rules)
            return
        before = TRANSACTIONS.get(key)
        if before is None or not 0 < before.deadline <= unit.at:
            raise LookupError(f"a deadline that transaction {id_text(key)} does not have")
        row = SETTLEMENTS.get(key) if before.type in settlements.MACHINES else None
        if row is not None:
            settlements.deadline(unit, key, before, row, self.rules)
        else:
            change(unit, key, before, DEADLINES[before.type](before, reader(before.tenant), unit.at))


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
    """Text that every store takes: a NUL or half a surrogate in a sender's bytes must not stop the sink. Which letters
    are printable is a matter of Python's version, and what is recorded is not: ASCII only."""
    return "".join(c if " " <= c <= "~" else "\ufffd" for c in text[:1000])
