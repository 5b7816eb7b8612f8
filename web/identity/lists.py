"""`/v1/users`, `/v1/users/{user_id}/sessions`, `/v1/audit-log`, `/v1/idempotency-keys`: what admins look up."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from aura_stream.domain.commands import parse_time
from aura_stream.domain.reasons import Invalid
from aura_stream.identity import repository
from aura_stream.identity.administration import Wanted
from aura_stream.identity.audit import NO_TENANT
from aura_stream.identity.permissions import Reach
from aura_stream.ledger.reads import ReadsUnavailable
from web.answers import json_response, postgres_away
from web.call import Call
from web.identity.once import once
from web.identity.views import session_of_row, user_of_row
from web.problems import FieldError, Problem
from web.views import instant, transaction_of_row

PAGE_SIZE_MAX = 100


async def list_users(call: Call) -> web.Response:
    """GET /v1/users: a page by number, sorted as asked; oldest first by default."""
    page, size = call.query.get("page", 1), min(call.query.get("page_size", 20), PAGE_SIZE_MAX)
    sort = [_sort(part) for part in call.query["sort"].split(",")] if "sort" in call.query else [("created_at", False)]
    users = call.services.identity.users
    rows, count = await users.page(call.tenant, _wanted(call), sort, (page - 1) * size, size)
    answer = {"items": [user_of_row(row) for row in rows], "page": page, "page_size": size, "total": count}
    return json_response(answer | {"has_more": page * size < count})


async def list_users_keyset(call: Call) -> web.Response:
    """GET /v1/users/keyset: oldest first, stable while users are added."""
    limit = call.query.get("limit", 20)
    rows = await call.services.identity.users.after(call.tenant, _wanted(call), keyset_of(call), limit + 1)
    return json_response(keyset_page(rows, limit, "user_id", user_of_row))


async def get_user_stats(call: Call) -> web.Response:
    """GET /v1/users/stats."""
    return json_response(dict(await call.services.identity.users.stats(call.tenant)))


async def list_user_sessions(call: Call) -> web.Response:
    """GET /v1/users/{user_id}/sessions."""
    rows = await call.services.identity.logins.sessions(call.tenant, call.path["user_id"])
    return json_response({"items": [session_of_row(row, call.principal.session_id) for row in rows]})


async def end_user_session(call: Call) -> web.Response:
    """DELETE /v1/users/{user_id}/sessions/{session_id}."""

    async def make() -> tuple[int, dict[str, object]]:
        user_id, session_id = call.path["user_id"], call.path["session_id"]
        logins = call.services.identity.logins
        await logins.end_session_of(call.principal, call.tenant, user_id, session_id, "revoked", call.origin)
        return 200, {"ended": True}

    return await once(call, make)


async def list_audit_log(call: Call) -> web.Response:
    """GET /v1/audit-log, newest first; of the platform's own chain for who crosses tenants."""
    query, limit = call.query, call.query.get("limit", 50)
    is_platform = query.get("chain") == "platform"
    if is_platform and call.reach < Reach.PLATFORM:
        raise Problem("insufficient_permissions", "The platform's own audit log is for operators and auditors.")
    times = [_time("query", name, query[name]) if name in query else None for name in ("from", "to")]
    named = [query.get(name) for name in ("actor", "action", "outcome", "subject")]
    tenant = NO_TENANT if is_platform else call.tenant
    rows = await call.services.identity.privacy.audit_rows(
        tenant, (*named, *times, None), query.get("before"), limit + 1, across=is_platform
    )
    page, has_more = rows[:limit], len(rows) > limit
    cursor = page[-1]["seq"] if has_more else None
    return json_response({"items": [audit_of_row(row) for row in page], "has_more": has_more, "next_cursor": cursor})


async def get_idempotency_key(call: Call) -> web.Response:
    """GET /v1/idempotency-keys/{idempotency_key}: what became of the requests with a key."""
    key = call.path["idempotency_key"]
    services = call.services
    async with services.identity.database.tenant(call.tenant) as connection:
        answers = await repository.answers_of_key(connection, key)
    try:
        rows = await services.reads.transactions(call.tenant, {"idempotency_key": key}, None, 100)
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    if not answers and not rows:
        raise Problem("idempotency_key_not_found", "No request with this key has had an effect.")
    used = [
        {
            "actor": row["actor"],
            "answered": row["status"] is not None,
            "status": row["status"],
            "created_at": instant(row["created_at"]),
        }
        for row in answers
    ]
    transactions = [transaction_of_row(row).resource for row in rows]
    return json_response({"key": key, "transactions": transactions, "answers": used})


def audit_of_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the audit log; `hash` and `previous` are for who verifies it in SQL."""
    names = ("seq", "actor", "action", "outcome", "reason", "subject", "request_id", "address")
    return {name: row[name] for name in names} | {"at": instant(row["at"])}


def keyset_of(call: Call) -> tuple[datetime, str] | None:
    """The place that a keyset page begins behind: the JSON object of `cursor`."""
    text = call.query.get("cursor")
    if text is None:
        return None
    try:
        value = orjson.loads(text)
        if set(value) != {"inserted_at", "id"}:
            raise ValueError(value)
        return _time("query", "cursor", value["inserted_at"]), str(uuid.UUID(value["id"]))
    except (ValueError, TypeError, AttributeError):
        detail = 'not {"inserted_at": time, "id": UUID}'
        place = FieldError(in_="query", pointer="cursor", code="invalid_field", detail=detail)
        raise Problem("invalid_field", f"cursor: {detail}", errors=[place]) from None


def keyset_page(rows: Any, limit: int, name: str, view: Any) -> dict[str, Any]:
    """A page of `limit` of the rows, of which there may be one more; `name` is the column with the id."""
    page, has_more = rows[:limit], len(rows) > limit
    last = page[-1] if has_more else None
    cursor = {"inserted_at": last["created_at"].isoformat(), "id": str(last[name])} if last is not None else None
    return {"items": [view(row) for row in page], "has_more": has_more, "next_cursor": cursor}


def _wanted(call: Call) -> Wanted:
    return Wanted(call.query.get("status"), call.query.get("role"), call.query.get("email"))


def _sort(part: str) -> tuple[str, bool]:
    field, _, direction = part.strip().partition(":")
    return {"inserted_at": "created_at"}.get(field, field), direction == "desc"


def _time(where: str, name: str, text: str) -> datetime:
    try:
        parse_time(text)
        return datetime.fromisoformat(text.upper())
    except Invalid as error:
        place = FieldError(in_=where, pointer=name, code=error.reason, detail=error.detail)
        raise Problem(error.reason, error.detail, errors=[place]) from None
