"""Actions on a transaction: the command carries its owner, so that one partition's order decides every race."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from web.call import Call
from web.lookup import no_transaction
from web.submit import submit


async def act(call: Call, type_: str) -> web.Response:
    """Submits an action on `{transaction_id}`; its owner comes from the body or is looked up. Raises Problem."""
    return await act_with(call, type_, call.body)


async def act_with(call: Call, type_: str, body: dict[str, Any]) -> web.Response:
    """The same with another body than the one that came."""
    transaction_id = call.path["transaction_id"].lower()
    data = dict(body)
    customer = data.pop("customer", None) or await call.services.lookup.owner(call.tenant, transaction_id)
    if not call.may_touch(customer):
        raise no_transaction(transaction_id)
    return await submit(call, type_, customer, {"transaction_id": transaction_id} | data)
