"""Handlers of `/v1/simulate`: what an operator of the sandbox makes happen, and what a checker may read."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from aura_stream.mock_bank import ach, banking, books, oauth, payments, statements
from aura_stream.mock_bank.bank import IDEMPOTENCY_WINDOW_MS, Bank, iso_time
from aura_stream.mock_bank.call import Call, Handler
from aura_stream.mock_bank.contract import load_contract
from aura_stream.mock_bank.faults import ALL, PROFILES, Profile
from aura_stream.mock_bank.payments import Order, Reply
from aura_stream.mock_bank.problems import Problem

FLUSH_S: Final = 30.0
RETURN_CODES: Final = frozenset(f"R{number:02d}" for number in range(100))


async def health(call: Call) -> Reply:
    """The process serves."""
    return Reply(200, {"status": "ok"})


async def contract(call: Call) -> Reply:
    """This contract as JSON."""
    return Reply(200, load_contract().document)


async def get_clock(call: Call) -> Reply:
    """The virtual time."""
    return Reply(200, {"now": iso_time(call.world.clock.now()), "kind": call.world.clock.kind})


async def advance(call: Call) -> Reply:
    """Lets time pass, by seconds or to a time."""
    by_ms = call.body.get("advance_s", 0) * 1000
    if "to" in call.body:
        try:
            target = datetime.fromisoformat(call.body["to"])
            by_ms = round(target.timestamp()) * 1000 - call.at
        except ValueError as error:
            raise Problem(400, "invalid_time", f"{call.body['to']!r} is no time.") from error
        if target.tzinfo is None:
            raise Problem(400, "invalid_time", "The time needs a zone.")
    if by_ms < 0:
        raise Problem(409, "clock_goes_forward", "The virtual clock only goes forward.")
    done = call.world.advance(by_ms)
    return Reply(200, {"now": iso_time(call.world.clock.now()), "kind": call.world.clock.kind, "done": done})


async def list_banks(call: Call) -> Reply:
    """All banks with their profiles."""
    shown = [{"bank": bank.name, "profile": profile_view(bank.profile)} for bank in call.world.banks.values()]
    return Reply(200, {"banks": shown})


def profile_view(profile: Profile) -> dict[str, Any]:
    """A profile with the rates that are in force, in basis points."""
    rates = {fault: profile.rate(fault) for fault in ALL if profile.rate(fault)}
    return {**asdict(profile), "rates": rates}


async def set_profile(call: Call) -> Reply:
    """How a bank behaves from now on; what is not named stays."""
    bank, body = call.bank, call.body
    unknown = sorted(set(body.get("rates", {})) - set(ALL))
    if unknown or body.get("name", "calm") not in PROFILES:
        raise Problem(400, "unknown_fault", f"Not known: {', '.join(unknown) or body['name']}.")
    values = dict(body)
    if "name" in values:
        # A named profile begins with its own rates.
        values.setdefault("rates", {})
    with bank.store.transaction():
        bank.set_profile(replace(bank.profile, **values))
    return Reply(200, profile_view(bank.profile))


async def incoming(call: Call) -> Reply:
    """Somebody pushes money to one of the client's accounts."""
    bank, body = call.bank, call.body
    try:
        account = bank.account(body["account_id"], "client")
    except KeyError:
        raise Problem(404, "account_not_found", "The client has no such account here.") from None
    rail = body.get("rail", "ach" if account["currency"] == "USD" else "sepa")
    if (rail == "ach") != (account["currency"] == "USD"):
        raise Problem(400, "currency_mismatch", f"{rail} brings no {account['currency']}.")
    order = Order(
        reference=body.get("reference", ""),
        rail=rail,
        direction="incoming",
        account_id=account["id"],
        currency=account["currency"],
        cents=payments.cents_in(body["amount"]),
        party=body["sender"],
        text=body.get("remittance", ""),
    )
    with bank.store.transaction():
        row = payments.create(bank, order, call.at)
    return Reply(201, bank.view(row))


def _named(call: Call) -> sqlite3.Row:
    """The transfer that a body names, by the bank's id or by the reference; the last one of that."""
    if "transfer_id" in call.body:
        return banking.find(call.bank, call.body["transfer_id"])
    row = call.bank.store.row(
        "SELECT * FROM transfers WHERE reference = ? ORDER BY n DESC LIMIT 1", call.body["reference"]
    )
    if row is None:
        raise Problem(404, "transfer_not_found", f"No transfer has the reference {call.body['reference'][:80]!r}.")
    return row


async def give_back(call: Call) -> Reply:
    """A settled transfer comes back now."""
    row = _named(call)
    if row["status"] != "settled":
        raise Problem(409, "not_settled", f"Transfer {row['id']} is {row['status']}.")
    if row["rail"] == "internal" or (row["rail"] == "ach") != (call.body["code"] in RETURN_CODES):
        raise Problem(400, "wrong_code", f"{row['rail']} transfers do not come back with {call.body['code']}.")
    force = call.body.get("force", False) or row["rail"] != "ach"
    try:
        with call.bank.store.transaction():
            row = ach.give_back(call.bank, row, call.body["code"], call.at, force=force)
    except ach.OutOfWindow as error:
        raise Problem(422, "return_window_passed", f"{error}; `force` does it all the same.") from error
    return Reply(200, call.bank.view(row))


async def change(call: Call) -> Reply:
    """A notification of change comes for an ACH transfer."""
    row = _named(call)
    if row["rail"] != "ach" or row["status"] != "settled" or row["direction"] == "incoming":
        raise Problem(409, "not_settled", f"Transfer {row['id']} is {row['rail']}, {row['status']}.")
    with call.bank.store.transaction():
        ach.change(call.bank, row, call.body["code"], call.at)
    return Reply(200, call.bank.view(call.bank.transfer(row["id"])))


async def recall(call: Call) -> Reply:
    """The sender of received money wants it back; forced, the bank takes it."""
    row = _named(call)
    if row["status"] != "settled" or row["direction"] != "incoming":
        raise Problem(409, "not_recallable", f"Transfer {row['id']} is {row['status']}, {row['direction']}.")
    forced = call.body.get("forced", False)
    return Reply(201, banking.recall(call.bank, row, call.body["reason"], call.at, forced=forced))


async def decide(call: Call) -> Reply:
    """A pending transfer is settled or rejected now."""
    row = _named(call)
    with call.bank.store.transaction():
        row = payments.decide(call.bank, row, call.body["status"], call.body.get("code", "MS03"), call.at)
    return Reply(200, call.bank.view(row))


async def add_user(call: Call) -> Reply:
    """A person with accounts at this bank, and money in them."""
    bank, owner = call.bank, call.body["user"]
    views = []
    with bank.store.transaction():
        for number, wanted in enumerate(call.body["accounts"], 1):
            id_ = f"{owner}-{number}"
            row = bank.open_account(id_, "retail", wanted["currency"], owner, wanted.get("type", "CHECKING"))
            cents = payments.cents_in(wanted["balance"]) if wanted.get("balance") else 0
            if cents and not bank.store.value("SELECT 1 FROM entries WHERE account_id = ?", id_):
                _give(bank, row, cents, call.at)
            views.append(statements.account_view(bank, row))
    return Reply(201, {"user": owner, "accounts": views})


def _give(bank: Bank, account: sqlite3.Row, cents: int, at: int) -> None:
    """Money from nowhere: the network pays it in."""
    order = Order(
        reference="",
        rail="internal",
        direction="credit",
        account_id=f"network:{account['currency']}",
        currency=account["currency"],
        cents=cents,
        party={"name": "Opening balance"},
        text="Opening balance",
        to_account_id=account["id"],
    )
    payments.create(bank, order, at, funded=True)


async def set_redirect_uris(call: Call) -> Reply:
    """Where users may be sent back after they have decided."""
    return Reply(200, {"redirect_uris": oauth.set_redirect_uris(call.bank, call.body["redirect_uris"])})


async def forget(call: Call) -> Reply:
    """The bank forgets all references now, as it does by itself after its window."""
    with call.bank.store.transaction():
        known = call.bank.store.value("SELECT count(*) FROM remembered")
        call.bank.store.run("UPDATE remembered SET at_ms = at_ms - ?", IDEMPOTENCY_WINDOW_MS)
    return Reply(200, {"forgotten": known})


async def flush(call: Call) -> Reply:
    """Waits until every webhook that is due has been tried, 30 s at most."""
    dispatcher = call.world.dispatchers[call.bank.name]
    deadline = time.monotonic() + FLUSH_S
    while not dispatcher.idle() and time.monotonic() < deadline:
        dispatcher.wake.set()
        await asyncio.sleep(0.005)
    return Reply(200, {"idle": dispatcher.idle(), "webhooks": books.summary(call.bank)["webhooks"]})


async def get_books(call: Call) -> Reply:
    """Balances, counts, and what was done twice."""
    return Reply(200, books.summary(call.bank))


async def list_references(call: Call) -> Reply:
    """Every reference and how often it was acted on."""
    return Reply(200, books.references(call.bank, call.query["after"], call.query["limit"]))


async def list_calls(call: Call) -> Reply:
    """The journal of calls."""
    return Reply(200, books.calls(call.bank, call.query["after"], call.query["limit"]))


async def list_attempts(call: Call) -> Reply:
    """The tries to deliver webhooks."""
    return Reply(200, books.attempts(call.bank, call.query["after"], call.query["limit"]))


HANDLERS: Final[dict[str, Handler]] = {
    "getHealth": health,
    "getContract": contract,
    "getClock": get_clock,
    "advanceClock": advance,
    "listBanks": list_banks,
    "setProfile": set_profile,
    "pushIncoming": incoming,
    "returnTransfer": give_back,
    "changeDetails": change,
    "recallIncoming": recall,
    "decideTransfer": decide,
    "addUser": add_user,
    "setRedirectUris": set_redirect_uris,
    "forgetReferences": forget,
    "flushWebhooks": flush,
    "getBooks": get_books,
    "listReferences": list_references,
    "listCalls": list_calls,
    "listAttempts": list_attempts,
}
