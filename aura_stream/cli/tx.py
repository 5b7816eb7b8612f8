"""``aura tx``: a transaction's state history and entries, once or until it ends."""

from __future__ import annotations

import asyncio
from itertools import groupby
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
    "requires_approval": ("yellow", "?"),
    "returned": ("red", "↩"),
}
_TERMINAL = frozenset({"completed", "failed", "canceled", "returned"})
_POLL_S = 0.25


@app.command()
def show(transaction_id: IdArgument, tenant: TenantOption = "default", json: JsonOption = False) -> None:
    """Show a transaction: what was asked for, its states, its entries, and what was tried at banks and the chain."""

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
    if transaction.get("attempts"):
        parts.append(_attempts(transaction["attempts"]))
    return Group(*parts)


def _facts(transaction: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    facts = dict(transaction)
    if transaction.get("reason_title"):
        facts["reason"] = f"{transaction['reason']}: {transaction['reason_title']}. {transaction['reason_hint']}"
    names = ("id", "tenant", "customer", "from_account_id", "to_account_id", "reason", "captured_amount", "expires_at")
    rows = [(name, str(facts[name])) for name in names if facts.get(name)]
    if waits_for := transaction.get("waits_for"):
        rows.append(("waits for", _waits_for(waits_for)))
    rows += [(name, _settled(value)) for name, value in (transaction.get("settlement") or {}).items()]
    rows += [(name, str(facts[name])) for name in ("idempotency_key", "created_at", "updated_at") if facts.get(name)]
    for name, value in rows:
        grid.add_row(Text(name, "dim"), Text(value))
    return grid


def _waits_for(waits_for: dict[str, Any]) -> str:
    until = f" Until {waits_for['until']}, then: {waits_for['then']}." if waits_for["until"] else ""
    return f"{waits_for['who']}: {waits_for['what']}{until}"


def _settled(value: Any) -> str:
    """One member of the settlement; a bank's code with its meaning and what follows from it."""
    return f"{value['code']}: {value['meaning']} ({value['action']})" if isinstance(value, dict) else str(value)


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


def _attempts(attempts: list[dict[str, Any]]) -> RenderableType:
    """A table for each reference by which the other side knows it; the reference is whole, to be copied."""
    parts: list[RenderableType] = []
    for (lane, reference), tries in groupby(attempts, key=lambda one: (one["lane"], one["reference"])):
        found = table("", "#", "tried", "at (UTC)", "took", "answer", "breaker", right=("#", "took"))
        for one in tries:
            code = f"{one['code']['code']}: {one['code']['meaning']}" if one["code"] else ""
            http = f"HTTP {one['http_status']}" if one["http_status"] else ""
            answer = one["answer"] or "under way"
            about = ", ".join(filter(None, (http, code, one["detail"])))
            found.add_row(
                *(str(one["number"]), f"{one['kind']} {one['step']}", moment(one["started_at"])),
                *(f"{one['took_ms']} ms" if one["ended_at"] else "", f"{answer} ({about})" if about else answer),
                one["breaker"],
            )
        parts += [Text(f"\n{lane}", "italic"), Text(reference, "italic"), found]
    return Group(*parts)
