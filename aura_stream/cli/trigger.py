"""``aura trigger``: make something happen outside: `chain` on the local chain, `clock` everywhere, all others at the
mock bank."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aura_stream.cli import CHECK_FAILED, COULD_NOT, emit, say, trigger_chain
from aura_stream.cli.api_client import ApiClient, run
from aura_stream.settings import Settings, SettingsError, SetupError, load_settings

app = typer.Typer(no_args_is_help=True)
app.add_typer(trigger_chain.app, name="chain", help="Make the local chain misbehave.")

TIMEOUT_S = 60.0
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

BankOption = Annotated[str, typer.Option("--bank", help="Name of the bank.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="The mock bank's directory; default: <home>/mock-bank.")
]
TransferArgument = Annotated[str, typer.Argument(metavar="TRANSFER", help="The bank's id (tr_...) or the reference.")]


@app.command()
def push(
    amount: Annotated[str, typer.Argument(help="Amount in major units, such as 12.50.")],
    account: Annotated[str, typer.Option(help="The client's account, such as trust-eur.")] = "trust-eur",
    name: Annotated[str, typer.Option(help="Who sends it; names of the magic table work.")] = "Alice Example",
    reference: Annotated[str, typer.Option(help="The sender's reference (EndToEndId).")] = "",
    remittance: Annotated[str, typer.Option(help="Text for the receiver.")] = "",
    instant: Annotated[bool, typer.Option("--instant", help="SCT Inst instead of SCT.")] = False,
    bank: BankOption = "bank-a",
    data: DataOption = None,
) -> None:
    """Push money to the client, as a SEPA transfer or, to a USD account, an ACH credit."""
    body: dict[str, Any] = {"account_id": account, "amount": amount, "sender": {"name": name}}
    body |= {"reference": reference, "remittance": remittance}
    if instant:
        body["rail"] = "sepa_instant"
    emit(_call(data, "POST", f"/banks/{bank}/incoming", body))


@app.command("return")
def give_back(
    transfer: TransferArgument,
    code: Annotated[str, typer.Option(help="R-code (ACH) or ISO code (SEPA).")] = "R01",
    force: Annotated[bool, typer.Option("--force", help="Also after the code's last day.")] = False,
    bank: BankOption = "bank-a",
    data: DataOption = None,
) -> None:
    """Return a settled transfer now."""
    emit(_call(data, "POST", f"/banks/{bank}/returns", {**_named(transfer), "code": code, "force": force}))


@app.command()
def change(
    transfer: TransferArgument,
    code: Annotated[str, typer.Option(help="Change code.")] = "C01",
    bank: BankOption = "bank-a",
    data: DataOption = None,
) -> None:
    """Send a notification of change (NOC) for a settled ACH transfer."""
    emit(_call(data, "POST", f"/banks/{bank}/changes", {**_named(transfer), "code": code}))


@app.command()
def recall(
    transfer: TransferArgument,
    reason: Annotated[str, typer.Option(help="DUPL, TECH, FRAD, CUST or AC01.")] = "DUPL",
    forced: Annotated[bool, typer.Option("--forced", help="The bank takes the money and asks nobody.")] = False,
    bank: BankOption = "bank-a",
    data: DataOption = None,
) -> None:
    """Recall money that was pushed to the client."""
    emit(_call(data, "POST", f"/banks/{bank}/recalls", {**_named(transfer), "reason": reason, "forced": forced}))


@app.command()
def decide(
    transfer: TransferArgument,
    status: Annotated[Literal["settled", "rejected"], typer.Argument(help="What becomes of it.")],
    code: Annotated[str, typer.Option(help="Code of a rejection.")] = "MS03",
    bank: BankOption = "bank-a",
    data: DataOption = None,
) -> None:
    """Settle or reject a transfer that is pending."""
    emit(_call(data, "POST", f"/banks/{bank}/decisions", {**_named(transfer), "status": status, "code": code}))


@app.command()
def profile(
    name: Annotated[Literal["calm", "flaky", "hostile", "down", "hanging"], typer.Argument(help="The profile.")],
    seed: Annotated[int | None, typer.Option(help="Seed of the misbehaviour.")] = None,
    rate: Annotated[
        list[str] | None, typer.Option(help="A fault and its rate in basis points, such as lost=3000; again for more.")
    ] = None,
    bank: BankOption = "bank-a",
    data: DataOption = None,
) -> None:
    """Choose how a bank behaves."""
    body: dict[str, Any] = {"name": name}
    if seed is not None:
        body["seed"] = seed
    if rate:
        body["rates"] = dict(_rate(text) for text in rate)
    emit(_call(data, "PUT", f"/banks/{bank}/profile", body))


@app.command()
def hang(bank: BankOption = "bank-a", data: DataOption = None) -> None:
    """Let a bank take calls and answer none. `aura trigger profile calm` ends it."""
    emit(_call(data, "PUT", f"/banks/{bank}/profile", {"name": "hanging"}))


@app.command()
def clock(
    advance: Annotated[str, typer.Argument(help="How far, such as 90s, 30m, 6h or 3d; empty shows the time.")] = "",
    banks: Annotated[bool, typer.Option("--banks", help="Of the mock bank alone; the ledger need not run.")] = False,
    key: Annotated[str, typer.Option(help="Idempotency key (a UUID), to ask again; default: a new one.")] = "",
    data: DataOption = None,
) -> None:
    """Let time pass for ledger, lanes and banks; what is due meanwhile happens. The clock only goes forward."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd])", advance)
    if advance and found is None:
        raise _usage(f"advance {advance}", "it is not a number with s, m, h or d", "aura trigger clock 3d")
    body = {"advance_s": int(found[1]) * UNITS[found[2]]} if found is not None else None
    if banks or data is not None:
        emit(_call(data, "POST" if body else "GET", "/clock", body))
    else:
        emit(run(_clock(body, key or str(uuid.uuid4()))))


@app.command()
def books(bank: BankOption = "bank-a", data: DataOption = None) -> None:
    """Show the bank's own books. Exit code 1 if a reference was acted on twice or the books do not balance."""
    shown = _call(data, "GET", f"/banks/{bank}/books")
    emit(shown)
    if shown["max_acted"] > 1 or not shown["balanced"]:
        raise typer.Exit(CHECK_FAILED)


async def _clock(body: dict[str, int] | None, key: str) -> dict[str, Any]:
    async with ApiClient(_settings(), "") as api:
        if body is None:
            return await api.get("/v1/simulate/clock")
        try:
            return await api.post("/v1/simulate/clock", body, key)
        except (SetupError, typer.Exit):
            say(f"To ask again without moving it twice: --key {key}. The mock bank alone: --banks.")
            raise


def _settings() -> Settings:
    """The settings of a sandbox. Raises :class:`SettingsError` in live mode."""
    settings = load_settings()
    settings.require_sandbox(
        "Things are made to happen outside in the sandbox only.",
        why="banks, chain and clock are real there",
        fix="set AURA_MODE=sandbox",
    )
    return settings


def _named(transfer: str) -> dict[str, str]:
    return {"transfer_id" if transfer.startswith("tr_") else "reference": transfer}


def _rate(text: str) -> tuple[str, int]:
    fault, _, value = text.partition("=")
    if not value.isdigit():
        raise _usage(f"--rate {text}", "it is not FAULT=BASIS_POINTS", "aura trigger profile calm --rate lost=3000")
    return fault, int(value)


def _usage(where: str, why: str, fix: str) -> SettingsError:
    return SettingsError("The value cannot be used.", where=where, why=why, fix=fix)


def _call(data: Path | None, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """One call with the operator's token. Raises :class:`SetupError` when the mock bank is away."""
    settings = _settings()
    file = (data or settings.home / "mock-bank") / "credentials.json"
    start = "start it (`aura mock-bank`), or name its directory with --data"
    try:
        credentials = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError("The mock bank has not run here.", where=str(file), why=str(error), fix=start) from error
    url = f"{credentials['url']}/v1/simulate{path}"
    headers = {"Authorization": f"Bearer {credentials['operator_token']}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        say(f"error: {problem['title']}\n  where: {method} {url}\n  why: {problem['detail']}")
        raise typer.Exit(COULD_NOT if error.code >= 500 else CHECK_FAILED) from error
    except OSError as error:
        raise SetupError("The mock bank does not answer.", where=url, why=str(error), fix=start) from error
