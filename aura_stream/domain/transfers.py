"""Transfers: from an account of the customer to any account of the tenant.

    submit ──same customer──▶ completed
       │
       ├──other customer──▶ sent ──accepted──▶ completed
       │                     │ └───refused───▶ returned            (failed)
       │                     └─1 hour without an answer─▶ sent     (requires_attention; a later answer still ends it)
       └──refused by business──▶ refused                           (failed)

    same customer   from available / to available
    T1 (sender)     from available / clearing, and a credit to the receiver's partition
    T2 (receiver)   clearing / to available, or a refusal
    T3 (sender)     on a refusal: clearing / from available

Invariants
    T1  the sum of clearing is the money under way
    T2  money under way is never sent back by a deadline, only by the receiver's refusal
    T3  while it is under way the source account has an open item: what comes back always lands
"""

from __future__ import annotations

from aura_stream.domain.ledger import (
    UNDER_WAY_MS,
    Accounts,
    Broken,
    Decision,
    begun,
    book,
    clearing,
    enough,
    moved_on,
    needed,
    usable,
    with_open_items,
)
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Action, Submission
from aura_stream.domain.signals import Answer, Credit
from aura_stream.domain.state import (
    AVAILABLE,
    COMPLETED,
    FAILED,
    PROCESSING,
    REQUIRES_ATTENTION,
    Account,
    Posting,
    Transaction,
)


def submit(asked: Submission, accounts: Accounts, at: int) -> Decision:
    """`transfer.submit`: completed at once, or sent to the other customer. Raises :class:`Refused`."""
    if asked.refusal is not None:
        raise asked.refusal
    source_id, target_id, amount = asked.from_account, asked.to_account, asked.amount
    effective_at = at if asked.effective_at is None else asked.effective_at
    source = usable(accounts(source_id), source_id)
    if asked.to_customer == asked.customer:
        target = usable(accounts(target_id), target_id)
        enough(source, asked)
        postings = (Posting(source_id, AVAILABLE, amount), Posting(target_id, AVAILABLE, -amount))
        return Decision(
            "transfer.completed",
            begun(asked, COMPLETED, "completed", at),
            book(postings, {source_id: source, target_id: target}),
            postings,
            effective_at,
        )
    enough(source, asked)
    postings = (Posting(source_id, AVAILABLE, amount), Posting(clearing(asked.asset), AVAILABLE, -amount))
    return Decision(
        "transfer.sent",
        begun(asked, PROCESSING, "sent", at, deadline=at + UNDER_WAY_MS),
        book(postings, {source_id: with_open_items(source, 1)}),
        postings,
        effective_at,
        Credit(asked.transaction_id, asked.tenant, source_id, target_id, asked.asset, amount, effective_at, "transfer"),
    )


def cancel(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`transaction.cancel` of a transfer is always refused: it was completed at once, or its money is under way."""
    raise Refused("invalid_state_transition", f"the transfer is {transaction.state}")


def receive(credit: Credit, account: Account | None) -> tuple[Account, tuple[Posting, ...]]:
    """The receiver's half: the account after it, and the journal. Raises :class:`Refused`: the money goes back."""
    postings = (
        Posting(clearing(credit.asset), AVAILABLE, credit.amount),
        Posting(credit.to_account, AVAILABLE, -credit.amount),
    )
    accounts = book(postings, {credit.to_account: usable(account, credit.to_account)})
    return accounts[credit.to_account], postings


def answered(transaction: Transaction, answer: Answer, accounts: Accounts, at: int) -> Decision:
    """The receiver's answer ends the transfer; it also ends one that waited for a person."""
    if transaction.state != "sent":
        raise Broken(f"an answer to a transfer that is {transaction.state}")
    name = transaction.from_account
    source = with_open_items(needed(accounts(name), name), -1)
    if answer.accepted:
        return Decision("transfer.completed", moved_on(transaction, COMPLETED, "completed"), {name: source})
    postings = (
        Posting(clearing(transaction.asset), AVAILABLE, transaction.amount),
        Posting(name, AVAILABLE, -transaction.amount),
    )
    return Decision(
        "transfer.returned",
        moved_on(transaction, FAILED, "returned", reason=answer.reason),
        book(postings, {name: source}),
        postings,
        at,
    )


def deadline(transaction: Transaction, accounts: Accounts, at: int) -> Decision:
    """The answer is late: a person looks at it; the money stays under way."""
    return Decision("transfer.requires_attention", moved_on(transaction, REQUIRES_ATTENTION, transaction.state))
