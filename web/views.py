"""What clients see: resources made of rows of Postgres and of lines of the journal, the same from either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from aura_stream.domain.assets import format_amount
from aura_stream.domain.bank_codes import code_of
from aura_stream.domain.events import ByBank
from aura_stream.domain.ids import parse_account_id
from aura_stream.domain.state import REQUIRES_APPROVAL, REQUIRES_ATTENTION, TERMINAL
from aura_stream.journal import AccountLine, ChangeLine, Journal, ReceivedLine, TransactionLine, journal_id
from aura_stream.ledger.reads import Balances
from aura_stream.logs import Redaction
from web.recent import RecentTransaction
from web.settlement_views import WAITING, bank_code, shown

Json = dict[str, Any]

_REDACTION: Final = Redaction()
"""Of what the other side and the connection have said of an attempt: others write it."""


def moment(at_ms: int) -> str:
    """RFC 3339 with milliseconds, in UTC."""
    return instant(datetime.fromtimestamp(at_ms / 1000, UTC))


def instant(at: datetime) -> str:
    """RFC 3339 with milliseconds, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def exact(at: datetime) -> str:
    """The same with all places that Postgres has: a cursor that somebody makes of it is where the row is."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def is_settled(status: str, state: str) -> bool:
    """Whether a wait ends here: nothing more happens, or not before someone acts."""
    return status in TERMINAL or status in (REQUIRES_ATTENTION, REQUIRES_APPROVAL) or state in WAITING


@dataclass(slots=True)
class TransactionView:
    """A transaction as it is known: the resource, its events, the journals that booked it."""

    resource: Json
    events: list[Json]
    journal_ids: list[int]
    parts: dict[int, ByBank] = field(default_factory=dict)
    """What bank and chain had to do with it after an event, by the event's seq."""

    def __post_init__(self) -> None:
        self._show()

    def _show(self) -> None:
        for name in ("settlement", "reason_title", "reason_hint"):
            self.resource.pop(name, None)
        self.resource |= shown(self.resource, self.parts.get(self.resource["seq"]))

    @property
    def is_terminal(self) -> bool:
        """Whether its status can no longer change."""
        return self.resource["status"] in TERMINAL

    def apply(self, change: ChangeLine, partition: int) -> None:
        """Moves it on by one line, unless it is further already."""
        if change.seq <= self.resource["seq"]:
            return
        self.resource |= {
            "status": change.status,
            "state": change.state,
            "seq": change.seq,
            "updated_at": moment(change.at),
        }
        self.resource["reason"] = change.reason or None
        if change.captured:
            self.resource["captured_amount"] = format_amount(int(change.captured), self.resource["asset"])
        self.events.append(_event(change.seq, change.event, change.status, change.state, change.reason, change.at))
        self.journal_ids += [journal_id(partition, journal.number) for journal in change.journals]
        if change.also_journal:
            self.journal_ids.append(change.also_journal)
        if change.by_bank is not None:
            self.parts[change.seq] = change.by_bank
        self._show()

    def rewind(self, seq: int, status: str, state: str, reason: str) -> None:
        """Shows it as it was at an earlier event: the first answer again."""
        if 0 < seq < self.resource["seq"]:
            at = next(
                (event["occurred_at"] for event in self.events if event["seq"] == seq), self.resource["updated_at"]
            )
            self.resource |= {"status": status, "state": state, "reason": reason or None, "seq": seq, "updated_at": at}
            self.resource.pop("captured_amount", None)
            self._show()


def transaction_of_row(row: Mapping[str, Any]) -> TransactionView:
    """The view of a row of `ledger.transactions`, with its history when that was read."""
    asset = row["asset"]
    resource: Json = {
        "id": row["transaction_id"],
        "tenant": row["tenant_id"],
        "customer": row["customer_id"],
        "type": row["type"],
        "status": row["status"],
        "state": row["state"],
        "reason": row["reason"],
        "asset": asset,
        "amount": format_amount(row["amount"], asset),
        "from_account_id": row["from_account_id"],
        "to_account_id": row["to_account_id"],
        "idempotency_key": row["idempotency_key"],
        "seq": row["seq"],
        "created_at": instant(row["created_at"]),
        "updated_at": instant(row["updated_at"]),
        "expires_at": instant(row["expires_at"]) if row["expires_at"] else None,
    }
    if row["captured_amount"] is not None:
        resource["captured_amount"] = format_amount(row["captured_amount"], asset)
    events = [
        _event(one["seq"], one["type"], one["status"], one["state"], one.get("reason", ""), one["at"])
        | ({"available": one["available"]} if "available" in one else {})
        for one in row.get("history") or ()
    ]
    parts = {one["seq"]: one["by_bank"] for one in row.get("history") or () if "by_bank" in one}
    if row.get("by_bank"):
        parts[row["seq"]] = row["by_bank"]
    known = {seq: msgspec.convert(part, ByBank) for seq, part in parts.items()}
    return TransactionView(resource, events, list(row["journal_ids"]), known)


def transaction_of_line(line: TransactionLine, partition: int) -> TransactionView:
    """The view of a transaction that just began."""
    resource: Json = {
        "id": line.id,
        "tenant": line.tenant,
        "customer": line.customer,
        "type": line.type,
        "status": line.status,
        "state": line.state,
        "reason": line.reason or None,
        "asset": line.asset,
        "amount": format_amount(int(line.amount), line.asset),
        "from_account_id": line.from_account_id or None,
        "to_account_id": line.to_account_id or None,
        "idempotency_key": line.idempotency_key,
        "seq": 1,
        "created_at": moment(line.at),
        "updated_at": moment(line.at),
        "expires_at": moment(line.expires_at) if line.expires_at else None,
    }
    events = [_event(1, line.event, line.status, line.state, line.reason, line.at)]
    if line.available:
        events[0]["available"] = line.available
    parts = {1: line.by_bank} if line.by_bank is not None else {}
    return TransactionView(
        resource, events, [journal_id(partition, journal.number) for journal in line.journals], parts
    )


def newest(row: Mapping[str, Any] | None, recent: RecentTransaction | None) -> TransactionView | None:
    """The newest that Postgres and the tail know together; None when neither knows how it began."""
    view = transaction_of_row(row) if row is not None else None
    for partition, _, line in recent.lines if recent else ():
        if view is None and isinstance(line, TransactionLine):
            view = transaction_of_line(line, partition)
    if view is not None and recent is not None:
        changes = ((partition, line) for partition, _, line in recent.lines if isinstance(line, ChangeLine))
        for partition, change in sorted(changes, key=lambda one: one[1].seq):
            view.apply(change, partition)
        for partition, _, line in recent.lines:
            if isinstance(line, ReceivedLine):
                view.journal_ids += [journal_id(partition, journal.number) for journal in line.journals]
        view.journal_ids = list(dict.fromkeys(view.journal_ids))
    return view


def recent_entries(recent: RecentTransaction | None) -> dict[int, list[Json]]:
    """Entries by journal id, as far as the tail still has them."""
    found: dict[int, list[Json]] = {}
    for partition, _, line in recent.lines if recent else ():
        for journal in line.journals:
            found[journal_id(partition, journal.number)] = list(
                _entries(journal, journal_id(partition, journal.number))
            )
    return found


def entry_of_row(row: Mapping[str, Any]) -> Json:
    """The view of a row of `ledger.entries` (with its journal's kind)."""
    return _entry(dict(row) | {"posted_at": instant(row["posted_at"]), "effective_at": instant(row["effective_at"])})


def account_of_row(row: Mapping[str, Any]) -> Json:
    """The view of a row of `ledger.accounts`."""
    resource = {
        "id": row["account_id"],
        "tenant": row["tenant_id"],
        "customer": row["customer_id"],
        "asset": row["asset"],
        "status": row["status"],
        "opened_at": instant(row["opened_at"]),
        "closed_at": instant(row["closed_at"]) if row["closed_at"] else None,
    }
    return resource | ({"name": row["name"]} if row["name"] else {})


def account_of_line(line: AccountLine) -> Json:
    """The view of an account that was opened or changed; only its opening tells when it was opened."""
    resource = account_of_id(line.tenant, line.account_id, line.status) | {"command_id": line.command_id}
    if line.event == "account.opened":
        resource["opened_at"] = moment(line.at)
    if line.status == "closed":
        resource["closed_at"] = moment(line.at)
    return resource


def account_of_id(tenant: str, account_id: str, status: str) -> Json:
    """As much of an account as its id and status say."""
    parts = parse_account_id(account_id)
    resource = {"id": account_id, "tenant": tenant, "customer": parts.customer, "asset": parts.asset, "status": status}
    return resource | ({"name": parts.name} if parts.name else {})


def balances_of(account_id: str, balances: Balances) -> Json:
    """The balances of an account, in major units."""
    asset = parse_account_id(account_id).asset
    return {
        "account_id": account_id,
        "asset": asset,
        "posted": format_amount(balances.posted, asset),
        "available": format_amount(balances.available, asset),
        "held": format_amount(balances.posted - balances.available, asset),
        "pending": format_amount(balances.pending, asset),
    }


def _event(seq: int, kind: str, status: str, state: str, reason: str | None, at: int) -> Json:
    event = {"seq": seq, "type": kind, "status": status, "state": state, "occurred_at": moment(at)}
    return event | ({"reason": reason} if reason else {})


def _entries(journal: Journal, identity: int) -> Iterable[Json]:
    for leg, entry in enumerate(journal.entries):
        yield _entry(
            {
                "journal_id": identity,
                "leg": leg,
                "transaction_id": journal.transaction_id,
                "kind": journal.kind,
                "account_id": entry.account_id,
                "asset": journal.asset,
                "layer": entry.layer,
                "amount": int(entry.amount),
                "posted_at": moment(journal.posted_at),
                "effective_at": moment(journal.effective_at),
            }
        )


def _entry(values: Mapping[str, Any]) -> Json:
    return dict(values) | {
        "journal_id": str(values["journal_id"]),
        "amount": format_amount(values["amount"], values["asset"]),
        "direction": "debit" if values["amount"] > 0 else "credit",
    }


def attempt_of_row(row: Mapping[str, Any]) -> Json:
    """One call to a bank or broadcast to a chain, of a row of `settlement.attempts`."""
    code = row["code"]
    return {
        **{name: row[name] for name in ("lane", "step", "kind", "reference", "number", "took_ms", "breaker")},
        "started_at": instant(row["started_at"]),
        "ended_at": row["ended_at"] and instant(row["ended_at"]),
        "answer": row["answer"] or None,
        "code": bank_code(code, code_of(code).action) if code else None,
        "http_status": row["status"] or None,
        "detail": _REDACTION.text(row["detail"]),
    }
