"""``aura demo``: see money move, and the proof that none was lost."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from types import FrameType
from typing import Annotated

import aiohttp
import asyncpg
import typer
import uvloop
from aiokafka.errors import KafkaError
from rich.console import Console

from aura_stream.chain.rpc import ChainError
from aura_stream.cli import CHECK_FAILED, emit, paint, say
from aura_stream.demo.runner import Addresses, Options, Runner
from aura_stream.demo.stage import Stage
from aura_stream.demo.verdict import Verdict
from aura_stream.demo.view import Screen, View, as_json, summary
from aura_stream.settings import SetupError

SECONDS_WITHOUT_TERMINAL = 60.0
HTTP_SHARE = 0.1
_REFRESH_S = 0.25
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(
            envvar="AURA_DEMO_SECONDS",
            min=1,
            help="How long to play. Default: until Ctrl-C, without a terminal 60 s.",
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option(min=1, max=5000, help="Commands a second over Kafka; a tenth more over HTTP.")
    ] = 200,
    workers: Annotated[int, typer.Option(min=1, max=8, help="Ledger processes.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the load; the same seed, the same commands.")] = None,
    settlement: Annotated[
        bool, typer.Option(help="Whether banks and the chain are played too (a chain needs Linux on x86-64).")
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Keep data and logs, and say where.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Show the whole product working, on ports and data of its own, and prove that no money was lost.

    Starts Kafka and Postgres (or uses empty ones that AURA_KAFKA_BOOTSTRAP and AURA_POSTGRES_DSN name), a mock bank, a
    chain, the workers and the API, plays a mixed load over Kafka and HTTP, with banks that misbehave, then compares
    everything with a book of its own, with the banks' books and with the chain. Ctrl-C ends the load and goes on to the
    proof; a second one stops everything at once.

    Exit codes: 0 all of it holds, 1 something differs, 3 it could not run.
    """
    console = Console(stderr=True, highlight=False)
    if seconds is None:
        seconds = 0.0 if console.is_terminal else SECONDS_WITHOUT_TERMINAL
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    stage = Stage(
        workers, keep=keep, say=say, terminal=console.is_terminal, good=paint("ok", "green"), settlement=settlement
    )
    gently = False
    try:
        say(f"Aura Stream demo, seed {seed}, in {stage.home}")
        stage.start()
        options = Options(seconds=seconds, rate=rate, http_rate=rate * HTTP_SHARE, seed=seed)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            runner, verdict = loop.run(_play(options, stage, console))
        gently = True
        _report(runner, verdict, as_data)
    finally:
        # Nothing may come between us and the end of what we have started.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        stage.stop(gently=gently)
    raise typer.Exit(0 if verdict.good else CHECK_FAILED)


async def _play(options: Options, stage: Stage, console: Console) -> tuple[Runner, Verdict]:
    environment = stage.stack.environment()
    addresses = Addresses(
        kafka=environment["AURA_KAFKA_BOOTSTRAP"],
        postgres=environment["AURA_POSTGRES_READ_DSN"],
        api=environment["AURA_API_URL"],
        api_key=environment["AURA_API_KEY"],
        partitions=stage.stack.settings.partitions,
        outside=stage.address,
    )
    runner = Runner(options, addresses, stage.ended, len(stage.processes))
    playing = asyncio.create_task(runner.run())
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        # The first Ctrl-C ends the load, if there is one to end; the next stops everything.
        if runner.phase != "playing" or not runner.end_load():
            playing.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupted)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, playing.cancel)
    with Screen(console, View(runner)) as screen:
        while not playing.done():
            screen.show()
            await asyncio.wait([playing], timeout=_REFRESH_S)
    try:
        return runner, await playing
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (
        *(OSError, TimeoutError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError),
        *(aiohttp.ClientError, ChainError),
    ) as error:
        raise SetupError(
            "The demo could not go on.",
            where=runner.phase,
            why="; ".join([f"{type(error).__name__}: {error}", *stage.ended()]),
            fix="aura demo --keep, and read the logs in the directory it names",
        ) from error


def _report(runner: Runner, verdict: Verdict, as_data: bool) -> None:
    if as_data:
        emit(as_json(runner, verdict))
    else:
        Console(highlight=False, width=None if sys.stdout.isatty() else 100).print(summary(runner, verdict))
    style = "bold green" if verdict.good else "bold red"
    Console(stderr=as_data, highlight=False, soft_wrap=True).print(f"\n{verdict.sentence}\n", style=style, markup=False)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
