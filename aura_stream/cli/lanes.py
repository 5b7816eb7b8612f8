"""``aura lanes``: how the lanes to banks and chain stand, the release of one that is stopped, the cancel of a nonce,
and what is left to do when somebody else has a minter's key."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from aura_stream import SettingsError, SetupError
from aura_stream.chain.rpc import ChainError, ChainNode
from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import derived, load_key
from aura_stream.chain.takeover import take_over as take_over_token
from aura_stream.cli import CHECK_FAILED, COULD_NOT, emit, say
from aura_stream.cli.api_client import ApiClient, run
from aura_stream.cli.tables import console
from aura_stream.domain.settlement import TOKENS
from aura_stream.settings import Settings, load_settings

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
    for one in found["cancels"]:
        print(f"{one['at']} {one['operator']}: nonce {one['nonce']}, {one['outcome']} {one['hash'] or ''}")


@app.command()
def release(
    lane: LaneArgument,
    stopped: Annotated[
        str, typer.Option(help="Why it is stopped, as `aura lanes show` says: what you have looked at.")
    ],
    note: Annotated[str, typer.Option(help="Why it may go on; for the audit log.")],
) -> None:
    """Let a stopped lane go on. Exit code 3 when it has not answered yet: look again with `aura lanes show`."""

    found = run(_post(f"/v1/lanes/{lane}/release", {"stopped": stopped, "note": note}))
    emit(found)
    _answered(one["release_id"] == found["release_id"] for one in found["releases"])


@app.command("cancel-nonce")
def cancel_nonce(
    lane: LaneArgument,
    nonce: Annotated[int, typer.Option(help="Of the transaction that is stuck, as its attempts say.", min=0)],
    note: Annotated[str, typer.Option(help="Why it shall not land; for the audit log.")],
) -> None:
    """Use up a nonce by a transfer to itself that pays more; again: still more. What is replaced fails once that is
    final, and may land all the same before. Exit code 3 when the lane has not answered yet."""
    found = run(_post(f"/v1/lanes/{lane}/cancel-nonce", {"nonce": nonce, "note": note}))
    emit(found)
    _answered(one["cancel_id"] == found["cancel_id"] for one in found["cancels"])


@app.command("take-over")
def take_over(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="As `AUSD`.")],
    new_key_file: Annotated[
        Path, typer.Option(help="File of mode 600 with the successor's key; in the sandbox one is made.")
    ],
    since: Annotated[
        int, typer.Option(min=0, help="A block before which only we have given roles; all later ones are looked at.")
    ] = 0,
) -> None:
    """Take a minter's token away from a key that somebody else has, on the chain itself and without API or ledger.

    The successor's key becomes the token's admin, everybody else loses all roles, and mints, burns and transfers are
    paused. Each transaction is printed once it is in a block. May be repeated until it prints none.
    """
    settings = load_settings()
    if token not in TOKENS:
        raise typer.BadParameter(f"{token} is none of {', '.join(sorted(TOKENS))}", param_hint="TOKEN")
    asyncio.run(_take_over(settings, token, new_key_file, since))


async def _take_over(settings: Settings, token: str, new_key_file: Path, since: int) -> None:
    successor = settings.model_copy(update={"chain_key": None, "chain_key_file": new_key_file})
    old, new = derived(load_key(settings), token), derived(load_key(successor), token)
    if old.address == new.address:
        raise SettingsError(
            "The successor's key is the present one.",
            where=str(new_key_file),
            why="both sign for the same address",
            fix="put a key made with `openssl rand -hex 32` into another file of mode 600",
        )
    contract = token_address(old)
    async with ChainNode(settings.chain_rpc_url) as node:
        try:
            async for done in take_over_token(node, contract, old, new, since=since):
                emit({"done": done.what, "hash": done.tx_hash})
        except ChainError as error:
            raise SetupError(
                "The chain did not do it.", where=node.shown, why=str(error), fix="run the same command again"
            ) from error
    emit({"token": contract, "admin": new.address, "paused": True})


def _answered(answers: Iterable[bool]) -> None:
    if not any(answers):
        say("The lane has been told and has not answered yet: is its worker running (aura status)?")
        raise typer.Exit(COULD_NOT)


async def _post(path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with ApiClient(load_settings(), "") as client:
        return await client.post(path, body, str(uuid.uuid4()))


async def _get(path: str) -> dict[str, Any]:
    async with ApiClient(load_settings(), "") as client:
        return await client.get(path)
