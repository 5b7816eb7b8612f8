"""What a client can read of its accounts: balances, statements, and ACH files in either direction."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, time, timedelta
from typing import Any

from aura_stream.mock_bank import camt
from aura_stream.mock_bank.bank import Bank, compact, iso_time
from aura_stream.mock_bank.calendars import FRANKFURT, NEW_YORK, local
from aura_stream.mock_bank.calendars import at as midnight
from aura_stream.mock_bank.faults import FILES, LINES, on_submit, pick
from aura_stream.mock_bank.hostile import kind_of, spoiled_file
from aura_stream.mock_bank.money import text_of
from aura_stream.mock_bank.nacha import NachaError, parse
from aura_stream.mock_bank.payments import ACTED_ON, HANGS, Order, Reply, act
from aura_stream.mock_bank.problems import Problem

BATCH_MAX = 10_000


def account_view(bank: Bank, row: sqlite3.Row) -> dict[str, Any]:
    """An account with its balances."""
    return {
        "id": row["id"],
        "type": row["type"],
        "currency": row["currency"],
        "status": row["status"],
        "owner": row["owner"],
        "iban": row["iban"],
        "bic": bank.bic,
        "account_number": row["number"],
        "routing_number": bank.routing,
        "last_four": row["number"][-4:],
        "balance": text_of(bank.balance(row["id"])),
        "available": text_of(bank.available(row["id"])),
    }


def today(bank: Bank, currency: str, at: int) -> date:
    """The day it is where accounts in this currency are kept."""
    return local(at, NEW_YORK if currency == "USD" else FRANKFURT).date()


def lines(bank: Bank, account_id: str, first: str, last: str) -> list[camt.Line]:
    """The booked lines of an account from one day to another."""
    found = bank.store.rows(
        "SELECT e.*, t.reference, t.rail, t.direction, t.party, t.text, t.account_id AS owner FROM entries e"
        " JOIN transfers t ON t.id = e.transfer_id WHERE e.account_id = ? AND e.day BETWEEN ? AND ? ORDER BY e.n",
        *(account_id, first, last),
    )
    return [_line(row) for row in found]


def _line(row: sqlite3.Row) -> camt.Line:
    party = json.loads(row["party"])
    return camt.Line(
        entry_id=f"{row['n']:012d}",
        cents=row["cents"],
        booked_ms=row["at_ms"],
        day=date.fromisoformat(row["day"]),
        transfer_id=row["transfer_id"],
        reference=row["reference"],
        rail=row["rail"],
        direction=row["direction"],
        is_return=bool(row["is_return"]),
        code=row["code"],
        name=party["name"],
        account=party.get("iban") or party.get("account_number", ""),
        text=row["text"],
    )


def camt053(bank: Bank, account_id: str, day: date, at: int) -> Reply:
    """The statement of a closed day. Raises :class:`Problem` while the day is open."""
    row = _own(bank, account_id)
    if day >= today(bank, row["currency"], at):
        raise Problem(409, "day_not_closed", f"{day} has not ended where account {account_id} is kept.")
    opening = bank.store.value(
        "SELECT coalesce(sum(cents), 0) FROM entries WHERE account_id = ? AND day < ?", account_id, day.isoformat()
    )
    text = camt.statement(
        *(_account(bank, row), day, day.toordinal() - date(day.year, 1, 1).toordinal() + 1, int(opening)),
        *(_spoiled(bank, lines(bank, account_id, day.isoformat(), day.isoformat())), _closed_ms(row["currency"], day)),
    )
    return _file(bank, f"053 {account_id} {day}", text)


def _spoiled(bank: Bank, found: Iterable[camt.Line]) -> list[camt.Line]:
    """The lines as the profile shows them: the same whenever they are asked for."""
    shown: list[camt.Line] = []
    for line in found:
        fault = pick(bank.profile, LINES, bank.name, "line", line.entry_id)
        if fault == "line_off":
            shown.append(replace(line, cents=line.cents + (1 if line.cents > 0 else -1)))
        elif fault != "line_lost":
            shown += [line] * (2 if fault == "line_twice" else 1)
    return shown


def _closed_ms(currency: str, day: date) -> int:
    """When the day ended: the same statement, whenever it is asked for."""
    return midnight(day + timedelta(days=1), time(0), NEW_YORK if currency == "USD" else FRANKFURT)


def camt054(bank: Bank, account_id: str, day: date, at: int) -> Reply:
    """What was booked on a day until now."""
    row = _own(bank, account_id)
    found = lines(bank, account_id, day.isoformat(), day.isoformat())
    number = f"{len(found):05d}"
    text = camt.notification(_account(bank, row), f"{account_id}-{day:%Y%m%d}-{number}"[-35:], found, at)
    return _file(bank, f"054 {account_id} {day}", text)


def _own(bank: Bank, account_id: str) -> sqlite3.Row:
    try:
        return bank.account(account_id, "client")
    except KeyError:
        raise Problem(404, "account_not_found", f"You have no account {account_id!r} here.") from None


def _account(bank: Bank, row: sqlite3.Row) -> camt.Account:
    iban = row["iban"] if row["currency"] == "EUR" else ""
    return camt.Account(id=row["id"], iban=iban, currency=row["currency"], bic=bank.bic)


def _file(bank: Bank, name: str, text: bytes) -> Reply:
    times = bank.visit("file", name)
    fault = pick(bank.profile, FILES, bank.name, "file", name, times)
    text = text[: len(text) // 2] if fault == "cut_file" else spoiled_file(kind_of(fault), text)
    return Reply(200, text, fault)


def ach_files(bank: Bank, after: str, limit: int) -> dict[str, Any]:
    """The list of files, oldest first."""
    rows = bank.store.rows("SELECT id, kind, at_ms FROM files WHERE id > ? ORDER BY id LIMIT ?", after, limit)
    return {"files": [{"id": row["id"], "kind": row["kind"], "created_at": iso_time(row["at_ms"])} for row in rows]}


def ach_file(bank: Bank, id_: str) -> str:
    """The text of a file. Raises :class:`Problem`."""
    text: str | None = bank.store.value("SELECT text FROM files WHERE id = ?", id_)
    if text is None:
        raise Problem(404, "file_not_found", f"There is no file {id_!r}.")
    return text


def upload(bank: Bank, text: str, account_id: str, path: str, at: int) -> Reply:
    """Takes a file of the client's orders, all of it or, if one rule of the format is broken, none of it.

    Entries are told apart by their identification number, which is the client's reference: one that the bank remembers
    is not done again, so a file may be sent again.
    """
    _own(bank, account_id)
    try:
        file = parse(text)
    except NachaError as error:
        raise Problem(400, "invalid_nacha_file", str(error)) from error
    orders = [
        _order(batch.sec, batch.effective, entry, account_id, today(bank, "USD", at))
        for batch in file.batches
        for entry in batch.entries
    ]
    if len(orders) > BATCH_MAX or any(order is None for order in orders):
        raise Problem(400, "invalid_nacha_file", "A file holds up to 10,000 debits and credits of PPD, CCD or WEB.")
    name = f"file {hashlib.sha256(text.encode()).hexdigest()[:32]}"
    done: dict[str, list[str]] = {"accepted": [], "rejected": [], "duplicates": [], "refused": []}
    with bank.store.transaction():
        times = bank.visit("upload", name)
        down = {"down": "error_before", "hanging": "hanging"}.get(bank.profile.name)
        fault = down or on_submit(bank.profile, bank.name, name, times, 0, "")
        if fault == "late":
            fault = "timeout_before"
        if fault in ACTED_ON:
            for order in filter(None, orders):
                bank.visit("submit", order.reference)
                reply, acted = act(bank, order, at)
                kind = "refused" if reply.status == 409 else "duplicates" if not acted else "accepted"
                if acted and reply.body["status"] == "rejected":
                    kind = "rejected"
                done[kind].append(order.reference)
                bank.journal(at, "POST", path, order.reference, compact(order.party), fault, acted, 201)
        status = 0 if fault in HANGS else 201
        bank.journal(at, "POST", path, name, "", fault, fault in ACTED_ON, status)
    return Reply(201, done, fault)


def _order(sec: str, effective: date, entry: Any, account_id: str, today_: date) -> Order | None:
    kind = entry.code % 10
    if sec not in ("PPD", "CCD", "WEB") or kind not in (2, 7) or not entry.cents or not entry.reference:
        return None
    party = {
        "account_type": "checking" if entry.code // 10 == 2 else "savings",
        "name": entry.name,
        "routing_number": entry.routing,
        "account_number": entry.account,
    }
    return Order(
        reference=entry.reference,
        rail="ach",
        direction="debit" if kind == 7 else "credit",
        account_id=account_id,
        currency="USD",
        cents=entry.cents,
        party=party,
        sec=sec,
        same_day=effective <= today_,
    )
