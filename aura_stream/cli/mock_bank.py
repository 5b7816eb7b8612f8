"""``aura mock-bank``: run the banks of the sandbox in this process."""

from __future__ import annotations

import asyncio
import errno
import logging
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from aura_stream.cli import say
from aura_stream.embedded.processes import port_in_use
from aura_stream.settings import SettingsError, SetupError, load_settings

Profile = Literal["", "calm", "flaky", "hostile", "down", "hanging"]


def mock_bank(
    port: Annotated[int, typer.Option(help="Loopback port; default: AURA_MOCK_BANK_PORT.")] = 0,
    bank: Annotated[
        list[str] | None, typer.Option(help="Name of a bank; again for more. Default: bank-a, bank-b.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Directory of its state; default: <home>/mock-bank.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the misbehaviour; default: the one kept, at first 1.")
    ] = None,
    profile: Annotated[Profile, typer.Option(help="Profile of all banks; default: the one kept, at first calm.")] = "",
    clock: Annotated[
        Literal["wall", "manual"], typer.Option(help="wall: runs with the machine; manual: moves only when advanced.")
    ] = "wall",
    start: Annotated[str, typer.Option(help="Where the clock begins, such as 2026-11-20T09:00:00-05:00.")] = "",
    webhook_time: Annotated[
        Literal["machine", "virtual"], typer.Option(help="Which clock webhook-timestamp shows.")
    ] = "machine",
    webhook_host: Annotated[
        list[str] | None, typer.Option(help="A host beside loopback that webhooks may go to; again for more.")
    ] = None,
) -> None:
    """Run the mock bank until SIGTERM or Ctrl-C.

    Addresses, client secrets, webhook secrets and the operator's token are in credentials.json of its data directory.
    Its state survives a kill. What it can do wrong, and how to make it: docs/guide/mock-bank.md.
    """
    from aura_stream.mock_bank.app import serve
    from aura_stream.mock_bank.world import CannotStart, Config

    settings = load_settings(**({"mock_bank_port": port} if port else {}))
    settings.require_sandbox(
        "The mock bank runs in the sandbox only.",
        why="its money is play money, and anybody with its operator's token can make more",
        fix="connect a real bank, or set AURA_MODE=sandbox",
    )
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = Config(
        data_dir=data or settings.home / "mock-bank",
        port=settings.mock_bank_port,
        banks=tuple(bank or ("bank-a", "bank-b")),
        seed=seed,
        profile=profile,
        clock=clock,
        start_ms=_milliseconds(start) if start else None,
        secret=settings.mock_bank_secret.get_secret_value() if settings.mock_bank_secret else "",
        webhook_time=webhook_time,
        webhook_hosts=tuple(webhook_host or ()),
        ready_file=settings.home / "run" / "mock-bank.ready",
    )
    try:
        asyncio.run(serve(config, ready=lambda url: say(f"listening on {url}, data in {config.data_dir}")))
    except CannotStart as error:
        option, _, why = str(error).partition(": ")
        raise SettingsError(
            "The mock bank cannot start.", where=option, why=why, fix="see `aura mock-bank --help`"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(config.port, "The mock bank", "AURA_MOCK_BANK_PORT") from error
        raise SetupError(
            "The mock bank cannot listen or write.",
            where=f"http://{config.host}:{config.port}, {config.data_dir}",
            why=str(error),
            fix="choose another port with --port (AURA_MOCK_BANK_PORT), or another AURA_HOME",
        ) from error


def _milliseconds(text: str) -> int:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise SettingsError(
            "The time cannot be used.",
            where=f"--start {text}",
            why="it is no time with a zone",
            fix="aura mock-bank --clock manual --start 2026-11-20T09:00:00-05:00",
        )
    return round(time.timestamp()) * 1000
