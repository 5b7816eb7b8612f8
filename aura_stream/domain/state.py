"""What the tables hold: accounts with their balances, transactions, idempotency keys. Immutable values.

They are kept as JSON arrays (msgspec, `array_like`): compact, readable in the changelog, exact for integers of any
size. Fields are only ever appended, with a default, so that older records stay readable.
"""

from __future__ import annotations

import msgspec

# Layers of an account. posted = available + held; pending_in is announced and not yet here.
AVAILABLE, HELD, PENDING_IN = "available", "held", "pending_in"

# Coarse status, the same for all types of transactions (the fine one is `Transaction.state`).
PROCESSING, COMPLETED, FAILED, CANCELED, REQUIRES_ATTENTION, REQUIRES_APPROVAL, RETURNED = (
    "processing",
    "completed",
    "failed",
    "canceled",
    "requires_attention",
    "requires_approval",
    "returned",
)
TERMINAL = frozenset({COMPLETED, FAILED, CANCELED, RETURNED})


def may_follow(before: str, after: str) -> bool:
    """Whether a status may come after another: one that ends something stays, but a bank may take back what is done."""
    return before not in TERMINAL or after == before or (before == COMPLETED and after == RETURNED)


class Account(msgspec.Struct, frozen=True, gc=False, array_like=True):
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


class Transaction(msgspec.Struct, frozen=True, gc=False, array_like=True):
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


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False, array_like=True):
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


class Posting(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One signed leg of a journal: debit +, credit -, minor units of the journal's asset."""

    account: str
    layer: str
    amount: int


class Settlement(msgspec.Struct, frozen=True, array_like=True):
    """What a deposit by bank or a withdrawal knows beside its transaction; key in its table: the same 16 bytes.

    Amounts are minor units of `fiat`, where nothing else is said.
    """

    rail: str  # ach | sepa | sepa_instant; "" = no bank has a part in it (a re-mint)
    bank: str
    chain: str
    fiat: str
    token: str  # "" = nothing is minted or burnt
    account: str  # the customer's account in fiat
    token_account: str  # the customer's account in the token; "" = minted to `address`, or no token
    address: str
    amount: int
    fee: int
    party_name: str = ""
    party_account: str = ""
    requested_by: str = ""
    approved_by: str = ""
    parent_id: str = ""
    child_id: str = ""  # of the transaction that tries again what came back
    tries: int = 0  # how many came before this one
    entered_at: int = 0  # when the present state began, ms since 1970; pauses are counted from here
    parked_by: str = ""  # id of the pause
    left_ms: int = 0  # what was left of the deadline when it parked
    is_asked: bool = False  # whether the present state's request has gone to its lane
    booked: bool = False  # D1 or W3 is booked; of swept tokens: they are in suspense
    bank_reference: str = ""
    settled_by: str = ""  # id of the fact that settled it
    hash: str = ""  # of the chain's transaction
    round: int = 1  # of the mint or burn; each has a reference of its own
    code: str = ""  # of the reject or return
    returned_by: str = ""  # id of the fact that returned it
    clawed: int = 0  # minor units of the token that are being burnt for a return
    suspense: int = 0  # money that came (of a withdrawal: left) and could not be matched; below zero the other way
    back: int = 0  # of a payout that came back: what may be paid out or minted once more; of a lost mint: tokens spent
    is_credited: bool = False  # D4 is booked
    is_unconfirmed: bool = False  # the mint's block was lost after D4
    is_dead: bool = False  # the mint or burn can definitely not land any more
    write_off: int = 0  # of `suspense`, what a person has asked to write off and nobody has approved yet
    write_off_by: str = ""  # who asked for it last
    note: str = ""  # why


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """A transaction that waits for a pause to be lifted; key in its table: the pause's 16 bytes and its own."""

    at: int  # since when, ms since 1970


class Barred(msgspec.Struct, frozen=True, array_like=True):
    """A bank account that is not to be used again by the customer, as a bank has said."""

    code: str  # a row of bank_codes
    transaction_id: str  # of the payment that the bank said it of
    at: int  # ms since 1970


class Fee(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a fee schedule: a fixed part in minor units and a part of the amount."""

    fixed: int = 0
    basis_points: int = 0


class DayLimit(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many payments, and how much in minor units, a customer may send of an asset per day of UTC; 0 = any."""

    count: int = 0
    amount: int = 0


class SettlementRules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings of deposits by bank and withdrawals. Amounts are minor units."""

    banks: dict[str, str] = msgspec.field(
        default_factory=lambda: {"ach": "bank-a", "sepa": "bank-b", "sepa_instant": "bank-b"}
    )  # by rail
    chain: str = "local"
    fees: dict[str, dict[str, Fee]] = {}  # by tenant and `<type>:<rail>`, as in `deposit:ach`
    approval_above: dict[str, dict[str, int]] = {}  # by tenant and fiat
    mint_hold_days: dict[str, int] = {}  # by tenant: banking days that a mint waits after a debit; live 2, sandbox 0
    review: tuple[str, ...] = ("Review",)  # names that a second person must look at
    denied: tuple[str, ...] = ("Denied",)  # names that are refused
    checker_lifts: bool = False  # whether lifting a pause needs another person than setting it
    day_limits: dict[
        str, dict[str, DayLimit]
    ] = {}  # by tenant and asset: transfers, holds and withdrawals of a customer


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings that decisions depend on. They are recorded in the journal, so that a rebuild decides the same."""

    tenants: tuple[str, ...]
    mode: str  # sandbox | live
    settlement: SettlementRules = SettlementRules()
