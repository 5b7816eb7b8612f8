"""``aura rebuild``: make anew what was lost, or compute everything again and compare."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from aura_stream.cli import CHECK_FAILED, emit, paint, say
from aura_stream.cli.db import run
from aura_stream.cli.topics import kafka_errors
from aura_stream.engine.errors import DataLost
from aura_stream.settings import Settings, SetupError, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agents.rebuild import Restored

T = TypeVar("T")
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

app = typer.Typer(invoke_without_command=True)


@app.callback()
def all_(
    context: typer.Context,
    into: Annotated[
        str, typer.Option("--into", help="DSN of an empty database; without it one is made and dropped again.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the database that was made.")] = False,
    json: JsonOption = False,
) -> None:
    """Compute every decision anew into an empty schema. Exit code 0: the same, 1: it differs, 3: could not check.

    Nothing is sent and the running ledger is only read; traffic may go on. The subcommands make anew what was lost.
    """
    if context.invoked_subcommand is not None:
        return
    from agents.rebuild import rebuild

    try:
        with _told(json):
            found = run(rebuild(load_settings(), into=into, keep=keep), "The ledger cannot be rebuilt.")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--into") from None
    if json:
        emit(asdict(found) | {"same": found.same})
    else:
        say(
            f"{found.partitions} partitions, {found.units} units, {found.records} inputs, {found.signals} signals: "
            f"every journal record the same, byte for byte ({found.seconds:.1f} s)"
        )
        if found.lane_units:
            say(
                f"lanes: {found.lane_units} units, {found.lane_keys} keys of their tables, {found.requests} requests: "
                "the same, byte for byte"
            )
        if found.passed_over:
            say(f"{paint('not computed', 'yellow')}: {found.passed_over}")
        if found.offender:
            say(f"{paint('BAD', 'red')}  the hash chain is another: {found.offender}")
        _say_digests(found.same, found.entries, found.digest, found.digest_of_source)
    if not found.same:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def tables(
    partition: Annotated[list[int] | None, typer.Option("--partition", min=0, help="Only these; repeatable.")] = None,
    worker: Annotated[str, typer.Option("--worker", help="Id of the worker, as its directory is named.")] = "ledger-0",
    json: JsonOption = False,
) -> None:
    """Restore a worker's local tables from the changelog. The worker must not run."""
    from agents.rebuild import rebuild_tables

    settings = load_settings()
    if unknown := [number for number in partition or () if number >= settings.partitions]:
        raise typer.BadParameter(f"{unknown[0]}: there are {settings.partitions} partitions", param_hint="--partition")
    _say_restored(_states(settings, json, lambda s: rebuild_tables(s, worker, partition or ())), json)


@app.command()
def changelog(json: JsonOption = False) -> None:
    """Write a lost changelog topic anew, from commands, signals and journal; compared with Postgres first.

    No ledger worker may run, and the topic must be missing or empty. Local stores of this machine are removed.
    """
    from agents.rebuild import rebuild_changelog

    _say_restored(_states(load_settings(), json, rebuild_changelog), json)


@app.command()
def postgres(
    into: Annotated[
        str, typer.Option("--into", help="DSN of an empty database, as its owner; default: AURA_POSTGRES_DSN.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Write the journal topic into an empty database; exit code 1 when published heads or the digest differ."""
    from agents.rebuild import rebuild_postgres

    settings = load_settings()
    with _told(json), kafka_errors(settings):
        found = run(rebuild_postgres(settings, into or settings.postgres_dsn), "The ledger cannot be rebuilt.")
    if json:
        emit(asdict(found) | {"same": found.same})
    else:
        say(f"{found.units} units written ({found.seconds:.1f} s); {found.heads} published heads compared")
        if found.offender:
            say(f"{paint('BAD', 'red')}  a published head is not in the chain: {found.offender}")
        _say_digests(found.same, found.entries, found.digest, found.digest_of_source or "not compared")
    if not found.same:
        raise typer.Exit(CHECK_FAILED)


def _states(settings: Settings, json: bool, work: Callable[[Settings], Coroutine[None, None, T]]) -> T:
    with _told(json), kafka_errors(settings):
        return run(work(settings), "It cannot be rebuilt.")


@contextmanager
def _told(json: bool) -> Iterator[None]:
    """Says what came of a rebuild that did not come to its end."""
    from agents.deep import Behind
    from agents.rebuild import Differs, NotNow, ReplayDiffers

    try:
        yield
    except (Differs, ReplayDiffers) as error:
        if json:
            emit({"same": False, "differs": str(error)})
        say(f"{paint('BAD', 'red')}  the same inputs lead to another result: {error}")
        raise typer.Exit(CHECK_FAILED) from None
    except NotNow as error:
        raise SetupError("Nothing is rebuilt.", where="aura rebuild", why=str(error), fix=error.fix) from None
    except Behind as error:
        raise SetupError(
            "Nothing is rebuilt.", where="aura rebuild", why=str(error), fix="start a sink: aura worker sink"
        ) from None
    except DataLost as error:
        raise SetupError(
            "It cannot be rebuilt from this.",
            where="Kafka",
            why=str(error),
            fix="bring the records back, or rebuild them",
        ) from None


def _say_restored(found: list[Restored], json: bool) -> None:
    if json:
        emit([asdict(one) for one in found])
        return
    for one in found:
        say(f"partition {one.partition}: {one.keys} keys, the state of unit {one.seq}, digest {one.digest}")


def _say_digests(same: bool, entries: int, digest: str, source: str) -> None:
    word = paint("good", "green") if same else paint("BAD ", "red")
    say(f"{word}  digest of {entries} entries {digest}, running ledger {source}")
