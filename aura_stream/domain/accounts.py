"""Accounts of customers: one asset each, opened once, closed once.

          open                    close
    (none) ────▶ open ──────────────────────────▶ closed
                 │  ▲                               ▲
          freeze │  │ unfreeze                      │
                 ▼  │            close              │
                 frozen ────────────────────────────┘

Invariants
    A1  a closed account is final: it has no money in any layer and nothing open
    A2  a freeze stops new debits and incoming money; what is under way still lands (returns, releases, confirmations)
"""

from __future__ import annotations

import msgspec

from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import AccountRequest
from aura_stream.domain.state import Account


def open_account(asked: AccountRequest, account: Account | None, at: int) -> tuple[str, Account]:
    """Event and account of `account.open`. Raises :class:`Refused`; an id is used once, even if it was closed."""
    if account is not None:
        raise Refused("account_already_exists", f"{asked.account_id} is {account.status}")
    return "account.opened", Account("open", opened_at=at, seq=1)


def freeze(asked: AccountRequest, account: Account | None, at: int) -> tuple[str, Account]:
    """Event and account of `account.freeze`. Raises :class:`Refused`."""
    account = _standing(asked, account)
    if account.status == "frozen":
        raise Refused("already_processed", f"{asked.account_id} is frozen")
    return "account.frozen", msgspec.structs.replace(account, status="frozen", seq=account.seq + 1)


def unfreeze(asked: AccountRequest, account: Account | None, at: int) -> tuple[str, Account]:
    """Event and account of `account.unfreeze`. Raises :class:`Refused`."""
    account = _standing(asked, account)
    if account.status == "open":
        raise Refused("already_processed", f"{asked.account_id} is not frozen")
    return "account.unfrozen", msgspec.structs.replace(account, status="open", seq=account.seq + 1)


def close(asked: AccountRequest, account: Account | None, at: int) -> tuple[str, Account]:
    """Event and account of `account.close`. Raises :class:`Refused` ``account_in_use`` while money or work is on it."""
    if account is not None and account.status == "closed" and asked.refusal is None:
        raise Refused("already_processed", f"{asked.account_id} is closed")
    account = _standing(asked, account)
    if account.available or account.held or account.pending_in or account.open_items:
        raise Refused(
            "account_in_use", f"{asked.account_id} is not empty, or {account.open_items} transactions need it"
        )
    return "account.closed", msgspec.structs.replace(account, status="closed", closed_at=at, seq=account.seq + 1)


def _standing(asked: AccountRequest, account: Account | None) -> Account:
    if asked.refusal is not None:
        raise asked.refusal
    if account is None:
        raise Refused("account_not_found", f"{asked.account_id} does not exist")
    if account.status == "closed":
        raise Refused("account_inactive", f"{asked.account_id} is closed")
    return account
