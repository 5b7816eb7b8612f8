"""`/v1/privacy`: everything that is known of a person, and to be forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from aura_stream.domain.reasons import Refused
from aura_stream.identity import repository
from aura_stream.identity.permissions import Reach
from aura_stream.identity.repository import Row
from aura_stream.ledger.listing import Listing, Page, order_of
from aura_stream.ledger.reads import ENTRIES, TRANSACTIONS, LedgerReads, ReadsUnavailable
from aura_stream.webhooks.endpoints import ENDPOINTS_MAX
from web.answers import json_response, postgres_away
from web.call import Call
from web.identity.lists import audit_of_row
from web.identity.once import once
from web.identity.views import api_key_of_row, erasure_of_row, session_of_row, user_of_row
from web.pages import asked
from web.problems import Problem
from web.settlement_views import for_owner
from web.views import account_of_row, balances_of, entry_of_row, transaction_of_row
from web.webhooks import endpoint_of_row

_PAGE = 500


async def export(call: Call) -> web.Response:
    """GET /v1/privacy/export: one JSON document; of another person by `user_id`, for admins."""
    user_id = _person(call, call.query.get("user_id"))
    services, identity = call.services, call.services.identity
    user = await identity.users.get(call.tenant, user_id)
    await identity.privacy.exported(call.principal, call.tenant, user, call.origin)
    sessions = await identity.logins.sessions(call.tenant, user_id)
    keys = await identity.api_keys.of_user(call.tenant, user_id)
    elsewhere = await identity.privacy.external_logins(call.tenant, user_id)
    hooks = await services.events.endpoints.list(call.tenant, user["customer_id"], None, ENDPOINTS_MAX)
    requests = await identity.privacy.list(call.tenant, _page(repository.ERASURES, {"user_id": user_id}))
    partition = services.erasures.partition_of(call.tenant, user["customer_id"])
    await services.lookup.fresh([partition])
    try:
        accounts = await _accounts(services.reads, call.tenant, user["customer_id"])
        transactions = await _transactions(services.reads, call.tenant, user["customer_id"])
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    audit = await _all(
        repository.AUDIT, {"about": user_id}, lambda page: identity.privacy.audit_rows(call.tenant, page)
    )
    document = {
        "profile": user_of_row(user),
        "sessions": [session_of_row(row, call.principal.session_id) for row in sessions],
        "api_keys": [api_key_of_row(row) for row in keys],
        "external_logins": [dict(row) for row in elsewhere],
        "webhook_endpoints": [endpoint_of_row(row) for row in hooks],
        "accounts": accounts,
        "transactions": transactions,
        "audit": [audit_of_row(row) for row in audit],
        "erasure_requests": [erasure_of_row(row) for row in requests],
    }
    response = json_response(document)
    response.headers["Content-Disposition"] = 'attachment; filename="export.json"'
    return response


async def request_erasure(call: Call) -> web.Response:
    """POST /v1/privacy/erasure-requests: 201 when it is done, 202 when it waits for money, work or a second person."""
    user_id = _person(call, call.body.get("user_id"))

    async def make() -> tuple[int, dict[str, object]]:
        row = await call.services.identity.privacy.request(call.principal, call.tenant, user_id, call.origin)
        if row["status"] == "pending":
            row = await _attempt(call, row)
        return 201 if row["status"] == "completed" else 202, erasure_of_row(row)

    return await once(call, make)


async def list_erasures(call: Call) -> web.Response:
    """GET /v1/privacy/erasure-requests, newest first."""
    filters = {"status": call.query["status"]} if "status" in call.query else {}
    if call.reach == Reach.OWN:
        filters["user_id"] = call.principal.user_id
    wanted = asked(call.query, repository.ERASURES, filters)
    rows = await call.services.identity.privacy.list(call.tenant, wanted.page)
    return json_response(wanted.answer(rows, 0, erasure_of_row))


async def get_erasure(call: Call) -> web.Response:
    """GET /v1/privacy/erasure-requests/{request_id}."""
    mine = call.principal.user_id if call.reach == Reach.OWN else None
    return json_response(
        erasure_of_row(await call.services.identity.privacy.get(call.tenant, call.path["request_id"], mine))
    )


async def approve_erasure(call: Call) -> web.Response:
    """POST /v1/privacy/erasure-requests/{request_id}/approve, by another person than asked for it."""

    async def make() -> tuple[int, dict[str, object]]:
        privacy = call.services.identity.privacy
        row = await privacy.approve(call.principal, call.tenant, call.path["request_id"], call.origin)
        return 200, erasure_of_row(await _attempt(call, row))

    return await once(call, make)


async def reject_erasure(call: Call) -> web.Response:
    """POST /v1/privacy/erasure-requests/{request_id}/reject."""

    async def make() -> tuple[int, dict[str, object]]:
        privacy = call.services.identity.privacy
        return 200, erasure_of_row(
            await privacy.reject(call.principal, call.tenant, call.path["request_id"], call.origin)
        )

    return await once(call, make)


async def _attempt(call: Call, row: Row) -> Row:
    """Finishes a pending request, if that can be done now; else it stays pending and is looked at again."""
    with contextlib.suppress(Problem):
        return await call.services.erasures.attempt(row)
    return row


def _person(call: Call, named: str | None) -> str:
    """Whom it is about: oneself, or whoever is named, as far as one's reach goes. Others answer as missing."""
    if named is None:
        if not call.principal.user_id:
            raise Refused("insufficient_permissions", "who has no profile names a user_id")
        if call.tenant != call.principal.tenant:
            raise Refused("user_not_found", "there is no such user")
        return call.principal.user_id
    if call.reach == Reach.OWN and named != call.principal.user_id:
        raise Refused("user_not_found", "there is no such user")
    return named


async def _accounts(reads: LedgerReads, tenant: str, customer: str) -> list[dict[str, Any]]:
    """The customer's accounts with their balances and all their entries."""
    accounts = []
    for row, balances in await reads.accounts_of(tenant, customer):

        async def entries(page: Page, account_id: str = row["account_id"]) -> list[dict[str, Any]]:
            return (await reads.entries_of_account(tenant, account_id, page, counted=False))[0]

        found = [entry_of_row(one) for one in await _all(ENTRIES, {}, entries)]
        shown = {"balances": balances_of(row["account_id"], balances), "entries": found}
        accounts.append(account_of_row(row) | shown)
    return accounts


async def _transactions(reads: LedgerReads, tenant: str, customer: str) -> list[dict[str, Any]]:
    async def transactions(page: Page) -> list[dict[str, Any]]:
        return (await reads.transactions(tenant, page, counted=False))[0]

    rows = await _all(TRANSACTIONS, {"customer": customer}, transactions)
    return [for_owner(transaction_of_row(row).resource) for row in rows]


async def _all(
    listing: Listing, filters: dict[str, Any], read: Callable[[Page], Awaitable[list[dict[str, Any]]]]
) -> list[dict[str, Any]]:
    """All rows of a listing, read page by page."""
    found: list[dict[str, Any]] = []
    page = _page(listing, filters)
    while True:
        rows = await read(page)
        found += rows
        if len(rows) < page.limit:
            return found
        page = replace(page, after=tuple(rows[-1][listing.columns[one.name].row] for one in page.order))


def _page(listing: Listing, filters: dict[str, Any]) -> Page:
    return Page(filters=filters, order=order_of(listing, ""), limit=_PAGE)
