"""`/v1/simulate/clock`: the time of the sandbox, moved for ledger, lanes and banks in one call.

The ledger and its lanes are moved by a command. The sandbox's banks are a program of their own: they are told which
time it is then, never by how much to go on, so that a repeat moves nothing twice.
"""

from __future__ import annotations

from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

from aura_stream.banks.credentials import Operator, load_operator
from aura_stream.domain.commands import format_time
from aura_stream.ledger.reads import ReadsUnavailable
from web.answers import json_response, postgres_away
from web.call import Call
from web.operators import operator_of
from web.problems import Problem
from web.submit import submit

CUSTOMER: Final = "clock"
"""In whose name it is moved, in the first tenant of the settings: one partition puts all moves in their order."""
_BANKS_S: Final = 30.0
_AWAY: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError)


async def get_clock(call: Call) -> web.Response:
    """GET /v1/simulate/clock."""
    _check_mode(call)
    try:
        await call.services.tail.look_at_clock()
    except ReadsUnavailable as error:
        raise postgres_away(error) from None
    return json_response(await _with_banks(call, call.services.tail.recent.clock.resource, moves=False))


async def advance_clock(call: Call) -> web.Response:
    """POST /v1/simulate/clock."""
    _check_mode(call)
    data = {"operator": operator_of(call), "advance_s": call.body["advance_s"]}
    response = await submit(call, "clock.advance", CUSTOMER, data, tenant=call.services.settings.tenants[0])
    body = orjson.loads(response.body or b"")  # type: ignore[arg-type]  # bytes, as it was made
    if "moved_s" in body:  # else it is not decided yet
        response.body = orjson.dumps(await _with_banks(call, body, moves=True))
    return response


def _check_mode(call: Call) -> None:
    if call.services.settings.mode != "sandbox":
        raise Problem("sandbox_only", "The clock is the machines' in live mode.")


async def _with_banks(call: Call, shown: dict[str, Any], *, moves: bool) -> dict[str, Any]:
    """With the time of the sandbox's banks, moved to the ledger's if that is ahead; null where there are none."""
    operator = load_operator(call.services.settings)
    if operator is None:
        return shown | {"banks": None}
    try:
        return shown | {"banks": await _banks(operator, call.services.tail.recent.clock.now_ms if moves else 0)}
    except _AWAY as error:
        raise Problem(
            "service_unavailable",
            f"The banks of the sandbox do not tell their time ({type(error).__name__}). What was asked of the ledger "
            "is done; the same request with the same key asks the banks again.",
            retry_after_s=2,
        ) from None


async def _banks(operator: Operator, to_ms: int) -> dict[str, str]:
    headers, timeout = {"Authorization": f"Bearer {operator.token}"}, aiohttp.ClientTimeout(total=_BANKS_S)
    url = f"{operator.url}/v1/simulate/clock"
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        if to_ms:
            # Their clock counts seconds. 409: it is there already, or somebody has moved it further on its own.
            to = {"to": format_time(-(-to_ms // 1000) * 1000)}
            async with session.post(url, json=to) as answer:
                if answer.status not in (200, 409):
                    answer.raise_for_status()
        async with session.get(url) as answer:
            answer.raise_for_status()
            return {"now": str((await answer.json())["now"])}
