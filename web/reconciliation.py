"""`/v1/reserves` and `/v1/breaks`: what backs the tokens, what does not agree, and what people say about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from aura_stream.domain.assets import format_amount
from aura_stream.domain.reasons import Refused
from aura_stream.identity.audit import NO_TENANT
from aura_stream.reconcile import store
from aura_stream.reconcile.store import BREAKS
from web.answers import json_response
from web.call import Call
from web.identity.once import once
from web.pages import Row, asked


async def get_reserves(call: Call) -> web.Response:
    """GET /v1/reserves: the newest report, as the reconciliation has made it, and how old what it says is."""
    async with call.services.identity.database.platform() as connection:
        report = await store.last_report(connection)
    if report is None:
        raise Refused("report_not_found", "nothing was reconciled yet")
    now = datetime.now(UTC)

    def age_s(since: datetime) -> int:
        return int((now - since).total_seconds())

    accounts = [one | {"age_s": age_s(store.end_of(one["day"]))} for one in report["accounts"]]
    return json_response(report | {"age_s": age_s(datetime.fromisoformat(report["made_at"])), "accounts": accounts})


async def list_breaks(call: Call) -> web.Response:
    """GET /v1/breaks, the oldest first."""
    wanted = asked(call.query, BREAKS)
    async with call.services.identity.database.platform() as connection:
        rows, total = await store.breaks(connection, wanted.page, counted=wanted.is_numbered)
    return json_response(wanted.answer(rows, total, break_of_row))


async def get_break(call: Call) -> web.Response:
    """GET /v1/breaks/{break_id}, with what became of it."""
    async with call.services.identity.database.platform() as connection:
        return json_response(await _detail(connection, call.path["break_id"]))


async def assign_break(call: Call) -> web.Response:
    """POST /v1/breaks/{break_id}/assign."""
    return await _act(call, "break.assign", owner=call.body["owner"], note=call.body.get("note", ""))


async def resolve_break(call: Call) -> web.Response:
    """POST /v1/breaks/{break_id}/resolve: once, with a note; it moves no money."""
    return await _act(call, "break.resolve", resolution=call.body["resolution"], note=call.body["note"])


async def _act(call: Call, action: str, **what: str) -> web.Response:
    async def make() -> tuple[int, dict[str, Any]]:
        identity, break_id = call.services.identity, call.path["break_id"]
        actor = call.principal.actor
        async with identity.database.platform() as connection:
            await store.act(connection, break_id, actor, **what)
            await identity.audit.done(connection, NO_TENANT, actor, action, str(break_id), call.origin)
            return 200, await _detail(connection, break_id)

    return await once(call, make)


async def _detail(connection: Any, break_id: int) -> dict[str, Any]:
    row = await store.one_break(connection, break_id)
    if row is None:
        raise Refused("break_not_found", f"there is no break {break_id}")
    events = await store.history(connection, break_id)
    return break_of_row(row) | {
        "history": [{**dict(event), "at": _time(event["at"])} for event in events],
    }


def break_of_row(row: Row) -> dict[str, Any]:
    """A break as the API shows it."""
    until = row["resolved_at"] or datetime.now(UTC)
    return {
        "id": row["break_id"],
        "kind": row["kind"],
        "status": row["status"],
        "bank": row["bank"],
        "account": row["account"],
        "asset": row["asset"],
        "amount": format_amount(int(row["amount"]), row["asset"]),
        "tenant": row["tenant_id"],
        "transaction_id": row["transaction_id"],
        "reference": row["reference"],
        "detail": row["detail"],
        "opened_at": _time(row["opened_at"]),
        "age_s": int((until - row["opened_at"]).total_seconds()),
        "owner": row["owner"],
        "resolution": row["resolution"],
        "note": row["note"],
        "resolved_by": row["resolved_by"],
        "resolved_at": None if row["resolved_at"] is None else _time(row["resolved_at"]),
    }


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
