"""``aura tx``: a transaction's state history and entries, once or until it ends."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aura_stream.cli import CHECK_FAILED, GOOD, emit, say
from aura_stream.cli.api_client import ApiClient, run
from aura_stream.cli.tables import console, moment, table
from aura_stream.settings import load_settings

app = typer.Typer(no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The transaction's id.")]
TenantOption = Annotated[str, typer.Option(help="The tenant.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the resource as JSON.")]

_MARKS = {
    "completed": ("green", "✔"),
    "failed": ("red", "✘"),
    "canceled": ("yellow", "■"),
    "requires_attention": ("red", "!"),
}
_TERMINAL = frozenset({"completed", "failed", "canceled", "returned"})
_POLL_S = 0.25


@app.command()
def show(transaction_id: IdArgument, tenant: TenantOption = "default", json: JsonOption = False) -> None:
    """Show a transaction: what was asked for, its states, its entries."""

    async def ask() -> dict[str, Any]:
        async with ApiClient(load_settings(), tenant) as client:
            return await client.get(f"/v1/transactions/{transaction_id}")

    transaction = run(ask())
    if json:
        emit(transaction)
    else:
        console().print(render(transaction))


@app.command()
def watch(
    transaction_id: IdArgument,
    tenant: TenantOption = "default",
    json: JsonOption = False,
    timeout: Annotated[float, typer.Option(help="Give up after so many seconds; 0: never.")] = 0.0,
) -> None:
    """Follow a transaction until it ends. Exit code 0 completed, 1 failed or canceled, 3 not ended in time."""
    transaction = run(_watch(transaction_id, tenant, timeout, quiet=json))
    if json:
        emit(transaction)
    if transaction["status"] not in _TERMINAL:
        say(f"It has not ended within {timeout:g} s; it is {transaction['status']}/{transaction['state']}.")
        raise typer.Exit(3)
    raise typer.Exit(GOOD if transaction["status"] == "completed" else CHECK_FAILED)


async def _watch(transaction_id: str, tenant: str, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s if timeout_s else None
    async with ApiClient(load_settings(), tenant) as client:
        with Live(console=console(quiet=quiet), auto_refresh=False) as live:
            while True:
                transaction = await client.get(f"/v1/transactions/{transaction_id}")
                live.update(render(transaction), refresh=True)
                is_late = deadline is not None and loop.time() >= deadline
                if transaction["status"] in _TERMINAL or is_late:
                    return transaction
                await asyncio.sleep(_POLL_S)


def render(transaction: dict[str, Any]) -> RenderableType:
    """The transaction for a terminal: head, state history, entries. Never by colour alone."""
    colour, mark = _MARKS.get(transaction["status"], ("cyan", "…"))
    head = Text.assemble(
        (f"{mark} {transaction['status']}", f"bold {colour}"),
        f" ({transaction['state']})  {transaction['type']} ",
        (f"{transaction.get('amount', '?')} {transaction.get('asset', '')}", "bold"),
    )
    parts: list[RenderableType] = [head, _facts(transaction)]
    if transaction["events"]:
        parts.append(_events(transaction["events"]))
    if transaction["entries"]:
        parts.append(_entries(transaction["entries"]))
    return Group(*parts)


def _facts(transaction: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    names = ("id", "tenant", "customer", "from_account_id", "to_account_id", "reason", "captured_amount", "expires_at")
    for name in (*names, "idempotency_key", "created_at", "updated_at"):
        if transaction.get(name):
            grid.add_row(Text(name, "dim"), Text(str(transaction[name])))
    return grid


def _events(events: list[dict[str, Any]]) -> Table:
    names = ["event", "status", "state", "at (UTC)"]
    if any(event.get("reason") for event in events):
        names.append("reason")
    found = table("\nstate history", "#", *names)
    for event in events:
        colour, mark = _MARKS.get(event["status"], ("cyan", "…"))
        status = Text(f"{mark} {event['status']}", colour)
        row = [str(event["seq"]), event["type"], status, event["state"], moment(event["occurred_at"])]
        found.add_row(*row, *([event.get("reason") or ""] if "reason" in names else []))
    return found


def _entries(entries: list[dict[str, Any]]) -> Table:
    names = ("journal", "account", "layer", "debit", "credit", "asset")
    found = table("entries", *names, right=("debit", "credit"))
    journal = None
    for entry in entries:
        if journal not in (None, entry["journal_id"]):
            found.add_section()
        journal = entry["journal_id"]
        amount = entry["amount"].lstrip("-")
        sides = (amount, "") if entry["direction"] == "debit" else ("", amount)
        found.add_row(journal, entry["account_id"], entry["layer"], *sides, entry["asset"])
    return found
