"""The ACH rail: entries wait for a window, leave in a NACHA file, settle, and may come back within their days.

    pending --window--> sent --settlement--> settled --return--> returned
       '---------------'-----> rejected

"No news is good news": settled says only that the money moved. A return comes on a banking morning, in a file of its
own with addenda 99 and as an event; a change (NOC) comes likewise with addenda 98, and the transfer stands.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import time
from typing import Any, Final

from aura_stream.mock_bank import calendars
from aura_stream.mock_bank.bank import Bank
from aura_stream.mock_bank.calendars import (
    NEW_YORK,
    ach_return_after_days,
    ach_return_at,
    ach_return_deadline,
    ach_window,
    local,
)
from aura_stream.mock_bank.codes import CHANGES, RETURNS
from aura_stream.mock_bank.nacha import CREDITS, Addenda, Batch, Entry, File, check_digit, is_routing, render

OPERATOR: Final = "06100014" + check_digit("06100014")
"""Routing number of the ACH operator, to whom files go."""
COMPANY: Final = ("AURA CLIENT", "1234567890")
LATE_RETURN_DAYS: Final = 3
"""When a code that has 60 days comes back, unless somebody asks for another day."""


class OutOfWindow(Exception):
    """A return came after its last day."""


def accept(bank: Bank, row: sqlite3.Row, same_day: bool, at: int) -> sqlite3.Row:
    """Takes an entry into the next file, unless it shall stay pending."""
    cut_off, settles = ach_window(at, same_day=same_day)
    outcome = json.loads(row["outcome"])
    if outcome.get("stuck"):
        return bank.change(row, at, trace=_next_trace(bank))
    bank.schedule(cut_off, "ach_window")
    return bank.change(row, at, window_ms=cut_off, due_ms=settles, trace=_next_trace(bank))


def _next_trace(bank: Bank) -> str:
    number = int(bank.store.meta("trace") or "0") + 1
    bank.store.set_meta("trace", str(number))
    return f"{bank.routing[:8]}{number:07d}"


def window(bank: Bank, _: dict[str, Any], at: int) -> None:
    """A cut-off has come: what waits for it leaves in one file."""
    leaving: list[sqlite3.Row] = []
    sql = "SELECT * FROM transfers WHERE status = 'pending' AND window_ms <= ? ORDER BY n"
    for row in bank.store.rows(sql, at):
        outcome = json.loads(row["outcome"])
        if outcome.get("reject"):
            row = bank.change(row, at, status="rejected", code=outcome["reject"])
            bank.tell(row, "transfer.rejected", at)
            continue
        leaving.append(bank.change(row, at, status="sent", sent_ms=at))
    groups: dict[tuple[str, int], list[Entry]] = {}
    for row in leaving:
        groups.setdefault((row["sec"], row["due_ms"]), []).append(_entry(row))
        bank.schedule(row["due_ms"], "ach_settle", transfer=row["id"])
    batches = tuple(_batch(bank, sec, settles, entries) for (sec, settles), entries in groups.items())
    if batches:
        _write_file(bank, "origination", batches, at)


def settle(bank: Bank, data: dict[str, Any], at: int) -> None:
    """The money moves; and what the outcome still holds is put into the calendar."""
    row = bank.transfer(data["transfer"])
    if row["status"] not in ("pending", "sent"):
        return
    outcome = json.loads(row["outcome"])
    cents = row["cents"] - bool(outcome.get("one_cent_off"))
    counter = bank.counter_account(row)
    short = row["direction"] == "debit" and not counter.startswith("network:") and bank.balance(counter) < cents
    into, out_of = (row["account_id"], counter) if row["direction"] == "debit" else (counter, row["account_id"])
    row = bank.change(row, at, status="settled", settled_ms=at, settled_cents=cents)
    if short:
        # The receiver's account does not have it: the bank advances the money and takes it back by R01.
        bank.book(row["account_id"], "network:USD", cents, row, at)
    else:
        bank.book(into, out_of, cents, row, at)
    bank.tell(row, "transfer.settled", at)
    if outcome.get("settled_twice"):
        bank.tell(bank.transfer(row["id"]), "transfer.settled", at)
    kind, code = outcome.get("later") or (("return", "R01") if short else ("", ""))
    if kind == "noc":
        bank.schedule(ach_return_at(at, 2), "ach_morning", transfer=row["id"], what="noc", code=code)
    elif kind == "return":
        known = RETURNS.get(code)
        late = known is not None and known.calendar_days
        due = ach_return_after_days(at, LATE_RETURN_DAYS) if late else ach_return_at(at, 2)
        bank.schedule(due, "ach_morning", transfer=row["id"], what="return", code=code)


def morning(bank: Bank, data: dict[str, Any], at: int) -> None:
    """A return or change that has come on this morning."""
    row = bank.transfer(data["transfer"])
    if data["what"] == "noc":
        change(bank, row, data["code"], at)
    elif row["status"] == "settled":
        give_back(bank, row, data["code"], at, force=True)


def give_back(bank: Bank, row: sqlite3.Row, code: str, at: int, *, force: bool = False) -> sqlite3.Row:
    """Returns a settled transfer. Raises :class:`OutOfWindow` after the code's last day, unless forced."""
    known = RETURNS.get(code)
    days, calendar_days = (known.days, known.calendar_days) if known else (2, False)
    if not force and at >= ach_return_deadline(row["settled_ms"], days, calendar_days=calendar_days):
        raise OutOfWindow(f"{code} may come {days} {'' if calendar_days else 'banking '}days after settlement")
    journal = bank.store.rows(
        "SELECT account_id, cents FROM entries WHERE transfer_id = ? AND is_return = 0 ORDER BY n", row["id"]
    )
    into, out_of = (entry["account_id"] for entry in sorted(journal, key=lambda entry: int(entry["cents"])))
    row = bank.change(row, at, status="returned", code=code)
    bank.book(into, out_of, row["settled_cents"], row, at, code=code)
    if row["rail"] == "ach" and row["direction"] != "incoming":
        addenda = Addenda(
            kind="99", code=code, original_trace=row["trace"], original_routing=_party(row)["routing_number"][:8]
        )
        _write_file(bank, "return", (_batch(bank, row["sec"], at, [_entry(row, addenda, bank)]),), at)
    bank.tell(row, "transfer.returned", at)
    return bank.transfer(row["id"])


def change(bank: Bank, row: sqlite3.Row, code: str, at: int) -> None:
    """Tells that stored details are wrong (NOC); the transfer stands."""
    party = _party(row)
    corrected = {"account_number": party["account_number"][::-1], "routing_number": party["routing_number"]}
    addenda = Addenda(
        kind="98",
        code=code,
        original_trace=row["trace"],
        original_routing=party["routing_number"][:8],
        text=corrected["account_number"],
    )
    _write_file(bank, "return", (_batch(bank, "COR", at, [_entry(row, addenda, bank)]),), at)
    extra = {"change": {"code": code, "reason": CHANGES.get(code, ""), "corrected": corrected}}
    bank.tell(row, "transfer.corrected", at, extra)


def _party(row: sqlite3.Row) -> dict[str, str]:
    party: dict[str, str] = json.loads(row["party"])
    return party


def _entry(row: sqlite3.Row, addenda: Addenda | None = None, bank: Bank | None = None) -> Entry:
    """The entry of a transfer; with addenda it is one that comes back, whose receiver is this bank's client."""
    party = _party(row)
    credit = CREDITS[party.get("account_type", "checking")]
    code = credit + (5 if row["direction"] == "debit" else 0)
    if addenda is None or bank is None:
        return Entry(
            code=code,
            routing=party["routing_number"],
            account=party["account_number"],
            cents=row["cents"],
            reference=row["reference"],
            name=party["name"],
            trace=row["trace"],
        )
    is_change = addenda.kind == "98"
    trace = party["routing_number"][:8] + row["trace"][-7:]
    # 21 and 26 (31 and 36) are returns and changes of credits and debits; a change carries no money.
    return Entry(
        code=credit - 1 if row["direction"] != "debit" else credit + 4,
        routing=bank.routing,
        account=bank.account(row["account_id"])["number"],
        cents=0 if is_change else row["settled_cents"],
        reference=row["reference"],
        name=party["name"],
        trace=trace,
        addenda=(addenda,),
    )


def _batch(bank: Bank, sec: str, effective_ms: int, entries: list[Entry]) -> Batch:
    return Batch(
        company=COMPANY[0],
        company_id=COMPANY[1],
        sec=sec,
        description="PAYMENT",
        effective=local(effective_ms, NEW_YORK).date(),
        odfi=bank.routing[:8],
        entries=tuple(sorted(entries, key=lambda entry: entry.trace)),
    )


def _write_file(bank: Bank, kind: str, batches: tuple[Batch, ...], at: int) -> None:
    n = bank.store.value("SELECT coalesce(max(n), 0) + 1 FROM files")
    created = local(at, NEW_YORK).replace(tzinfo=None)
    midnight = calendars.at(created.date(), time(0), NEW_YORK)
    today = bank.store.value("SELECT count(*) FROM files WHERE at_ms >= ? AND kind = ?", midnight, kind)
    inward = kind == "return"
    file = File(
        destination=bank.routing if inward else OPERATOR,
        origin=OPERATOR if inward else bank.routing,
        destination_name=bank.name.upper() if inward else "ACH OPERATOR",
        origin_name="ACH OPERATOR" if inward else bank.name.upper(),
        created=created,
        modifier="ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[today % 36],
        batches=batches,
    )
    values = (n, f"ach_{bank.name}_{n:06d}", kind, at, render(file))
    bank.store.run("INSERT INTO files VALUES (?, ?, ?, ?, ?)", *values)


def refusal(party: dict[str, str]) -> str:
    """The code by which an order is refused for its counterparty; empty when it is fine."""
    return "" if is_routing(party["routing_number"]) else "R13"
