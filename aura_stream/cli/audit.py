"""``aura audit``: verify the audit log's chains and print their heads."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated, Any

import typer

from aura_stream.cli import CHECK_FAILED, emit, paint, say
from aura_stream.cli.db import run
from aura_stream.ledger.connection import PLATFORM, connect
from aura_stream.settings import SetupError, load_settings

app = typer.Typer(no_args_is_help=True)

DsnOption = Annotated[str, typer.Option("--dsn", help="Postgres; default: AURA_POSTGRES_IDENTITY_DSN.")]


@app.command()
def verify(
    dsn: DsnOption = "",
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Compare with heads kept elsewhere: lines of `aura audit heads`.")
    ] = None,
) -> None:
    """Check that no row of any tenant's chain was changed, inserted, moved or removed. Exit code 1: one was."""
    kept = _read(heads) if heads else []
    results = run(_verify(dsn or load_settings().postgres_identity_dsn, kept), "The audit log cannot be checked.")
    if json:
        emit(results)
    else:
        for one in results:
            word = paint("good", "green") if one["good"] else paint("BAD ", "red")
            print(f"{word}  {one['tenant']}: {one['rows']} rows{'' if one['good'] else '; ' + one['why']}")
        if not results:
            say("the audit log is empty")
    if not all(one["good"] for one in results):
        raise typer.Exit(CHECK_FAILED)


@app.command("heads")
def heads_(dsn: DsnOption = "") -> None:
    """Print the last link of every tenant's chain, one JSON object per line: keep them where the database is not."""
    for head in run(_heads(dsn or load_settings().postgres_identity_dsn), "The audit log cannot be read."):
        print(json_.dumps(head))


async def _heads(dsn: str) -> list[dict[str, Any]]:
    connection = await connect(dsn, PLATFORM, application_name="aura audit")
    try:
        rows = await connection.fetch("SELECT * FROM identity.audit_heads()")
    finally:
        await connection.close(timeout=5)
    return [{"tenant": row["tenant_id"], "seq": row["seq"], "hash": row["hash"].hex()} for row in rows]


async def _verify(dsn: str, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    connection = await connect(dsn, PLATFORM, command_timeout_s=None, application_name="aura audit")
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await connection.fetch(
                """SELECT tenant_id AS tenant, count(*) AS rows, identity.audit_broken_at(tenant_id) AS broken_at
                FROM identity.audit_log GROUP BY tenant_id ORDER BY tenant_id"""
            )
            results = {
                row["tenant"]: {"tenant": row["tenant"], "rows": row["rows"], "broken_at": row["broken_at"], "why": ""}
                for row in rows
            }
            for one in results.values():
                if one["broken_at"] is not None:
                    one["why"] = f"row {one['broken_at']} is the first that is not what was written"
            for head in kept:
                found = await connection.fetchval(
                    "SELECT hash FROM identity.audit_log WHERE tenant_id = $1 AND seq = $2", head["tenant"], head["seq"]
                )
                tenant = head["tenant"]
                one = results.setdefault(tenant, {"tenant": tenant, "rows": 0, "broken_at": None, "why": ""})
                if found is None:
                    one["why"] = one["why"] or f"row {head['seq']}, whose head was kept, is gone"
                elif found.hex() != head["hash"]:
                    one["why"] = one["why"] or f"row {head['seq']} is not the one whose head was kept"
    finally:
        await connection.close(timeout=5)
    return [{**one, "good": not one["why"]} for one in results.values()]


def _read(path: Path) -> list[dict[str, Any]]:
    """The heads of a file. Raises :class:`SetupError`."""
    try:
        heads = [json_.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [{"tenant": one["tenant"], "seq": int(one["seq"]), "hash": str(one["hash"])} for one in heads]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(
            "The kept heads cannot be read.",
            where=str(path),
            why=repr(error),
            fix="name a file that `aura audit heads` has written",
        ) from error
