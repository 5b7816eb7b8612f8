"""`/v1/transfers`."""

from __future__ import annotations

from aiohttp import web

from web.call import Call
from web.commands import owner_of
from web.submit import submit


async def submit_transfer(call: Call) -> web.Response:
    """POST /v1/transfers."""
    customer = owner_of(call, call.body["from_account_id"], "/from_account_id")
    return await submit(call, "transfer.submit", customer, call.body)
