"""``aura api``: run the HTTP door in this process."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
from typing import Annotated

import typer
import uvloop

from aura_stream import logs
from aura_stream.cli import say
from aura_stream.embedded.processes import port_in_use
from aura_stream.settings import SetupError, load_settings


def api(
    host: Annotated[str, typer.Option(help="Address to listen on; default: AURA_API_HOST.")] = "",
    port: Annotated[int, typer.Option(help="Port to listen on; default: AURA_API_PORT.")] = 0,
) -> None:
    """Run the HTTP API until SIGTERM or Ctrl-C. It starts without Kafka and Postgres and says what is missing."""
    from web.app import serve

    overrides: dict[str, object] = ({"api_host": host} if host else {}) | ({"api_port": port} if port else {})
    settings = load_settings(**overrides)
    logs.configure(settings)
    # aiokafka reports every refused connection as an error of its own; our own lines say what it means for us.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    where = f"http://{settings.api_host}:{settings.api_port}"
    # As in a worker: what is there by now stays.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, ready=lambda: say(f"listening on {where}")))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(settings.api_port, "The HTTP API", "AURA_API_PORT") from error
        raise SetupError(
            "The HTTP API cannot listen.",
            where=where,
            why=str(error),
            fix="choose another address with --host (AURA_API_HOST) or --port (AURA_API_PORT)",
        ) from error
