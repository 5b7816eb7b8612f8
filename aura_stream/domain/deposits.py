"""Deposits: money from outside is announced, and available only once someone confirms that it came.

    submit ──▶ awaiting_funds ──confirm──▶ credited
       │             │ │ └─────reject───▶ rejected   (failed)
       │             │ └───────cancel───▶ canceled
       │             └─7 days without───▶ expired    (canceled)
       └──refused by business──▶ refused             (failed)

    confirm: bank trust / customer available. Nothing else moves money.

In live mode there is no such deposit: nobody may confirm by hand that money came (`rail_required`). A rail must be
named there, and the bank confirms.

Invariants
    D1  nothing is available before it is confirmed, and it is credited at most once
    D2  while funds are awaited the account has an open item: a confirmation always lands, on a frozen account too
"""

from __future__ import annotations

from typing import Final

from aura_stream.domain.ledger import (
    Accounts,
    Decision,
    bank_trust,
    begun,
    book,
    expect,
    moved_on,
    needed,
    usable,
    with_open_items,
)
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Action, Submission
from aura_stream.domain.state import AVAILABLE, CANCELED, COMPLETED, FAILED, PROCESSING, Posting, Transaction

AWAIT_MS: Final = 7 * 24 * 60 * 60 * 1000
"""How long the money of a deposit is awaited."""


def check_mode(mode: str) -> None:
    """Raises :class:`Refused` ``rail_required`` where deposits without a bank are not taken."""
    if mode != "sandbox":
        raise Refused("rail_required", "rail manual, which is what leaving it out means, is for the sandbox")


def submit(asked: Submission, accounts: Accounts, at: int) -> Decision:
    """`deposit.submit`: the money is awaited. Raises :class:`Refused`."""
    if asked.refusal is not None:
        raise asked.refusal
    account = usable(accounts(asked.to_account), asked.to_account)
    return Decision(
        "deposit.submitted",
        begun(asked, PROCESSING, "awaiting_funds", at, deadline=at + AWAIT_MS),
        {asked.to_account: with_open_items(account, 1)},
    )


def confirm(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`deposit.confirm`: the money has come. Raises :class:`Refused`."""
    expect(transaction, "awaiting_funds", done=("credited",))
    name, asset, amount = transaction.to_account, transaction.asset, transaction.amount
    postings = (Posting(bank_trust(asset), AVAILABLE, amount), Posting(name, AVAILABLE, -amount))
    # The confirmation knows best when the money came; else the announcement's word counts.
    effective_at = asked.effective_at if asked.effective_at is not None else transaction.effective_at
    return Decision(
        "deposit.credited",
        moved_on(transaction, COMPLETED, "credited"),
        book(postings, {name: with_open_items(needed(accounts(name), name), -1)}),
        postings,
        at if effective_at is None else effective_at,
    )


def reject(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`deposit.reject`: the money will not come. Raises :class:`Refused`."""
    expect(transaction, "awaiting_funds", done=("rejected",))
    return _ended("deposit.rejected", moved_on(transaction, FAILED, "rejected", reason="rejected"), accounts)


def cancel(transaction: Transaction, asked: Action, accounts: Accounts, at: int) -> Decision:
    """`transaction.cancel` of a deposit. Raises :class:`Refused`."""
    expect(transaction, "awaiting_funds", done=("canceled",))
    return _ended("deposit.canceled", moved_on(transaction, CANCELED, "canceled"), accounts)


def deadline(transaction: Transaction, accounts: Accounts, at: int) -> Decision:
    """The money did not come in time."""
    return _ended("deposit.expired", moved_on(transaction, CANCELED, "expired", reason="expired"), accounts)


def _ended(event: str, transaction: Transaction, accounts: Accounts) -> Decision:
    name = transaction.to_account
    return Decision(event, transaction, {name: with_open_items(needed(accounts(name), name), -1)})
