"""The state of one bank: a SQLite file of its own. What a transaction has committed survives ``kill -9``.

``synchronous=NORMAL`` in WAL mode: a crash of the process loses nothing; a crash of the machine may lose the newest
transactions, never half of one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS accounts (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, currency TEXT NOT NULL, number TEXT NOT NULL UNIQUE,
  iban TEXT NOT NULL UNIQUE,
  owner TEXT NOT NULL, type TEXT NOT NULL, status TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS transfers (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, reference TEXT NOT NULL, rail TEXT NOT NULL,
  direction TEXT NOT NULL,
  account_id TEXT NOT NULL REFERENCES accounts, currency TEXT NOT NULL, cents INTEGER NOT NULL CHECK (cents > 0),
  settled_cents INTEGER, status TEXT NOT NULL, prior_status TEXT NOT NULL DEFAULT '', code TEXT NOT NULL DEFAULT '',
  accepted INTEGER NOT NULL, seq INTEGER NOT NULL DEFAULT 0, name TEXT NOT NULL, party TEXT NOT NULL,
  text TEXT NOT NULL,
  sec TEXT NOT NULL DEFAULT '', trace TEXT NOT NULL DEFAULT '', outcome TEXT NOT NULL DEFAULT '{}',
  created_ms INTEGER NOT NULL, updated_ms INTEGER NOT NULL, window_ms INTEGER, sent_ms INTEGER, due_ms INTEGER,
  settled_ms INTEGER) STRICT;
CREATE INDEX IF NOT EXISTS transfers_by_reference ON transfers (reference);
CREATE INDEX IF NOT EXISTS transfers_reserved ON transfers (account_id)
  WHERE direction = 'credit' AND status IN ('pending', 'sent');
CREATE INDEX IF NOT EXISTS transfers_by_window ON transfers (window_ms) WHERE status = 'pending';
CREATE TABLE IF NOT EXISTS entries (
  n INTEGER PRIMARY KEY, journal INTEGER NOT NULL, account_id TEXT NOT NULL REFERENCES accounts,
  cents INTEGER NOT NULL,
  at_ms INTEGER NOT NULL, day TEXT NOT NULL, transfer_id TEXT NOT NULL, is_return INTEGER NOT NULL,
  code TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_journal ON entries (journal);
CREATE INDEX IF NOT EXISTS entries_by_transfer ON entries (transfer_id);
CREATE INDEX IF NOT EXISTS entries_by_account ON entries (account_id, day);
CREATE TABLE IF NOT EXISTS balances (account_id TEXT PRIMARY KEY REFERENCES accounts, cents INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS remembered (
  reference TEXT PRIMARY KEY, transfer_id TEXT NOT NULL, fingerprint TEXT NOT NULL, at_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS visits (
  kind TEXT NOT NULL, reference TEXT NOT NULL, times INTEGER NOT NULL, PRIMARY KEY (kind, reference)) STRICT;
CREATE TABLE IF NOT EXISTS jobs (
  n INTEGER PRIMARY KEY, due_ms INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL, UNIQUE (due_ms, kind,
  data)) STRICT;
CREATE TABLE IF NOT EXISTS events (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, transfer_id TEXT NOT NULL, seq INTEGER NOT NULL, type TEXT NOT NULL,
  at_ms INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS deliveries (
  n INTEGER PRIMARY KEY, event_n INTEGER NOT NULL REFERENCES events, transfer_id TEXT NOT NULL, fault TEXT NOT NULL,
  state TEXT NOT NULL, due_ms INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (due_ms, n) WHERE state = 'waiting';
CREATE INDEX IF NOT EXISTS deliveries_held ON deliveries (transfer_id) WHERE state = 'held';
CREATE TABLE IF NOT EXISTS attempts (
  n INTEGER PRIMARY KEY, event_id TEXT NOT NULL, at_ms INTEGER NOT NULL, fault TEXT NOT NULL,
  answer TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS calls (
  n INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL, reference TEXT NOT NULL,
  body TEXT NOT NULL, fault TEXT NOT NULL, acted INTEGER NOT NULL, status INTEGER NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS calls_by_reference ON calls (reference) WHERE reference <> '';
CREATE TABLE IF NOT EXISTS files (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, at_ms INTEGER NOT NULL,
  text TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS recalls (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, transfer_id TEXT NOT NULL, direction TEXT NOT NULL,
  reason TEXT NOT NULL,
  status TEXT NOT NULL, code TEXT NOT NULL DEFAULT '', created_ms INTEGER NOT NULL,
  respond_by_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS consents (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, permissions TEXT NOT NULL,
  owner TEXT NOT NULL DEFAULT '', created_ms INTEGER NOT NULL, authorised_ms INTEGER, expires_ms INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS tokens (
  n INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, scope TEXT NOT NULL,
  consent_id TEXT NOT NULL, expires_ms INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0,
  redirect_uri TEXT NOT NULL DEFAULT '', challenge TEXT NOT NULL DEFAULT '') STRICT;
"""


class Store:
    """One bank's database. All use is from one thread."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        self._db.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Ends the connection; the WAL is folded into the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Inside another transaction it is a part of that one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def run(self, sql: str, *values: Any) -> int:
        """Executes a statement and returns the row id of what it inserted last."""
        return self._db.execute(sql, values).lastrowid or 0

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row, or None."""
        found: sqlite3.Row | None = self._db.execute(sql, values).fetchone()
        return found

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """All rows."""
        return self._db.execute(sql, values).fetchall()

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, or None."""
        found = self.row(sql, *values)
        return None if found is None else found[0]

    def meta(self, name: str) -> str | None:
        """A remembered value."""
        found: str | None = self.value("SELECT value FROM meta WHERE name = ?", name)
        return found

    def set_meta(self, name: str, value: str) -> None:
        """Remembers a value."""
        self.run("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value)
