"""What happened, for anyone who wants to know: the messages of the topics of events.

Amounts are decimal strings in major units. The messages of one (transaction, customer), of one account and of one user
are numbered by `seq` from 1.
"""

from __future__ import annotations

import msgspec


class ByBank(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of banks and chain in a transaction, as it stands after a step. Only what applies is present."""

    rail: str = ""
    bank: str = ""
    mint_to: str = ""  # account or address
    fee: str = ""  # minor units
    parent_id: str = ""  # the transaction whose money this one uses again
    approved_by: str = ""
    parked_by: str = ""  # id of the pause
    bank_reference: str = ""  # the bank's
    hash: str = ""  # of the chain's transaction
    code: str = ""  # of a reject, return or notice: a row of bank_codes
    action: str = ""  # what that row asks for
    suspense: str = ""  # minor units that do not fit and wait for a person
    deadline: int = 0  # ms since 1970: when the present state ends by itself, or a person is called; 0 = never
    write_off: str = ""  # of that, minor units that wait for a second person to write them off
    write_off_by: str = ""  # who asked for it
    note: str = ""  # why


class PauseData(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pause, as far as an event tells it."""

    id: str
    by: str
    note: str = ""
    scope: dict[str, str] = {}


class ClockData(msgspec.Struct, frozen=True):
    """How far the clock of the sandbox is moved."""

    moved_ms: int  # ahead of the machines' time, in all
    by: str  # the operator


class EventData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an event is about; only what applies is present."""

    amount: str = ""
    asset: str = ""
    from_account_id: str = ""
    to_account_id: str = ""
    captured: str = ""
    expires_at: str = ""
    account_id: str = ""
    name: str = ""
    command_type: str = ""
    detail: str = ""
    by_bank: ByBank | None = None
    pause: PauseData | None = None
    clock: ClockData | None = None


class TransactionEvent(msgspec.Struct, frozen=True):
    """One event of `aura.transaction-events.v1`. `partition` and `journal_seq` say which journal record holds it.

    `seq` is 0 where the event is about a refused command.
    """

    id: str
    type: str
    version: int
    tenant: str
    customer: str
    transaction_id: str
    seq: int
    status: str
    state: str
    reason: str
    command_id: str
    occurred_at: str
    partition: int
    journal_seq: int
    data: EventData


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event of `aura.account-events.v1` or `aura.auth-events.v1`.

    `seq` counts the events of one account, user, API key or tenant; it is 0 for a refused command. `causation_id` is
    the command that led to it, `request_id` the request that named itself, each empty where there is none. Where the
    ledger decided it, `partition` and `journal_seq` say which record of the journal holds it.
    """

    id: str
    type: str
    version: int
    tenant_id: str
    customer_id: str
    seq: int
    occurred_at: str
    request_id: str
    causation_id: str
    data: dict[str, str]
    partition: int = -1
    journal_seq: int = 0


ENCODE = msgspec.json.Encoder().encode
DECODE = msgspec.json.Decoder(TransactionEvent).decode
