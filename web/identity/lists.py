"""`/v1/users/{user_id}/sessions`, `/v1/audit-log`, `/v1/idempotency-keys`: what admins look up."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from aura_stream.identity import repository
from aura_stream.identity.audit import NO_TENANT
from aura_stream.identity.permissions import Reach
from aura_stream.ledger.listing import Page, order_of
from aura_stream.ledger.reads import TRANSACTIONS, ReadsUnavailable
from web.answers import json_response, postgres_away
from web.call import Call
from web.identity.once import once
from web.identity.views import session_of_row
from web.pages import asked, times_of
from web.problems import Problem
from web.views import instant, transaction_of_row

_TRANSACTIONS_MAX: Final = 100


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
    filters = times_of(call.query)
    is_platform = filters.pop("chain", "tenant") == "platform"
    if is_platform and call.reach < Reach.PLATFORM:
        raise Problem("insufficient_permissions", "The platform's own audit log is for operators and auditors.")
    wanted = asked(call.query, repository.AUDIT, filters)
    tenant = NO_TENANT if is_platform else call.tenant
    rows = await call.services.identity.privacy.audit_rows(tenant, wanted.page, across=is_platform)
    return json_response(wanted.answer(rows, 0, audit_of_row))


async def get_idempotency_key(call: Call) -> web.Response:
    """GET /v1/idempotency-keys/{idempotency_key}: what became of the requests with a key."""
    key = call.path["idempotency_key"]
    services = call.services
    async with services.identity.database.tenant(call.tenant) as connection:
        answers = await repository.answers_of_key(connection, key)
    try:
        page = Page(filters={"idempotency_key": key}, order=order_of(TRANSACTIONS, ""), limit=_TRANSACTIONS_MAX)
        rows, _ = await services.reads.transactions(call.tenant, page, counted=False)
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
