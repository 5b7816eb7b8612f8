"""`/v1/withdrawals`, what may be tried again, and what operators decide about deposits by bank and withdrawals."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from web.actions import act, act_with
from web.call import Call
from web.commands import owner_of
from web.operators import asked_by, operator_of
from web.submit import submit


async def submit_withdrawal(call: Call) -> web.Response:
    """POST /v1/withdrawals."""
    customer = owner_of(call, call.body["account_id"], "/account_id")
    return await submit(call, "withdrawal.submit", customer, call.body | asked_by(call))


async def retry_deposit(call: Call) -> web.Response:
    """POST /v1/deposits/{transaction_id}/retry: the same debit again, as a new transaction."""
    return await act(call, "deposit.retry")


async def retry_withdrawal(call: Call) -> web.Response:
    """POST /v1/withdrawals/{transaction_id}/retry: what came back goes to another beneficiary, without a burn."""
    return await act(call, "withdrawal.retry")


async def remint_withdrawal(call: Call) -> web.Response:
    """POST /v1/withdrawals/{transaction_id}/remint: tokens again for what came back."""
    return await act(call, "withdrawal.remint")


async def approve_transaction(call: Call) -> web.Response:
    """POST /v1/transactions/{transaction_id}/approve."""
    return await _by_operator(call, "transaction.approve")


async def reject_transaction(call: Call) -> web.Response:
    """POST /v1/transactions/{transaction_id}/reject."""
    return await _by_operator(call, "transaction.reject")


async def resolve_transaction(call: Call) -> web.Response:
    """POST /v1/transactions/{transaction_id}/resolve."""
    return await _by_operator(call, "transaction.resolve")


async def _by_operator(call: Call, type_: str) -> web.Response:
    data: dict[str, Any] = call.body | {"operator": operator_of(call)}
    return await act_with(call, type_, data)
