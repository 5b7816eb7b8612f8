"""How an alias is served: its request becomes that of the operation, the operation's answer becomes its own."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from web.aliases.given import Given, Json, Taken
from web.aliases.table import ALIASES, Alias
from web.problems import Problem
from web.views import instant

BY_ID = {alias.id: alias for alias in ALIASES}
_RECEIPT = 202


def taken(alias: Alias, given: Given) -> Taken:
    """The request in the operation's shape, with the operation's names of what stands in the path."""
    made = alias.take(given)
    if alias.has_ids_in_body:
        return made
    path = {alias.path.get(name, name): value for name, value in given.path.items()}
    return Taken(path=path, query=made.query, body=made.body, key=made.key, operation=made.operation)


def key_of(made: Taken, header: dict[str, Any]) -> str:
    """The idempotency key: that of the body, that of the header, or a new one, which repeats nothing."""
    return made.key or header.get("idempotency-key") or str(uuid.uuid4())


def answer(alias: Alias, given: Given, response: web.StreamResponse) -> web.StreamResponse:
    """The operation's answer in the alias' shape. A receipt (202) keeps ours: there is nothing to show yet."""
    assert isinstance(response, web.Response)
    if response.content_type != "application/json" or not (alias.has_envelope or alias.answer):
        return response
    body: Json = orjson.loads(response.body)  # type: ignore[arg-type]  # bytes: our handlers make nothing else
    is_receipt = response.status == _RECEIPT
    if not is_receipt:
        body = alias.give(body, given)
    if alias.has_envelope:
        body = body if alias.has_list and not is_receipt else {"data": body}
        body |= {"success": True, "timestamp": instant(datetime.now(UTC))}
    headers = {
        name: value for name, value in response.headers.items() if name not in ("Content-Type", "Content-Length")
    }
    return web.Response(
        status=alias.statuses.get(response.status, response.status),
        body=orjson.dumps(body),
        content_type="application/json",
        headers=headers,
    )


def problem(alias: Alias, found: Problem) -> Problem:
    """What is wrong, under the alias' own names."""
    found.is_coded_by_reason = alias.system == "aurix"
    found.code = alias.reasons.get(found.code, found.code)
    for error in found.errors:
        steps = error["pointer"].split("/")
        error["pointer"] = "/".join(alias.names.get(step, step) for step in steps)
        error["code"] = alias.reasons.get(error["code"], error["code"])
    return found
