"""Writes that move no money, once per idempotency key: the answer is kept (sealed) and given again.

Scope: tenant, actor, key. The key is claimed in a transaction of its own before the effect: of any number of requests
with one key at the same time, on any node, one does the work; the others are told to come again. A key whose request
failed is free again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

import orjson
from aiohttp import web

from aura_stream.identity import repository
from aura_stream.identity.audit import NO_TENANT
from web.call import Call
from web.outcomes import REPLAYED
from web.problems import Problem


async def once(call: Call, make: Callable[[], Awaitable[tuple[int, dict[str, Any]]]]) -> web.Response:
    """The answer of `make`, or the answer that an earlier request with the same key got.

    Raises :class:`Problem`: ``idempotency_key_reused``, ``idempotency_in_progress``, and what `make` raises.
    """
    identity = call.services.identity
    tenant, actor, key = call.tenant or NO_TENANT, call.principal.actor, call.idempotency_key
    canonical = orjson.dumps([call.place, call.body], option=orjson.OPT_SORT_KEYS)
    fingerprint = sha256(canonical).digest()
    place = f"stored_answers/{tenant}/{actor}/{key}"
    async with identity.database.tenant(tenant) as connection:
        stored = await repository.claim_answer(connection, tenant, actor, key, fingerprint)
    if stored is not None:
        if stored["fingerprint"] != fingerprint:
            raise Problem("idempotency_key_reused")
        if stored["status"] is None:
            raise Problem("idempotency_in_progress", retry_after_s=1)
        body = identity.sealer.open(stored["body_sealed"], place)
        return _response(stored["status"], body, REPLAYED)
    try:
        status, answer = await make()
    except BaseException:
        async with identity.database.tenant(tenant) as connection:
            await repository.free_answer(connection, tenant, actor, key)
        raise
    body = orjson.dumps(answer)
    async with identity.database.tenant(tenant) as connection:
        await repository.store_answer(connection, tenant, actor, key, status, identity.sealer.seal(body, place))
    return _response(status, body, {})


def _response(status: int, body: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
