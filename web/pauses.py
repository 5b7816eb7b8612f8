"""`/v1/pauses`: set one, lift it, see which stand."""

from __future__ import annotations

from aiohttp import web

from aura_stream.identity.permissions import Reach
from web.answers import json_response
from web.call import Call
from web.operators import name_of, operator_of, scope_of
from web.pause_views import PauseView, views_of
from web.problems import Problem
from web.submit import submit


async def set_pause(call: Call) -> web.Response:
    """POST /v1/pauses."""
    data = {"operator": operator_of(call), "scope": scope_of(call, dict(call.body["scope"]), call.reach)}
    if "note" in call.body:
        data["note"] = call.body["note"]
    return await submit(call, "pause.set", name_of(call.principal), data)


async def lift_pause(call: Call) -> web.Response:
    """POST /v1/pauses/{pause_id}/lift."""
    pause_id = call.path["pause_id"].lower()
    known = (await _pauses(call)).get(pause_id)
    # The way of the command that set it, so that the two are decided in their order. What is not known here may still
    # be known to the ledger.
    customer = known.customer if known else name_of(call.principal)
    data = {"operator": operator_of(call), "pause_id": pause_id}
    return await submit(call, "pause.lift", customer, data, tenant=known.tenant if known else call.tenant)


async def list_pauses(call: Call) -> web.Response:
    """GET /v1/pauses: those that stand, or all that are remembered."""
    pauses = (await _pauses(call)).values()
    wanted = call.query.get("standing", "true") == "true"
    shown = [pause.resource for pause in pauses if _may_see(call, pause) and (pause.stands or not wanted)]
    return json_response({"items": shown})


async def get_pause(call: Call) -> web.Response:
    """GET /v1/pauses/{pause_id}."""
    pause_id = call.path["pause_id"].lower()
    found = (await _pauses(call)).get(pause_id)
    if found is None or not _may_see(call, found):
        raise Problem("pause_not_found", f"There is no pause {pause_id}.", members={"pause_id": pause_id})
    return json_response(found.resource)


async def _pauses(call: Call) -> dict[str, PauseView]:
    """What the log of events has of pauses, and what the tail has seen since: the log is a moment behind."""
    services = call.services
    bodies = await services.events.reads.pauses()
    seen = services.tail.recent.pauses
    return views_of(bodies, [line for lines in seen.values() for line in lines])


def _may_see(call: Call, pause: PauseView) -> bool:
    return call.reach == Reach.PLATFORM or pause.concerns(call.tenant)
