"""``aura db``: create and migrate the ledger's schema."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, TypeVar

import asyncpg
import typer
from pogo_core.error import BadMigrationError

from aura_stream.cli import emit, say
from aura_stream.ledger.errors import LedgerError
from aura_stream.ledger.migrations import migrate as apply_migrations
from aura_stream.ledger.migrations import new_migration
from aura_stream.ledger.migrations import rollback as roll_back
from aura_stream.ledger.migrations import status as migrations_of
from aura_stream.settings import SetupError, load_settings

app = typer.Typer(no_args_is_help=True)

FAILURES = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, LedgerError, BadMigrationError)
T = TypeVar("T")
DsnOption = Annotated[str, typer.Option("--dsn", help="Postgres as the owner; default: AURA_POSTGRES_DSN.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def migrate(dsn: DsnOption = "", json: JsonOption = False) -> None:
    """Bring the schema up to date. Safe to repeat and to run side by side."""
    applied = run(apply_migrations(dsn or load_settings().postgres_dsn), "The schema cannot be migrated.")
    if json:
        emit({"applied": applied})
    else:
        say(f"applied: {', '.join(applied)}" if applied else "the schema is up to date")


@app.command()
def rollback(dsn: DsnOption = "", yes: YesOption = False, json: JsonOption = False) -> None:
    """Take back the newest migration. One that holds what nothing else has refuses; then mend it by a new migration."""
    settings = load_settings()
    where = dsn or settings.postgres_dsn
    if not yes:
        typer.confirm("Take back the newest migration, with what its tables hold?", abort=True)
    name = run(roll_back(where), "The migration cannot be taken back.")
    if json:
        emit({"rolled_back": name})
    else:
        say(f"taken back: {name}" if name else "there is no migration to take back")


@app.command()
def new(words: Annotated[str, typer.Argument(help="What it does, as in `add a column for notes`.")]) -> None:
    """Write an empty migration that comes after all others, and print its path."""
    try:
        print(new_migration(words))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="WORDS") from None


@app.command()
def status(dsn: DsnOption = "", json: JsonOption = False) -> None:
    """List the migrations and which of them the database has. Exit code 1 when one is missing."""
    found = run(migrations_of(dsn or load_settings().postgres_dsn), "The schema cannot be looked at.")
    if json:
        emit([migration._asdict() for migration in found])
    else:
        for migration in found:
            print(f"{'applied' if migration.applied else 'missing'}  {migration.name}")
    if not all(migration.applied for migration in found):
        raise typer.Exit(1)


def run(work: Coroutine[None, None, T], what: str) -> T:
    """Runs one piece of work with the database. Raises :class:`SetupError` when the database does not let it."""
    try:
        return asyncio.run(work)
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        LedgerError,
        BadMigrationError,
    ) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise SetupError(
            what,
            where="AURA_POSTGRES_DSN",
            why=f"{str(error) or type(error).__name__}{cause}",
            fix="start Postgres (`aura up`) or set AURA_POSTGRES_DSN; then `aura db migrate`",
        ) from error
