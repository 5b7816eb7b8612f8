"""One bank: its accounts, its double-entry books, what it tells, and what is due. Rails are built on it.

Everything happens at a virtual time that the caller gives. A journal's entries always sum to zero: money that comes
from outside comes from the account ``network:<currency>``, whose balance is the negative of all others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aura_stream.mock_bank.calendars import FRANKFURT, NEW_YORK, local
from aura_stream.mock_bank.clock import VirtualClock
from aura_stream.mock_bank.codes import meaning
from aura_stream.mock_bank.faults import Profile, on_webhook
from aura_stream.mock_bank.money import text_of
from aura_stream.mock_bank.nacha import check_digit
from aura_stream.mock_bank.store import Store

CLIENT_ACCOUNTS: Final = (("trust", "USD"), ("operating", "USD"), ("trust", "EUR"), ("operating", "EUR"))
"""The accounts that the client of the bank has from the start, as ``trust-usd`` and so on."""
IDEMPOTENCY_WINDOW_MS: Final = 24 * 3_600_000
"""How long the bank remembers a client's reference; after it the same reference is a new transfer."""
PROCESSING_MS: Final = 60_000
"""The longest time between a call and its effect, if it has one."""
HELD_MS: Final = 3_600_000
"""After this an event that was kept for the next one is sent all the same."""

ISO_STATUS: Final = {"pending": "RCVD", "sent": "ACTC", "settled": "ACSC", "returned": "ACSC", "rejected": "RJCT"}

Job = Callable[["Bank", dict[str, Any], int], None]


def iso_time(at_ms: int | None) -> str | None:
    """Milliseconds as RFC 3339 in UTC."""
    if at_ms is None:
        return None
    seconds, part = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{part:03d}Z"


def compact(value: Any) -> str:
    """JSON, always the same bytes for the same value."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def iban_of(country: str, bban: str) -> str:
    """An IBAN with its check digits."""
    digits = "".join(str(int(sign, 36)) for sign in bban + country)
    return f"{country}{98 - int(digits + '00') % 97:02d}{bban}"


def is_iban(text: str) -> bool:
    """Whether the check digits are right."""
    if not (15 <= len(text) <= 34 and text.isascii() and text.isalnum() and text.isupper()):
        return False
    return int("".join(str(int(sign, 36)) for sign in text[4:] + text[:4])) % 97 == 1


class Bank:
    """One bank and its state. ``jobs`` says what is to be done when something is due."""

    def __init__(
        self, name: str, number: int, directory: Path, clock: VirtualClock, *, secret: bytes, jobs: Mapping[str, Job]
    ) -> None:
        self.name = name
        self.clock = clock
        self.store = Store(directory / f"{name}.sqlite3")
        self.routing = f"0910{number:04d}" + check_digit(f"0910{number:04d}")
        self.blz = f"{50010000 + number}"
        self.bic = f"AURADE{number % 100:02d}"
        self._secret = secret
        self._jobs = jobs
        self.profile = Profile()
        self.changed: Callable[[], None] = lambda: None
        """Called when there may be something new to do: a job, a delivery, another profile."""
        with self.store.transaction():
            if (kept := self.store.meta("profile")) is not None:
                self.profile = Profile(**json.loads(kept))
            for name_, currency in CLIENT_ACCOUNTS:
                self.open_account(f"{name_}-{currency.lower()}", "client", currency, "Client", "CHECKING")
            for currency in ("USD", "EUR"):
                self.open_account(f"network:{currency}", "network", currency, "", "CHECKING")

    def derived(self, *what: object) -> str:
        """A secret value that follows from the bank's secret: the same for the same question, else unguessable."""
        text = "\x1f".join([self.name, *map(str, what)])
        return urlsafe_b64encode(hmac.digest(self._secret, text.encode(), hashlib.sha256)).decode().rstrip("=")

    def set_profile(self, profile: Profile) -> None:
        """From now on the bank behaves like this; a restart keeps it."""
        self.profile = profile
        self.store.set_meta("profile", compact(asdict(profile)))
        self.changed()

    # --- accounts and books ------------------------------------------------------------------------------------------

    def open_account(self, id_: str, kind: str, currency: str, owner: str, type_: str) -> sqlite3.Row:
        """Opens an account, or finds it."""
        found = self.store.row("SELECT * FROM accounts WHERE id = ?", id_)
        if found is not None:
            return found
        count = self.store.value("SELECT count(*) FROM accounts")
        number = f"{count + 1:010d}"
        self.store.run(
            "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?, ?, 'ACTIVE')",
            *(id_, kind, currency, number, iban_of("DE", self.blz + number), owner, type_),
        )
        self.store.run("INSERT INTO balances VALUES (?, 0)", id_)
        return self.account(id_)

    def account(self, id_: str, kind: str = "") -> sqlite3.Row:
        """The account. Raises :class:`KeyError` if there is none of this id and kind."""
        found = self.store.row("SELECT * FROM accounts WHERE id = ? AND (kind = ? OR ? = '')", id_, kind, kind)
        if found is None:
            raise KeyError(id_)
        return found

    def balance(self, account_id: str) -> int:
        """Booked cents."""
        return int(self.store.value("SELECT cents FROM balances WHERE account_id = ?", account_id))

    def available(self, account_id: str) -> int:
        """Booked cents without what has been ordered out and has not settled."""
        reserved = self.store.value(
            "SELECT coalesce(sum(cents), 0) FROM transfers"
            " WHERE account_id = ? AND direction = 'credit' AND status IN ('pending', 'sent')",
            account_id,
        )
        return self.balance(account_id) - int(reserved)

    def book(self, into: str, out_of: str, cents: int, row: sqlite3.Row, at: int, *, code: str = "") -> None:
        """One journal of two entries. With a code it is a return."""
        journal = self.store.value("SELECT coalesce(max(journal), 0) + 1 FROM entries")
        zone = NEW_YORK if row["currency"] == "USD" else FRANKFURT
        day = local(at, zone).date().isoformat()
        for account_id, signed in ((into, cents), (out_of, -cents)):
            self.store.run(
                "INSERT INTO entries (journal, account_id, cents, at_ms, day, transfer_id, is_return, code)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                *(journal, account_id, signed, at, day, row["id"], bool(code), code),
            )
            self.store.run("UPDATE balances SET cents = cents + ? WHERE account_id = ?", signed, account_id)

    def counter_account(self, row: sqlite3.Row) -> str:
        """Where the other side's money is: a retail account of this bank, or the network."""
        party = json.loads(row["party"])
        here = party.get("routing_number") == self.routing
        found = self.store.value(
            "SELECT id FROM accounts WHERE kind = 'retail' AND currency = ? AND (iban = ? OR (? AND number = ?))",
            *(row["currency"], party.get("iban", ""), here, party.get("account_number", "")),
        )
        return str(found) if found is not None else f"network:{row['currency']}"

    # --- transfers and what is told about them -----------------------------------------------------------------------

    def transfer(self, id_: str) -> sqlite3.Row:
        """The transfer. Raises :class:`KeyError`."""
        found = self.store.row("SELECT * FROM transfers WHERE id = ?", id_)
        if found is None:
            raise KeyError(id_)
        return found

    def change(self, row: sqlite3.Row, at: int, **values: Any) -> sqlite3.Row:
        """Sets columns of a transfer, keeps its status before, and returns it anew."""
        if "status" in values:
            values["prior_status"] = row["status"]
        names = ", ".join(f"{name} = ?" for name in values)
        self.store.run(f"UPDATE transfers SET {names}, updated_ms = ? WHERE id = ?", *values.values(), at, row["id"])  # noqa: S608  # names are this program's own
        return self.transfer(row["id"])

    def view(self, row: sqlite3.Row, *, stale: bool = False) -> dict[str, Any]:
        """A transfer as the bank's API shows it; ``stale``: as it was one status ago."""
        stale = stale and bool(row["prior_status"])
        status = row["prior_status"] if stale else row["status"]
        shown: dict[str, Any] = {
            "id": row["id"],
            "bank": self.name,
            "reference": row["reference"],
            "rail": row["rail"],
            "direction": row["direction"],
            "account_id": row["account_id"],
            "currency": row["currency"],
            "amount": text_of(row["cents"]),
            "status": status,
            "counterparty": json.loads(row["party"]),
            "remittance": row["text"],
            "seq": row["seq"],
            "created_at": iso_time(row["created_ms"]),
            "updated_at": iso_time(row["updated_ms"]),
        }
        if row["rail"].startswith("sepa"):
            shown["iso_status"] = ISO_STATUS[status]
        if row["trace"]:
            shown["trace_number"] = row["trace"]
        if row["due_ms"] is not None:
            shown["settles_at"] = iso_time(row["due_ms"])
        if row["code"] and not stale:
            shown |= {"code": row["code"], "reason": meaning(row["code"])}
        if row["settled_ms"] is not None and not (stale and status in ("pending", "sent")):
            shown |= {"settled_at": iso_time(row["settled_ms"]), "settled_amount": text_of(row["settled_cents"])}
        return shown

    def tell(self, row: sqlite3.Row, type_: str, at: int, extra: Mapping[str, Any] | None = None) -> None:
        """Writes an event about a transfer and puts its webhook on its way, as the profile lets it go."""
        row = self.change(row, at, seq=row["seq"] + 1)
        n = self.store.value("SELECT coalesce(max(n), 0) + 1 FROM events")
        id_ = f"evt_{self.name}_{n:08d}"
        data = {"transfer": self.view(row), **(extra or {})}
        body = compact({"id": id_, "type": type_, "bank": self.name, "occurred_at": iso_time(at), "data": data})
        values = (n, id_, row["id"], row["seq"], type_, at, body)
        self.store.run("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", *values)
        draw_by = row["reference"] or row["id"]
        fault = on_webhook(self.profile, self.name, draw_by, row["seq"], row["cents"], row["name"])
        state = {"lost": "lost", "out_of_order": "held"}.get(fault, "waiting")
        self._deliver(n, row["id"], fault, state, at)
        if fault == "duplicate":
            self._deliver(n, row["id"], "", "waiting", at)
        if fault == "out_of_order":
            # Until the event that follows, which may be days away; if none comes, an hour after it should have.
            self.schedule(max(at, row["due_ms"] or 0) + HELD_MS, "release", transfer=row["id"])
        else:
            self.release(row["id"], at)
        self.changed()

    def release(self, transfer_id: str, at: int) -> None:
        """Sends the events of a transfer that were kept back, after those that are on their way."""
        sql = "SELECT n, event_n, fault FROM deliveries WHERE state = 'held' AND transfer_id = ? ORDER BY n"
        for held in self.store.rows(sql, transfer_id):
            self.store.run("UPDATE deliveries SET state = 'overtaken' WHERE n = ?", held["n"])
            self._deliver(held["event_n"], transfer_id, held["fault"], "waiting", at)

    def _deliver(self, event_n: int, transfer_id: str, fault: str, state: str, at: int) -> None:
        self.store.run(
            "INSERT INTO deliveries (event_n, transfer_id, fault, state, due_ms) VALUES (?, ?, ?, ?, ?)",
            *(event_n, transfer_id, fault, state, at),
        )

    # --- what is due -------------------------------------------------------------------------------------------------

    def schedule(self, due_ms: int, kind: str, **data: Any) -> None:
        """Does ``kind`` at its time; the same thing at the same time only once."""
        self.store.run(
            "INSERT INTO jobs (due_ms, kind, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", due_ms, kind, compact(data)
        )
        self.changed()

    def next_due(self) -> int | None:
        """When the next job is due."""
        found: int | None = self.store.value("SELECT min(due_ms) FROM jobs")
        return found

    def run_due(self, until_ms: int) -> int:
        """Does what is due, in order and each at its own time. Returns how much that was."""
        done = 0
        sql = "SELECT * FROM jobs WHERE due_ms <= ? ORDER BY due_ms, n LIMIT 1"
        while (job := self.store.row(sql, until_ms)) is not None:
            with self.store.transaction():
                self.store.run("DELETE FROM jobs WHERE n = ?", job["n"])
                self._jobs[job["kind"]](self, json.loads(job["data"]), job["due_ms"])
            done += 1
        return done

    def visit(self, kind: str, reference: str) -> int:
        """Counts the calls of a kind that carry a reference, this one too."""
        self.store.run(
            "INSERT INTO visits VALUES (?, ?, 1) ON CONFLICT (kind, reference) DO UPDATE SET times = times + 1",
            *(kind, reference),
        )
        return int(self.store.value("SELECT times FROM visits WHERE kind = ? AND reference = ?", kind, reference))

    def journal(
        self, at: int, method: str, path: str, reference: str, body: str, fault: str, acted: bool, status: int
    ) -> None:
        """Writes a call down: what befell it, whether it was acted on, how it was answered (0: not at all)."""
        self.store.run(
            "INSERT INTO calls (at_ms, method, path, reference, body, fault, acted, status)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            *(at, method, path, reference, body, fault, acted, status),
        )
