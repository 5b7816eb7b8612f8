"""`/v1/events`: what happened, one event or many."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import orjson
from aiohttp import web

from aura_stream.domain.commands import parse_time
from aura_stream.domain.reasons import Invalid
from aura_stream.events.reads import BEGINNING, Filter, Stored
from aura_stream.identity.permissions import Reach
from web.answers import json_response
from web.call import Call
from web.problems import FieldError, Problem

_NEWEST: Final = (1 << 63) - 1
_CURSOR: Final = struct.Struct(">?q")


async def list_events(call: Call) -> web.Response:
    """GET /v1/events: newest first; with `after`, what came after an event, oldest first."""
    query = call.query
    wanted = filter_of(call)
    if wanted is None:
        return json_response({"items": [], "has_more": False, "next_cursor": None})
    if "cursor" in query:
        newer, position = _read_cursor(query["cursor"])
    elif "after" in query:
        newer, position = True, await position_of(call, wanted, query["after"])
    else:
        newer, position = False, _NEWEST
    page = await call.services.events.reads.page(wanted, position, query.get("limit", 50), newer=newer)
    cursor = None if page.next_position is None else _make_cursor(newer, page.next_position)
    return _page(page.events, cursor)


async def get_event(call: Call) -> web.Response:
    """GET /v1/events/{event_id}."""
    event_id = call.path["event_id"]
    wanted = filter_of(call)
    found = None
    if wanted is not None:
        found = await call.services.events.reads.get(wanted.tenant, wanted.customer, event_id)
    if found is None:
        raise no_event(event_id)
    return web.Response(body=found.body.encode(), content_type="application/json")


def filter_of(call: Call) -> Filter | None:
    """What the call asks for, as far as it may see; None: nothing of it is to be seen."""
    query = call.query
    customer = query.get("customer")
    if call.reach <= Reach.OWN:
        if not call.only_customer or customer not in (None, call.only_customer):
            return None
        customer = call.only_customer
    return Filter(
        tenant=call.tenant,
        customer=customer,
        types=types_of(query["type"].split(",")) if "type" in query else None,
        transaction_id=query.get("transaction_id"),
        start=_time(query, "from"),
        end=_time(query, "to"),
    )


def types_of(names: Iterable[str]) -> tuple[str, ...]:
    """Types, each once."""
    return tuple(dict.fromkeys(names))


async def position_of(call: Call, wanted: Filter, event_id: str) -> int:
    """Where an event stands that the caller has seen. Raises :class:`Problem` ``event_not_found``."""
    if event_id == BEGINNING:
        return 0
    found = await call.services.events.reads.get(wanted.tenant, wanted.customer, event_id)
    if found is None:
        raise no_event(event_id)
    return found.position


def no_event(event_id: str) -> Problem:
    """The 404 for an event that is not there, or not to be seen."""
    return Problem("event_not_found", f"There is no event {event_id}.")


def time_of(text: str, name: str, where: str) -> datetime:
    """A time of RFC 3339. Raises :class:`Problem` ``invalid_datetime_format``."""
    try:
        parse_time(text)
        return datetime.fromisoformat(text.upper())
    except Invalid as error:
        pointer = f"/{name}" if where == "body" else name
        place = FieldError(in_=where, pointer=pointer, code=error.reason, detail=error.detail)
        raise Problem(error.reason, error.detail, errors=[place]) from None


def _time(query: dict[str, Any], name: str) -> datetime | None:
    return time_of(query[name], name, "query") if name in query else None


def _page(events: Iterable[Stored], cursor: str | None) -> web.Response:
    # The events go out as they are kept, byte for byte, as streams and webhooks bring them.
    items = ",".join(event.body for event in events)
    end = orjson.dumps({"has_more": cursor is not None, "next_cursor": cursor})[1:]
    return web.Response(body=b'{"items":[' + items.encode() + b"]," + end, content_type="application/json")


def _make_cursor(newer: bool, position: int) -> str:
    return base64.urlsafe_b64encode(_CURSOR.pack(newer, position)).decode()


def _read_cursor(text: str) -> tuple[bool, int]:
    try:
        newer, position = _CURSOR.unpack(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return newer, position
    except (ValueError, struct.error):
        place = FieldError(in_="query", pointer="cursor", code="invalid_field", detail="not a cursor of this listing")
        raise Problem("invalid_field", "cursor: not a cursor of this listing", errors=[place]) from None
