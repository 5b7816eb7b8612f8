"""All SQL of reconciliation. Each function works in the transaction it is given."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from aura_stream.domain.bank_codes import CASES
from aura_stream.domain.reasons import Refused
from aura_stream.domain.reconciliation import (
    GONE,
    Backing,
    Balances,
    Entry,
    Finding,
    Known,
    Line,
    Match,
    Told,
    Unexplained,
    references_of,
)
from aura_stream.domain.settlement import TOKENS, cents
from aura_stream.domain.state import FAILED, RETURNED
from aura_stream.ledger.listing import Column, Listing, Page, filtered, select
from aura_stream.reconcile.camt053 import ZONES, Statement
from aura_stream.reconcile.returns import Return

if TYPE_CHECKING:
    import asyncpg

    from aura_stream.ledger.connection import Connection

    Row = asyncpg.Record

ACTOR: Final = "reconciliation"
"""Who opens breaks, and ends those that are gone."""
_LOCK: Final = 0x61757261_7265636F  # "aurareco": one run at a time
_SETTLEMENTS: Final = ("deposit", "withdrawal", "suspense")
_TOLD_BACK: Final = timedelta(days=7)
"""How late an event may be in Postgres, by the ledger's clock, and still be seen by the next run."""


class Account(NamedTuple):
    """An account at a bank, and of the ledger."""

    bank: str
    kind: str
    currency: str

    @property
    def house(self) -> str:
        """The ledger's name for it."""
        return f"@bank:{self.bank}:{self.kind}:{self.currency}"


class InFlight(NamedTuple):
    """What may be happening on chain, in minor units of the token."""

    minting: int
    burning: int
    transactions: int
    to_custody: int
    """Of `minting`, what goes to our own address."""
    redeeming: int
    """Tokens that come back from outside: they may be at our address already."""


@contextlib.asynccontextmanager
async def run(connection: Connection) -> AsyncIterator[None]:
    """A transaction that sees one state of the ledger; runs come one after the other."""
    # Before the transaction, so that it sees what the run before it has committed.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


# --- statements ------------------------------------------------------------------------------------------------------


async def add_statement(connection: Connection, account: Account, statement: Statement) -> str:
    """Keeps a statement: `imported`, `known` (nothing is done) or `contradicts` (kept beside the one that counts).

    Raises :class:`Refused` ``invalid_field`` when it is of another account than those before it.
    """
    same = (account.bank, account.kind, account.currency)
    # Another run may have the same statement in its hands; what it has kept is to be seen by the next question.
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
    rows = await connection.fetch(
        """SELECT statement_id, day, content_hash FROM reconciliation.statements
        WHERE bank = $1 AND kind = $2 AND currency = $3 AND (statement_id = $4 OR day = $5)""",
        *(*same, statement.id, statement.day),
    )
    if any(row["content_hash"] == statement.content_hash and row["statement_id"] == statement.id for row in rows):
        return "known"
    other = await connection.fetchval(
        """SELECT bank_account FROM reconciliation.statements
        WHERE bank = $1 AND kind = $2 AND currency = $3 AND bank_account <> $4 LIMIT 1""",
        *(*same, statement.account),
    )
    if other is not None:
        detail = f"statement {statement.id} is of {statement.account}, those before it were of {other}"
        raise Refused("invalid_field", detail)
    key = await connection.fetchval(
        """INSERT INTO reconciliation.statements
            (bank, kind, currency, statement_id, bank_account, day, opening, closing, line_count, content_hash, counts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING statement_key""",
        *(*same, statement.id, statement.account, statement.day, statement.opening, statement.closing),
        *(len(statement.lines), statement.content_hash, not rows),
    )
    await connection.executemany(
        """INSERT INTO reconciliation.lines
            (statement_key, number, amount, day, reference, bank_reference, is_return, code)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)""",
        [
            (key, number, one.amount, one.day, one.reference, one.bank_reference, one.is_return, one.code)
            for number, one in enumerate(statement.lines, 1)
        ],
    )
    return "contradicts" if rows else "imported"


async def accounts(connection: Connection) -> list[Account]:
    """The accounts of which there are statements."""
    rows = await connection.fetch(
        "SELECT DISTINCT bank, kind, currency FROM reconciliation.statements WHERE counts ORDER BY 1, 2, 3"
    )
    return [Account(*row) for row in rows]


async def statements(connection: Connection, account: Account) -> list[Balances]:
    """The statements of an account that count, oldest first."""
    rows = await connection.fetch(
        """SELECT s.statement_key, s.statement_id, s.day, s.opening, s.closing,
            (SELECT coalesce(sum(l.amount), 0) FROM reconciliation.lines l WHERE l.statement_key = s.statement_key)
        FROM reconciliation.statements s
        WHERE s.bank = $1 AND s.kind = $2 AND s.currency = $3 AND s.counts ORDER BY s.day""",
        *account,
    )
    return [Balances(row[0], row[1], row[2], int(row[3]), int(row[4]), int(row[5])) for row in rows]


async def last_day(connection: Connection, account: Account) -> date | None:
    """The day of an account's newest statement."""
    found: date | None = await connection.fetchval(
        "SELECT max(day) FROM reconciliation.statements WHERE bank = $1 AND kind = $2 AND currency = $3 AND counts",
        *account,
    )
    return found


async def first_day(connection: Connection, account: Account) -> date | None:
    """The day of the ledger's first entry on any account at the bank; None: there is none.

    Not of this account alone: that nothing was booked on it does not say that nothing has happened there.
    """
    at: datetime | None = await connection.fetchval(
        """SELECT min(e.effective_at) FROM ledger.house_accounts() h
        JOIN ledger.entries e ON e.tenant_id = h.tenant_id AND e.account_id = h.account_id
        WHERE starts_with(h.account_id, $1)""",
        f"@bank:{account.bank}:",
    )
    return None if at is None else at.astimezone(ZONES.get(account.currency, UTC)).date()


async def contradictions(connection: Connection) -> list[Row]:
    """Statements that say something else than the one that counts."""
    return await connection.fetch(
        """SELECT c.statement_key, c.bank, c.kind, c.currency, c.statement_id, c.closing - s.closing AS difference
        FROM reconciliation.statements c JOIN reconciliation.statements s USING (bank, kind, currency)
        WHERE NOT c.counts AND s.counts AND (s.statement_id = c.statement_id OR s.day = c.day)
        ORDER BY c.statement_key"""
    )


# --- files of returns ------------------------------------------------------------------------------------------------


async def add_returns(
    connection: Connection, bank: str, name: str, content_hash: bytes, returns: Sequence[Return]
) -> bool:
    """Keeps a file of returns; whether it is new."""
    key = await connection.fetchval(
        """INSERT INTO reconciliation.return_files (bank, name, content_hash) VALUES ($1, $2, $3)
        ON CONFLICT DO NOTHING RETURNING file_key""",
        *(bank, name, content_hash),
    )
    if key is None:
        return False
    await connection.executemany(
        """INSERT INTO reconciliation.returns (file_key, number, reference, code, amount, day)
        VALUES ($1, $2, $3, $4, $5, $6)""",
        [(key, number, one.reference, one.code, one.amount, one.day) for number, one in enumerate(returns, 1)],
    )
    return True


async def last_file(connection: Connection, bank: str) -> str:
    """Name of the newest file of returns that came from a bank's API; empty: none did."""
    found: str | None = await connection.fetchval(
        "SELECT max(name) FROM reconciliation.return_files WHERE bank = $1 AND name LIKE 'ach\\_%'", bank
    )
    return found or ""


async def returns_without_line(connection: Connection, account: Account) -> list[Row]:
    """Returns that files name and no statement of the account has: the n-th of a kind has no n-th line."""
    return await connection.fetch(
        """SELECT r.file_key, r.number, r.reference, r.code, r.amount, r.day
        FROM (
            SELECT r.*, row_number() OVER (PARTITION BY r.reference, r.amount ORDER BY r.file_key, r.number) AS nth
            FROM reconciliation.returns r JOIN reconciliation.return_files f USING (file_key) WHERE f.bank = $1
        ) r
        WHERE r.nth > (
            SELECT count(*) FROM reconciliation.lines l JOIN reconciliation.statements s USING (statement_key)
            WHERE s.bank = $1 AND s.kind = $2 AND s.currency = $3 AND s.counts
                AND l.reference = r.reference AND l.amount = r.amount AND l.is_return)
        ORDER BY r.file_key, r.number""",
        *account,
    )


# --- lines, entries, matches -----------------------------------------------------------------------------------------


async def open_lines(connection: Connection, account: Account) -> list[Line]:
    """Lines of statements that count and have no match."""
    rows = await connection.fetch(
        """SELECT l.line_key, l.amount, l.day, l.reference, l.bank_reference, l.is_return, l.code
        FROM reconciliation.lines l JOIN reconciliation.statements s USING (statement_key)
        WHERE s.bank = $1 AND s.kind = $2 AND s.currency = $3 AND s.counts
            AND NOT EXISTS (SELECT FROM reconciliation.matches m WHERE m.line_key = l.line_key)
        ORDER BY l.line_key""",
        *account,
    )
    return [Line(row[0], int(row[1]), *row[2:]) for row in rows]


async def open_entries(connection: Connection, account: Account) -> list[Entry]:
    """Entries on the account, of all tenants, that have no match."""
    rows = await connection.fetch(
        """SELECT e.journal_id, e.leg, e.amount, e.effective_at, e.transaction_id::text AS transaction_id, e.tenant_id,
            t.history -> -1 -> 'by_bank' ->> 'bank_reference' AS bank_reference,
            CASE WHEN t.type = 'suspense' THEN split_part(t.idempotency_key, ':', 1) END AS at_bank
        FROM ledger.entries e LEFT JOIN ledger.transactions t USING (transaction_id)
        WHERE e.tenant_id = ANY (ARRAY(SELECT h.tenant_id FROM ledger.house_accounts() h WHERE h.account_id = $1))
            AND e.account_id = $1
            AND NOT EXISTS (SELECT FROM reconciliation.matches m WHERE m.journal_id = e.journal_id AND m.leg = e.leg)
        ORDER BY e.journal_id, e.leg""",
        account.house,
    )
    zone = ZONES.get(account.currency, UTC)
    return [
        Entry(
            *(row["journal_id"], row["leg"], int(row["amount"]), row["effective_at"].astimezone(zone).date()),
            references_of(row["transaction_id"], row["bank_reference"] or "", row["at_bank"] or ""),
            *(row["transaction_id"], row["tenant_id"]),
        )
        for row in rows
    ]


async def repeated(connection: Connection, lines: Sequence[Line]) -> set[tuple[str, int]]:
    """Reference and amount of matched lines, as far as these lines have them too."""
    references = sorted({reference for line in lines for reference in line.references})
    rows = await connection.fetch(
        """SELECT l.reference, l.bank_reference, l.amount FROM reconciliation.lines l
        JOIN reconciliation.matches m USING (line_key)
        WHERE l.reference = ANY ($1) OR l.bank_reference = ANY ($1)""",
        references,
    )
    return {(reference, int(row["amount"])) for row in rows for reference in row[:2] if reference}


async def known_references(connection: Connection, account: Account, lines: Sequence[Line]) -> set[str]:
    """Which references of these lines are of entries on the account that are matched already."""
    references = sorted({reference for line in lines for reference in line.references})
    rows = await connection.fetch(
        """SELECT l.reference, l.bank_reference FROM reconciliation.lines l
        JOIN reconciliation.matches m USING (line_key) JOIN reconciliation.statements s USING (statement_key)
        WHERE s.bank = $1 AND s.kind = $2 AND s.currency = $3 AND m.rule = 'reference'
            AND (l.reference = ANY ($4) OR l.bank_reference = ANY ($4))""",
        *(*account, references),
    )
    return {reference for row in rows for reference in row if reference}


async def add_matches(connection: Connection, matches: Iterable[Match]) -> None:
    """Matches are for good."""
    await connection.executemany(
        "INSERT INTO reconciliation.matches (line_key, journal_id, leg, rule, difference) VALUES ($1, $2, $3, $4, $5)",
        [(one.line, *one.entry, one.rule, one.difference) for one in matches],
    )


async def differences(connection: Connection, account: Account) -> list[tuple[Match, Line, Entry]]:
    """Matches of an account whose amounts are not the same."""
    rows = await connection.fetch(
        """SELECT l.line_key, l.amount, l.day, l.reference, l.bank_reference, l.is_return, l.code,
            m.journal_id, m.leg, m.rule, m.difference, e.transaction_id::text AS transaction_id, e.tenant_id
        FROM reconciliation.matches m JOIN reconciliation.lines l USING (line_key)
        JOIN reconciliation.statements s USING (statement_key)
        JOIN ledger.entries e ON e.journal_id = m.journal_id AND e.leg = m.leg
        WHERE m.difference <> 0 AND s.bank = $1 AND s.kind = $2 AND s.currency = $3 ORDER BY l.line_key""",
        *account,
    )
    return [
        (
            Match(row["line_key"], (row["journal_id"], row["leg"]), row["rule"], int(row["difference"])),
            line := Line(row[0], int(row[1]), *row[2:7]),
            Entry(
                *(row["journal_id"], row["leg"], line.amount - int(row["difference"]), line.day, ()),
                *(row["transaction_id"], row["tenant_id"]),
            ),
        )
        for row in rows
    ]


# --- balances --------------------------------------------------------------------------------------------------------


async def house_balances(connection: Connection) -> dict[str, int]:
    """What the house accounts have, over all tenants, debits positive, in minor units."""
    rows = await connection.fetch(
        """SELECT account_id, sum(posted) * CASE ledger.normal_side(account_id) WHEN 'D' THEN 1 ELSE -1 END AS total
        FROM ledger.balances WHERE account_id LIKE '@%' GROUP BY account_id"""
    )
    return {row["account_id"]: int(row["total"]) for row in rows}


def backing_of(house: Mapping[str, int], currency: str) -> Backing:
    """What is held and owed in a currency.

    All entries sum to zero, so customers have what the house accounts add up to. What is between two of them (clearing)
    is theirs too; what is collected and not settled (in transit) is not yet.
    """
    own = {name: amount for name, amount in house.items() if name.endswith(f":{currency}")}

    def total(*parts: str) -> int:
        return sum(amount for name, amount in own.items() if all(part in name for part in parts))

    return Backing(
        trust=total("@bank:", ":trust:"),
        open_returns=total("@receivable:returns:"),
        reserve=-total("@reserve:"),
        customers=sum(own.values()) - total("@clearing:") - total("@rail:", ":in_transit:"),
        outgoing=-total("@rail:", ":outgoing:"),
        suspense=-total("@suspense:"),
    )


async def oldest_return(connection: Connection, currency: str) -> datetime | None:
    """When the oldest return was booked that nobody has made good."""
    found: datetime | None = await connection.fetchval(
        """SELECT min(o.since) FROM (
            SELECT min(e.posted_at) AS since FROM ledger.entries e
            WHERE e.tenant_id = ANY (ARRAY(SELECT h.tenant_id FROM ledger.house_accounts() h WHERE h.account_id = $1))
                AND e.account_id = $1
            GROUP BY e.transaction_id HAVING sum(e.amount) > 0
        ) o""",
        f"@receivable:returns:{currency}",
    )
    return found


async def unexplained(connection: Connection, currency: str) -> list[Unexplained]:
    """What each transaction has in suspense."""
    rows = await connection.fetch(
        """SELECT o.*, t.type, t.state FROM (
            SELECT e.transaction_id, e.tenant_id, -sum(e.amount) AS amount FROM ledger.entries e
            WHERE e.tenant_id = ANY (ARRAY(SELECT h.tenant_id FROM ledger.house_accounts() h WHERE h.account_id = $1))
                AND e.account_id = $1
            GROUP BY e.transaction_id, e.tenant_id HAVING sum(e.amount) <> 0
        ) o LEFT JOIN ledger.transactions t USING (transaction_id) ORDER BY o.transaction_id""",
        f"@suspense:unmatched:{currency}",
    )
    return [
        Unexplained(
            *(str(row["transaction_id"]), row["tenant_id"], currency, int(row["amount"])),
            f"{row['type']}/{row['state']}" if row["type"] else "not stored yet",
        )
        for row in rows
    ]


async def told(connection: Connection) -> list[tuple[Told, str]]:
    """Events that call a person, with their asset: of all transactions that have changed since some days before the
    newest report. What was in suspense after them is told by the money, unless the code itself asks for a case."""
    rows = await connection.fetch(
        """SELECT t.transaction_id::text AS transaction_id, t.tenant_id, h.event ->> 'type' AS type, t.asset,
            (h.event ->> 'seq')::integer AS seq,
            CASE WHEN h.event ->> 'reason' = ANY ($2) OR h.event -> 'by_bank' ->> 'action' = ANY ($5)
                THEN h.event -> 'by_bank' ->> 'code' END AS code
        FROM ledger.transactions t CROSS JOIN LATERAL jsonb_array_elements(t.history) h (event)
        WHERE t.type = ANY ($4)
            AND t.updated_at >= coalesce((SELECT max(made_at) FROM reconciliation.reports) - $1::interval, '-infinity')
            AND (h.event -> 'by_bank' ->> 'action' = ANY ($5)
                OR h.event -> 'by_bank' ->> 'suspense' IS NULL AND (h.event ->> 'type' LIKE '%.break_opened'
                    OR h.event ->> 'reason' = ANY ($2) AND h.event ->> 'status' = ANY ($3)))
        ORDER BY t.transaction_id, seq""",
        *(_TOLD_BACK, ["unknown_code", "books_disagree"], [FAILED, RETURNED], list(_SETTLEMENTS), list(CASES)),
    )
    return [
        (Told(row["transaction_id"], row["tenant_id"], row["type"], row["seq"], row["code"] or ""), row["asset"])
        for row in rows
    ]


async def waiting_outside(connection: Connection, token: str) -> int:
    """Tokens at deposit addresses that are too few to be swept, as the token's lane tells; they are outside."""
    found: int | None = await connection.fetchval(
        """SELECT sum((figures ->> 'waiting')::numeric)::bigint FROM settlement.lanes
        WHERE lane LIKE 'chain:%' AND split_part(lane, ':', 3) = $1""",
        token,
    )
    return found or 0


async def in_flight(connection: Connection, token: str) -> InFlight:
    """Mints and burns that the ledger has asked for and not booked: what they hold of fiat and of tokens."""
    fiat = TOKENS[token]
    row = await connection.fetchrow(
        """SELECT count(*) AS count, coalesce(sum(w.fiat - w.fee) FILTER (WHERE w.fiat > 0), 0) AS minting,
            coalesce(sum(w.token), 0) AS burning,
            coalesce(sum(w.fiat - w.fee) FILTER (WHERE w.fiat > 0 AND w.mint_to NOT LIKE '0x%'), 0) AS to_custody
        FROM (
            SELECT coalesce((t.history -> -1 -> 'by_bank' ->> 'fee')::numeric, 0) AS fee,
                coalesce(t.history -> -1 -> 'by_bank' ->> 'mint_to', '') AS mint_to,
                coalesce(-sum(e.amount) FILTER (WHERE e.asset = $2 AND t.type = 'deposit'), 0) AS fiat,
                coalesce(-sum(e.amount) FILTER (WHERE e.asset = $1), 0) AS token
            FROM ledger.transactions t
            JOIN ledger.entries e ON e.journal_id = ANY (t.journal_ids) AND e.layer = 'held' AND e.asset IN ($1, $2)
            WHERE t.type IN ('deposit', 'withdrawal') AND t.state = ANY ($3)
            GROUP BY t.transaction_id
        ) w""",
        *(token, fiat, list(_ON_CHAIN)),
    )
    back = await connection.fetchval(
        """SELECT coalesce(sum(amount), 0) FROM ledger.transactions
        WHERE type = 'deposit' AND state = 'tokens_received' AND asset = $1
            AND NOT (status = 'requires_attention' AND reason = 'account_inactive')""",
        token,
    )
    assert row is not None
    one = cents(token, fiat)
    minting, to_custody = int(row["minting"]) * one, int(row["to_custody"]) * one
    return InFlight(minting, int(row["burning"]), row["count"], to_custody, int(back))


_ON_CHAIN: Final = (
    *("mint_queued", "withdrawing", "mint_broadcast", "mint_confirming", "returning"),
    *("tokens_held", "burn_broadcast", "burn_confirming"),
)


# --- breaks ----------------------------------------------------------------------------------------------------------


async def known_breaks(connection: Connection) -> dict[str, Known]:
    """The newest break of every key. What was ended here, and not by a person, is gone: it may come again."""
    rows = await connection.fetch(
        """SELECT DISTINCT ON (key) break_id, key, amount, status,
            CASE WHEN resolved_by = $1 THEN $2 ELSE resolution END AS resolution
        FROM reconciliation.break_states ORDER BY key, break_id DESC""",
        *(ACTOR, GONE),
    )
    return {
        row["key"]: Known(
            row["break_id"], row["key"], int(row["amount"]), row["status"] == "open", row["resolution"] or ""
        )
        for row in rows
    }


async def unreadable_and_missing(connection: Connection) -> set[str]:
    """Keys of open breaks `statement_unreadable` of which nothing readable has come since."""
    rows = await connection.fetch(
        """SELECT b.key FROM reconciliation.break_states b
        WHERE b.kind = 'statement_unreadable' AND b.status = 'open'
            AND NOT EXISTS (SELECT FROM reconciliation.statements s WHERE s.counts
                AND b.key = format('unreadable:@bank:%s:%s:%s:%s', s.bank, s.kind, s.currency, s.day))
            AND NOT EXISTS (SELECT FROM reconciliation.return_files f
                WHERE b.key = format('unreadable:%s:returns:%s', f.bank, f.name))"""
    )
    return {row["key"] for row in rows}


async def open_breaks(connection: Connection) -> dict[str, Any]:
    """How many breaks are open, and since when."""
    row = await connection.fetchrow(
        "SELECT count(*) AS count, min(opened_at) AS oldest FROM reconciliation.break_states WHERE status = 'open'"
    )
    assert row is not None
    oldest = row["oldest"] and row["oldest"].astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"open_breaks": row["count"], "oldest_break_at": oldest}


async def breaks_by_kind(connection: Connection) -> dict[str, tuple[int, datetime]]:
    """How many breaks of each kind are open, and since when the oldest is."""
    rows = await connection.fetch(
        """SELECT kind, count(*) AS count, min(opened_at) AS oldest FROM reconciliation.break_states
        WHERE status = 'open' GROUP BY kind"""
    )
    return {row["kind"]: (row["count"], row["oldest"]) for row in rows}


async def open_break(
    connection: Connection, finding: Finding, asset: str, bank: str | None = None, account: str | None = None
) -> int:
    """Opens a break; its id."""
    journal_id, leg = finding.entry or (None, None)
    break_id: int = await connection.fetchval(
        """INSERT INTO reconciliation.breaks (kind, key, bank, account, asset, amount, tenant_id, transaction_id,
            reference, line_key, journal_id, leg, detail)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING break_id""",
        *(finding.kind, finding.key, bank, account, asset, finding.amount, finding.tenant or None),
        *(finding.transaction_id or None, finding.reference or None, finding.line, journal_id, leg),
        finding.detail[:500],
    )
    await connection.execute(
        "INSERT INTO reconciliation.break_events (break_id, number, action, actor) VALUES ($1, 1, 'opened', $2)",
        *(break_id, ACTOR),
    )
    if finding.owner:
        await act(connection, break_id, ACTOR, owner=finding.owner)
    return break_id


async def written_off(connection: Connection, transaction_ids: Sequence[str]) -> dict[str, str]:
    """Of transactions whose suspense a write-off has ended, who has asked for it, who has approved it, and why."""
    rows = await connection.fetch(
        """SELECT DISTINCT ON (t.transaction_id) t.transaction_id::text AS transaction_id, h.event ->> 'type' AS type,
            h.event -> 'by_bank' ->> 'write_off_by' AS asked, h.event -> 'by_bank' ->> 'approved_by' AS approved,
            h.event -> 'by_bank' ->> 'note' AS note
        FROM ledger.transactions t CROSS JOIN LATERAL jsonb_array_elements(t.history) WITH ORDINALITY h (event, at)
        WHERE t.transaction_id = ANY ($1::text[]::uuid[]) AND h.at > 1 AND h.event -> 'by_bank' ->> 'suspense' IS NULL
            AND t.history -> (h.at::integer - 2) -> 'by_bank' ->> 'suspense' IS NOT NULL
        ORDER BY t.transaction_id, h.at DESC""",
        list(transaction_ids),
    )
    return {
        row["transaction_id"]: f"{row['asked']} asked for it, {row['approved']} has approved it: {row['note']}"
        for row in rows
        if row["type"].endswith(".written_off")
    }


async def end_written_off(connection: Connection, break_id: int, note: str) -> None:
    """Ends a break whose money two persons have written off."""
    await connection.execute(
        """INSERT INTO reconciliation.break_events (break_id, number, action, actor, resolution, note)
        SELECT s.break_id, s.events + 1, 'resolved', $2, 'written_off', $3
        FROM reconciliation.break_states s WHERE s.break_id = $1""",
        *(break_id, ACTOR, note[:1000]),
    )


async def end_gone(connection: Connection, break_ids: Iterable[int]) -> None:
    """Ends breaks whose reason is gone."""
    await connection.executemany(
        """INSERT INTO reconciliation.break_events (break_id, number, action, actor, resolution)
        SELECT s.break_id, s.events + 1, 'gone', $2, $3 FROM reconciliation.break_states s WHERE s.break_id = $1""",
        [(one, ACTOR, GONE) for one in break_ids],
    )


_BREAK: Final = """break_id, kind, bank, account, asset, amount, tenant_id, transaction_id::text AS transaction_id,
    reference, detail, opened_at, status, owner, resolution, note, resolved_by, resolved_at"""
BREAKS: Final = Listing(
    columns={"opened_at": Column("opened_at", "opened_at", "time"), "id": Column("break_id", "break_id", "integer")},
    key=("id",),
    filters={"status": "status = {}", "kind": "kind = {}", "bank": "bank = {}", "owner": "owner = {}"},
    default="opened_at:asc",
    hidden=frozenset({"id"}),
)
"""The oldest first: age is what counts."""


async def breaks(connection: Connection, page: Page, *, counted: bool) -> tuple[Sequence[Row], int]:
    """A page of breaks, and how many there are if they are to be counted."""
    query = f"SELECT {_BREAK} FROM reconciliation.break_states WHERE true"  # noqa: S608 - constants
    sql, arguments = select(BREAKS, query, page)
    rows = await connection.fetch(sql, *arguments)
    if not counted:
        return rows, 0
    sql, arguments = filtered(BREAKS, "SELECT count(*) FROM reconciliation.break_states WHERE true", page)
    return rows, int(await connection.fetchval(sql, *arguments))


async def one_break(connection: Connection, break_id: int) -> Row | None:
    """A break as it stands."""
    return await connection.fetchrow(
        f"SELECT {_BREAK} FROM reconciliation.break_states WHERE break_id = $1",  # noqa: S608 - constants
        break_id,
    )


async def history(connection: Connection, break_id: int) -> Sequence[Row]:
    """What became of a break, oldest first."""
    return await connection.fetch(
        """SELECT number, action, actor, owner, resolution, note, at FROM reconciliation.break_events
        WHERE break_id = $1 ORDER BY number""",
        break_id,
    )


async def act(
    connection: Connection, break_id: int, actor: str, *, owner: str = "", resolution: str = "", note: str = ""
) -> None:
    """Gives an open break an owner, or resolves it.

    Raises :class:`Refused`: ``break_not_found``, ``already_processed``.
    """
    row = await connection.fetchrow(
        "SELECT status, events, resolution FROM reconciliation.break_states WHERE break_id = $1", break_id
    )
    if row is None:
        raise Refused("break_not_found", f"there is no break {break_id}")
    if row["status"] != "open":
        raise Refused("already_processed", f"break {break_id} is resolved: {row['resolution']}")
    await connection.execute(
        """INSERT INTO reconciliation.break_events (break_id, number, action, actor, owner, resolution, note)
        VALUES ($1, $2, $3, $4, $5, $6, $7)""",
        *(break_id, row["events"] + 1, "resolved" if resolution else "assigned", actor),
        *(owner or None, resolution or None, note or None),
    )


async def waiting(connection: Connection) -> dict[str, dict[str, int]]:
    """How many settlements of each type have not ended, by what they wait for."""
    rows = await connection.fetch(
        """SELECT type, count(*) FILTER (WHERE status = 'requires_attention') AS requires_attention,
            count(*) FILTER (WHERE status = 'requires_approval') AS requires_approval,
            count(*) FILTER (WHERE coalesce(history -> -1 -> 'by_bank' ->> 'parked_by', '') <> '') AS parked,
            count(*) FILTER (WHERE status = 'processing') AS processing
        FROM ledger.transactions
        WHERE type = ANY ($1) AND status IN ('requires_attention', 'requires_approval', 'processing')
        GROUP BY type""",
        list(_SETTLEMENTS),
    )
    found = {row["type"]: dict(row) for row in rows}
    names = ("requires_attention", "requires_approval", "parked", "processing")
    return {type_: {name: found.get(type_, {}).get(name, 0) for name in names} for type_ in _SETTLEMENTS}


# --- reports ---------------------------------------------------------------------------------------------------------


async def add_report(connection: Connection, body: Mapping[str, Any]) -> None:
    """Keeps a report of reserves."""
    await connection.execute("INSERT INTO reconciliation.reports (body) VALUES ($1)", orjson.dumps(body).decode())


async def last_report(connection: Connection) -> dict[str, Any] | None:
    """The newest report of reserves; None: nothing was reconciled yet."""
    row = await connection.fetchrow("SELECT made_at, body FROM reconciliation.reports ORDER BY report_key DESC LIMIT 1")
    return None if row is None else dict(orjson.loads(row["body"]))


def end_of(day: str) -> datetime:
    """When the day of a statement was over, as far as its age goes: zones make hours, and an age here is of days."""
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(), UTC)
