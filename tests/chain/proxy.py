"""A node that lies: forwards to a real one and changes what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from aura_stream.chain.rpc import ChainNode
from aura_stream.embedded.processes import free_port

Request = dict[str, Any]
Answer = dict[str, Any]


class Cut(Exception):
    """Raised by a change: the connection ends without an answer, after the real node has acted."""


@asynccontextmanager
async def lying_node(
    rpc_url: str,
    change: Callable[[Request, Answer], Answer],
    refuse: Callable[[Request], str | None] = lambda _: None,
) -> AsyncIterator[ChainNode]:
    """A client of :func:`lying_url`."""
    async with lying_url(rpc_url, change, refuse) as url, ChainNode(url) as node:
        yield node


@asynccontextmanager
async def lying_url(
    rpc_url: str,
    change: Callable[[Request, Answer], Answer] = lambda _, answer: answer,
    refuse: Callable[[Request], str | None] = lambda _: None,
) -> AsyncIterator[str]:
    """Where the node at ``rpc_url`` is asked by others too; its answers go through ``change``. What ``refuse`` names
    an error for does not reach the node."""

    async def one(session: aiohttp.ClientSession, request: Request) -> Answer:
        if text := refuse(request):
            return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32000, "message": text}}
        async with session.post(rpc_url, json=request) as response:
            return change(request, await response.json())

    async def handler(request: web.Request) -> web.Response:
        body = await request.json()
        async with aiohttp.ClientSession() as session:
            try:
                many = [await one(session, item) for item in (body if isinstance(body, list) else [body])]
            except Cut:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        return web.json_response(many if isinstance(body, list) else many[0])

    application = web.Application(client_max_size=2**26)
    application.router.add_post("/", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
