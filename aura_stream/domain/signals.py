"""What a customer's partition is told: money is coming, whether it was taken, what banks and the chain did, pauses.

Signals are internal: only the ledger and the lanes write them, each is handled exactly once and in order, and the
engine carries the time. Amounts are minor units. Facts of banks and chains are checked by the lane that sends them
(form, signature, duplicates); what they mean is decided by the machines.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aura_stream.domain.pauses import Pause

# What a bank did with an instruction or an expected payment (`BankFact.kind`).
STARTED: Final = "started"  # the attempt is stored, the call may be out
ACCEPTED: Final = "accepted"  # the bank has taken it; nothing has settled
REJECTED: Final = "rejected"  # definitely not processed
UNKNOWN: Final = "unknown"  # no definite answer; the lane inquires with the same reference
UNDECIDED: Final = "undecided"  # the lane's inquiries have come to nothing: a person is needed
SETTLED: Final = "settled"  # the money has moved
RETURNED: Final = "returned"  # the money went back after it had settled (or instead)
NOTICE: Final = "notice"  # a notification of change: the payment stands
BANK_KINDS: Final = (STARTED, ACCEPTED, REJECTED, UNKNOWN, UNDECIDED, SETTLED, RETURNED, NOTICE)

# What became of a mint or burn (`ChainFact.kind`).
BROADCAST: Final = "broadcast"  # nonce and signed bytes are stored; from here on it may land
MINED: Final = "mined"  # in a block, not yet deep enough
CONFIRMED: Final = "confirmed"  # deep enough for its amount (again, after `reorged`)
REORGED: Final = "reorged"  # its block was lost; the same bytes go out again
STUCK: Final = "stuck"  # fees were raised as often as allowed
WITHDRAWN: Final = "withdrawn"  # never signed and never will be
FAILED_FOR_GOOD: Final = "failed"  # its nonce is used by another transaction at finality, or it reverted for good
LOST: Final = "lost"  # had been confirmed, was reorganised away and can never land again
CHAIN_KINDS: Final = (BROADCAST, MINED, CONFIRMED, REORGED, STUCK, WITHDRAWN, FAILED_FOR_GOOD, LOST)


class Credit(msgspec.Struct, frozen=True, array_like=True, tag="credit"):
    """Money of `from_account` is in clearing and meant for `to_account`; goes to the receiver's partition."""

    transaction_id: str
    tenant: str
    from_account: str
    to_account: str
    asset: str
    amount: int
    effective_at: int  # ms since 1970
    kind: str  # transfer | hold | suspense: what began it


class Matched(Credit, frozen=True, array_like=True, tag="matched"):
    """What a bank took in for nobody, and an operator has found whose it is. Its owner was `~bank:<bank>`.

    A signal of its own: what is recorded of a transfer is as it was before there were such.
    """

    deposit_id: str = ""  # the receiver's deposit that waits for it, if there is one


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """What became of a credit; goes back to the sender's partition. `reason` says why it was not accepted."""

    transaction_id: str
    tenant: str
    accepted: bool
    reason: str = ""
    journal_id: int = 0  # of the receiver's journal; 0 when refused


class BankFact(msgspec.Struct, frozen=True, array_like=True, tag="bank"):
    """What a bank did; from the bank's lane to the customer's partition.

    `amount` and `asset` are what the bank says that moved, set where money moved (settled, returned). `fact_id` is the
    bank's own id of this news; the same fact comes once.
    """

    transaction_id: str
    tenant: str
    step: str  # debit | credit (a payment that was expected) | payout
    kind: str  # one of BANK_KINDS
    reference: str  # ours, of the instruction or of the expected payment
    amount: int = 0
    asset: str = ""
    code: str = ""  # reason of a reject, return or notice: a row of bank_codes
    bank_reference: str = ""
    fact_id: str = ""
    effective_at: int = 0  # ms since 1970; 0 = now


class ChainFact(msgspec.Struct, frozen=True, array_like=True, tag="chain"):
    """What became of a mint, burn or sweep; from the chain's lane to the customer's partition."""

    transaction_id: str
    tenant: str
    step: str  # mint | burn | sweep
    kind: str  # one of CHAIN_KINDS
    reference: str  # ours, the contract's one-time reference
    hash: str = ""  # of the chain's transaction
    gas: int = 0  # wei paid, in `confirmed`


class Unmatched(msgspec.Struct, frozen=True, array_like=True, tag="unmatched"):
    """Money that a bank took in and that no reference explains; from its lane to the partition of the lane's key."""

    tenant: str
    bank: str
    asset: str
    amount: int
    fact_id: str
    text: str = ""  # what the payer wrote, printable
    effective_at: int = 0


class NativeMoved(msgspec.Struct, frozen=True, array_like=True, tag="native"):
    """Gas that no fact has told of, or money for gas; from the chain's lane to the partition of the lane's key."""

    tenant: str
    chain: str
    token: str  # of the lane
    step: str  # received, or what was paid for: pause | deploy | cancel | mint | burn | sweep
    key: str  # the same money is told under the same key
    amount: int  # wei; below zero: less was paid than had been told
    hash: str = ""  # of the chain's transaction


class TokensIn(msgspec.Struct, frozen=True, array_like=True, tag="tokens_in"):
    """Tokens have come from outside to an account's deposit address, in a final block; from the chain's lane to the
    customer's partition. They are the customer's once a `ChainFact` of the step `sweep` says `confirmed`."""

    transaction_id: str  # derived from the log: the same tokens come once
    tenant: str
    account: str
    chain: str
    token: str
    amount: int
    address: str
    hash: str  # of the sender's transaction


class Paused(msgspec.Struct, frozen=True, array_like=True, tag="paused"):
    """A pause was set or lifted; from the partition of its command to every partition, itself included."""

    pause: Pause
    home: int  # the partition that waits for `Applied`


class Applied(msgspec.Struct, frozen=True, array_like=True, tag="applied"):
    """A partition or lane has applied a pause, or its end."""

    pause_id: str
    lifted: bool


class TenantOpened(msgspec.Struct, frozen=True, array_like=True, tag="tenant_opened"):
    """There is a new tenant; from the partition of its command to every partition, itself included."""

    tenant: str
    home: int  # the partition that waits for `TenantKnown`


class TenantKnown(msgspec.Struct, frozen=True, array_like=True, tag="tenant_known"):
    """A partition takes commands of the tenant."""

    tenant: str


class ClockMoved(msgspec.Struct, frozen=True, array_like=True, tag="clock_moved"):
    """The time is `moved_ms` ahead of the records'; from the partition of the command to every one, itself included."""

    moved_ms: int
    home: int  # the partition that waits for `ClockTaken`


class ClockTaken(msgspec.Struct, frozen=True, array_like=True, tag="clock_taken"):
    """The time of a partition or lane is so far ahead, or further."""

    moved_ms: int


Signal = (
    Credit
    | Matched
    | Answer
    | BankFact
    | ChainFact
    | Unmatched
    | TokensIn
    | NativeMoved
    | Paused
    | Applied
    | TenantOpened
    | TenantKnown
    | ClockMoved
    | ClockTaken
)
