"""``aura keys``: the keys that seal personal data, and changing the secret that wraps them."""

from __future__ import annotations

import asyncio

import asyncpg
import typer

from aura_stream.cli import emit, say
from aura_stream.cli.db import DsnOption, JsonOption, YesOption, run
from aura_stream.identity.keychain import rotate as rotate_keys
from aura_stream.identity.sealing import Unsealable
from aura_stream.ledger.connection import CONNECT_TIMEOUT_S
from aura_stream.settings import Settings, SetupError, load_settings

app = typer.Typer(no_args_is_help=True)

_HEARD_S = 10.0


@app.command()
def rotate(dsn: DsnOption = "", yes: YesOption = False, json: JsonOption = False) -> None:
    """Seal every person's key under a new one, and wrap the keys by AURA_IDENTITY_SECRET_NEXT.

    Set that on all processes and restart them before. Afterwards make it AURA_IDENTITY_SECRET everywhere, unset it,
    and destroy the old secret: copies of the database from before then hold nothing personal that can be read.
    """
    settings = load_settings()
    if not yes:
        typer.confirm("Do all API processes and senders of webhooks know AURA_IDENTITY_SECRET_NEXT?", abort=True)
    generation, persons, behind = run(_rotate(dsn or settings.postgres_dsn, settings), "The keys cannot be rotated.")
    if json:
        emit({"generation": generation, "persons": persons, "processes_behind": behind})
    else:
        say(f"generation {generation}: the keys of {persons} persons are sealed anew")
    if behind:
        say(f"{behind} API processes have not heard of it yet: restart those that do not know the next secret")
        raise typer.Exit(1)


async def _rotate(dsn: str, settings: Settings) -> tuple[int, int, int]:
    connection = await asyncpg.connect(
        dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "aura keys"}
    )
    try:
        try:
            generation, persons = await rotate_keys(connection, settings)
        except (LookupError, Unsealable) as error:
            raise SetupError(
                "The keys cannot be rotated.",
                where="AURA_IDENTITY_SECRET, AURA_IDENTITY_SECRET_NEXT",
                why=str(error),
                fix="set both, the old one and the next one, then `aura keys rotate`",
            ) from error
        return generation, persons, await _behind(connection)
    finally:
        await connection.close(timeout=5)


async def _behind(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many API processes that live do not have the new keys after a while."""
    deadline = asyncio.get_running_loop().time() + _HEARD_S
    while True:
        behind: int = await connection.fetchval(
            """SELECT count(*) FROM identity.nodes WHERE seen_at > clock_timestamp() - interval '5 s'
            AND acked < (SELECT max(seq) FROM identity.revocations)"""
        )
        if not behind or asyncio.get_running_loop().time() >= deadline:
            return behind
        await asyncio.sleep(0.1)
