"""Health, metrics and the contract."""

from __future__ import annotations

import asyncio
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from aiokafka.errors import KafkaError

from aura_stream.ledger.reads import NOTHING_STORED, ReadsUnavailable
from web.answers import json_response
from web.call import Call
from web.contract import load_contract
from web.views import instant

_CHECK_S = 2.0
_FREE_MIN = 0.05
"""The share of memory and disk that should be free."""
_STARTED = time.monotonic()


async def get_health(call: Call) -> web.Response:
    """GET /health: 200 when writes are taken (degraded when reads or logins suffer), 503 when they are refused."""
    return _health(await _dependencies(call))


async def get_detailed_health(call: Call) -> web.Response:
    """GET /health/detailed: with the room that this machine has left."""
    return _health(await _dependencies(call) | {"memory": _memory(), "disk": _disk(call)})


async def get_readiness(call: Call) -> web.Response:
    """GET /health/ready: whether commands can be taken and the journal is read."""
    services = call.services
    checks = {"commands": {"ok": services.commands.is_up}, "journal": {"ok": services.tail.is_reading}}
    is_ready = all(check["ok"] for check in checks.values())
    return json_response({"status": "ok" if is_ready else "unavailable", "checks": checks}, 200 if is_ready else 503)


async def get_liveness(call: Call) -> web.Response:
    """GET /health/live: this process answers."""
    return json_response({"status": "ok"})


async def get_contract(call: Call) -> web.Response:
    """GET /openapi.json."""
    return web.Response(body=load_contract(call.services.settings.profile).json, content_type="application/json")


async def _dependencies(call: Call) -> dict[str, dict[str, Any]]:
    logins = {"ok": call.services.identity.feed.is_fresh}
    return {"kafka": await _kafka(call), "postgres": await _postgres(call), "logins": logins}


def _health(checks: dict[str, dict[str, Any]]) -> web.Response:
    is_writable, is_whole = checks["kafka"]["ok"], all(check["ok"] for check in checks.values())
    body = {
        "status": "unavailable" if not is_writable else "ok" if is_whole else "degraded",
        "timestamp": instant(datetime.now(UTC)),
        "version": load_contract().document["info"]["version"],
        "uptime": round(time.monotonic() - _STARTED, 3),
        "checks": checks,
    }
    return json_response(body, 200 if is_writable else 503)


def _memory() -> dict[str, Any]:
    """Whether a twentieth of the memory is free; where the system does not say, nothing is known to be wrong."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {"ok": True}
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return {"ok": sizes["MemAvailable"] > sizes["MemTotal"] * _FREE_MIN}


def _disk(call: Call) -> dict[str, Any]:
    home = call.services.settings.home
    usage = shutil.disk_usage(home if home.exists() else Path.cwd())
    return {"ok": usage.free > usage.total * _FREE_MIN}


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
