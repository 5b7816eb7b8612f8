"""Handlers of the client's own business: accounts, orders, inquiries, events, statements, files."""

from __future__ import annotations

import json
import sqlite3
from datetime import date
from typing import Any, Final

from aura_stream.mock_bank import payments, sepa, statements, webhooks
from aura_stream.mock_bank.ach import OutOfWindow
from aura_stream.mock_bank.bank import IDEMPOTENCY_WINDOW_MS, PROCESSING_MS, Bank, iso_time
from aura_stream.mock_bank.call import Call, Handler
from aura_stream.mock_bank.faults import on_events
from aura_stream.mock_bank.payments import Reply
from aura_stream.mock_bank.problems import Problem


async def get_bank(call: Call) -> Reply:
    """Who the bank is, and the times that its clients must know."""
    bank = call.bank
    return Reply(
        200,
        {
            "bank": bank.name,
            "now": iso_time(call.at),
            "routing_number": bank.routing,
            "bic": bank.bic,
            "idempotency_window_s": IDEMPOTENCY_WINDOW_MS // 1000,
            "longest_processing_delay_s": PROCESSING_MS // 1000,
            "instant_timeout_s": sepa.INSTANT_TIMEOUT_MS // 1000,
        },
    )


async def list_accounts(call: Call) -> Reply:
    """The client's accounts."""
    rows = call.bank.store.rows("SELECT * FROM accounts WHERE kind = 'client' ORDER BY id")
    return Reply(200, {"accounts": [statements.account_view(call.bank, row) for row in rows]})


async def get_account(call: Call) -> Reply:
    """One of them."""
    try:
        return Reply(200, statements.account_view(call.bank, call.bank.account(call.path["account_id"], "client")))
    except KeyError:
        raise Problem(404, "account_not_found", "You have no such account here.") from None


async def submit_ach(call: Call) -> Reply:
    """An ACH debit or credit."""
    return payments.submit(call.bank, payments.ach_order(call.body), call.request.path, call.at)


async def submit_sepa(call: Call) -> Reply:
    """A SEPA credit transfer, instant or not (pacs.008)."""
    return payments.submit(call.bank, payments.sepa_order(call.body), call.request.path, call.at)


async def submit_internal(call: Call) -> Reply:
    """Between two accounts of the client."""
    return payments.submit(call.bank, payments.internal_order(call.body), call.request.path, call.at)


async def inquire(call: Call) -> Reply:
    """What became of a reference (pacs.028)."""
    return payments.inquire(call.bank, call.query["reference"], call.at)


async def get_transfer(call: Call) -> Reply:
    """A transfer by the bank's own id, whenever it was."""
    return Reply(200, call.bank.view(find(call.bank, call.path["transfer_id"])))


def find(bank: Bank, id_: str) -> sqlite3.Row:
    """A transfer. Raises :class:`Problem`."""
    try:
        return bank.transfer(id_)
    except KeyError:
        raise Problem(404, "transfer_not_found", f"There is no transfer {id_[:80]!r}.") from None


async def request_recall(call: Call) -> Reply:
    """Asks for money back that was sent (camt.056); once per transfer."""
    row = find(call.bank, call.body["transfer_id"])
    if row["status"] != "settled" or row["direction"] != "credit" or not row["rail"].startswith("sepa"):
        raise Problem(
            409, "not_recallable", f"Transfer {row['id']} is {row['status']}, {row['direction']}, {row['rail']}."
        )
    known = call.bank.store.value("SELECT id FROM recalls WHERE transfer_id = ?", row["id"])
    if known is not None:
        return Reply(200, sepa.recall_view(call.bank, known), headers={"Idempotent-Replayed": "true"})
    return Reply(201, recall(call.bank, row, call.body["reason"], call.at))


def recall(bank: Bank, row: sqlite3.Row, reason: str, at: int, *, forced: bool = False) -> dict[str, Any]:
    """A recall in one transaction. Raises :class:`Problem` when it is too late."""
    try:
        with bank.store.transaction():
            return sepa.recall(bank, row, reason, at, forced=forced)
    except OutOfWindow as error:
        raise Problem(422, "recall_window_passed", str(error)) from error


async def get_recall(call: Call) -> Reply:
    """A recall as it stands."""
    try:
        return Reply(200, sepa.recall_view(call.bank, call.path["recall_id"]))
    except KeyError:
        raise Problem(404, "recall_not_found", "There is no such recall.") from None


async def answer_recall(call: Call) -> Reply:
    """The client's answer to a recall of what it received."""
    row = call.bank.store.row("SELECT * FROM recalls WHERE id = ?", call.path["recall_id"])
    if row is None or row["direction"] != "received":
        raise Problem(404, "recall_not_found", "There is no such recall that waits for you.")
    with call.bank.store.transaction():
        return Reply(200, sepa.answer(call.bank, row["id"], call.at, accept_it=call.body["accept"]))


async def list_events(call: Call) -> Reply:
    """What has happened, in order; also what no webhook has told."""
    rows = call.bank.store.rows(
        "SELECT n, body FROM events WHERE n > ? ORDER BY n LIMIT ?", call.query["after"], call.query["limit"]
    )
    events = [json.loads(row["body"]) for row in rows]
    fault = on_events(
        call.bank.profile, call.bank.name, call.query["after"], call.bank.visit("events", call.query["after"])
    )
    return Reply(200, {"events": events, "after": rows[-1]["n"] if rows else call.query["after"]}, fault)


async def set_webhook(call: Call) -> Reply:
    """Where events go."""
    webhooks.set_url(call.bank, call.body["url"], call.world.config.webhook_hosts)
    return Reply(200, {"url": call.body["url"]})


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Problem(400, "invalid_date", f"{text!r} is no day of the calendar.") from None


async def get_camt053(call: Call) -> Reply:
    """The statement of a closed day."""
    return statements.camt053(call.bank, call.query["account_id"], _day(call.query["date"]), call.at)


async def get_camt054(call: Call) -> Reply:
    """What was booked on a day until now."""
    return statements.camt054(call.bank, call.query["account_id"], _day(call.query["date"]), call.at)


async def list_files(call: Call) -> Reply:
    """ACH files in either direction."""
    return Reply(200, statements.ach_files(call.bank, call.query["after"], call.query["limit"]))


async def get_file(call: Call) -> Reply:
    """One of them, 94 characters a line."""
    text = statements.ach_file(call.bank, call.path["file_id"])
    return Reply(200, text.encode(), headers={"Content-Type": "text/plain"})


async def upload_file(call: Call) -> Reply:
    """Orders as a NACHA file."""
    return statements.upload(call.bank, call.body, call.query["account_id"], call.request.path, call.at)


HANDLERS: Final[dict[str, Handler]] = {
    "getBank": get_bank,
    "listAccounts": list_accounts,
    "getAccount": get_account,
    "submitAchTransfer": submit_ach,
    "submitSepaTransfer": submit_sepa,
    "submitInternalTransfer": submit_internal,
    "inquire": inquire,
    "getTransfer": get_transfer,
    "requestRecall": request_recall,
    "getRecall": get_recall,
    "answerRecall": answer_recall,
    "listEvents": list_events,
    "setWebhook": set_webhook,
    "getCamt053": get_camt053,
    "getCamt054": get_camt054,
    "listAchFiles": list_files,
    "getAchFile": get_file,
    "uploadAchFile": upload_file,
}
