"""How a decision becomes rows, lines, events and messages of the unit of work. The shell's hand; it decides nothing.

An event is sent before the line is added that it belongs to, so that its id names that line.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec

from aura_stream.domain.assets import format_amount
from aura_stream.domain.bank_codes import code_of
from aura_stream.domain.commands import ClockAdvance, Command, format_time
from aura_stream.domain.events import ENCODE, ByBank, Event, EventData, TransactionEvent
from aura_stream.domain.ids import bank_lane_key, chain_lane_key, id_bytes, id_text, parse_account_id, record_key
from aura_stream.domain.lane_requests import ENCODE as ENCODE_REQUEST
from aura_stream.domain.ledger import Accounts, Decision
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import AccountCommand, ActionCommand, ChildCommand, PauseCommand, SubmitCommand
from aura_stream.domain.settlement import Settled
from aura_stream.domain.signals import Answer, Credit
from aura_stream.domain.state import (
    COMPLETED,
    FAILED,
    Account,
    Barred,
    IdempotencyKey,
    Parked,
    Posting,
    Settlement,
    Transaction,
)
from aura_stream.engine.unit import Unit
from aura_stream.journal import (
    AccountLine,
    AnswerLine,
    ChangeLine,
    Entry,
    Journal,
    ReceivedLine,
    TransactionLine,
)
from tables.balances import BALANCES, balance_key
from tables.barred import BARRED, barred_key
from tables.idempotency_keys import IDEMPOTENCY_KEYS
from tables.parked import PARKED, parked_key
from tables.settlements import SETTLEMENTS
from tables.transactions import TRANSACTIONS
from topics.account_events import ACCOUNT_EVENTS
from topics.bank_requests import BANK_REQUESTS
from topics.chain_requests import CHAIN_REQUESTS
from topics.transaction_events import TRANSACTION_EVENTS

EXPIRING: Final = frozenset({"awaiting_funds", "held", "requires_approval"})
"""States that end by their deadline. Elsewhere a deadline only calls a person."""

KEY_LIFE_MS: Final = 24 * 60 * 60 * 1000
"""How long the idempotency key of a command that moves no money is remembered."""

EVENTS: Final = TRANSACTION_EVENTS.name


@lru_cache(maxsize=1 << 8)
def reader(tenant: str) -> Accounts:
    """The tenant's accounts as the machines read them."""

    def read(account_id: str) -> Account | None:
        return BALANCES.get(balance_key(tenant, account_id))

    return read


def write(unit: Unit, key: bytes, transaction_id: str, before: Transaction | None, decision: Decision) -> list[Journal]:
    """Puts a decision into tables, deadlines and signals; returns its journals for the line."""
    after = decision.transaction
    tenant, due = after.tenant, after.deadline
    TRANSACTIONS.set(key, after)
    for account_id, account in decision.accounts.items():
        BALANCES.set(balance_key(tenant, account_id), account)
    was = before.deadline if before is not None else 0
    if was != due:
        if was:
            unit.clear_deadline(key, was)
        if due:
            unit.deadline(key, due)
    if (credit := decision.credit) is not None:
        unit.signal(record_key(credit.tenant, parse_account_id(credit.to_account).customer), credit)
    if postings := decision.postings:
        event, asset = decision.event, after.asset
        return [journal_of(unit, transaction_id, event, tenant, asset, decision.effective_at, postings)]
    return _write_settled(unit, key, transaction_id, decision) if isinstance(decision, Settled) else []


def _write_settled(unit: Unit, key: bytes, transaction_id: str, decision: Settled) -> list[Journal]:
    """What a settlement's step has beside a transaction's: its row, its place among the parked, requests, journals."""
    after, s = decision.transaction, decision.settlement
    assert s is not None
    before = SETTLEMENTS.get(key)
    SETTLEMENTS.set(key, s)
    if before is not None and before.parked_by and before.parked_by != s.parked_by:
        PARKED.delete(parked_key(before.parked_by, key))
    if s.parked_by:
        PARKED.set(parked_key(s.parked_by, key), Parked(unit.at))
    if decision.bars:
        BARRED.set(
            barred_key(after.tenant, after.customer, s.party_account), Barred(decision.bars, transaction_id, unit.at)
        )
    elif decision.enables:
        BARRED.delete(barred_key(after.tenant, after.customer, s.party_account))
    if decision.parent is not None:
        SETTLEMENTS.set(id_bytes(s.parent_id), decision.parent)
    for bank_request in decision.bank_requests:
        unit.ask(BANK_REQUESTS.name, bank_lane_key(s.bank), ENCODE_REQUEST(bank_request))
    for chain_request in decision.chain_requests:
        unit.ask(CHAIN_REQUESTS.name, chain_lane_key(s.chain, s.token), ENCODE_REQUEST(chain_request))
    return [
        journal_of(unit, transaction_id, decision.event, after.tenant, asset, decision.effective_at, postings)
        for asset, postings in decision.journals
    ]


def journal_of(
    unit: Unit,
    transaction_id: str,
    kind: str,
    tenant: str,
    asset: str,
    effective_at: int,
    postings: tuple[Posting, ...],
) -> Journal:
    """One journal, numbered."""
    entries = [Entry(posting.account, posting.layer, str(posting.amount)) for posting in postings]
    number = unit.next_number("journals")
    return Journal(number, transaction_id, kind, tenant, asset, effective_at, unit.at, entries)


def begin(
    unit: Unit,
    command: Command | None,
    key: bytes,
    transaction_id: str,
    decision: Decision,
    idempotency_key: str = "",
) -> None:
    """Writes and tells that a transaction began; without a command when a bank's news began it."""
    command_id = ""
    if command is not None:
        command_id, idempotency_key = command.id, command.idempotency_key
    journals = write(unit, key, transaction_id, None, decision)
    after = decision.transaction
    send_event_of(unit, transaction_id, decision, command_id)
    settlement = decision.settlement
    unit.line(
        TransactionLine(
            transaction_id,
            command_id,
            after.tenant,
            after.customer,
            after.type,
            decision.event,
            after.status,
            after.state,
            after.asset,
            str(after.amount),
            idempotency_key,
            unit.at,
            after.reason,
            after.from_account,
            after.to_account,
            after.deadline if after.state in EXPIRING else 0,
            journals,
            None if settlement is None else by_bank(settlement, after.deadline),
            decision.available,
        )
    )
    if settlement is not None:
        _freeze(unit, decision)


def change(
    unit: Unit, key: bytes, before: Transaction, decision: Decision, command_id: str = "", also_journal: int = 0
) -> None:
    """Writes and tells that a transaction moved on."""
    transaction_id, after = id_text(key), decision.transaction
    journals = write(unit, key, transaction_id, before, decision)
    send_event_of(unit, transaction_id, decision, command_id)
    settlement = decision.settlement
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
            None if settlement is None else by_bank(settlement, after.deadline),
        )
    )
    if settlement is not None:
        _freeze(unit, decision)


def by_bank(s: Settlement, deadline: int) -> ByBank:
    """What the journal and the events say about the bank's and the chain's part."""
    row = code_of(s.code) if s.code else None
    return ByBank(
        rail=s.rail,
        bank=s.bank,
        mint_to=s.token_account or s.address if s.token else "",
        fee=str(s.fee) if s.fee else "",
        parent_id=s.parent_id,
        approved_by=s.approved_by,
        parked_by=s.parked_by,
        bank_reference=s.bank_reference,
        hash=s.hash,
        code=s.code,
        action=row.action if row is not None else "",
        suspense=str(s.suspense) if s.suspense else "",
        deadline=deadline,
        write_off=str(s.write_off) if s.write_off else "",
        write_off_by=s.write_off_by,
        note=s.note,
    )


def _freeze(unit: Unit, decision: Decision) -> None:
    """Tells that accounts were frozen by a transaction's step; their rows are written with it."""
    assert isinstance(decision, Settled)
    after = decision.transaction
    for account_id in decision.frozen:
        parts = parse_account_id(account_id)
        account = decision.accounts[account_id]
        data = {"account_id": account_id, "asset": parts.asset, "name": parts.name, "status": account.status}
        send_account_event(unit, "account.frozen", after.tenant, after.customer, "", account.seq, data)
        unit.line(
            AccountLine(
                *(after.tenant, after.customer, account_id, parts.asset, "account.frozen", "frozen", unit.at, "", ""),
                parts.name,
            )
        )


def received(unit: Unit, credit: Credit, event: str, answer: Answer, journals: list[Journal]) -> None:
    """Tells the receiver what became of a credit, and answers its sender."""
    is_found = credit.kind == "suspense"
    source = "" if is_found else credit.from_account  # what was nobody's comes from outside
    sender = credit.from_account if is_found else parse_account_id(credit.from_account).customer
    receiver = parse_account_id(credit.to_account).customer
    unit.signal(record_key(credit.tenant, sender), answer)
    if is_found and not answer.accepted:
        return  # an operator has guessed wrong: whoever it was not for hears nothing of it
    status, state = (COMPLETED, "received") if answer.accepted else (FAILED, "refused")
    amount = format_amount(credit.amount, credit.asset)
    data = EventData(amount, credit.asset, source, credit.to_account)
    send_event(unit, event, credit.tenant, receiver, credit.transaction_id, 1, status, state, answer.reason, "", data)
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
            source,
            journals,
        )
    )


def tell_refused(
    unit: Unit, command: Command, refusal: Refused, transaction_id: str = "", account_id: str = ""
) -> None:
    """Tells that a command was refused."""
    tenant, customer, reason = command.tenant, command.customer, refusal.reason
    if isinstance(command, AccountCommand):
        said = {"command_type": command.type, "account_id": account_id, "reason": reason, "detail": refusal.detail}
        send_account_event(unit, "command.refused", tenant, customer, command.id, 0, said)
    else:
        data = EventData(account_id=account_id, command_type=command.type, detail=refusal.detail)
        send_event(unit, "command.refused", tenant, customer, transaction_id, 0, "", "", reason, command.id, data)
    tell(
        unit,
        command,
        "refused",
        reason=refusal.reason,
        detail=refusal.detail,
        transaction_id=transaction_id,
        account_id=account_id,
    )


def tell(unit: Unit, command: Command, kind: Any, **what: Any) -> None:
    """Answers a command that changed nothing."""
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


def send_event_of(unit: Unit, transaction_id: str, decision: Decision, command_id: str) -> None:
    """Sends the event of a transaction's new state."""
    after = decision.transaction
    asset = after.asset
    data = EventData(
        format_amount(after.amount, asset),
        asset,
        after.from_account,
        after.to_account,
        format_amount(after.captured, asset) if after.captured else "",
        format_time(after.deadline) if after.state in EXPIRING and after.deadline else "",
    )
    if decision.settlement is not None:
        part = by_bank(decision.settlement, after.deadline)
        if part.write_off_by:
            # Its customer hears the event too: who wrote what about it is in the journal only.
            part = msgspec.structs.replace(part, write_off_by="", note="")
        data = msgspec.structs.replace(data, by_bank=part)
    send_event(
        unit,
        decision.event,
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


def send_event(
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
    unit.send(EVENTS, record_key(tenant, customer), ENCODE(event))


def send_account_event(
    unit: Unit, type_: str, tenant: str, customer: str, command_id: str, seq: int, data: dict[str, str]
) -> None:
    """Sends what became of an account, or of a command about one; as :func:`send_event`, before its line is added."""
    event = Event(
        f"{unit.partition}-{unit.seq}-{unit.line_number}",
        type_,
        1,
        tenant,
        customer,
        seq,
        format_time(unit.at),
        "",
        command_id,
        {name: value for name, value in data.items() if value},
        unit.partition,
        unit.seq,
    )
    unit.send(ACCOUNT_EVENTS.name, record_key(tenant, customer), ENCODE(event))


def repeated(unit: Unit, command: Command, key: bytes, content: str) -> bool:
    """Answers a command whose idempotency key was used before; False when it is new."""
    first = TRANSACTIONS.get(key)
    if first is not None:
        if first.fingerprint == content:
            tell(
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
            tell(
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
    reused = Refused("idempotency_key_reused", "the key was used for another request")
    # The id that follows from the key may have been given with a receipt; unless a transaction has it, this is its end.
    is_given = first is None and isinstance(command, SubmitCommand | ChildCommand)
    tell_refused(unit, command, reused, id_text(key) if is_given else "")
    return True


def refuse(
    unit: Unit,
    command: ActionCommand | AccountCommand | ChildCommand | PauseCommand | ClockAdvance,
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
    tell_refused(unit, command, refusal, transaction_id, account_id)
