"""The least that an aiohttp handler can do with a command: parse the body, answer 202. What the API is compared with.

A process of its own, on the same loop and with the same server settings as `aura api`:
`python -m aura_stream.bench.http_bare PORT`.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
import uvloop
from aiohttp import web


async def accept(request: web.Request) -> web.Response:
    """POST of anything."""
    body = orjson.loads(await request.read())
    return web.Response(
        status=202,
        body=orjson.dumps({"status": "accepted", "amount": body["amount"]}),
        content_type="application/json",
    )


async def serve(port: int) -> None:
    """Serves until it is killed."""
    app = web.Application()
    app.router.add_post("/{path:.*}", accept)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=75)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Runs it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))


if __name__ == "__main__":
    main()
