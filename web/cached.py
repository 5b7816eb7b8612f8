"""Answers of reads that many ask for again: an ETag and 304 for the client, and a cache that is never stale.

What an account, a balance or a list shows follows from the journal of its partitions. So an answer that was made when
those journals were as long as they are now is the answer of now, whoever wrote in between: nothing is asked of
Postgres, and nobody reads what was before their own write. How long the journals are is asked at every read.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from aura_stream.cache import TtlCache
from web.tail import Ends

if TYPE_CHECKING:
    from web.call import Call

_MIB = 1024 * 1024
_OVERHEAD = 1024
"""What an entry takes beside its body, about, in bytes."""
_HEADERS = {"Cache-Control": "private, no-cache", "Vary": "Authorization, Aura-Tenant"}
"""A client may keep the answer for itself, and has to ask whether it still holds."""


class Answers:
    """The cache of one API process."""

    def __init__(self, room_mib: int, life_s: float) -> None:
        self._kept: TtlCache[Hashable, tuple[tuple[int, ...], bytes]] = TtlCache(room_mib * _MIB)
        self._life_s = life_s
        self.used = {"hit": 0, "miss": 0}
        """How often an answer was there, and how often not."""

    async def answer(
        self, call: Call, partitions: Iterable[int], make: Callable[[Ends], Awaitable[Any]]
    ) -> web.Response:
        """The answer of a read of these partitions: kept, or the JSON of what `make` returns.

        `make` is called when Postgres has all that lies below the ends that it gets. Raises what it raises, and
        :class:`Problem` when the ends are not known or not reached.
        """
        lookup, wanted = call.services.lookup, list(partitions)
        ends = await lookup.ends()
        version = tuple(ends.journal[one] for one in wanted)
        key = (call.operation.id, call.tenant, call.only_customer, _frozen(call.path), _frozen(call.query))
        kept = self._kept.get(key)
        if kept is not None and kept[0] == version:
            self.used["hit"] += 1
            return tagged(call, kept[1])
        self.used["miss"] += 1
        await lookup.settled(wanted, ends)
        body = orjson.dumps(await make(ends))
        # Younger than its version, if at all: then the next reader finds the journals longer and asks again.
        self._kept.put(key, (version, body), time.time() + self._life_s, len(body) + _OVERHEAD)
        return tagged(call, body)


def tagged(call: Call, body: bytes) -> web.Response:
    """A JSON answer with its ETag; 304 without a body when the client has it already (RFC 9110, 13.1.2)."""
    # Weak: by an alias the same answer may come in an envelope that tells the time.
    tag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
    headers = {**_HEADERS, "ETag": f"W/{tag}"}
    if _has(call.request.headers.get("If-None-Match", ""), tag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def _has(given: str, tag: str) -> bool:
    """Whether one of the client's tags is this one, strong or weak."""
    return given.strip() == "*" or tag in (one.strip().removeprefix("W/") for one in given.split(","))


def _frozen(part: dict[str, Any]) -> Hashable:
    return tuple(sorted(part.items()))
