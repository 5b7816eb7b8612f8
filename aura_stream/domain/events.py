"""What happened, for anyone who wants to know: the messages of `aura.transaction-events.v1`.

Amounts are decimal strings in major units. The messages of one (transaction, customer) are numbered by `seq` from 1.
"""

from __future__ import annotations

import msgspec


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
