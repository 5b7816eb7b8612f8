"""Handlers of account data: consents, the authorization of a user, and what it opens."""

from __future__ import annotations

import html
import sqlite3
from typing import Any, Final
from urllib.parse import urlencode

from aura_stream.mock_bank import oauth, statements
from aura_stream.mock_bank.bank import iso_time
from aura_stream.mock_bank.calendars import DAY_MS
from aura_stream.mock_bank.call import Call, Handler
from aura_stream.mock_bank.faults import DATA, TOKEN, pick
from aura_stream.mock_bank.money import text_of
from aura_stream.mock_bank.payments import Reply
from aura_stream.mock_bank.problems import Problem

FULL_HISTORY_MS: Final = 5 * 60_000
"""After the authorization the whole history can be read for so long, then only the last 90 days (as Monzo does)."""
HISTORY_MS: Final = 90 * DAY_MS


async def token(call: Call) -> Reply:
    """The token endpoint."""
    bank, kind = call.bank, call.body.get("grant_type", "")[:40]
    fault = ""
    if kind in ("authorization_code", "refresh_token"):
        fault = pick(bank.profile, TOKEN, bank.name, kind, bank.visit("token", kind))
    if fault == "token_error_before":
        return Reply(0, None, "error_before")
    tokens = oauth.grant(bank, call.body, call.at)
    if fault == "token_error_after":
        return Reply(0, None, "error_after")
    return Reply(200, tokens, headers={"Cache-Control": "no-store"})


async def create_consent(call: Call) -> Reply:
    """A consent that a user shall give."""
    with call.bank.store.transaction():
        return Reply(201, oauth.new_consent(call.bank, call.body["permissions"], call.at))


async def get_consent(call: Call) -> Reply:
    """A consent as it stands."""
    return Reply(200, oauth.consent(call.bank, call.path["consent_id"], call.at))


async def revoke_consent(call: Call) -> Reply:
    """Ends a consent."""
    oauth.revoke(call.bank, call.path["consent_id"], call.at)
    return Reply(204, None)


async def authorize(call: Call) -> Reply:
    """The page on which a user decides."""
    oauth.check_authorization(call.bank, call.query, call.at)
    wanted = oauth.consent(call.bank, call.query["consent_id"], call.at)["permissions"]
    hidden = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in sorted(call.query.items())
    )
    page = (
        f"<!DOCTYPE html><html lang=en><title>{call.bank.name}</title><h1>{call.bank.name}</h1>"
        f"<p>{html.escape(call.query['client_id'])} asks to read your {html.escape(', '.join(wanted))}.</p>"
        f'<form method="post">{hidden}<label>User <input name="user"></label> '
        '<button name="decision" value="approve">Approve</button> '
        '<button name="decision" value="deny">Deny</button></form></html>\n'
    )
    headers = {"Content-Type": "text/html", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
    return Reply(200, page.encode(), headers=headers)


async def decide(call: Call) -> Reply:
    """The user's decision: back to the client, with a code or an error."""
    form: dict[str, str] = call.body
    back = oauth.decide(call.bank, form, form.get("user", ""), approve=form["decision"] == "approve", at=call.at)
    glue = "&" if "?" in form["redirect_uri"] else "?"
    return Reply(302, None, headers={"Location": form["redirect_uri"] + glue + urlencode(back)})


def _opened(call: Call) -> sqlite3.Row:
    assert call.token is not None
    return oauth.account_holder(call.bank, call.token)


def _account(call: Call) -> sqlite3.Row:
    owner = _opened(call)["owner"]
    row = call.bank.store.row(
        "SELECT * FROM accounts WHERE id = ? AND kind = 'retail' AND owner = ?", call.path["account_id"], owner
    )
    if row is None:
        raise Problem(404, "account_not_found", "The consent opens no such account.")
    return row


async def list_accounts(call: Call) -> Reply:
    """The user's accounts."""
    owner = _opened(call)["owner"]
    rows = call.bank.store.rows("SELECT * FROM accounts WHERE kind = 'retail' AND owner = ? ORDER BY id", owner)
    hidden = ("balance", "available")
    shown = [statements.account_view(call.bank, row) for row in rows]
    return Reply(200, {"accounts": [{k: v for k, v in one.items() if k not in hidden} for one in shown]})


async def get_balance(call: Call) -> Reply:
    """One account's balance."""
    row = _account(call)
    balance = text_of(call.bank.balance(row["id"]))
    return Reply(
        200, {"account_id": row["id"], "currency": row["currency"], "balance": balance, "at": iso_time(call.at)}
    )


async def list_transactions(call: Call) -> Reply:
    """One account's booked lines, oldest first."""
    row = _account(call)
    holder = _opened(call)
    since = call.at - HISTORY_MS
    if call.at <= holder["authorised_ms"] + FULL_HISTORY_MS:
        since = 0
    rows = call.bank.store.rows(
        "SELECT e.*, t.reference, t.text, t.rail FROM entries e JOIN transfers t ON t.id = e.transfer_id"
        " WHERE e.account_id = ? AND e.at_ms >= ? AND e.n > ? ORDER BY e.n LIMIT ?",
        *(row["id"], since, call.query["after"], call.query["limit"]),
    )
    shown: list[dict[str, Any]] = [
        {
            "id": f"{call.bank.name}-{entry['n']}",
            "account_id": row["id"],
            "amount": text_of(entry["cents"]),
            "currency": row["currency"],
            "booked_at": iso_time(entry["at_ms"]),
            "description": entry["text"] or entry["rail"],
            "reference": entry["reference"],
        }
        for entry in rows
    ]
    return Reply(200, {"transactions": shown, "after": rows[-1]["n"] if rows else call.query["after"]})


def _faulty(handler: Handler) -> Handler:
    """A read of account data that fails as the profile says; by the consent and how often it has been here."""

    async def read(call: Call) -> Reply:
        consent = _opened(call)["id"]
        fault = pick(call.bank.profile, DATA, call.bank.name, consent, call.bank.visit("data", consent))
        if fault:
            return Reply(0, None, {"data_error": "error_before", "data_limited": "rate_limited"}[fault])
        return await handler(call)

    return read


HANDLERS: Final[dict[str, Handler]] = {
    "token": token,
    "createConsent": create_consent,
    "getConsent": get_consent,
    "revokeConsent": revoke_consent,
    "showAuthorization": authorize,
    "decideAuthorization": decide,
    "listUserAccounts": _faulty(list_accounts),
    "getUserBalance": _faulty(get_balance),
    "listUserTransactions": _faulty(list_transactions),
}
