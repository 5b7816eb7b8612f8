"""Whether all of it holds: the ledger proves itself, and the demo's own book agrees with what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from aura_stream.demo.book import Book, Difference
from aura_stream.demo.settled import Evidence
from aura_stream.domain.assets import format_amount
from aura_stream.domain.gas import GAS
from aura_stream.domain.settlement import TOKENS
from aura_stream.ledger.verify import Check

if TYPE_CHECKING:
    import asyncpg

SHOWN_MAX: Final = 3
"""Differences of one kind that are shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What Postgres holds at the end."""

    transactions: dict[str, tuple[str, str, str]]
    """id -> status, state, reason."""
    balances: dict[tuple[str, str], tuple[int, int, int]]
    """(tenant, account) of customers -> available, posted, pending."""
    sums: dict[str, int]
    """Asset -> sum of all entries."""
    clearing: dict[str, int]
    """Asset -> money that is still under way."""
    entries: int
    journals: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was proven, or what differs."""

    name: str
    holds: str
    checked: int
    things: str
    differences: tuple[str, ...] = ()
    of_ledger: bool = False
    """Whether the ledger's own checks found it, from its rows alone."""

    @property
    def good(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings, and the sentence that sums them up."""

    findings: tuple[Finding, ...]
    commands: int
    entries: int
    notes: tuple[str, ...] = field(default=())

    @property
    def good(self) -> bool:
        """Whether all of it holds."""
        return all(finding.good for finding in self.findings)

    @property
    def sentence(self) -> str:
        """The last line of the demo."""
        if self.good:
            return f"{self.commands:,} commands, {self.entries:,} entries, sum 0 in every asset: not a cent lost"
        bad = [finding for finding in self.findings if not finding.good]
        return f"{self.commands:,} commands, {self.entries:,} entries: {bad[0].name}: {bad[0].differences[0]}"


def judge(
    book: Book,
    stored: Stored,
    checks: Sequence[Check],
    processes: int = 0,
    problems: Sequence[str] = (),
    evidence: Evidence | None = None,
) -> Verdict:
    """Compares everything. `problems` are what the runner saw: processes that ended, waits that ran out. `evidence` is
    what banks and chain say; without it there is nothing of settlement."""
    differences = book.final_differences()
    settled = book.settled
    rows = settled.rows(evidence) if evidence is not None else {}
    moves = settled.moves(evidence) if evidence is not None else {}
    balances = {place: amount + moves.get(place, 0) for place, amount in book.expected_balances().items()}
    figures = book.figures
    commands = sum(asked.records for asked in book.asked.values()) + sum(figures.dead_letters.values())
    bad_requests = sum(figures.bad_requests.values())
    answers = sum(count for status, count in figures.answers.items())
    findings = [
        _of("decided", "every command has one outcome, the expected one", commands, "commands", differences),
        _of("repeats", "no repeat had a second effect", figures.repeats, "repeats", differences),
        _of(
            "dead letters",
            "what is malformed was put aside, its bytes unchanged",
            sum(figures.dead_letters.values()),
            "dead letters",
            differences,
        ),
        _of("http", f"HTTP answered as it must ({bad_requests:,} bad requests too)", answers, "answers", differences),
        _transactions(book.expected_rows() | rows, stored.transactions),
        _balances(balances, stored.balances),
        _sums(stored),
        *(_settlement(book, stored, evidence) if evidence is not None else ()),
        Finding("processes", "every process did its work to the end", processes, "processes", tuple(problems)),
        *(
            Finding(check.name, check.holds, check.checked, check.things, () if check.good else (_row(check),), True)
            for check in checks
        ),
    ]
    return Verdict(tuple(findings), commands, stored.entries)


def _settlement(book: Book, stored: Stored, evidence: Evidence) -> list[Finding]:
    """What banks, chain and reconciliation say, against the demo's own book."""
    settled = book.settled
    ours = {
        token: sum(posted for (_, account), (_, posted, _) in stored.balances.items() if account.split(":")[1] == token)
        for token in TOKENS
    }
    mints, burns = (sum(map(len, seen.values())) for seen in (evidence.minted, evidence.burned))
    return [
        Finding(
            "banks",
            "each settlement is as in the banks' own books",
            len(settled.goals),
            "settlements",
            tuple(settled.bank_differences(evidence)),
        ),
        Finding(
            "chain",
            "mints, burns, supply and balances are the chain's",
            mints + burns,
            "mints and burns",
            tuple(settled.chain_differences(evidence, ours)),
        ),
        Finding(
            "reserves",
            "reconciled with statements and chain: nothing open",
            len(evidence.report.get("accounts", ())) + len(evidence.report.get("tokens", ())),
            "accounts and tokens",
            tuple(settled.reserve_differences(evidence)),
        ),
    ]


def _of(kind: str, holds: str, checked: int, things: str, differences: Sequence[Difference]) -> Finding:
    return Finding(kind, holds, checked, things, tuple(text for of, text in differences if of == kind))


def _transactions(expected: Mapping[str, tuple[str, str, str]], stored: Mapping[str, tuple[str, str, str]]) -> Finding:
    differences = [
        f"transaction {id_}: {_said(stored.get(id_))}, expected {_said(wanted)}"
        for id_, wanted in expected.items()
        if stored.get(id_) != wanted
    ]
    differences += [
        f"transaction {id_}: {_said(stored[id_])}, but nobody asked for it" for id_ in stored.keys() - expected
    ]
    return Finding("transactions", "every transaction's row ends as expected", len(stored), "rows", tuple(differences))


def _said(row: tuple[str, str, str] | None) -> str:
    return "no row" if row is None else "/".join(part for part in row if part)


def _balances(
    expected: Mapping[tuple[str, str], int], stored: Mapping[tuple[str, str], tuple[int, int, int]]
) -> Finding:
    differences = []
    for place in sorted(expected.keys() | stored.keys()):
        available, posted, pending = stored.get(place, (0, 0, 0))
        wanted = expected.get(place, 0)
        if (available, posted, pending) != (wanted, wanted, 0):
            asset = place[1].split(":")[1]
            differences.append(
                f"{'/'.join(place)}: {format_amount(available, asset)} available, "
                f"{format_amount(posted - available, asset)} held, {format_amount(pending, asset)} pending; "
                f"expected {format_amount(wanted, asset)} {asset} available"
            )
    return Finding(
        "balances", "every balance is that of the demo's own book", len(expected), "accounts", tuple(differences)
    )


def _sums(stored: Stored) -> Finding:
    differences = [
        f"the entries in {asset} sum to {format_amount(total, asset)}" for asset, total in stored.sums.items() if total
    ]
    differences += [
        f"{format_amount(amount, asset)} {asset} are still under way"
        for asset, amount in stored.clearing.items()
        if amount
    ]
    holds = f"sum 0 in {len(stored.sums)} assets; nothing under way"
    return Finding("sums", holds, stored.entries, "entries", tuple(differences))


def _row(check: Check) -> str:
    row: dict[str, Any] = check.offender or {}
    return "first row: " + ", ".join(f"{name}={value}" for name, value in row.items())


async def read_stored(connection: asyncpg.Connection[asyncpg.Record]) -> Stored:
    """Everything that is compared, from one snapshot. Raises asyncpg's and the system's errors."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        transactions = await connection.fetch(
            "SELECT transaction_id, status, state, coalesce(reason, '') AS reason FROM ledger.transactions"
            " WHERE type <> $1",
            GAS,
        )
        balances = await connection.fetch(
            "SELECT tenant_id, account_id, available, posted, pending"
            " FROM ledger.balances WHERE account_id NOT LIKE '@%'"
        )
        sums = await connection.fetch(
            "SELECT asset, sum(amount) AS total, count(*) AS count,"
            " -coalesce(sum(amount) FILTER (WHERE account_id LIKE '@clearing:%'), 0) AS clearing"
            " FROM ledger.entries GROUP BY asset"
        )
        journals = await connection.fetchval("SELECT count(*) FROM ledger.journals")
    return Stored(
        {str(row["transaction_id"]): (row["status"], row["state"], row["reason"]) for row in transactions},
        {
            (row["tenant_id"], row["account_id"]): (int(row["available"]), int(row["posted"]), int(row["pending"]))
            for row in balances
        },
        {row["asset"]: int(row["total"]) for row in sums},
        {row["asset"]: int(row["clearing"]) for row in sums},
        sum(row["count"] for row in sums),
        journals,
    )
