"""`/v1/accounts`: open, freeze, unfreeze, close; account, balances and entries."""

from __future__ import annotations

import base64
import struct
from datetime import datetime
from typing import Any

from aiohttp import web

from aura_stream.domain.commands import parse_time
from aura_stream.domain.ids import record_key
from aura_stream.domain.reasons import Invalid
from aura_stream.ledger.reads import LAST_JOURNAL, Balances, ReadsUnavailable
from web.answers import json_response, postgres_away
from web.call import Call
from web.commands import no_account, owner_of, prepare
from web.problems import FieldError, Problem
from web.submit import submit
from web.views import account_of_row, balances_of, entry_of_row

_CURSOR = struct.Struct(">qh")


async def open_account(call: Call) -> web.Response:
    """POST /v1/accounts."""
    data = dict(call.body)
    customer = data.pop("customer", call.principal.customer)
    if not customer:
        place = FieldError(in_="body", pointer="/customer", code="missing_fields", detail="customer is missing")
        raise Problem("missing_fields", "customer is missing", errors=[place])
    if not call.may_touch(customer):
        raise Problem("insufficient_permissions", "An account is opened for oneself.")
    return await submit(
        call,
        prepare("account.open", tenant=call.tenant, customer=customer, idempotency_key=call.idempotency_key, data=data),
    )


async def freeze_account(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/freeze."""
    return await _change(call, "account.freeze")


async def unfreeze_account(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/unfreeze."""
    return await _change(call, "account.unfreeze")


async def close_account(call: Call) -> web.Response:
    """POST /v1/accounts/{account_id}/close."""
    return await _change(call, "account.close")


async def get_account(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}."""
    return json_response(account_of_row(await _account(call)))


async def get_account_balances(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}/balances, now or as of `effective_at` and `known_at`."""
    account_id = call.path["account_id"]
    times = {name: _time(call, name) for name in ("effective_at", "known_at") if name in call.query}
    await _account(call)
    try:
        balances: Balances | None
        if times:
            balances = await call.services.reads.balances_as_of(
                call.tenant, account_id, times.get("effective_at"), times.get("known_at")
            )
        else:
            balances = await call.services.reads.balances(call.tenant, account_id)
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    asked = {name: call.query[name] for name in times}
    return json_response(balances_of(account_id, balances or Balances(0, 0, 0)) | asked)


async def list_account_entries(call: Call) -> web.Response:
    """GET /v1/accounts/{account_id}/entries, newest first, by cursor."""
    limit = call.query.get("limit", 50)
    before = _read_cursor(call.query["cursor"]) if "cursor" in call.query else (LAST_JOURNAL, 0)
    await _account(call)
    try:
        rows = await call.services.reads.entries_of_account(call.tenant, call.path["account_id"], before, limit + 1)
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    page, has_more = rows[:limit], len(rows) > limit
    cursor = _make_cursor(page[-1]["journal_id"], page[-1]["leg"]) if has_more else None
    return json_response({"items": [entry_of_row(row) for row in page], "has_more": has_more, "next_cursor": cursor})


async def _change(call: Call, type_: str) -> web.Response:
    account_id = call.path["account_id"]
    customer = owner_of(call, account_id, "account_id")
    return await submit(
        call,
        prepare(
            type_,
            tenant=call.tenant,
            customer=customer,
            idempotency_key=call.idempotency_key,
            data={"account_id": account_id},
        ),
    )


async def _account(call: Call) -> dict[str, Any]:
    """The account's row after everything decided before this request. Raises Problem, 404 only when it is proven."""
    account_id = call.path["account_id"]
    customer = owner_of(call, account_id, "account_id")
    services = call.services
    partition = services.commands.partition_of(record_key(call.tenant, customer))
    ends = await services.lookup.fresh([partition])
    try:
        row = await services.reads.account(call.tenant, account_id)
        if row is None:
            # Its opening may be accepted and not decided: an accepted id never answers 404.
            await services.lookup.decided(partition, ends)
            row = await services.reads.account(call.tenant, account_id)
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    if row is None:
        raise no_account(account_id)
    return row


def _time(call: Call, name: str) -> datetime:
    try:
        parse_time(call.query[name])
        return datetime.fromisoformat(call.query[name].upper())
    except Invalid as error:
        place = FieldError(in_="query", pointer=name, code=error.reason, detail=error.detail)
        raise Problem(error.reason, error.detail, errors=[place]) from None


def _make_cursor(journal_id: int, leg: int) -> str:
    return base64.urlsafe_b64encode(_CURSOR.pack(journal_id, leg)).rstrip(b"=").decode()


def _read_cursor(text: str) -> tuple[int, int]:
    try:
        journal_id, leg = _CURSOR.unpack(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, struct.error):
        place = FieldError(in_="query", pointer="cursor", code="invalid_field", detail="not a cursor of this listing")
        raise Problem("invalid_field", "cursor: not a cursor of this listing", errors=[place]) from None
    return journal_id, leg
