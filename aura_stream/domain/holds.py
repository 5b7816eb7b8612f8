"""Holds: money set aside for a target until a time, then captured once, in whole or in part, or given back.

    place ──▶ held ──capture, target of the same customer──▶ captured
      │        │ │
      │        │ └──capture, other customer──▶ capturing ──accepted──▶ captured
      │        │                                │ └──refused──▶ returned          (failed)
      │        │                                └─1 hour─▶ capturing              (requires_attention)
      │        ├──release───▶ released     (canceled)
      │        ├──cancel────▶ canceled     (canceled)
      │        └──deadline──▶ expired      (canceled)
      └──refused by business──▶ refused    (failed)

    place      from available / from held
    capture    from held / target available or clearing; what is not captured: from held / from available
    give back  from held / from available
    returned   clearing / from available

Invariants
    H1  the held layer of an account is the sum of its holds in state held
    H2  a hold is captured at most once, and for no more than was held; the rest is given back in the same journal
    H3  a hold always ends by its deadline; giving back is never refused, on a frozen account neither
"""

from __future__ import annotations

from aura_stream.domain.assets import format_amount, parse_amount
from aura_stream.domain.ids import parse_account_id
from aura_stream.domain.ledger import (
    UNDER_WAY_MS,
    Accounts,
    Broken,
    Decision,
    begun,
    book,
    clearing,
    enough,
    expect,
    moved_on,
    needed,
    usable,
    with_open_items,
)
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.requests import Action, Submission
from aura_stream.domain.signals import Answer, Credit
from aura_stream.domain.state import (
    AVAILABLE,
    CANCELED,
    COMPLETED,
    FAILED,
    HELD,
    PROCESSING,
    REQUIRES_ATTENTION,
    Posting,
    Transaction,
)


def place(asked: Submission, accounts: Accounts, at: int) -> Decision:
    """`hold.place`: sets money aside until `expires_at`. Raises :class:`Refused`."""
    if asked.refusal is not None:
        raise asked.refusal
    if asked.expires_at <= at:
        raise Refused("expires_at_in_past", "expires_at is not after the message's time")
    name, amount = asked.from_account, asked.amount
    source = usable(accounts(name), name)
    if asked.to_customer == asked.customer:
        # Another customer's account cannot be seen from here; it answers when the hold is captured.
        usable(accounts(asked.to_account), asked.to_account)
    enough(source, asked)
    postings = (Posting(name, AVAILABLE, amount), Posting(name, HELD, -amount))
    return Decision(
        "hold.placed",
        begun(asked, PROCESSING, "held", at, deadline=asked.expires_at),
        book(postings, {name: with_open_items(source, 1)}),
        postings,
        at if asked.effective_at is None else asked.effective_at,
    )


def capture(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`hold.capture`: the amount goes to the target, the rest is given back. Raises :class:`Refused`.

    It takes money out of the account, so a frozen one refuses it; the hold stays.
    """
    expect(transaction, "held", done=("capturing", "captured"))
    amount = _captured_amount(transaction, asked)
    source_id, target_id, asset = transaction.from_account, transaction.to_account, transaction.asset
    effective_at = at if asked.effective_at is None else asked.effective_at
    changed = {source_id: usable(accounts(source_id), source_id)}
    own = parse_account_id(target_id).customer == transaction.customer
    if own:
        changed[target_id] = usable(accounts(target_id), target_id)
        # Under way to another customer the item stays open until the answer is there.
        changed[source_id] = with_open_items(changed[source_id], -1)
    postings: tuple[Posting, ...] = (
        Posting(source_id, HELD, transaction.amount),
        Posting(target_id if own else clearing(asset), AVAILABLE, -amount),
    )
    if rest := transaction.amount - amount:
        postings += (Posting(source_id, AVAILABLE, -rest),)
    changed = book(postings, changed)
    if own:
        after = moved_on(transaction, COMPLETED, "captured", captured=amount)
        return Decision("hold.captured", after, changed, postings, effective_at)
    after = moved_on(transaction, PROCESSING, "capturing", captured=amount, deadline=at + UNDER_WAY_MS)
    credit = Credit(asked.id_text, transaction.tenant, source_id, target_id, asset, amount, effective_at, "hold")
    return Decision("hold.capturing", after, changed, postings, effective_at, credit)


def _captured_amount(transaction: Transaction, asked: Action) -> int:
    if asked.amount is None:
        return transaction.amount
    try:
        amount = parse_amount(asked.amount, transaction.asset)
    except Invalid as error:
        # Only the hold knows its asset, so this is found out too late for a dead letter.
        raise Refused(error.reason, error.detail) from None
    if amount <= 0:
        raise Refused("negative_amount", f"{asked.amount} is not above zero")
    if amount > transaction.amount:
        raise Refused("amount_exceeds_limit", f"{format_amount(transaction.amount, transaction.asset)} is held")
    return amount


def release(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`hold.release`: the money is given back. Raises :class:`Refused`."""
    expect(transaction, "held", done=("released",))
    return _given_back("hold.released", moved_on(transaction, CANCELED, "released"), accounts, at)


def cancel(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`transaction.cancel` of a hold: the money is given back. Raises :class:`Refused`."""
    expect(transaction, "held", done=("canceled",))
    return _given_back("hold.canceled", moved_on(transaction, CANCELED, "canceled"), accounts, at)


def deadline(transaction: Transaction, accounts: Accounts, at: int) -> Decision:
    """The hold has expired; or, under way to another customer, its answer is late."""
    if transaction.state == "held":
        after = moved_on(transaction, CANCELED, "expired", reason="expired")
        return _given_back("hold.expired", after, accounts, at)
    after = moved_on(transaction, REQUIRES_ATTENTION, transaction.state, captured=transaction.captured)
    return Decision("hold.requires_attention", after)


def _given_back(event: str, transaction: Transaction, accounts: Accounts, at: int) -> Decision:
    name, amount = transaction.from_account, transaction.amount
    postings = (Posting(name, HELD, amount), Posting(name, AVAILABLE, -amount))
    source = with_open_items(needed(accounts(name), name), -1)
    return Decision(event, transaction, book(postings, {name: source}), postings, at)


def answered(transaction: Transaction, answer: Answer, accounts: Accounts, at: int) -> Decision:
    """The receiver's answer ends the capture; it also ends one that waited for a person."""
    if transaction.state != "capturing":
        raise Broken(f"an answer to a hold that is {transaction.state}")
    name, amount = transaction.from_account, transaction.captured
    source = with_open_items(needed(accounts(name), name), -1)
    if answer.accepted:
        return Decision("hold.captured", moved_on(transaction, COMPLETED, "captured", captured=amount), {name: source})
    postings = (Posting(clearing(transaction.asset), AVAILABLE, amount), Posting(name, AVAILABLE, -amount))
    after = moved_on(transaction, FAILED, "returned", reason=answer.reason)
    return Decision("hold.returned", after, book(postings, {name: source}), postings, at)
