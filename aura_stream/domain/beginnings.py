"""The first step of a deposit by bank or a withdrawal, and of one that uses again what came back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from aura_stream.domain import bank_deposits, withdrawals
from aura_stream.domain.ids import AccountId, parse_account_id
from aura_stream.domain.ledger import Accounts, begun
from aura_stream.domain.pauses import Pause
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.requests import Submission, Through
from aura_stream.domain.settlement import RAILS, TOKENS, Case, Settled, cents
from aura_stream.domain.state import PROCESSING, Rules, Settlement

_BEGIN: Final = {"deposit": bank_deposits.begin, "withdrawal": withdrawals.begin}
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")


def begin(
    asked: Submission,
    accounts: Accounts,
    rules: Rules,
    pauses: tuple[Pause, ...],
    at: int,
    barred: Callable[[str], str],
) -> Settled:
    """The first step of what was submitted. Raises :class:`Refused`."""
    if asked.refusal is not None:
        raise asked.refusal
    through = asked.through
    assert through is not None
    s = _deposit(asked, through, rules) if asked.type == "deposit" else _withdrawal(asked, through, rules)
    return _BEGIN[asked.type](asked, _case(asked, s, accounts, rules, pauses, at, barred))


def begin_again(asked: Submission, s: Settlement, parent: Case, accounts: Accounts, rules: Rules, at: int) -> Settled:
    """The first step of a transaction that uses again what came back of `parent`, which remembers it."""
    first = _BEGIN[asked.type](asked, _case(asked, s, accounts, rules, parent.pauses, at, parent.barred))
    remembered = msgspec.structs.replace(parent.settlement, child_id=asked.transaction_id)
    return msgspec.structs.replace(first, parent=remembered)


def retry_deposit(parent: Case, transaction_id: str, fingerprint: str) -> tuple[Submission, Settlement]:
    """`deposit.retry`: the same debit again, after it came back for want of money. Raises :class:`Refused`."""
    s = bank_deposits.retried(parent)
    return _submission(parent, "deposit", transaction_id, fingerprint, "", s.account, s.fiat, s.amount), s


def retry_withdrawal(
    parent: Case, transaction_id: str, fingerprint: str, rail: str, name: str, account: str, rules: Rules
) -> tuple[Submission, Settlement]:
    """`withdrawal.retry`: what came back goes to another beneficiary. Raises :class:`Refused`."""
    before, amount = parent.settlement, withdrawals.child_of(parent)
    rail = rail or before.rail
    if RAILS[rail].fiat != before.fiat:
        raise Refused("currency_mismatch", f"{rail} pays {RAILS[rail].fiat}")
    if ("/" in account) != (rail == "ach"):
        raise Refused("invalid_field", f"{account[:4]}... is no account of {rail}")
    s = Settlement(
        *(rail, rules.settlement.banks[rail], before.chain, before.fiat, "", before.account, "", "", amount, 0),
        party_name=name,
        party_account=account,
        requested_by=before.requested_by,
        parent_id=parent.id,
        tries=before.tries + 1,
    )
    return _submission(parent, "withdrawal", transaction_id, fingerprint, before.account, "", s.fiat, amount), s


def remint(parent: Case, transaction_id: str, fingerprint: str) -> tuple[Submission, Settlement]:
    """`withdrawal.remint`: tokens again for what came back. Raises :class:`Refused`."""
    before, amount = parent.settlement, withdrawals.child_of(parent)
    token = next(token for token, fiat in TOKENS.items() if fiat == before.fiat)
    target = before.token_account or f"{parent.transaction.customer}:{token}"
    s = Settlement(
        *("", "", before.chain, before.fiat, token, before.account, target, "", amount, 0),
        requested_by=before.requested_by,
        parent_id=parent.id,
        tries=before.tries + 1,
    )
    return _submission(parent, "deposit", transaction_id, fingerprint, before.account, target, s.fiat, amount), s


def _deposit(asked: Submission, through: Through, rules: Rules) -> Settlement:
    rail = RAILS[through.rail]
    if asked.asset != rail.fiat:
        raise Refused("currency_mismatch", f"{through.rail} brings {rail.fiat}")
    token, token_account, address = "", "", ""
    if through.mint_to:
        token = rail.token
        if _ADDRESS.fullmatch(through.mint_to):
            address = through.mint_to
        else:
            target = _own(through.mint_to, asked.customer)
            if target.asset != token:
                raise Refused("currency_mismatch", f"{through.rail} is minted as {token}")
            token_account = through.mint_to
    return Settlement(
        *(through.rail, rules.settlement.banks[through.rail], rules.settlement.chain, rail.fiat, token),
        *(asked.to_account, token_account, address, asked.amount, 0),
        party_name=through.party_name,
        party_account=through.party_account,
        requested_by=through.requested_by,
    )


def _withdrawal(asked: Submission, through: Through, rules: Rules) -> Settlement:
    rail = RAILS[through.rail]
    if asked.asset not in (rail.fiat, rail.token):
        raise Refused("currency_mismatch", f"{through.rail} pays {rail.fiat}, for {rail.token} or {rail.fiat}")
    is_token = asked.asset == rail.token
    return Settlement(
        *(through.rail, rules.settlement.banks[through.rail], rules.settlement.chain, rail.fiat),
        rail.token if is_token else "",
        f"{asked.customer}:{rail.fiat}" if is_token else asked.from_account,
        asked.from_account if is_token else "",
        "",
        asked.amount // cents(rail.token, rail.fiat) if is_token else asked.amount,
        0,
        party_name=through.party_name,
        party_account=through.party_account,
        requested_by=through.requested_by,
    )


def _own(account_id: str, customer: str) -> AccountId:
    try:
        account = parse_account_id(account_id)
    except Invalid as error:
        # Whether it is an address or an account shows only here, too late for a dead letter.
        raise Refused(error.reason, error.detail) from None
    if account.customer != customer:
        raise Refused("account_not_found", f"{account_id} does not exist")
    return account


def _submission(
    parent: Case, type_: str, transaction_id: str, fingerprint: str, source: str, target: str, asset: str, amount: int
) -> Submission:
    t = parent.transaction
    return Submission(
        *(type_, transaction_id, t.tenant, t.customer, source, target, t.customer, asset, amount, fingerprint),
        effective_at=None,
        expires_at=0,
        refusal=None,
    )


def _case(
    asked: Submission,
    s: Settlement,
    accounts: Accounts,
    rules: Rules,
    pauses: tuple[Pause, ...],
    at: int,
    barred: Callable[[str], str],
) -> Case:
    """A transaction that does not exist yet moves on from nothing: its first event is number 1."""
    nothing = msgspec.structs.replace(begun(asked, PROCESSING, "created", at), seq=0)
    return Case(asked.transaction_id, nothing, s, accounts, rules, pauses, at, barred)
