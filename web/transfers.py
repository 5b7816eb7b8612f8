"""`/v1/transfers`."""

from __future__ import annotations

from aiohttp import web

from web.call import Call
from web.commands import owner_of, prepare
from web.submit import submit


async def submit_transfer(call: Call) -> web.Response:
    """POST /v1/transfers."""
    customer = owner_of(call, call.body["from_account_id"], "/from_account_id")
    return await submit(
        call,
        prepare(
            "transfer.submit",
            tenant=call.tenant,
            customer=customer,
            idempotency_key=call.idempotency_key,
            data=call.body,
        ),
    )
