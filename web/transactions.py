"""`/v1/transactions`: one with its events and entries, many by filter, cancel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from aura_stream.ledger.reads import TRANSACTIONS, ReadsUnavailable
from web.accounts import partitions_of
from web.actions import act
from web.answers import json_response, postgres_away
from web.cached import tagged
from web.call import Call
from web.lookup import no_transaction
from web.pages import asked, empty, times_of
from web.problems import FieldError, Problem
from web.settlement_views import for_owner
from web.tail import Ends
from web.views import Json, transaction_of_row

_LISTS = frozenset({"type", "status", "state", "not_state"})
"""Filters that take several values, with commas between them."""


async def get_transaction(call: Call) -> web.Response:
    """GET /v1/transactions/{transaction_id}."""
    transaction_id = call.path["transaction_id"].lower()
    found = await call.services.lookup.transaction(call.tenant, transaction_id)
    if not any(call.may_touch(party) for party in parties(found)):
        raise no_transaction(transaction_id)
    return tagged(call, orjson.dumps(found if call.only_customer is None else for_owner(found)))


async def cancel_transaction(call: Call) -> web.Response:
    """POST /v1/transactions/{transaction_id}/cancel."""
    return await act(call, "transaction.cancel")


async def list_transactions(call: Call) -> web.Response:
    """GET /v1/transactions, newest first unless another sort is asked for."""
    filters = times_of(call.query)
    if filters.get("state", "").startswith("!"):
        filters["not_state"] = filters.pop("state")[1:]
    for name in _LISTS & filters.keys():
        filters[name] = filters[name].split(",")
    only = call.only_customer
    is_within_reach = only is None or filters.setdefault("customer", only) == only
    if "direction" in filters:
        if "customer" not in filters:
            detail = "direction is seen from a customer; name one"
            place = FieldError(in_="query", pointer="customer", code="missing_fields", detail=detail)
            raise Problem("missing_fields", detail, errors=[place])
        filters["into" if filters.pop("direction") == "credit" else "out_of"] = filters["customer"]
    wanted = asked(call.query, TRANSACTIONS, filters)
    if not is_within_reach:
        # Somebody else's list is as empty as that of a customer without transactions.
        return json_response(empty(wanted))

    async def make(ends: Ends) -> dict[str, Any]:
        try:
            rows, total = await call.services.reads.transactions(call.tenant, wanted.page, counted=wanted.is_numbered)
        except ReadsUnavailable as error:
            raise postgres_away(error) from None
        return wanted.answer(rows, total, shown)

    def shown(row: Mapping[str, Any]) -> Json:
        resource = transaction_of_row(row).resource
        return resource if only is None else for_owner(resource)

    return await call.services.answers.answer(call, partitions_of(call, filters.get("customer")), make)


def parties(resource: Mapping[str, Any]) -> set[str]:
    """The customers whom a transaction concerns: who asked for it, and whose accounts it is between."""
    accounts = [resource.get("from_account_id"), resource.get("to_account_id")]
    accounts += [entry["account_id"] for entry in resource.get("entries", ())]
    return {str(resource["customer"])} | {account.partition(":")[0] for account in accounts if account}
