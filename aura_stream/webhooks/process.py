"""`aura worker webhooks`: a process that sends webhooks until it is stopped. Start more of them to share the work."""

from __future__ import annotations

import asyncio
import logging
import signal

import asyncpg
import uvloop

from aura_stream.identity.database import IdentityUnavailable
from aura_stream.identity.keychain import keys_of, wrappings
from aura_stream.identity.sealing import Sealer
from aura_stream.ledger.connection import EVENTS, connect
from aura_stream.settings import Settings
from aura_stream.webhooks.delivery import Deliveries
from aura_stream.webhooks.guard import Guard

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings.ready_file.unlink(missing_ok=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))


async def _run(settings: Settings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    work = asyncio.create_task(_work(settings))
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    work.cancel()
    settings.ready_file.unlink(missing_ok=True)
    await asyncio.gather(work, stop, return_exceptions=True)


async def _open_keys(settings: Settings, sealer: Sealer) -> None:
    """Raises :class:`IdentityUnavailable` when another secret wraps the keys."""
    connection = await connect(settings.postgres_write_dsn, EVENTS)
    try:
        # What seals the secrets of webhooks is the same in all generations: they need not be looked at again.
        sealer.take(await keys_of(connection, wrappings(settings)))
    finally:
        await connection.close(timeout=5)


async def _work(settings: Settings) -> None:
    sealer = Sealer()
    deliveries = Deliveries(settings.postgres_write_dsn, sealer, Guard(settings.webhook_allow))
    while True:
        try:
            await _open_keys(settings, sealer)
            await deliveries.start()
            break
        except IdentityUnavailable as error:
            log.warning("webhooks: %s, trying again", error)
            await asyncio.sleep(1)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("webhooks: Postgres does not answer, trying again: %s: %s", type(error).__name__, error)
            await asyncio.sleep(1)
    settings.ready_file.parent.mkdir(parents=True, exist_ok=True)
    settings.ready_file.write_text("{}")
    try:
        await deliveries.run()
    finally:
        await deliveries.stop()
