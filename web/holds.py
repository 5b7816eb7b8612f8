"""`/v1/holds`: place, capture, release."""

from __future__ import annotations

from aiohttp import web

from web.actions import act
from web.call import Call
from web.commands import owner_of
from web.submit import submit


async def place_hold(call: Call) -> web.Response:
    """POST /v1/holds."""
    customer = owner_of(call, call.body["account_id"], "/account_id")
    return await submit(call, "hold.place", customer, call.body)


async def capture_hold(call: Call) -> web.Response:
    """POST /v1/holds/{transaction_id}/capture."""
    return await act(call, "hold.capture")


async def release_hold(call: Call) -> web.Response:
    """POST /v1/holds/{transaction_id}/release."""
    return await act(call, "hold.release")
