"""``aura reconcile``: compare the ledger with banks' statements and the chain, once or on and on; look at breaks."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from aura_stream.chain.setup import token_address
from aura_stream.chain.signer import SigningKey, derived, load_key
from aura_stream.cli import CHECK_FAILED, COULD_NOT, emit, paint, say
from aura_stream.cli.api_client import ApiClient
from aura_stream.cli.api_client import run as run_client
from aura_stream.cli.db import run
from aura_stream.cli.tables import table
from aura_stream.domain.reconciliation import MEANING, RESOLUTIONS, Finding
from aura_stream.domain.settlement import TOKENS
from aura_stream.ledger.connection import RECONCILER, connect
from aura_stream.reconcile import run as runs
from aura_stream.reconcile.metrics import ReconcileMetrics
from aura_stream.reconcile.run import Outcome, Wanted
from aura_stream.reconcile.sources import read_logins
from aura_stream.settings import Settings, SetupError, load_settings

app = typer.Typer(invoke_without_command=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
IdArgument = Annotated[int, typer.Argument(metavar="BREAK", min=1, help="The break's number.")]
_AWAY = (OSError, TimeoutError, SetupError)


@app.callback()
def options(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again until SIGTERM or Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two runs of --watch.")] = 60.0,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=65535, help="With --watch: answer /metrics on this loopback port; 0: on none.")
    ] = 0,
    statement: Annotated[
        list[Path] | None, typer.Option(help="A camt.053 file instead of the banks' APIs; again for more.")
    ] = None,
    returns: Annotated[
        list[Path] | None, typer.Option(help="A NACHA file of returns instead of the banks' APIs; again for more.")
    ] = None,
    bank: Annotated[
        list[str] | None, typer.Option(help="A bank; again for more. Of files: the one bank that they are from.")
    ] = None,
    account: Annotated[str, typer.Option(help="Which account the statements are of: trust or operating.")] = "trust",
    credentials: Annotated[
        Path | None,
        typer.Option(help="File of the banks' APIs; default: AURA_BANKS_FILE, or <home>/mock-bank/credentials.json."),
    ] = None,
    since: Annotated[
        str,
        typer.Option(help="First day to ask for, YYYY-MM-DD; default: that of the ledger's first entry at the bank."),
    ] = "",
    token: Annotated[
        list[str] | None,
        typer.Option(
            help="A token whose supply is compared: NAME=ADDRESS; again for more. Default: those of the minter's key, "
            "if it is here."
        ),
    ] = None,
    custody: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare what our address holds of a --token too: NAME=ADDRESS; again for more. Default: that of the "
            "minter's key, if the key is here."
        ),
    ] = None,
    dsn: Annotated[str, typer.Option("--dsn", help="Postgres; default: AURA_POSTGRES_WRITE_DSN.")] = "",
    json: JsonOption = False,
) -> None:
    """Import what banks say, match it, open and end breaks, report the reserves.

    Exit code 0: nothing is open, 1: there are open breaks, 3: something could not be asked (what could is done).
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    wanted = _wanted(settings, statement or [], returns or [], bank or [], account, credentials, since, token or [])
    wanted = replace(wanted, custody=_custody(settings, wanted, custody or []))
    dsn = dsn or settings.postgres_write_dsn
    if watch:
        _watch(dsn, wanted, every, metrics_port)
        return
    outcome = run(runs.reconcile(dsn, wanted), "The ledger cannot be reconciled.")
    if json:
        emit(outcome.report)
    else:
        _show(outcome)
    for problem in outcome.problems:
        say(f"{paint('could not ask', 'red')}: {problem}")
    if outcome.problems:
        raise typer.Exit(COULD_NOT)
    if outcome.report["open_breaks"]:
        raise typer.Exit(CHECK_FAILED)


@app.command()
def breaks(
    every: Annotated[bool, typer.Option("--all", help="Those that are resolved too.")] = False,
    kind: Annotated[str, typer.Option(help="Only of this kind.")] = "",
    json: JsonOption = False,
) -> None:
    """List open breaks, the oldest first. Exit code 1 when there are any."""

    async def ask() -> list[dict[str, Any]]:
        query = {"limit": "200"} | ({} if every else {"status": "open"}) | ({"kind": kind} if kind else {})
        found: list[dict[str, Any]] = []
        async with ApiClient(load_settings(), "") as client:
            while True:
                page = await client.get("/v1/breaks", query)
                found += page["items"]
                if not page["has_more"]:
                    return found
                query["cursor"] = page["next_cursor"]

    found = run_client(ask())
    if json:
        emit(found)
    else:
        shown = table("", "break", "kind", "amount", "about", "open for", "owner", "status", whole=("kind",))
        for one in found:
            about = one["detail"] + (f"\n{one['transaction_id']}" if one["transaction_id"] else "")
            amount = f"{one['amount']} {one['asset']}"
            row = (str(one["id"]), one["kind"], amount, about, _age(one["age_s"]), one["owner"] or "-")
            shown.add_row(*row, one["resolution"] or "open")
        Console().print(shown)
    if any(one["status"] == "open" for one in found):
        raise typer.Exit(CHECK_FAILED)


@app.command()
def show(break_: IdArgument) -> None:
    """Show a break, what its kind means, and what became of it."""

    async def ask() -> dict[str, Any]:
        async with ApiClient(load_settings(), "") as client:
            return await client.get(f"/v1/breaks/{break_}")

    found = run_client(ask())
    emit({"means": MEANING[found["kind"]], **found})


@app.command()
def assign(
    break_: IdArgument,
    owner: Annotated[str, typer.Argument(help="Who looks after it.")],
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Give an open break an owner."""
    emit(_act(break_, "assign", {"owner": owner} | ({"note": note} if note else {})))


@app.command()
def resolve(
    break_: IdArgument,
    note: Annotated[str, typer.Option(help="What it was and how that is known.")],
    resolution: Annotated[str, typer.Option("--as", help=f"One of {', '.join(RESOLUTIONS)}.")] = "explained",
) -> None:
    """Resolve an open break with a note. It moves no money; the audit log has who resolved it."""
    if resolution not in RESOLUTIONS:
        raise typer.BadParameter(f"one of {', '.join(RESOLUTIONS)}", param_hint="--as")
    emit(_act(break_, "resolve", {"resolution": resolution, "note": note}))


def _act(break_id: int, action: str, body: dict[str, str]) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with ApiClient(load_settings(), "") as client:
            return await client.post(f"/v1/breaks/{break_id}/{action}", body, str(uuid.uuid4()))

    return run_client(ask())


def _wanted(
    settings: Settings,
    statements: list[Path],
    returns: list[Path],
    banks: list[str],
    account: str,
    credentials: Path | None,
    since: str,
    tokens: list[str],
) -> Wanted:
    """What the options ask for. Raises :class:`typer.BadParameter` and :class:`SetupError`."""
    if account not in ("trust", "operating"):
        raise typer.BadParameter("trust or operating", param_hint="--account")
    try:
        first_day = date.fromisoformat(since) if since else None
    except ValueError:
        raise typer.BadParameter(f"{since!r} is no day like 2026-11-20", param_hint="--since") from None
    addresses = dict(_address(one) for one in tokens)
    if not tokens:
        addresses = {name: token_address(key) for name, key in _keys(settings).items()}
    logins = {}
    if (statements or returns) and len(banks) != 1:
        raise typer.BadParameter("a file says not which bank of ours it is from: name one", param_hint="--bank")
    if not (statements or returns):
        logins = read_logins(credentials or settings.banks_file or settings.home / "mock-bank" / "credentials.json")
        if unknown := sorted(set(banks) - set(logins)):
            known = ", ".join(sorted(logins))
            raise typer.BadParameter(f"{', '.join(unknown)}: no credentials; known are {known}", param_hint="--bank")
    return Wanted(
        logins=[one for name, one in sorted(logins.items()) if not banks or name in banks],
        first_day=first_day,
        files=[(banks[0], account, _content(path)) for path in statements],
        return_files=[(banks[0], _content(path)) for path in returns],
        chain_rpc_url=settings.chain_rpc_url,
        confirmations=settings.chain_confirmations,
        tokens=addresses,
    )


def _custody(settings: Settings, wanted: Wanted, given: list[str]) -> dict[str, str]:
    """Our address of each token whose supply is compared: as given, or that of the minter's key, if it is here."""
    found = {name: key.address for name, key in _keys(settings).items()} | dict(_address(one) for one in given)
    return {name: address for name, address in found.items() if name in wanted.tokens}


def _keys(settings: Settings) -> dict[str, SigningKey]:
    """The minter's key of each token; none if it is not here."""
    path = settings.chain_key_file or settings.home / "chain" / "key"
    if settings.chain_key is None and not path.exists():
        return {}
    key = load_key(settings)
    return {name: derived(key, name) for name in TOKENS}


def _address(text: str) -> tuple[str, str]:
    name, _, address = text.partition("=")
    is_address = len(address) == 42 and address.startswith("0x") and set(address[2:].lower()) <= set("0123456789abcdef")
    if name not in TOKENS or not is_address:
        raise typer.BadParameter(f"{text!r} is not like {next(iter(TOKENS))}=0x...", param_hint="--token")
    return name, address


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--statement") from None


def _watch(dsn: str, wanted: Wanted, every_s: float, metrics_port: int) -> None:
    """Runs until it is stopped; what fails is said and tried again: nobody restarts it at night."""
    registry = CollectorRegistry()
    metrics = ReconcileMetrics(registry, amounts=True)
    if metrics_port:
        start_http_server(metrics_port, addr="127.0.0.1", registry=registry)

    async def once() -> Outcome:
        outcome = await runs.reconcile(dsn, wanted)
        connection = await connect(dsn, RECONCILER, application_name="aura reconcile")
        try:
            await metrics.refresh(connection)
        finally:
            await connection.close(timeout=5)
        return outcome

    async def go_on() -> None:
        while True:
            try:
                outcome = await asyncio.to_thread(run, once(), "The ledger cannot be reconciled.")
            except _AWAY as error:
                metrics.away()
                say(str(error))
            else:
                for break_id, one in outcome.opened:
                    say(_opened(break_id, one))
                for problem in outcome.problems:
                    say(f"{paint('could not ask', 'red')}: {problem}")
                say(_line(outcome))
            await asyncio.sleep(every_s)

    asyncio.run(go_on())


def _line(outcome: Outcome) -> str:
    new = f"{outcome.imported} statements, {outcome.returns} returns, {outcome.matched} matched"
    return f"{new}; breaks: {len(outcome.opened)} new, {outcome.gone} gone, {outcome.report['open_breaks']} open"


def _show(outcome: Outcome) -> None:
    report = outcome.report
    console = Console()
    if report["accounts"]:
        accounts = table("", "account", "close of", "bank", "ledger", "difference", "unexplained")
        for one in report["accounts"]:
            row = (one["account"], one["day"], one["closing_balance"], one["ledger_balance"])
            accounts.add_row(*row, one["difference"], one["unexplained"])
        console.print(accounts)
    tokens = table("", "token", "owed", "supply", "in flight", "unexplained", "in custody", "at our address")
    for one in report["tokens"]:
        ours = one["custody"] or {"booked": "-", "balance": "not asked"}
        tokens.add_row(
            *(
                one["token"],
                one["owed"],
                one["supply"] or "not asked",
                str(one["in_flight"]),
                one["unexplained"] or "-",
            ),
            *(ours["booked"], ours["balance"]),
        )
    console.print(tokens)
    for break_id, finding in outcome.opened:
        print(_opened(break_id, finding))
    print(_line(outcome))


def _opened(break_id: int, finding: Finding) -> str:
    return f"{paint('break', 'red')} {break_id}: {finding.kind}: {finding.detail} ({finding.amount} minor units)"


def _age(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    return f"{days} d {rest // 3600} h" if days else f"{rest // 3600} h {rest % 3600 // 60} min"
