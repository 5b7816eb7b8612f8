"""`/v1/lanes`: how the lanes to banks and chain stand, why one is stopped, its release, and the cancel of a nonce."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import orjson
from aiohttp import web

from aura_stream.domain.assets import format_amount
from aura_stream.domain.ids import chain_lane_key, derived_id, id_text
from aura_stream.domain.lane_news import Cancel, Release
from aura_stream.domain.lanes.minter import CANCELED, RELEASED, STOPS, WAITS
from aura_stream.domain.reasons import Refused
from aura_stream.identity.audit import NO_TENANT
from aura_stream.ledger import lanes as stored
from web.answers import json_response
from web.call import Call
from web.identity.once import once
from web.operators import name_of
from web.pages import Row

_WAIT_S: Final = 10.0
_POLL_S: Final = 0.1
_AMOUNTS: Final = ("mintable", "in_flight", "open_returns", "waiting")


async def list_lanes(call: Call) -> web.Response:
    """GET /v1/lanes: every lane that has something to tell."""
    async with call.services.identity.database.platform() as connection:
        rows = await stored.every(connection)
    return json_response({"items": [lane_of_row(row) for row in rows]})


async def get_lane(call: Call) -> web.Response:
    """GET /v1/lanes/{lane}, with its releases and cancels."""
    async with call.services.identity.database.platform() as connection:
        return json_response(await _detail(connection, call.path["lane"]))


async def release_lane(call: Call) -> web.Response:
    """POST /v1/lanes/{lane}/release: told to the lane, which decides; waits for its answer for a while."""
    lane, stopped = call.path["lane"], call.body["stopped"]
    release_id = id_text(derived_id(NO_TENANT, call.principal.actor, call.idempotency_key))

    async def make() -> tuple[int, dict[str, Any]]:
        async with call.services.identity.database.platform() as connection:
            _check(await _detail(connection, lane), stopped)
        news = Release(release_id, name_of(call.principal), stopped)
        outcome = await _told(call, "lane.release", stopped, news, release_id, stored.outcome)
        if outcome not in (RELEASED, ""):
            raise Refused("invalid_state_transition", f"the lane says: {outcome}")
        async with call.services.identity.database.platform() as connection:
            body = await _detail(connection, lane)
        return (200 if outcome else 202), body | {"release_id": release_id}

    return await once(call, make)


async def cancel_nonce(call: Call) -> web.Response:
    """POST /v1/lanes/{lane}/cancel-nonce: told to the lane, which decides; waits for its answer for a while."""
    lane, nonce = call.path["lane"], call.body["nonce"]
    cancel_id = id_text(derived_id(NO_TENANT, call.principal.actor, call.idempotency_key))

    async def make() -> tuple[int, dict[str, Any]]:
        async with call.services.identity.database.platform() as connection:
            if (await _detail(connection, lane))["kind"] == "bank":
                raise Refused("invalid_state_transition", "a bank's lane has no nonces")
        news = Cancel(cancel_id, name_of(call.principal), nonce)
        outcome = await _told(call, "lane.cancel_nonce", str(nonce), news, cancel_id, stored.cancel_outcome)
        if outcome not in (CANCELED, ""):
            raise Refused("invalid_state_transition", f"nothing signed under nonce {nonce} waits for a block")
        async with call.services.identity.database.platform() as connection:
            body = await _detail(connection, lane)
        return (200 if outcome else 202), body | {"cancel_id": cancel_id}

    return await once(call, make)


async def _told(
    call: Call, action: str, what: str, news: Release | Cancel, id_: str, outcome: Callable[[Any, str], Awaitable[str]]
) -> str:
    """Writes an operator's news to the lane, and who did it to the audit log; what the lane made of it."""
    lane, identity = call.path["lane"], call.services.identity
    _, chain, token = lane.split(":")
    await call.services.chain_inbox.append(chain_lane_key(chain, token), msgspec.json.encode(news))
    about = f"{lane} {what}: {call.body['note']}"
    async with identity.database.platform() as connection:
        await identity.audit.done(connection, NO_TENANT, call.principal.actor, action, about[:200], call.origin)
    return await _answer(call, id_, outcome)


def _check(lane: Mapping[str, Any], stopped: str) -> None:
    """Raises :class:`Refused` where a release makes no sense."""
    if lane["kind"] == "bank":
        raise Refused("invalid_state_transition", "a bank's lane is never stopped; its breaker tries again by itself")
    if lane["stopped"] is None:
        raise Refused("invalid_state_transition", f"{lane['lane']} is not stopped")
    if lane["stopped"] != stopped:
        raise Refused("invalid_state_transition", f"{lane['lane']} is stopped for {lane['stopped']}")


async def _answer(call: Call, id_: str, outcome: Callable[[Any, str], Awaitable[str]]) -> str:
    """What the lane made of it, "" while it has not answered."""
    try:
        async with asyncio.timeout(_WAIT_S):
            while True:
                async with call.services.identity.database.platform() as connection:
                    found = await outcome(connection, id_)
                if found:
                    return found
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return ""


async def _detail(connection: Any, lane: str) -> dict[str, Any]:
    row = await stored.one(connection, lane)
    if row is None:
        raise Refused("lane_not_found", f"there is no lane {lane}, or nothing has ever happened on it")
    releases, cancels = await stored.releases(connection, lane), await stored.cancels(connection, lane)
    return lane_of_row(row) | {
        "cancels": [
            {
                "cancel_id": str(one["cancel_id"]),
                "nonce": one["nonce"],
                "transaction_id": None if one["transaction_id"] is None else str(one["transaction_id"]),
                "hash": one["hash"] or None,
                "operator": one["operator"],
                "outcome": one["outcome"],
                "at": _time(one["at"]),
            }
            for one in cancels
        ],
        "releases": [
            {
                "release_id": str(one["release_id"]),
                "stopped": one["stopped"],
                "operator": one["operator"],
                "outcome": one["outcome"],
                "at": _time(one["at"]),
            }
            for one in releases
        ],
    }


def lane_of_row(row: Row) -> dict[str, Any]:
    """A lane as the API shows it: how it stands, what that means, and what a release would do."""
    kind, _, rest = row["lane"].partition(":")
    token = rest.rpartition(":")[2]
    figures = orjson.loads(row["figures"])
    why, release = STOPS.get(row["stopped"], (None, None))
    return {
        "lane": row["lane"],
        "kind": kind,
        "breaker": row["breaker"],
        "failures": row["failures"],
        "stopped": row["stopped"] or None,
        "why": why,
        "release": release,
        "held_back": row["held_back"] or None,
        "held_back_means": WAITS.get(row["held_back"]),
        "figures": {
            name: format_amount(value, token) if name in _AMOUNTS else str(value) for name, value in figures.items()
        },
        "changed_at": _time(row["changed_at"]),
    }


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
