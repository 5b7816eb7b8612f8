"""The book: how postings change accounts, and what every machine hands back.

A customer account has three layers (available, held, pending_in); a journal moves money between layers and accounts.
House accounts begin with `@`, are split by partition and are never read: no decision may depend on a slice of one.

Invariants
    I1  the postings of a journal sum to zero (debit +, credit -; a customer's account is credit-normal)
    I2  no layer of a customer's account falls below zero
    I3  layers change by postings only, and `entries` counts them
    I4  `open_items` counts the transactions that may still send money back to the account or must still leave it;
        an account with one cannot be closed, so a return, a release or a confirmation always finds it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from aura_stream.domain.assets import format_amount
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.signals import Credit
from aura_stream.domain.state import AVAILABLE, FAILED, HELD, Account, Posting, Settlement, Transaction

Accounts = Callable[[str], Account | None]
"""The present accounts of the customer's tenant and partition, by account id."""

UNDER_WAY_MS: Final = 60 * 60 * 1000
"""How long money may be under way to another customer before a person looks at it. It is never sent back for that."""


class Broken(Exception):
    """A decision would break an invariant of the book: an error in a machine, never the sender's."""


class Decision(msgspec.Struct, frozen=True):
    """What follows from one command, answer or deadline.

    `transaction` is its new state and carries the new deadline; `accounts` are those that changed; `postings` make one
    journal, effective at `effective_at` (ms); `credit` goes to the receiver's partition. `settlement` is set where a
    bank or the chain has a part in it (see `settlement.py`). `available` is what there was, where it was too little.
    """

    event: str
    transaction: Transaction
    accounts: dict[str, Account] = {}
    postings: tuple[Posting, ...] = ()
    effective_at: int = 0
    credit: Credit | None = None
    settlement: Settlement | None = None
    available: str = ""


def clearing(asset: str) -> str:
    """Where money is while it is under way between two customers."""
    return f"@clearing:{asset}"


def bank_trust(asset: str) -> str:
    """The money that a bank keeps for our customers."""
    return f"@bank:sandbox:trust:{asset}"


def book(postings: tuple[Posting, ...], accounts: dict[str, Account]) -> dict[str, Account]:
    """`accounts` (by id) after the postings. Raises :class:`Broken` rather than break I1 or I2."""
    total = 0
    for posting in postings:
        name, amount = posting.account, posting.amount
        total += amount
        if name[0] == "@":
            continue
        account = accounts[name]
        available, held, pending_in = account.available, account.held, account.pending_in
        if posting.layer == AVAILABLE:
            left = available = available - amount
        elif posting.layer == HELD:
            left = held = held - amount
        else:
            left = pending_in = pending_in - amount
        if left < 0:
            raise Broken(f"{name} {posting.layer} would fall to {left}")
        accounts[name] = Account(
            account.status,
            available,
            held,
            pending_in,
            account.open_items,
            account.entries + 1,
            account.opened_at,
            account.closed_at,
            account.seq,
        )
    if total != 0:
        raise Broken(f"a journal is out of balance by {total}")
    return accounts


def with_open_items(account: Account, more: int) -> Account:
    """The account with `more` (or fewer) transactions that need it."""
    count = account.open_items + more
    if count < 0:
        raise Broken("an account has fewer than no open items")
    return msgspec.structs.replace(account, open_items=count)


def usable(account: Account | None, account_id: str) -> Account:
    """The account, if new money may leave or reach it; else :class:`Refused`."""
    if account is None:
        raise Refused("account_not_found", f"{account_id} does not exist")
    if account.status != "open":
        if account.status == "closed":
            raise Refused("account_inactive", f"{account_id} is closed")
        raise Refused("account_frozen", f"{account_id} is frozen")
    return account


def needed(account: Account | None, account_id: str) -> Account:
    """The account of an open item, frozen or not: it cannot be missing or closed (I4)."""
    if account is None or account.status == "closed":
        raise Broken(f"{account_id} is gone although a transaction is open on it")
    return account


def enough(account: Account, asked: Submission) -> None:
    """Raises :class:`Refused` ``insufficient_funds`` unless the amount is available."""
    if account.available < asked.amount:
        available = format_amount(account.available, asked.asset)
        detail = f"{asked.from_account} has {available} {asked.asset} available"
        raise Refused("insufficient_funds", detail, available=available)


def begun(asked: Submission, status: str, state: str, at: int, *, deadline: int = 0, reason: str = "") -> Transaction:
    """The first state of what was submitted."""
    return Transaction(
        asked.type,
        asked.tenant,
        asked.customer,
        status,
        state,
        asked.asset,
        asked.amount,
        asked.from_account,
        asked.to_account,
        asked.fingerprint,
        at,
        1,
        reason,
        deadline,
        0,
        asked.effective_at,
    )


def refused(asked: Submission, reason: str, at: int, available: str = "") -> Decision:
    """A submission that business refuses: a transaction all the same, failed, without a journal."""
    after = begun(asked, FAILED, "refused", at, reason=reason)
    return Decision(f"{asked.type}.failed", after, available=available)


def moved_on(
    transaction: Transaction, status: str, state: str, *, deadline: int = 0, reason: str = "", captured: int = 0
) -> Transaction:
    """The next state of a transaction; its sequence counts one more event."""
    return msgspec.structs.replace(
        transaction,
        status=status,
        state=state,
        seq=transaction.seq + 1,
        deadline=deadline,
        reason=reason,
        captured=captured,
    )


def owned(transaction: Transaction | None, tenant: str, customer: str) -> Transaction:
    """The transaction, if it is the customer's.

    Another customer's transaction is refused exactly as a missing one: nobody learns what others have.
    """
    if transaction is None or transaction.customer != customer or transaction.tenant != tenant:
        raise Refused("transaction_not_found")
    return transaction


def expect(transaction: Transaction, state: str, *, done: tuple[str, ...] = ()) -> None:
    """Raises :class:`Refused` unless the transaction is in `state`; in one of `done` the action was done before."""
    if transaction.state == state:
        return
    if transaction.state in done:
        raise Refused("already_processed", f"the {transaction.type} is {transaction.state}")
    raise Refused("invalid_state_transition", f"the {transaction.type} is {transaction.state}")
