"""What a command asks for, as far as its message alone says it.

Reading comes before any look at the state. What cannot be meant raises :class:`Invalid` (a dead letter; burns no key).
What is clear but against a rule of business is kept in `refusal`, so that a repeat is recognised before it is refused.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aura_stream.domain.assets import SCALES, check_amount, parse_amount
from aura_stream.domain.commands import (
    AccountClose,
    AccountFreeze,
    AccountOpen,
    AccountUnfreeze,
    CaptureHold,
    ConfirmDeposit,
    DepositConfirm,
    DepositReject,
    DepositRetry,
    DepositSubmit,
    HoldCapture,
    HoldPlace,
    HoldRelease,
    PauseLift,
    PauseSet,
    Resolve,
    TransactionApprove,
    TransactionCancel,
    TransactionReject,
    TransactionResolve,
    Transfer,
    WithdrawalRemint,
    WithdrawalRetry,
    WithdrawalSubmit,
    parse_time,
)
from aura_stream.domain.ids import AccountId, id_bytes, id_text, parse_account_id
from aura_stream.domain.reasons import Invalid, Refused
from aura_stream.domain.state import Rules

AccountCommand = AccountOpen | AccountFreeze | AccountUnfreeze | AccountClose
# The hot one first: a check asks in this order.
SubmitCommand = Transfer | DepositSubmit | HoldPlace | WithdrawalSubmit
OperatorCommand = TransactionApprove | TransactionReject | TransactionResolve
ActionCommand = DepositConfirm | DepositReject | HoldCapture | HoldRelease | TransactionCancel | OperatorCommand
ChildCommand = DepositRetry | WithdrawalRetry | WithdrawalRemint
PauseCommand = PauseSet | PauseLift

MAKES: Final = {
    "deposit.submit": "deposit",
    "transfer.submit": "transfer",
    "hold.place": "hold",
    "withdrawal.submit": "withdrawal",
    "deposit.retry": "deposit",
    "withdrawal.retry": "withdrawal",
    "withdrawal.remint": "deposit",
}
"""Commands that make a transaction, and its type. Its id follows from tenant, customer and idempotency key."""

# In live mode a bank or an operator says that money came or will not come, not the customer.
_NOT_BY_CUSTOMERS: Final = frozenset({"deposit.confirm", "deposit.reject"})


# Minor units of a token that are one of its fiat's: banks move whole cents.
_TOKENS: Final = {"AUSD": 10 ** (SCALES["AUSD"] - SCALES["USD"]), "AEUR": 10 ** (SCALES["AEUR"] - SCALES["EUR"])}


class AccountRequest(msgspec.Struct, frozen=True):
    """What an account command asks for."""

    account_id: str
    asset: str
    name: str
    refusal: Refused | None


class Through(msgspec.Struct, frozen=True):
    """What a submission asks of banks and chain."""

    rail: str  # "" = no bank: a re-mint
    mint_to: str = ""  # account or address; "" = no token
    party_name: str = ""
    party_account: str = ""
    requested_by: str = ""


class Submission(msgspec.Struct, frozen=True):
    """What a submit asks for. Times are ms since 1970, the amount minor units of `asset`, that of the own account."""

    type: str  # deposit | transfer | hold | withdrawal
    transaction_id: str
    tenant: str
    customer: str
    from_account: str  # "" for a deposit
    to_account: str
    to_customer: str
    asset: str
    amount: int
    fingerprint: str
    effective_at: int | None
    expires_at: int  # 0 = not given
    refusal: Refused | None
    through: Through | None = None


class Action(msgspec.Struct, frozen=True):
    """What an action on a transaction asks for. The amount is a text: only the transaction knows its asset."""

    transaction_id: bytes
    id_text: str
    amount: str | None
    effective_at: int | None
    refusal: Refused | None


def read_account(command: AccountCommand) -> AccountRequest:
    """Reads an account command. Raises :class:`Invalid`."""
    if isinstance(command, AccountOpen):
        asset, name = command.data.asset, command.data.name or ""
        if asset not in SCALES:
            raise Invalid("unsupported_asset", f"{asset!a} is not an asset", "/data/asset")
        account_id = f"{command.customer}:{asset}:{name}" if name else f"{command.customer}:{asset}"
        return AccountRequest(account_id, asset, name, None)
    account_id = command.data.account_id
    account, refusal = _account(account_id, "/data/account_id")
    refusal = refusal or _foreign(account_id, account.customer, command.customer)
    return AccountRequest(account_id, account.asset, account.name, refusal)


def read_submission(command: SubmitCommand, transaction_id: str, fingerprint: str, at: int) -> Submission:
    """Reads a submit that came at `at` (ms). Raises :class:`Invalid`."""
    if isinstance(command, Transfer) and (plain := plain_transfer(command, transaction_id, fingerprint)) is not None:
        return plain
    data = command.data
    from_account, to_account, expires_at, through, effective = "", "", 0, None, None
    if isinstance(command, Transfer):
        type_, from_account, to_account = "transfer", command.data.from_account_id, command.data.to_account_id
        own, own_pointer, effective = from_account, "/data/from_account_id", command.data.effective_at
    elif isinstance(command, DepositSubmit):
        type_, to_account = "deposit", command.data.account_id
        own, own_pointer, effective = to_account, "/data/account_id", command.data.effective_at
        through = _through_deposit(command)
    elif isinstance(command, WithdrawalSubmit):
        type_, from_account = "withdrawal", command.data.account_id
        own, own_pointer = from_account, "/data/account_id"
        party = command.data.beneficiary
        _check_party(command.data.rail, party.account, "/data/beneficiary/account")
        through = Through(command.data.rail, "", party.name, party.account, command.data.requested_by or "")
    else:
        type_, from_account, to_account = "hold", command.data.account_id, command.data.to_account_id
        own, own_pointer, effective = from_account, "/data/account_id", command.data.effective_at
        expires_at = _time(command.data.expires_at, "/data/expires_at")
    (owner, asset, _), refusal = _account(own, own_pointer)
    if owner != command.customer:
        refusal = refusal or _foreign(own, owner, command.customer)
    to_customer = owner
    if from_account and to_account:
        (to_customer, to_asset, _), to_refusal = _account(to_account, "/data/to_account_id")
        if refusal is None:
            refusal = to_refusal
        if refusal is None:
            if from_account == to_account:
                refusal = Refused("self_transfer", f"{from_account} on both sides")
            elif asset != to_asset:
                refusal = Refused("currency_mismatch", f"{from_account} and {to_account}")
    try:
        amount = parse_amount(data.amount, asset)
    except Invalid as error:
        raise Invalid(error.reason, error.detail, "/data/amount") from None
    if through is not None and asset in _TOKENS and amount % _TOKENS[asset]:
        raise Invalid(
            "invalid_amount_format", f"{data.amount} is not whole cents, which is what banks pay", "/data/amount"
        )
    if amount <= 0:
        refusal = Refused("negative_amount", f"{data.amount} is not above zero")
    effective_at = None if effective is None else _effective(effective, at)
    return Submission(
        type_,
        transaction_id,
        command.tenant,
        command.customer,
        from_account,
        to_account,
        to_customer,
        asset,
        amount,
        fingerprint,
        effective_at,
        expires_at,
        refusal,
        through,
    )


def plain_transfer(command: Transfer, transaction_id: str, fingerprint: str) -> Submission | None:
    """The transfer with which nothing is the matter; None for any other, which :func:`read_submission` looks into."""
    data, customer = command.data, command.customer
    source, target = data.from_account_id, data.to_account_id
    try:
        owner, asset, _ = parse_account_id(source)
        to_customer, to_asset, _ = parse_account_id(target)
        amount = parse_amount(data.amount, asset)
    except (Invalid, Refused):
        return None
    if owner != customer or asset != to_asset or source == target or amount <= 0 or data.effective_at is not None:
        return None
    return Submission(
        "transfer",
        transaction_id,
        command.tenant,
        customer,
        source,
        target,
        to_customer,
        asset,
        amount,
        fingerprint,
        effective_at=None,
        expires_at=0,
        refusal=None,
    )


def _through_deposit(command: DepositSubmit) -> Through | None:
    """What a deposit asks of banks and chain; None for one that is confirmed by hand."""
    data, payer = command.data, command.data.payer
    rail = data.rail or "manual"
    if rail == "manual":
        for field, value in (("mint_to", data.mint_to), ("payer", payer), ("requested_by", data.requested_by)):
            if value is not None:
                raise Invalid("unknown_field", f"{field} goes with a rail only", f"/data/{field}")
        return None
    if data.effective_at is not None:
        raise Invalid("unknown_field", "the bank says when it counts", "/data/effective_at")
    account = "" if payer is None else payer.account or ""
    if rail == "ach" and not account:
        raise Invalid("missing_fields", "ach debits an account: payer.account is missing", "/data/payer/account")
    if rail != "ach" and account:
        raise Invalid("unknown_field", f"by {rail} the payer sends the money himself", "/data/payer/account")
    name = "" if payer is None else payer.name
    return Through(rail, data.mint_to or "", name, account, data.requested_by or "")


def _check_party(rail: str, account: str, pointer: str) -> None:
    if ("/" in account) != (rail == "ach"):
        form = "<routing number>/<account number>" if rail == "ach" else "an IBAN"
        raise Invalid("invalid_field", f"{rail} needs {form}", pointer)


def read_child(command: ChildCommand) -> bytes:
    """The id of the transaction whose money a command uses again. Raises :class:`Invalid`."""
    if isinstance(command, WithdrawalRetry) and command.data.rail is not None:
        _check_party(command.data.rail, command.data.beneficiary.account, "/data/beneficiary/account")
    try:
        return id_bytes(command.data.transaction_id)
    except Invalid as error:
        raise Invalid(error.reason, error.detail, "/data/transaction_id") from None


def read_action(command: ActionCommand, at: int, rules: Rules) -> Action:
    """Reads an action that came at `at` (ms). Raises :class:`Invalid`."""
    data = command.data
    try:
        transaction_id = id_bytes(data.transaction_id)
    except Invalid as error:
        raise Invalid(error.reason, error.detail, "/data/transaction_id") from None
    amount, effective_at = None, None
    if isinstance(data, CaptureHold) and data.amount is not None:
        amount = data.amount
        try:
            check_amount(amount)
        except Invalid as error:
            raise Invalid(error.reason, error.detail, "/data/amount") from None
    refusal = _check_resolve(data) if isinstance(data, Resolve) else None
    if isinstance(data, CaptureHold | ConfirmDeposit) and data.effective_at is not None:
        effective_at = _effective(data.effective_at, at)
    if rules.mode == "live" and command.type in _NOT_BY_CUSTOMERS:
        refusal = Refused("forbidden", f"{command.type} is not for customers")
    return Action(transaction_id, id_text(transaction_id), amount, effective_at, refusal)


def _check_resolve(data: Resolve) -> Refused | None:
    if data.outcome == "write_off" and not data.note:
        raise Invalid("missing_fields", "a write-off says why: note is missing", "/data/note")
    if data.account_id is None:
        if data.deposit_id is not None:
            raise Invalid("missing_fields", "deposit_id goes with the account of its owner", "/data/account_id")
        return None
    if data.outcome != "match":
        raise Invalid("unknown_field", f"{data.outcome} needs no account", "/data/account_id")
    return _account(data.account_id, "/data/account_id")[1]


def _account(text: str, pointer: str) -> tuple[AccountId, Refused | None]:
    """The parts of an account id, and why no customer may use it."""
    try:
        return parse_account_id(text), None
    except Refused as refusal:
        return AccountId("", text.split(":")[1], ""), refusal
    except Invalid as error:
        raise Invalid(error.reason, error.detail, pointer) from None


def _foreign(account_id: str, owner: str, customer: str) -> Refused | None:
    # The same answer as for an account that does not exist: nobody learns what others have.
    return None if owner == customer else Refused("account_not_found", f"{account_id} does not exist")


def _time(text: str, pointer: str) -> int:
    try:
        return parse_time(text)
    except Invalid as error:
        raise Invalid(error.reason, error.detail, pointer) from None


def _effective(text: str, at: int) -> int:
    effective_at = _time(text, "/data/effective_at")
    if effective_at > at:
        raise Invalid("effective_at_in_future", f"{text} is after the message's time", "/data/effective_at")
    return effective_at
