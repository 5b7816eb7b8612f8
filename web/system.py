"""Health, metrics and the contract."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from aiokafka.errors import KafkaError

from aura_stream.ledger.reads import NOTHING_STORED, ReadsUnavailable
from web.answers import json_response
from web.call import Call
from web.contract import load_contract

_CHECK_S = 2.0


async def get_health(call: Call) -> web.Response:
    """GET /health: 200 when writes are taken (degraded when reads or logins suffer), 503 when they are refused."""
    logins = {"ok": call.services.identity.feed.is_fresh}
    checks = {"kafka": await _kafka(call), "postgres": await _postgres(call), "logins": logins}
    if not checks["kafka"]["ok"]:
        return json_response({"status": "unavailable", "checks": checks}, 503)
    is_whole = checks["postgres"]["ok"] and logins["ok"]
    return json_response({"status": "ok" if is_whole else "degraded", "checks": checks})


async def get_readiness(call: Call) -> web.Response:
    """GET /health/ready: whether commands can be taken and the journal is read."""
    services = call.services
    checks = {"commands": {"ok": services.commands.is_up}, "journal": {"ok": services.tail.is_reading}}
    is_ready = all(check["ok"] for check in checks.values())
    return json_response({"status": "ok" if is_ready else "unavailable", "checks": checks}, 200 if is_ready else 503)


async def get_liveness(call: Call) -> web.Response:
    """GET /health/live: this process answers."""
    return json_response({"status": "ok"})


async def get_metrics(call: Call) -> web.Response:
    """GET /metrics."""
    return web.Response(
        body=call.services.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def get_contract(call: Call) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=load_contract().json, content_type="application/json")


async def _kafka(call: Call) -> dict[str, Any]:
    services = call.services
    try:
        async with asyncio.timeout(_CHECK_S):
            ends = await services.tail.ends()
    except (KafkaError, OSError, TimeoutError) as error:
        return {"ok": False, "writable": services.commands.is_up, "error": type(error).__name__}
    undecided = [
        max(0, end - one.commands_next) for end, one in zip(ends.commands, services.tail.recent.partitions, strict=True)
    ]
    is_ok = services.commands.is_up and services.tail.is_reading
    return {
        "ok": is_ok,
        "writable": services.commands.is_up,
        "journal_read": services.tail.is_reading,
        "undecided": sum(undecided),
    }


async def _postgres(call: Call) -> dict[str, Any]:
    services = call.services
    try:
        async with asyncio.timeout(_CHECK_S):
            stored = await services.tail.stored()
    except (ReadsUnavailable, TimeoutError) as error:
        return {"ok": False, "error": type(error).__name__}
    behind = sum(
        max(0, one.last_seq - stored.get(partition, NOTHING_STORED).last_seq)
        for partition, one in enumerate(services.tail.recent.partitions)
    )
    return {"ok": True, "units_behind": behind}
