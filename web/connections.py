"""Connections that keep us waiting: without a first request in time, or taking nothing of their answer.

aiohttp itself closes a connection that is idle between requests, and limits the size and number of headers; bodies have
their own time-out. One look per second at all connections costs no request anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from web.problems import Problem

log = logging.getLogger(__name__)

_LOOK_S = 1.0


def answer_alike(server: web.Server, headers: Mapping[str, str]) -> None:
    """Makes what fails before it reaches the application answered as all that fails: a problem, with these headers.

    aiohttp answers such bytes by itself, in plain text and with a piece of them.
    """

    class Connection(web.RequestHandler):
        __slots__ = ()

        def handle_error(
            self,
            request: web.BaseRequest,
            status: int = 500,
            exc: BaseException | None = None,
            message: str | None = None,
        ) -> web.StreamResponse:
            super().handle_error(request, status, exc, message)  # it is logged there
            request_id = str(uuid.uuid4())
            code = "internal_server_error" if status >= 500 else "invalid_http"
            response = Problem(code).response(instance="/", request_id=request_id)
            response.headers.update({**headers, "X-Request-Id": request_id})
            response.force_close()
            return response

    class Server(web.Server):
        def __call__(self) -> web.RequestHandler:
            return Connection(self, loop=self._loop, **self._kwargs)

    # The runner makes the server, and asks nobody of which kind.
    server.__class__ = Server


class Watch:
    """Closes connections of a server: see the module."""

    def __init__(self, server: web.Server, header_s: float, stall_s: float) -> None:
        self._server = server
        self._header_s = header_s
        self._stall_s = stall_s
        self._first_seen: dict[Any, float] = {}
        self._stalled: dict[Any, tuple[int, float]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._task = asyncio.create_task(self._run(), name="watch of connections")

    async def stop(self) -> None:
        """Ends."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        pause_s = min(_LOOK_S, self._header_s / 2, self._stall_s / 2)
        while True:
            await asyncio.sleep(pause_s)
            self._look(asyncio.get_running_loop().time())

    def _look(self, now: float) -> None:
        connections = self._server.connections
        first_seen, stalled = {}, {}
        for one in connections:
            transport = one.transport
            if transport is None:
                continue
            began = self._first_seen.get(one, now)
            # aiohttp counts a request when its headers are complete.
            if one._request_count == 0:
                first_seen[one] = began
                if now - began >= self._header_s:
                    log.info("closed a connection without a request in %g s", self._header_s)
                    one.force_close()
                    continue
            waiting = transport.get_write_buffer_size()
            if waiting:
                size, since = self._stalled.get(one, (waiting, now))
                if size != waiting:
                    since = now
                stalled[one] = (waiting, since)
                if now - since >= self._stall_s:
                    log.info("cut off a client that took nothing of its answer for %g s", self._stall_s)
                    transport.abort()
        self._first_seen, self._stalled = first_seen, stalled
