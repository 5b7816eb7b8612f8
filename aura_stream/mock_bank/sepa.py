"""The SEPA rails: credit transfers by the day's cycle, instant ones by a ten-second clock, recalls of either.

    RCVD pending --> ACTC sent --cycle--> ACSC settled --pacs.004--> returned
                           '---pacs.002---> RJCT rejected

SCT Inst: 24 hours, 7 days; done within 5 s, rejected with AB05 at 7 s (the rulebook's hard time-out). A recall
(camt.056) must come within 10 banking days, one for fraud within 13 months; it is answered by a pacs.004 or by a
refusal (camt.029).
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from aura_stream.mock_bank.ach import OutOfWindow, give_back
from aura_stream.mock_bank.bank import Bank, is_iban, iso_time
from aura_stream.mock_bank.calendars import DAY_MS, FRANKFURT, is_target_day, local, sepa_settlement, target_days_after
from aura_stream.mock_bank.faults import draw

INSTANT_TIMEOUT_MS: Final = 7_000
RECALL_DAYS: Final = 10
FRAUD_RECALL_MS: Final = 395 * DAY_MS
ANSWER_MS: Final = 3_600_000
"""How long another bank takes to answer a recall."""


def accept(bank: Bank, row: sqlite3.Row, at: int) -> sqlite3.Row:
    """Passes the checks of the debtor's bank (ACTC) and sends it on, unless it shall stay there."""
    outcome = json.loads(row["outcome"])
    instant = row["rail"] == "sepa_instant"
    if instant and outcome.get("instant_timeout"):
        outcome["reject"], due = "AB05", at + INSTANT_TIMEOUT_MS
    elif instant:
        due = at + 200 + draw(bank.profile.seed, bank.name, "instant", row["reference"]) * 4_800 // 10_000
    else:
        due = sepa_settlement(at)
    row = bank.change(row, at, status="sent", sent_ms=at, due_ms=due, outcome=json.dumps(outcome, sort_keys=True))
    if not outcome.get("stuck"):
        # A rejection comes from the other bank at once; money waits for the cycle.
        when = min(due, at + INSTANT_TIMEOUT_MS) if outcome.get("reject") else due
        bank.schedule(when, "sepa_settle", transfer=row["id"])
    return row


def settle(bank: Bank, data: dict[str, Any], at: int) -> None:
    """The cycle has come, or the other bank has said no."""
    row = bank.transfer(data["transfer"])
    if row["status"] not in ("pending", "sent"):
        return
    outcome = json.loads(row["outcome"])
    if outcome.get("reject"):
        bank.tell(bank.change(row, at, status="rejected", code=outcome["reject"]), "transfer.rejected", at)
        return
    cents = row["cents"] - bool(outcome.get("one_cent_off"))
    row = bank.change(row, at, status="settled", settled_ms=at, settled_cents=cents)
    bank.book(bank.counter_account(row), row["account_id"], cents, row, at)
    bank.tell(row, "transfer.settled", at)
    if outcome.get("settled_twice"):
        bank.tell(bank.transfer(row["id"]), "transfer.settled", at)
    kind, code = outcome.get("later") or ("", "")
    if kind == "return":
        bank.schedule(_return_at(bank, row, at), "sepa_return", transfer=row["id"], code=code)


def _return_at(bank: Bank, row: sqlite3.Row, at: int) -> int:
    days = 1 + draw(bank.profile.seed, bank.name, "return", row["reference"]) % 3
    return target_days_after(at, days)


def come_back(bank: Bank, data: dict[str, Any], at: int) -> None:
    """A pacs.004 has come for a settled transfer."""
    row = bank.transfer(data["transfer"])
    if row["status"] == "settled":
        give_back(bank, row, data["code"], at, force=True)


def recall(bank: Bank, row: sqlite3.Row, reason: str, at: int, *, forced: bool = False) -> dict[str, Any]:
    """Asks for the money of a settled transfer back. Raises :class:`OutOfWindow` after the last day.

    Of what we sent, the other bank answers within an hour. Of what we received, the client is asked
    (``recall.requested``) and has until ``respond_by``; silence is a no. A forced one (fraud) takes the money at once.
    """
    settled = row["settled_ms"]
    last = settled + FRAUD_RECALL_MS if reason == "FRAD" else target_days_after(settled, RECALL_DAYS)
    if at > last:
        raise OutOfWindow(f"a recall for {reason} had to come until {iso_time(last)}")
    n = bank.store.value("SELECT coalesce(max(n), 0) + 1 FROM recalls")
    id_ = f"rec_{bank.name}_{n:06d}"
    incoming = row["direction"] == "incoming"
    respond_by = target_days_after(at, RECALL_DAYS) if incoming else at + ANSWER_MS
    direction = "received" if incoming else "sent"
    values = (n, id_, row["id"], direction, reason, "requested", at, respond_by)
    bank.store.run(
        "INSERT INTO recalls (n, id, transfer_id, direction, reason, status, created_ms, respond_by_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        *values,
    )
    if forced:
        return answer(bank, id_, at, accept_it=True)
    bank.schedule(respond_by, "recall_answer", recall=id_)
    if incoming:
        bank.tell(row, "recall.requested", at, {"recall": recall_view(bank, id_)})
    return recall_view(bank, id_)


def recall_due(bank: Bank, data: dict[str, Any], at: int) -> None:
    """The other bank answers, or the client's time is over."""
    row = bank.store.row("SELECT * FROM recalls WHERE id = ?", data["recall"])
    assert row is not None
    if row["status"] != "requested":
        return
    if row["direction"] == "received":
        answer(bank, row["id"], at, accept_it=False, code="NOAS")
        return
    transfer = bank.transfer(row["transfer_id"])
    yes = draw(bank.profile.seed, bank.name, "recall", transfer["reference"]) < 5_000
    answer(bank, row["id"], at, accept_it=yes, code="CUST")


def answer(bank: Bank, id_: str, at: int, *, accept_it: bool, code: str = "CUST") -> dict[str, Any]:
    """Settles a recall: the money goes back (pacs.004, FOCR), or it does not (camt.029 with a code)."""
    row = bank.store.row("SELECT * FROM recalls WHERE id = ?", id_)
    if row is None:
        raise KeyError(id_)
    transfer = bank.transfer(row["transfer_id"])
    if row["status"] != "requested":
        return recall_view(bank, id_)
    accept_it = accept_it and transfer["status"] == "settled"
    status, code = ("accepted", "FOCR") if accept_it else ("refused", code)
    bank.store.run("UPDATE recalls SET status = ?, code = ? WHERE id = ?", status, code, id_)
    if accept_it:
        give_back(bank, transfer, "FOCR", at, force=True)
    bank.tell(bank.transfer(transfer["id"]), "recall.answered", at, {"recall": recall_view(bank, id_)})
    return recall_view(bank, id_)


def forced_recall(bank: Bank, data: dict[str, Any], at: int) -> None:
    """A fraud recall that was in the calendar takes the money."""
    row = bank.transfer(data["transfer"])
    if row["status"] == "settled":
        recall(bank, row, data["code"], at, forced=True)


def recall_view(bank: Bank, id_: str) -> dict[str, Any]:
    """A recall as the API shows it. Raises :class:`KeyError`."""
    row = bank.store.row("SELECT * FROM recalls WHERE id = ?", id_)
    if row is None:
        raise KeyError(id_)
    shown = {
        "id": id_,
        "transfer_id": row["transfer_id"],
        "direction": row["direction"],
        "reason": row["reason"],
        "status": row["status"],
        "created_at": iso_time(row["created_ms"]),
        "respond_by": iso_time(row["respond_by_ms"]),
    }
    return shown | ({"code": row["code"]} if row["code"] else {})


def arrive(bank: Bank, row: sqlite3.Row, at: int) -> sqlite3.Row:
    """Money that somebody pushed is here, unless the sender's bank keeps it or is told no: then nobody hears of it."""
    outcome = json.loads(row["outcome"])
    if outcome.get("stuck"):
        return row
    if code := outcome.get("reject") or ("MS03" if outcome.get("refused") else ""):
        return bank.change(row, at, status="rejected", code=code)
    cents = row["cents"] - bool(outcome.get("one_cent_off"))
    row = bank.change(row, at, status="settled", settled_ms=at, settled_cents=cents)
    bank.book(row["account_id"], bank.counter_account(row), cents, row, at)
    bank.tell(row, "transfer.received", at)
    kind, code = outcome.get("later") or ("", "")
    if kind == "recall":
        day = local(at + 3 * DAY_MS, FRANKFURT).date()
        due = at + 3 * DAY_MS if is_target_day(day) else target_days_after(at + 3 * DAY_MS, 1)
        bank.schedule(due, "forced_recall", transfer=row["id"], code=code)
    elif kind == "return" and row["currency"] == "EUR":
        bank.schedule(_return_at(bank, row, at), "sepa_return", transfer=row["id"], code=code)
    return bank.transfer(row["id"])


def refusal(party: dict[str, str]) -> str:
    """The code by which an order is refused for its counterparty; empty when it is fine."""
    return "" if is_iban(party["iban"]) else "AC01"
