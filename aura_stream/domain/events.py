"""What happened, for anyone who wants to know: the messages of `aura.transaction-events.v1`.

Amounts are decimal strings in major units. The messages of one (transaction, customer) are numbered by `seq` from 1.
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


class PauseData(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pause, as far as an event tells it."""

    id: str
    by: str
    note: str = ""
    scope: dict[str, str] = {}


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


class TransactionEvent(msgspec.Struct, frozen=True):
    """One event. `id` is unique; `partition` and `journal_seq` say which record of the journal holds it.

    `transaction_id` is empty and `seq` 0 where the event is about an account or a refused command.
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


ENCODE = msgspec.json.Encoder().encode
DECODE = msgspec.json.Decoder(TransactionEvent).decode
