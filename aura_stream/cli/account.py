"""``aura account``: an account, its balances and its last entries."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from aura_stream.cli import emit
from aura_stream.cli.api_client import ApiClient, run
from aura_stream.cli.tables import console, moment, table
from aura_stream.settings import load_settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at accounts and balances."""


@app.command()
def show(
    account_id: Annotated[str, typer.Argument(metavar="ID", help="<customer>:<asset> or <customer>:<asset>:<name>.")],
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "default",
    entries: Annotated[int, typer.Option(min=1, max=200, help="How many of the last entries.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show an account with its balances and last entries."""

    async def ask() -> dict[str, Any]:
        async with ApiClient(load_settings(), tenant) as client:
            account = await client.get(f"/v1/accounts/{account_id}")
            balances = await client.get(f"/v1/accounts/{account_id}/balances")
            page = await client.get(f"/v1/accounts/{account_id}/entries", {"limit": str(entries)})
            return {"account": account, "balances": balances, "entries": page["items"], "has_more": page["has_more"]}

    found = run(ask())
    if json:
        emit(found)
        return
    account, balances = found["account"], found["balances"]
    colour = {"open": "green", "frozen": "yellow", "closed": "red"}.get(account["status"], "")
    head = Text.assemble((account["id"], "bold"), "  ", (account["status"], colour), f"  opened {account['opened_at']}")
    money = Table.grid(padding=(0, 2))
    for name in ("available", "held", "posted", "pending"):
        money.add_row(Text(name, "dim"), Text(f"{balances[name]} {balances['asset']}", justify="right"))
    console().print(Group(head, money, *([_table(found["entries"], found["has_more"])] if found["entries"] else [])))


@app.command("deposit-address")
def deposit_address(
    account_id: Annotated[str, typer.Argument(metavar="ID", help="An account of a token, as alice:AUSD.")],
    tenant: Annotated[str, typer.Option(help="The tenant.")] = "default",
) -> None:
    """Ask where tokens held outside come back to an account. Its first address of a token takes some blocks: again."""

    async def ask() -> dict[str, Any]:
        async with ApiClient(load_settings(), tenant) as client:
            return await client.post(f"/v1/accounts/{account_id}/deposit-address", {}, str(uuid.uuid4()))

    emit(run(ask()))


def _table(entries: list[dict[str, Any]], has_more: bool) -> Table:
    title = "\nlast entries" + (" (there are more)" if has_more else "")
    names = ("at (UTC)", "what", "layer", "out", "in", "transaction")
    found = table(title, *names, right=("out", "in"), whole=("transaction",))
    for entry in entries:
        amount = entry["amount"].lstrip("-")
        # A customer's account grows by credits.
        sides = (amount, "") if entry["direction"] == "debit" else ("", amount)
        found.add_row(
            moment(entry["posted_at"]), entry.get("kind", ""), entry["layer"], *sides, entry["transaction_id"]
        )
    return found
