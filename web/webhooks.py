"""`/v1/webhook-endpoints` and `/v1/webhook-deliveries`: who wants to be told of events, and what became of it."""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from aiohttp import web

from aura_stream.identity.permissions import Reach
from aura_stream.webhooks.endpoints import Row
from web.answers import json_response
from web.call import Call
from web.events import time_of, types_of
from web.identity.once import once
from web.problems import FieldError, Problem
from web.views import Json, instant

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_CURSOR: Final = struct.Struct(">q16s")
_OVERLAP_S: Final = 86_400


async def create_endpoint(call: Call) -> web.Response:
    """POST /v1/webhook-endpoints: the answer shows the secret, this once."""
    customer = call.body.get("customer")
    if call.reach <= Reach.OWN:
        mine = _customer(call)
        if customer not in (None, mine):
            raise Problem("insufficient_permissions", "You have your own customer's events only.")
        customer = mine

    async def make() -> tuple[int, Json]:
        endpoints = call.services.events.endpoints
        secret, row = await endpoints.create(call.tenant, customer, call.principal.actor, call.body)
        await _audit(call, "webhook_endpoint.create", str(row["endpoint_id"]))
        return 201, endpoint_of_row(row) | {"secret": secret}

    return await once(call, make)


async def list_endpoints(call: Call) -> web.Response:
    """GET /v1/webhook-endpoints, newest first."""
    limit = call.query.get("limit", 50)
    before = _read_cursor(call.query)
    rows = await call.services.events.endpoints.list(call.tenant, _customer(call), before, limit + 1)
    return _page(rows, limit, "endpoint_id", [endpoint_of_row(row) for row in rows[:limit]])


async def get_endpoint(call: Call) -> web.Response:
    """GET /v1/webhook-endpoints/{endpoint_id}."""
    row = await call.services.events.endpoints.get(call.tenant, _customer(call), call.path["endpoint_id"])
    return json_response(endpoint_of_row(row))


async def update_endpoint(call: Call) -> web.Response:
    """PUT /v1/webhook-endpoints/{endpoint_id}."""

    async def make() -> tuple[int, Json]:
        endpoints, endpoint_id = call.services.events.endpoints, call.path["endpoint_id"]
        row = await endpoints.update(call.tenant, _customer(call), endpoint_id, call.body)
        await _audit(call, "webhook_endpoint.update", endpoint_id)
        return 200, endpoint_of_row(row)

    return await once(call, make)


async def delete_endpoint(call: Call) -> web.Response:
    """DELETE /v1/webhook-endpoints/{endpoint_id}."""

    async def make() -> tuple[int, Json]:
        endpoint_id = call.path["endpoint_id"]
        await call.services.events.endpoints.delete(call.tenant, _customer(call), endpoint_id)
        await _audit(call, "webhook_endpoint.delete", endpoint_id)
        return 200, {"id": endpoint_id, "deleted": True}

    return await once(call, make)


async def rotate_secret(call: Call) -> web.Response:
    """POST /v1/webhook-endpoints/{endpoint_id}/rotate-secret."""

    async def make() -> tuple[int, Json]:
        endpoints, endpoint_id = call.services.events.endpoints, call.path["endpoint_id"]
        overlap = timedelta(seconds=call.body.get("overlap_s", _OVERLAP_S))
        secret, row = await endpoints.rotate(call.tenant, _customer(call), endpoint_id, overlap)
        await _audit(call, "webhook_endpoint.rotate_secret", endpoint_id)
        return 200, endpoint_of_row(row) | {"secret": secret}

    return await once(call, make)


async def test_endpoint(call: Call) -> web.Response:
    """POST /v1/webhook-endpoints/{endpoint_id}/test: the delivery that it makes says what came of it."""

    async def make() -> tuple[int, Json]:
        endpoint_id, event_id = call.path["endpoint_id"], f"t-{uuid.uuid4().hex}"
        event = {
            "id": event_id,
            "type": "webhook.test",
            "version": 1,
            "tenant_id": call.tenant,
            "customer_id": _customer(call) or "",
            "seq": 0,
            "occurred_at": instant(datetime.now(UTC)),
            "data": {"endpoint_id": endpoint_id},
            "request_id": call.request_id,
            "causation_id": "",
        }
        body = orjson.dumps(event).decode()
        endpoints = call.services.events.endpoints
        return 201, _delivery(await endpoints.test(call.tenant, _customer(call), endpoint_id, body, event_id))

    return await once(call, make)


async def replay_endpoint(call: Call) -> web.Response:
    """POST /v1/webhook-endpoints/{endpoint_id}/replay."""
    body = call.body
    start, end = time_of(body["from"], "from", "body"), time_of(body["to"], "to", "body")

    async def make() -> tuple[int, Json]:
        endpoints, types = call.services.events.endpoints, types_of(body.get("types", ["*"]))
        count = await endpoints.replay(call.tenant, _customer(call), call.path["endpoint_id"], start, end, types)
        return 201, {"deliveries": count}

    return await once(call, make)


async def list_deliveries(call: Call) -> web.Response:
    """GET /v1/webhook-deliveries, newest first."""
    query, limit = call.query, call.query.get("limit", 50)
    filters: dict[str, str] = {name: query[name] for name in ("endpoint_id", "event_id", "status") if name in query}
    endpoints, before = call.services.events.endpoints, _read_cursor(query)
    rows = await endpoints.deliveries(call.tenant, _customer(call), filters, before, limit + 1)
    return _page(rows, limit, "delivery_id", [_delivery(row) for row in rows[:limit]])


async def get_delivery(call: Call) -> web.Response:
    """GET /v1/webhook-deliveries/{delivery_id}, with its attempts."""
    endpoints = call.services.events.endpoints
    row, attempts = await endpoints.delivery(call.tenant, _customer(call), call.path["delivery_id"])
    return json_response(_delivery(row) | {"tries": [_attempt(one) for one in attempts]})


async def retry_delivery(call: Call) -> web.Response:
    """POST /v1/webhook-deliveries/{delivery_id}/retry."""

    async def make() -> tuple[int, Json]:
        endpoints = call.services.events.endpoints
        return 200, _delivery(await endpoints.retry(call.tenant, _customer(call), call.path["delivery_id"]))

    return await once(call, make)


def _customer(call: Call) -> str | None:
    """Whose endpoints the call is limited to; None: all of the tenant. Raises :class:`Problem`."""
    if call.reach > Reach.OWN:
        return None
    if not call.only_customer:
        raise Problem("insufficient_permissions", "You have no events.")
    return call.only_customer


async def _audit(call: Call, action: str, subject: str) -> None:
    identity = call.services.identity
    async with identity.database.tenant(call.tenant) as connection:
        await identity.audit.done(connection, call.tenant, call.principal.actor, action, subject, call.origin)


def endpoint_of_row(row: Row) -> Json:
    """An endpoint without its secret."""
    return {
        "id": str(row["endpoint_id"]),
        "url": row["url"],
        "description": row["description"],
        "types": row["types"],
        "customer": row["customer_id"],
        "status": row["status"],
        "disabled_reason": row["disabled_reason"],
        "failing_since": _instant(row["failing_since"]),
        "old_secret_until": _instant(row["previous_until"]),
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
    }


def _delivery(row: Row) -> Json:
    # What is due at once has no time yet.
    due = row["next_at"] if row["status"] == "pending" and row["next_at"].year > 1 else None
    return {
        "id": str(row["delivery_id"]),
        "endpoint_id": str(row["endpoint_id"]),
        "event_id": row["event_id"],
        "type": row["type"],
        "status": row["status"],
        "attempts": row["attempts"],
        "next_at": _instant(due),
        "created_at": instant(row["created_at"]),
        "finished_at": _instant(row["finished_at"]),
    }


def _attempt(row: Row) -> Json:
    return {
        "number": row["number"],
        "at": instant(row["at"]),
        "duration_ms": row["duration_ms"],
        "status_code": row["status_code"],
        "error": row["error"],
        "response": row["response"],
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


def _page(rows: Sequence[Row], limit: int, key: str, items: list[Json]) -> web.Response:
    has_more = len(rows) > limit
    cursor = None
    if has_more:
        last = rows[limit - 1]
        micros = (last["created_at"] - _EPOCH) // _MICROSECOND
        cursor = base64.urlsafe_b64encode(_CURSOR.pack(micros, last[key].bytes)).decode()
    return json_response({"items": items, "has_more": has_more, "next_cursor": cursor})


def _read_cursor(query: Mapping[str, Any]) -> tuple[datetime, str] | None:
    if "cursor" not in query:
        return None
    text = query["cursor"]
    try:
        micros, key = _CURSOR.unpack(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return _EPOCH + micros * _MICROSECOND, str(uuid.UUID(bytes=key))
    except (ValueError, struct.error, OverflowError):
        place = FieldError(in_="query", pointer="cursor", code="invalid_field", detail="not a cursor of this listing")
        raise Problem("invalid_field", "cursor: not a cursor of this listing", errors=[place]) from None
