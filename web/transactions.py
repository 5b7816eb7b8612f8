"""`/v1/transactions`: one with its events and entries, many by filter, cancel."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from aura_stream.domain.commands import parse_time
from aura_stream.domain.ids import id_bytes, id_text, record_key
from aura_stream.domain.reasons import Invalid
from aura_stream.ledger.reads import ReadsUnavailable
from web.actions import act
from web.answers import json_response, postgres_away
from web.call import Call
from web.lookup import no_transaction
from web.problems import FieldError, Problem
from web.views import transaction_of_row

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


async def get_transaction(call: Call) -> web.Response:
    """GET /v1/transactions/{transaction_id}."""
    transaction_id = call.path["transaction_id"].lower()
    found = await call.services.lookup.transaction(call.tenant, transaction_id)
    if not any(call.may_touch(party) for party in parties(found)):
        raise no_transaction(transaction_id)
    return json_response(found)


async def cancel_transaction(call: Call) -> web.Response:
    """POST /v1/transactions/{transaction_id}/cancel."""
    return await act(call, "transaction.cancel")


async def list_transactions(call: Call) -> web.Response:
    """GET /v1/transactions, newest first, by filters and cursor."""
    query = call.query
    filters: dict[str, Any] = {
        name: query[name]
        for name in ("customer", "type", "status", "asset", "account_id", "idempotency_key")
        if name in query
    }
    for name, column in (("from", "created_from"), ("to", "created_before")):
        if name in query:
            filters[column] = _time(name, query[name])
    before = _read_cursor(query["cursor"]) if "cursor" in query else None
    limit = query.get("limit", 50)
    if call.only_customer is not None and filters.setdefault("customer", call.only_customer) != call.only_customer:
        # Somebody else's list is as empty as that of a customer without transactions.
        return json_response({"items": [], "has_more": False, "next_cursor": None})
    services = call.services
    partitions: range | list[int] = range(services.settings.partitions)
    if "customer" in filters:
        partitions = [services.commands.partition_of(record_key(call.tenant, filters["customer"]))]
    await services.lookup.fresh(partitions)
    try:
        rows = await services.reads.transactions(call.tenant, filters, before, limit + 1)
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    page, has_more = rows[:limit], len(rows) > limit
    cursor = _make_cursor(page[-1]["created_at"], page[-1]["transaction_id"]) if has_more else None
    items = [transaction_of_row(row).resource for row in page]
    return json_response({"items": items, "has_more": has_more, "next_cursor": cursor})


def parties(resource: Mapping[str, Any]) -> set[str]:
    """The customers whom a transaction concerns: who asked for it, and whose accounts it is between."""
    accounts = (resource.get("from_account_id"), resource.get("to_account_id"))
    return {str(resource["customer"])} | {account.partition(":")[0] for account in accounts if account}


def _time(name: str, text: str) -> datetime:
    try:
        parse_time(text)
        return datetime.fromisoformat(text.upper())
    except Invalid as error:
        place = FieldError(in_="query", pointer=name, code=error.reason, detail=error.detail)
        raise Problem(error.reason, error.detail, errors=[place]) from None


def _make_cursor(created_at: datetime, transaction_id: str) -> str:
    micros = (created_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(micros.to_bytes(8, "big") + id_bytes(transaction_id)).decode()


def _read_cursor(text: str) -> tuple[datetime, str]:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if len(raw) != 24:
            raise ValueError(raw)
        return _EPOCH + int.from_bytes(raw[:8], "big") * _MICROSECOND, id_text(raw[8:])
    except (ValueError, OverflowError):
        place = FieldError(in_="query", pointer="cursor", code="invalid_field", detail="not a cursor of this listing")
        raise Problem("invalid_field", "cursor: not a cursor of this listing", errors=[place]) from None
