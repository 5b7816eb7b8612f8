"""`/v1/deposits`: announce, confirm, reject."""

from __future__ import annotations

from aiohttp import web

from web.actions import act
from web.call import Call
from web.commands import owner_of
from web.operators import asked_by
from web.submit import submit


async def submit_deposit(call: Call) -> web.Response:
    """POST /v1/deposits."""
    customer = owner_of(call, call.body["account_id"], "/account_id")
    by_bank = call.body.get("rail", "manual") != "manual"
    return await submit(call, "deposit.submit", customer, call.body | (asked_by(call) if by_bank else {}))


async def confirm_deposit(call: Call) -> web.Response:
    """POST /v1/deposits/{transaction_id}/confirm."""
    return await act(call, "deposit.confirm")


async def reject_deposit(call: Call) -> web.Response:
    """POST /v1/deposits/{transaction_id}/reject."""
    return await act(call, "deposit.reject")
