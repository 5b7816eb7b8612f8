"""Live events: `/v1/events/stream` (Server-Sent Events) and `/v1/events/ws` (WebSocket), the same stream in two forms.

A stream begins after the event that the client saw last, and nothing is lost or told twice. Before each write it is
asked whether the login is still good, so nothing is told after a revocation was answered. A client that does not read
is cut off; it holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import orjson
from aiohttp import WSCloseCode, web

from aura_stream.domain.reasons import Refused
from aura_stream.events.reads import BEGINNING, Filter, Stored
from aura_stream.events.tail import Behind, Closing
from aura_stream.events.tickets import Adopted
from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.permissions import reach
from web.answers import json_response
from web.authenticate import credential_of
from web.call import Call
from web.events import filter_of, position_of
from web.problems import Problem
from web.views import instant

SUBPROTOCOL: Final = "aura.v1"
LOGIN_ENDED: Final = 4401
"""The code with which a socket closes when its login has ended; 1013 asks to come again, after the last event."""
_TICK_S: Final = 1.0
_HEARTBEAT_S: Final = 15.0
_SEND_S: Final = 5.0
_RETRY_MS: Final = 1000


async def create_ticket(call: Call) -> web.Response:
    """POST /v1/stream/tickets: one use, for a stream that can send no header."""
    named = call.request.headers.get("Aura-Tenant")
    ticket, end = await call.services.events.tickets.make(Adopted(credential_of(call.request), named))
    return json_response({"ticket": ticket, "expires_at": instant(end)}, 201)


async def stream_events(call: Call) -> web.StreamResponse:
    """GET /v1/events/stream."""
    stream = await _begin(call)
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(call.request)

    async def send(data: str) -> None:
        async with asyncio.timeout(_SEND_S):
            await response.write(data.encode())

    try:
        await send(f"retry: {_RETRY_MS}\nid: {stream.last_id}\n\n")
        async for batch in stream.batches():
            await send("".join(f"id: {event.id}\ndata: {event.body}\n\n" for event in batch) or ": still here\n\n")
        await send(f"event: closed\ndata: {orjson.dumps(stream.end).decode()}\n\n")
    except (ConnectionError, TimeoutError):
        _cut_off(call.request)
    return response


async def open_event_socket(call: Call) -> web.StreamResponse:
    """GET /v1/events/ws."""
    socket = web.WebSocketResponse(
        heartbeat=_HEARTBEAT_S, max_msg_size=4096, compress=False, protocols=(SUBPROTOCOL,), timeout=2.0
    )
    if not socket.can_prepare(call.request):
        raise Problem("invalid_field", "This route speaks WebSocket: send Upgrade: websocket.")
    stream = await _begin(call)
    await socket.prepare(call.request)
    reader = asyncio.create_task(_ignore(socket))

    async def send(message: str) -> None:
        async with asyncio.timeout(_SEND_S):
            await socket.send_str(message)

    try:
        await send(orjson.dumps({"hello": {"resume_after": stream.last_id}}).decode())
        async for batch in stream.batches():
            if socket.closed:
                return socket
            for event in batch:
                await send(f'{{"event":{event.body}}}')
        await send(orjson.dumps({"closed": stream.end}).decode())
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await socket.close(code=stream.code, message=stream.end["code"].encode())
    except (ConnectionError, TimeoutError):
        _cut_off(call.request)
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    return socket


class _Stream:
    """One stream from its beginning to its end; afterwards `end` says why, and `code` as a socket says it."""

    def __init__(self, call: Call, wanted: Filter, position: int, last_id: str) -> None:
        self._call, self._wanted, self._position = call, wanted, position
        self.last_id = last_id
        self.code: int = WSCloseCode.TRY_AGAIN_LATER
        self._why = "restarting"

    @property
    def end(self) -> dict[str, str]:
        """Why it has ended, and after which event to begin again."""
        return {"code": self._why, "resume_after": self.last_id}

    async def batches(self) -> AsyncIterator[Sequence[Stored]]:
        """What to send; an empty batch is a sign of life. Ends when the login has, or the client is too slow."""
        tail, loop = self._call.services.events.tail, asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            async with (
                tail.subscribed(self._wanted) as subscriber,
                contextlib.aclosing(tail.follow(subscriber, self._position, idle_s=_TICK_S)) as followed,
            ):
                async for batch in followed:
                    await self._check_login()
                    if batch or loop.time() - sent_at >= _HEARTBEAT_S:
                        yield batch
                        sent_at = loop.time()
                        self.last_id = batch[-1].id if batch else self.last_id
        except Refused as refused:
            self.code, self._why = LOGIN_ENDED, refused.reason
        except Behind:
            self._why = "subscriber_too_slow"
        except IdentityUnavailable:
            self._why = "service_unavailable"
        except Closing:
            self.code = WSCloseCode.GOING_AWAY

    async def _check_login(self) -> None:
        """Raises :class:`Refused` when the login has ended or may see less than when the stream began."""
        call = self._call
        if call.principal.kind == "system":
            return
        principal = await call.services.identity.authentication.principal(credential_of(call.request) or "")
        if reach(principal, call.operation.permission) < call.reach or principal.customer != call.principal.customer:
            raise Refused("insufficient_permissions")


async def _begin(call: Call) -> _Stream:
    """A stream from where the client says, or from now. Raises :class:`Problem`."""
    if len(call.services.events.tail) >= call.services.settings.streams_max:
        raise Problem("service_unavailable", "This node serves as many streams as it can.", retry_after_s=5)
    wanted = filter_of(call)
    if wanted is None:
        raise Problem("insufficient_permissions", "There is nothing here that you may see.")
    # A client that reconnects by itself sends the header, and the URL as it was.
    after = call.header.get("last-event-id") or call.query.get("after")
    if after is not None:
        return _Stream(call, wanted, await position_of(call, wanted, after), after)
    last = await call.services.events.reads.last(wanted.tenant, wanted.customer)
    return _Stream(call, wanted, last.position if last else 0, last.id if last else BEGINNING)


async def _ignore(socket: web.WebSocketResponse) -> None:
    """Reads what the client sends, so that its pongs and its end are heard."""
    async for _ in socket:
        pass


def _cut_off(request: web.Request) -> None:
    transport: Any = request.transport
    if transport is not None:
        transport.abort()
