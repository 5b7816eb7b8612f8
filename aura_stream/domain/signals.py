"""What one customer's partition tells another's: money is coming, and whether it was taken.

Signals are internal: only the ledger writes them, each is handled exactly once and in order, and the engine carries
the time. Amounts are minor units.
"""

from __future__ import annotations

import msgspec


class Credit(msgspec.Struct, frozen=True, array_like=True, tag="credit"):
    """Money of `from_account` is in clearing and meant for `to_account`; goes to the receiver's partition."""

    transaction_id: str
    tenant: str
    from_account: str
    to_account: str
    asset: str
    amount: int
    effective_at: int  # ms since 1970
    kind: str  # transfer | hold: what began it


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """What became of a credit; goes back to the sender's partition. `reason` says why it was not accepted."""

    transaction_id: str
    tenant: str
    accepted: bool
    reason: str = ""
    journal_id: int = 0  # of the receiver's journal; 0 when refused


Signal = Credit | Answer
