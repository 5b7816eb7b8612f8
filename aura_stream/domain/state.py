"""What the tables hold: accounts with their balances, transactions, idempotency keys. Immutable values.

They are kept as JSON arrays (msgspec, `array_like`): compact, readable in the changelog, exact for integers of any
size. Fields are only ever appended, with a default, so that older records stay readable.
"""

from __future__ import annotations

import msgspec

# Layers of an account. posted = available + held; pending_in is announced and not yet here.
AVAILABLE, HELD, PENDING_IN = "available", "held", "pending_in"

# Coarse status, the same for all types of transactions (the fine one is `Transaction.state`).
PROCESSING, COMPLETED, FAILED, CANCELED, REQUIRES_ATTENTION = (
    "processing",
    "completed",
    "failed",
    "canceled",
    "requires_attention",
)
TERMINAL = frozenset({COMPLETED, FAILED, CANCELED})


class Account(msgspec.Struct, frozen=True, array_like=True):
    """One customer account; key in its table: `<tenant>/<account id>`.

    Amounts are minor units, money of the customer positive.

    `open_items` counts transactions that still need the account (deposits awaited, holds, transfers under way);
    `entries` counts all entries ever posted to it, so that table and ledger can be compared row by row.
    """

    status: str  # open | frozen | closed
    available: int = 0
    held: int = 0
    pending_in: int = 0
    open_items: int = 0
    entries: int = 0
    opened_at: int = 0  # ms since 1970
    closed_at: int = 0
    seq: int = 0  # its account.* events so far


class Transaction(msgspec.Struct, frozen=True, array_like=True):
    """One transaction; key in its table: the 16 bytes of its id. `seq` counts its events, 1 for the first."""

    type: str  # deposit | transfer | hold
    tenant: str
    customer: str
    status: str
    state: str
    asset: str
    amount: int
    from_account: str  # "" for a deposit: the money comes from outside
    to_account: str
    fingerprint: str
    created_at: int  # ms since 1970
    seq: int = 1
    reason: str = ""
    deadline: int = 0  # ms since 1970; 0 = none
    captured: int = 0  # minor units of a hold that went to its target
    effective_at: int | None = None  # ms since 1970, where the sender gave it


class IdempotencyKey(msgspec.Struct, frozen=True, array_like=True):
    """The answer given to a command that is not itself a transaction; key in its table: the 16 bytes of the derived id.

    `expires_at` is 0 for what moves money (never) and set for what does not (24 h).
    """

    fingerprint: str
    outcome: str  # done | refused
    reason: str = ""
    transaction_id: str = ""
    account_id: str = ""
    status: str = ""
    state: str = ""
    expires_at: int = 0
    detail: str = ""
    seq: int = 0  # of the transaction, after the command


class Posting(msgspec.Struct, frozen=True, array_like=True):
    """One signed leg of a journal: debit +, credit -, minor units of the journal's asset."""

    account: str
    layer: str
    amount: int


class Rules(msgspec.Struct, frozen=True):
    """Settings that decisions depend on. They are recorded in the journal, so that a rebuild decides the same."""

    tenants: tuple[str, ...]
    mode: str  # sandbox | live
