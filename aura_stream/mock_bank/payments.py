"""Orders of the client: acted on at most once per reference, as long as the bank remembers it; and inquiries.

What a call does and how it is answered are two things: a fault may keep the answer back after the bank has acted, or
keep the bank from acting. Both are decided before, in one transaction with what is done and with the journal of calls.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from aura_stream.mock_bank import ach, sepa
from aura_stream.mock_bank.bank import IDEMPOTENCY_WINDOW_MS, PROCESSING_MS, Bank, Job, compact
from aura_stream.mock_bank.faults import Outcome, Profile, is_slow, on_inquiry, on_outcome, on_submit
from aura_stream.mock_bank.money import cents_of
from aura_stream.mock_bank.problems import Problem

ACTED_ON: Final = frozenset(
    (
        "",
        "error_after",
        "timeout_after",
        "cut_answer",
        "html",
        "huge",
        "wrong_types",
        "negative_amount",
        "wrong_currency",
    )
)
"""Faults with which a call still does what it asks for."""
HANGS: Final = frozenset(("timeout_before", "timeout_after", "late", "inquiry_hang", "hanging"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a client asks for, checked for form."""

    reference: str
    rail: str
    direction: str
    account_id: str
    currency: str
    cents: int
    party: dict[str, str]
    text: str = ""
    sec: str = ""
    same_day: bool = False
    to_account_id: str = ""

    def fingerprint(self) -> str:
        """Tells two orders with one reference apart."""
        return hashlib.sha256(compact(asdict(self)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and what becomes of it on its way."""

    status: int
    body: Any
    fault: str = ""
    slow_ms: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


def ach_order(body: Mapping[str, Any]) -> Order:
    """Reads the body of an ACH order. Raises :class:`Problem`."""
    return Order(
        reference=body["reference"],
        rail="ach",
        direction=body["direction"],
        account_id=body["account_id"],
        currency="USD",
        cents=cents_in(body["amount"]),
        party={"account_type": "checking", **body["counterparty"]},
        text=body.get("remittance", ""),
        sec=body.get("sec_code", "PPD"),
        same_day=body.get("same_day", False),
    )


def sepa_order(body: Mapping[str, Any]) -> Order:
    """Reads the body of a SEPA order. Raises :class:`Problem`."""
    return Order(
        reference=body["reference"],
        rail="sepa_instant" if body.get("instant") else "sepa",
        direction="credit",
        account_id=body["account_id"],
        currency="EUR",
        cents=cents_in(body["amount"]),
        party=dict(body["creditor"]),
        text=body.get("remittance", ""),
    )


def internal_order(body: Mapping[str, Any]) -> Order:
    """Reads the body of an order between two accounts of the client. Raises :class:`Problem`."""
    return Order(
        reference=body["reference"],
        rail="internal",
        direction="credit",
        account_id=body["account_id"],
        currency=body["currency"],
        cents=cents_in(body["amount"]),
        party={"name": "Client"},
        text=body.get("remittance", ""),
        to_account_id=body["to_account_id"],
    )


def cents_in(amount: str) -> int:
    """Cents of an amount above zero. Raises :class:`Problem`."""
    cents = cents_of(amount)
    if not cents:
        raise Problem(400, "invalid_amount", "The amount must be a decimal string above zero with two places at most.")
    return cents


def submit(bank: Bank, order: Order, path: str, at: int) -> Reply:
    """One call that moves money: what it does, how it is answered. Raises :class:`Problem` for an unknown account."""
    _check_accounts(bank, order)
    with bank.store.transaction():
        times = bank.visit("submit", order.reference)
        if bank.profile.name in ("down", "hanging"):
            fault = "error_before" if bank.profile.name == "down" else "hanging"
        else:
            fault = on_submit(bank.profile, bank.name, order.reference, times, order.cents, order.party["name"])
        if fault == "late" and _remembered(bank, order.reference, at) is not None:
            fault = ""
        slow = is_slow(bank.profile, bank.name, order.reference, times, order.cents, order.party["name"])
        reply, acted = Reply(0, None), False
        if fault in ACTED_ON:
            reply, acted = act(bank, order, at)
        elif fault == "late":
            bank.schedule(at + PROCESSING_MS // 2, "late", order=asdict(order))
        status = {"error_before": 503, "error_after": 500, "rate_limited": 429, "html": 502}.get(fault, reply.status)
        status = 0 if fault in HANGS else status
        bank.journal(at, "POST", path, order.reference, compact(asdict(order)), fault, acted, status)
    return Reply(reply.status, reply.body, fault, slow, reply.headers)


def _check_accounts(bank: Bank, order: Order) -> None:
    for id_ in filter(None, (order.account_id, order.to_account_id)):
        try:
            currency = bank.account(id_, "client")["currency"]
        except KeyError:
            raise Problem(404, "account_not_found", f"You have no account {id_!r} here.") from None
        if currency != order.currency:
            raise Problem(400, "currency_mismatch", f"Account {id_} is kept in {currency}, not in {order.currency}.")
    if order.account_id == order.to_account_id:
        raise Problem(400, "same_account", "Both accounts are the same.")


def _remembered(bank: Bank, reference: str, at: int) -> sqlite3.Row | None:
    return bank.store.row(
        "SELECT * FROM remembered WHERE reference = ? AND at_ms > ?", reference, at - IDEMPOTENCY_WINDOW_MS
    )


def act(bank: Bank, order: Order, at: int) -> tuple[Reply, bool]:
    """Does what is asked, unless the reference is remembered. The flag says whether it was done now."""
    known = _remembered(bank, order.reference, at)
    if known is not None:
        row = bank.transfer(known["transfer_id"])
        if known["fingerprint"] != order.fingerprint():
            detail = f"Reference {order.reference} was used for another order, transfer {row['id']}."
            body = Problem(409, "reference_reused", detail, transfer_id=row["id"]).document()
            return Reply(409, body), False
        return Reply(200, bank.view(row), headers={"Idempotent-Replayed": "true"}), False
    row = create(bank, order, at)
    bank.store.run(
        "INSERT INTO remembered VALUES (?, ?, ?, ?) ON CONFLICT (reference) DO UPDATE SET"
        " transfer_id = excluded.transfer_id, fingerprint = excluded.fingerprint, at_ms = excluded.at_ms",
        *(order.reference, row["id"], order.fingerprint(), at),
    )
    return Reply(201, bank.view(row)), True


def create(bank: Bank, order: Order, at: int, *, funded: bool = False) -> sqlite3.Row:
    """A new transfer: refused at once (status rejected with a code), or accepted and on its way.

    ``funded``: it is the bank's own; it needs no cover, and the client is not told.
    """
    n = bank.store.value("SELECT coalesce(max(n), 0) + 1 FROM transfers")
    key = order.reference or f"incoming-{n}"
    outcome = on_outcome(bank.profile, bank.name, key, order.currency, order.cents, order.party["name"])
    if order.rail == "internal":
        outcome = Outcome()
    elif order.direction == "incoming":
        # By chance only a cent is missing from what comes in: all else happens to it only when it is asked for.
        asked = on_outcome(Profile(), bank.name, key, order.currency, order.cents, order.party["name"])
        outcome = replace(outcome, stuck=asked.stuck, reject=asked.reject, later=asked.later)
    refusal = "" if funded else _refusal(bank, order, outcome)
    plan = {name: value for name, value in asdict(outcome).items() if value}
    bank.store.run(
        "INSERT INTO transfers (n, id, reference, rail, direction, account_id, currency, cents, status, code, accepted,"
        " name, party, text, sec, outcome, created_ms, updated_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        *(n, f"tr_{bank.name}_{n:08d}", order.reference, order.rail, order.direction, order.account_id),
        *(order.currency, order.cents, "rejected" if refusal else "pending", refusal, not refusal),
        *(order.party["name"], compact(order.party), order.text, order.sec, compact(plan), at, at),
    )
    row = bank.transfer(f"tr_{bank.name}_{n:08d}")
    if refusal:
        bank.tell(row, "transfer.rejected", at)
    elif order.direction == "incoming":
        return sepa.arrive(bank, row, at)
    elif order.rail == "internal":
        row = bank.change(row, at, status="settled", settled_ms=at, settled_cents=order.cents)
        bank.book(order.to_account_id, order.account_id, order.cents, row, at)
        if not funded:
            bank.tell(row, "transfer.settled", at)
    else:
        row = ach.accept(bank, row, order.same_day, at) if order.rail == "ach" else sepa.accept(bank, row, at)
        bank.tell(row, "transfer.accepted", at)
    return bank.transfer(row["id"])


def _refusal(bank: Bank, order: Order, outcome: Outcome) -> str:
    """Why the bank refuses an order at once: a code, or empty."""
    if order.direction == "incoming":
        return ""
    if outcome.refused:
        return "R13" if order.rail == "ach" else "MS03"
    if order.direction == "credit" and bank.available(order.account_id) < order.cents:
        return "AM04"
    if order.rail == "internal":
        return ""
    return ach.refusal(order.party) if order.rail == "ach" else sepa.refusal(order.party)


def act_late(bank: Bank, data: dict[str, Any], at: int) -> None:
    """An order that had got stuck inside the bank is done, unless the same one has come again meanwhile."""
    order = Order(**data["order"])
    _, acted = act(bank, order, at)
    bank.journal(at, "LATE", "", order.reference, compact(asdict(order)), "late", acted, 0)


def inquire(bank: Bank, reference: str, at: int) -> Reply:
    """What the bank knows of a reference; not found is final only after the longest processing time."""
    with bank.store.transaction():
        times = bank.visit("inquiry", reference)
        known = _remembered(bank, reference, at)
        if bank.profile.name in ("down", "hanging"):
            fault = "inquiry_error" if bank.profile.name == "down" else "hanging"
        else:
            fault = on_inquiry(bank.profile, bank.name, reference, times)
        if known is None:
            body: Any = Problem(
                404, "transfer_not_found", f"No transfer with reference {reference} is known."
            ).document()
            reply = Reply(404, body, fault)
        else:
            row = bank.transfer(known["transfer_id"])
            slow = is_slow(bank.profile, bank.name, "inquiry " + reference, times, row["cents"], row["name"])
            reply = Reply(200, bank.view(row, stale=fault == "stale_status"), fault, slow)
        status = 503 if fault == "inquiry_error" else 0 if fault in HANGS else reply.status
        bank.journal(at, "GET", "/transfers", reference, "", fault, False, status)
    return reply


def release(bank: Bank, data: dict[str, Any], at: int) -> None:
    """Sends what was kept back for an event that has not come."""
    bank.release(data["transfer"], at)


def decide(bank: Bank, row: sqlite3.Row, status: str, code: str, at: int) -> sqlite3.Row:
    """An operator settles or rejects what is still pending. Raises :class:`Problem` when it no longer is."""
    if row["status"] not in ("pending", "sent"):
        raise Problem(409, "already_final", f"Transfer {row['id']} is {row['status']}.")
    outcome = json.loads(row["outcome"])
    outcome.pop("stuck", None)
    if status == "settled":
        outcome.pop("reject", None)
        row = bank.change(row, at, outcome=compact(outcome))
        if row["direction"] == "incoming":
            return sepa.arrive(bank, row, at)
        (ach.settle if row["rail"] == "ach" else sepa.settle)(bank, {"transfer": row["id"]}, at)
    elif row["direction"] == "incoming":
        row = bank.change(row, at, status="rejected", code=code)
    else:
        row = bank.change(row, at, status="rejected", code=code, outcome=compact(outcome))
        bank.tell(row, "transfer.rejected", at)
    return bank.transfer(row["id"])


JOBS: Final[dict[str, Job]] = {
    "ach_window": ach.window,
    "ach_settle": ach.settle,
    "ach_morning": ach.morning,
    "sepa_settle": sepa.settle,
    "sepa_return": sepa.come_back,
    "recall_answer": sepa.recall_due,
    "forced_recall": sepa.forced_recall,
    "late": act_late,
    "release": release,
}
"""What is done when its time comes."""
