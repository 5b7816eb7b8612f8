"""``aura lanes``: how the lanes to banks and chain stand, and the release of one that is stopped."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer
from rich.table import Table

from aura_stream.cli import CHECK_FAILED, COULD_NOT, emit, say
from aura_stream.cli.api_client import ApiClient, run
from aura_stream.cli.tables import console
from aura_stream.settings import load_settings

app = typer.Typer(no_args_is_help=True)

LaneArgument = Annotated[str, typer.Argument(metavar="LANE", help="As `chain:local:AUSD`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the resource as JSON.")]


@app.command("list")
def list_(json: JsonOption = False) -> None:
    """List the lanes that have something to tell. Exit code 1 when one is stopped."""
    found = run(_get("/v1/lanes"))["items"]
    if json:
        emit(found)
    else:
        table = Table("lane", "breaker", "stopped", "held back", "since")
        for one in found:
            table.add_row(
                one["lane"], one["breaker"], one["stopped"] or "-", one["held_back"] or "-", one["changed_at"]
            )
        console().print(table)
    if any(one["stopped"] for one in found):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def show(lane: LaneArgument, json: JsonOption = False) -> None:
    """Show a lane: why it is stopped, what a release would do, who has released it before."""
    found = run(_get(f"/v1/lanes/{lane}"))
    if json:
        emit(found)
        return
    print(f"{found['lane']}: breaker {found['breaker']}, {found['failures']} failures, since {found['changed_at']}")
    if found["stopped"]:
        print(f"stopped: {found['stopped']}\n  {found['why']}")
        print(f"a release: {found['release']}")
        print(f"  aura lanes release {lane} --stopped {found['stopped']} --note '...'")
    if found["held_back"]:
        print(f"held back: {found['held_back']}\n  {found['held_back_means']}")
    for name, value in found["figures"].items():
        print(f"  {name} {value}")
    for one in found["releases"]:
        print(f"{one['at']} {one['operator']}: {one['stopped']}, {one['outcome']}")


@app.command()
def release(
    lane: LaneArgument,
    stopped: Annotated[
        str, typer.Option(help="Why it is stopped, as `aura lanes show` says: what you have looked at.")
    ],
    note: Annotated[str, typer.Option(help="Why it may go on; for the audit log.")],
) -> None:
    """Let a stopped lane go on. Exit code 3 when it has not answered yet: look again with `aura lanes show`."""

    async def ask() -> dict[str, Any]:
        async with ApiClient(load_settings(), "") as client:
            body = {"stopped": stopped, "note": note}
            return await client.post(f"/v1/lanes/{lane}/release", body, str(uuid.uuid4()))

    found = run(ask())
    emit(found)
    if not any(one["release_id"] == found["release_id"] for one in found["releases"]):
        say("The lane has the release and has not answered yet: is its worker running (aura status)?")
        raise typer.Exit(COULD_NOT)


async def _get(path: str) -> dict[str, Any]:
    async with ApiClient(load_settings(), "") as client:
        return await client.get(path)
