"""Tokens that come back from outside: sent to a customer's deposit address, swept to our custody, credited.

    (final at the address) ─▶ tokens_received ──sweep final──▶ completed
                               │           └─no account─▶ same state (requires_attention: match, once it is open)
                               └─stuck, or a day without an end─▶ same state (requires_attention; a later fact ends it)

    They are a deposit without a bank, in the asset of the token; the customer withdraws them like any others.

    confirmed    custody / token available; gas          (without an account: custody / suspense)
    match        suspense / token available          (of the account, or of another one of its owner)

Invariants
    RD1  nothing is booked before the sweep is final: until then the tokens are outside, as their supply says
    RD2  one sweep is one deposit: its id is derived from the log that made it enough, and each log counts once
"""

from __future__ import annotations

from typing import Any, Final

from aura_stream.domain.commands import Resolve
from aura_stream.domain.ids import parse_account_id
from aura_stream.domain.ledger import with_open_items
from aura_stream.domain.reasons import Refused
from aura_stream.domain.settlement import (
    DAY,
    TOKENS,
    Booking,
    Case,
    Settled,
    attention,
    custody,
    gas_paid,
    is_there,
    journal,
    moved,
    step,
    suspense,
)
from aura_stream.domain.signals import CONFIRMED, STUCK, ChainFact, TokensIn
from aura_stream.domain.state import COMPLETED, PROCESSING, REQUIRES_ATTENTION, Account, Settlement, Transaction

WAIT_MS: Final = DAY
"""How long a sweep may take before a person must look at it."""


def begin(news: TokensIn, account: Account | None, at: int) -> Settled:
    """The first step: nothing is booked yet. The account cannot be closed meanwhile, if there is one."""
    is_usable = account is not None and account.status != "closed"
    s = Settlement(
        *("", "", news.chain, TOKENS[news.token], news.token, news.account if is_usable else "", "", news.address),
        *(0, 0),
        entered_at=at,
        hash=news.hash,
    )
    t = Transaction(
        *("deposit", news.tenant, parse_account_id(news.account).customer, PROCESSING, "tokens_received", news.token),
        *(news.amount, "", news.account, "", at),
        deadline=at + WAIT_MS,
    )
    accounts = {news.account: with_open_items(account, 1)} if account is not None and is_usable else {}
    return Settled("deposit.tokens_received", t, accounts, (), at, settlement=s)


def swept(case: Case, fact: ChainFact) -> Settled | None:
    """What became of the sweep; None when it says nothing new."""
    t, s = case.transaction, case.settlement
    if fact.step != "sweep" or t.state != "tokens_received" or s.booked:
        return None
    if fact.kind == STUCK:
        return attention(case, "chain_stuck")
    if fact.kind != CONFIRMED:
        return None
    gas = gas_paid(s, fact.gas)
    if not s.account:
        journals = journal(s.token, moved(custody(s), suspense(s, s.token), t.amount)) + gas
        return attention(case, "account_inactive", journals=journals, booked=True)
    return _credited(case, journal(s.token, moved(custody(s), s.account, t.amount)) + gas, ends=True)


def matched(case: Case, asked: Resolve) -> Settled:
    """An operator's `match`: the account that was missing is there, or another one of its owner is named.

    Raises :class:`Refused`.
    """
    t, s = case.transaction, case.settlement
    to = asked.account_id or t.to_account
    if parse_account_id(to)[:2] != (t.customer, s.token):
        raise Refused("account_not_found", f"{to} is no {s.token} account of {t.customer}")
    if t.status != REQUIRES_ATTENTION or not s.booked or not is_there(case, to):
        raise Refused("invalid_state_transition", f"{to} cannot be credited")
    return _credited(case, journal(s.token, moved(suspense(s, s.token), to, t.amount)))


def _credited(case: Case, journals: tuple[Booking, ...], **more: Any) -> Settled:
    return step(case, "deposit.completed", COMPLETED, "completed", journals=journals, is_credited=True, **more)
