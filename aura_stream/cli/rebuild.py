"""``aura rebuild``: compute the ledger anew from commands and signals, and compare."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from aura_stream.cli import CHECK_FAILED, emit, paint, say
from aura_stream.cli.db import run
from aura_stream.settings import load_settings


def rebuild(
    into: Annotated[
        str, typer.Option("--into", help="DSN of an empty database; without it one is made and dropped again.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the database that was made.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute every decision anew into an empty schema. Exit code 0: the same, 1: it differs, 3: could not check.

    Nothing is sent and the running ledger is only read; traffic may go on.
    """
    from agents.rebuild import ReplayDiffers
    from agents.rebuild import rebuild as rebuild_

    try:
        found = run(rebuild_(load_settings(), into=into, keep=keep), "The ledger cannot be rebuilt.")
    except ReplayDiffers as error:
        if json:
            emit({"same": False, "differs": str(error)})
        say(f"{paint('BAD', 'red')}  the same inputs lead to another result: {error}")
        raise typer.Exit(CHECK_FAILED) from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--into") from None
    if json:
        emit(asdict(found) | {"same": found.same})
    else:
        say(
            f"{found.partitions} partitions, {found.units} units, {found.records} inputs, {found.signals} signals: "
            f"every journal record the same, byte for byte ({found.seconds:.1f} s)"
        )
        word = paint("good", "green") if found.same else paint("BAD ", "red")
        say(f"{word}  digest of {found.entries} entries {found.digest}, running ledger {found.digest_of_source}")
    if not found.same:
        raise typer.Exit(CHECK_FAILED)
