"""One run of reconciliation: statements in, matches and breaks out, a report of reserves at the end.

Everything can be repeated and stopped anywhere: what was imported is known, what was matched stays, what is wrong is
found again and is the same break. Runs do not overlap.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from aura_stream.chain.rpc import ChainError, ChainNode, final_block
from aura_stream.domain import reconciliation as pure
from aura_stream.domain.assets import format_amount
from aura_stream.domain.reasons import Refused
from aura_stream.domain.reconciliation import Custody, Finding, Token
from aura_stream.domain.settlement import TOKENS, cents
from aura_stream.ledger.connection import RECONCILER, connect
from aura_stream.reconcile import camt053, store
from aura_stream.reconcile.returns import read_returns
from aura_stream.reconcile.sources import BankAway, BankClient, BankLogin
from aura_stream.reconcile.store import Account

if TYPE_CHECKING:
    from aura_stream.ledger.connection import Connection

DAYS_MAX: Final = 400
"""Statements that one run asks a bank for, per account."""
READS: Final = 3
"""How often a file that cannot be read is asked for before that is a break: it may only have been cut on its way."""
LOOKS: Final = 3
"""How often both books of a token are read before a difference counts: a block may come between the two readings."""
_CURRENCIES: Final = tuple(dict.fromkeys(TOKENS.values()))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a run does beside what is there already."""

    logins: Sequence[BankLogin] = ()
    currencies: Sequence[str] = _CURRENCIES
    first_day: date | None = None
    """Where statements of an account without any begin; None: the day of the ledger's first entry at the bank."""
    files: Sequence[tuple[str, str, bytes]] = ()
    """Statements (camt.053) at hand: bank, kind of account, content."""
    return_files: Sequence[tuple[str, bytes]] = ()
    """Files of returns (NACHA) at hand: bank, content."""
    chain_rpc_url: str = ""
    confirmations: int = 3
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Token -> address; a token without one is reported without its supply."""
    custody: Mapping[str, str] = field(default_factory=dict)
    """Token -> our address; of a token without one our balance is not compared."""


@dataclass(slots=True)
class Outcome:
    """What a run has done. `problems`: what could not be asked; the run does without it."""

    imported: int = 0
    known: int = 0
    contradicting: int = 0
    returns: int = 0
    matched: int = 0
    opened: list[tuple[int, Finding]] = field(default_factory=list)
    gone: int = 0
    problems: list[str] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[tuple[Finding, str, Account | None]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


async def reconcile(dsn: str, wanted: Wanted) -> Outcome:
    """One run. Raises asyncpg's errors; a bank or chain that is away is a problem of the outcome, not an error."""
    outcome = Outcome()
    connection = await connect(dsn, RECONCILER, application_name="aura reconcile", command_timeout_s=300)
    try:
        for bank, kind, content in wanted.files:
            await _import(connection, bank, kind, content, outcome)
        for bank, content in wanted.return_files:
            await _import_returns(connection, bank, hashlib.sha256(content).hexdigest()[:32], content, outcome)
        for login in wanted.logins:
            await _fetch(connection, login, wanted, outcome)
        chain = await _chain(connection, wanted, outcome)
        async with store.run(connection):
            await _book(connection, chain, outcome)
    finally:
        await connection.close(timeout=5)
    return outcome


# --- in --------------------------------------------------------------------------------------------------------------


async def _import(connection: Connection, bank: str, kind: str, content: bytes, outcome: Outcome) -> None:
    """A file at hand."""
    try:
        statements = camt053.read(content)
    except camt053.Unreadable as error:
        key = f"unreadable:{bank}:{kind}:{hashlib.sha256(content).hexdigest()[:32]}"
        detail = f"a file for {bank}, {kind}: {error}"
        outcome.unreadable.append((Finding(pure.STATEMENT_UNREADABLE, key, 0, detail), "EUR", None))
        return
    for statement in statements:
        await _keep(connection, Account(bank, kind, statement.currency), statement, outcome)


async def _keep(connection: Connection, account: Account, statement: camt053.Statement, outcome: Outcome) -> None:
    async with connection.transaction():
        try:
            became = await store.add_statement(connection, account, statement)
        except Refused as refused:
            outcome.problems.append(f"{account.house}: {refused.detail}")
            return
    outcome.imported += became == "imported"
    outcome.known += became == "known"
    outcome.contradicting += became == "contradicts"


async def _import_returns(connection: Connection, bank: str, name: str, content: bytes, outcome: Outcome) -> bool:
    try:
        returns = read_returns(content)
    except camt053.Unreadable as error:
        finding = Finding(
            pure.STATEMENT_UNREADABLE, f"unreadable:{bank}:returns:{name}", 0, f"file of returns {name}: {error}"
        )
        outcome.unreadable.append((finding, "USD", Account(bank, "trust", "USD")))
        return False
    async with connection.transaction():
        if await store.add_returns(connection, bank, name, hashlib.sha256(content).digest(), returns):
            outcome.returns += len(returns)
    return True


async def _fetch(connection: Connection, login: BankLogin, wanted: Wanted, outcome: Outcome) -> None:
    """The statements of a bank's API that are not here, and the newest that is: it may have changed."""
    async with BankClient(login) as bank:
        for currency in wanted.currencies:
            account = Account(login.name, "trust", currency)
            source: dict[str, Any] = {"bank": login.name, "account": account.house, "problem": None}
            try:
                await _fetch_statements(connection, bank, account, wanted, outcome)
                if currency == "USD":
                    await _fetch_returns(connection, bank, login.name, outcome)
            except BankAway as error:
                source["problem"] = str(error)[:300]
                outcome.problems.append(str(error))
            outcome.sources.append(source)


async def _fetch_statements(
    connection: Connection, bank: BankClient, account: Account, wanted: Wanted, outcome: Outcome
) -> None:
    last = await store.last_day(connection, account)
    day = last or wanted.first_day or await store.first_day(connection, account)
    if day is None:
        return
    for _ in range(DAYS_MAX):
        statement = await _statement(bank, account, day)
        if isinstance(statement, camt053.Statement):
            await _keep(connection, account, statement, outcome)
        elif statement is None:
            return
        elif day != last:
            # Later days wait for it: they would show a gap that is none.
            outcome.unreadable.append((statement, account.currency, account))
            return
        day += timedelta(days=1)


async def _statement(bank: BankClient, account: Account, day: date) -> camt053.Statement | Finding | None:
    """The statement of a day; None while the day is not closed; a finding when what came cannot be read."""
    why = ""
    for _ in range(READS):
        content = await bank.statement(f"{account.kind}-{account.currency.lower()}", day)
        if content is None:
            return None
        try:
            (statement,) = camt053.read(content)
        except camt053.Unreadable as error:
            why = str(error)
        except ValueError:
            why = "it holds several statements"
        else:
            if (statement.day, statement.currency) == (day, account.currency):
                return statement
            why = f"it is of {statement.day} in {statement.currency}"
    detail = f"the statement of {account.house}, {day}: {why}"
    return Finding(pure.STATEMENT_UNREADABLE, f"unreadable:{account.house}:{day}", 0, detail)


async def _fetch_returns(connection: Connection, bank: BankClient, name: str, outcome: Outcome) -> None:
    for file_id in await bank.files_of_returns(await store.last_file(connection, name)):
        if not await _import_returns(connection, name, file_id, await bank.file(file_id), outcome):
            return


# --- the chain -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class OnChain:
    """Both books of each token that could be asked for, and the block of it."""

    tokens: dict[str, Token] = field(default_factory=dict)
    custody: dict[str, Custody] = field(default_factory=dict)
    blocks: dict[str, int] = field(default_factory=dict)


async def _chain(connection: Connection, wanted: Wanted, outcome: Outcome) -> OnChain:
    """Both books of each token whose address is known."""
    found = OnChain()
    if not wanted.tokens:
        return found
    try:
        async with ChainNode(wanted.chain_rpc_url) as node:
            for name, address in wanted.tokens.items():
                for look in range(LOOKS):
                    if look:
                        await asyncio.sleep(1)
                    # First our own books: what is begun after that cannot be final yet.
                    house = await store.house_balances(connection)
                    flying = await store.in_flight(connection, name)
                    block = max(final_block((await node.head()).number, wanted.confirmations), 0)
                    token = token_of(house, name, flying, await node.total_supply(address, block))
                    rest = 0
                    if ours := wanted.custody.get(name):
                        balance = await node.balance_of(address, ours, block)
                        found.custody[name] = custody_of(house, name, flying, balance, token.unconfirmed)
                        rest = found.custody[name].unexplained
                    found.tokens[name], found.blocks[name] = token, block
                    if not token.unexplained and not rest:
                        break
    except ChainError as error:
        outcome.problems.append(f"the chain at {wanted.chain_rpc_url.rsplit('@', 1)[-1]}: {error}")
    return found


def custody_of(house: Mapping[str, int], name: str, flying: store.InFlight, balance: int, unconfirmed: int) -> Custody:
    """Both books of our address."""
    booked = sum(
        amount
        for account, amount in house.items()
        if account.startswith("@custody:chain:") and account.endswith(f":{name}") and ":unconfirmed:" not in account
    )
    return Custody(booked, balance, flying.to_custody + flying.redeeming, flying.burning, unconfirmed)


def token_of(house: Mapping[str, int], name: str, flying: store.InFlight, supply: int) -> Token:
    """Both books of a token."""
    fiat = TOKENS[name]
    unconfirmed = sum(
        amount
        for account, amount in house.items()
        if account.startswith("@custody:chain:") and account.endswith(f":unconfirmed:{name}")
    )
    return Token(
        owed=-house.get(f"@reserve:{name}:{fiat}", 0) * cents(name, fiat),
        supply=supply,
        minting=flying.minting,
        burning=flying.burning,
        unconfirmed=unconfirmed,
        never_landed=house.get(f"@receivable:chain:{name}", 0),
    )


# --- out -------------------------------------------------------------------------------------------------------------


async def _book(connection: Connection, chain: OnChain, outcome: Outcome) -> None:
    """Matches, finds, opens and ends breaks, reports: all of it or nothing."""
    findings: list[tuple[Finding, str, Account | None]] = list(outcome.unreadable)
    house = await store.house_balances(connection)
    shown = []
    accounts = await store.accounts(connection)
    for account in accounts:
        found, row = await _account(connection, account, house, outcome)
        findings += [(one, account.currency, account) for one in found]
        shown.append(row)
    for other in await store.contradictions(connection):
        account = Account(other["bank"], other["kind"], other["currency"])
        finding = Finding(
            *(pure.STATEMENT_CHANGED, f"changed:{other['statement_key']}", int(other["difference"])),
            f"{other['statement_id']} of {account.house} came again with other content",
        )
        findings.append((finding, account.currency, account))
    backing = {currency: store.backing_of(house, currency) for currency in _CURRENCIES}
    findings += [(one, one.key.partition(":")[2], None) for one in pure.supply_findings(chain.tokens, backing)]
    findings += [(one, one.key.partition(":")[2], None) for one in pure.custody_findings(chain.custody)]
    for currency in _CURRENCIES:
        rows = await store.unexplained(connection, currency)
        findings += [(one, currency, None) for one in pure.suspense_findings(rows)]
    news = await store.told(connection)
    assets = {one.transaction_id: asset for one, asset in news}
    findings += [(one, assets[one.transaction_id], None) for one in pure.told_findings(one for one, _ in news)]
    known = await store.known_breaks(connection)
    findings += await _still_unreadable(connection, known, {one.key for one, _, _ in findings})
    # What this run could not look at is neither better nor worse than it was.
    asked = {f"supply:{name}" for name in chain.tokens} | {f"custody:{name}" for name in chain.custody}
    asked |= {one.key for one, _, _ in findings}
    partly = ("supply:", "custody:", pure.TOLD)
    seen = {key: one for key, one in known.items() if not key.startswith(partly) or key in asked}
    about = {one.key: (asset, account) for one, asset, account in findings}
    change = pure.changes([one for one, _, _ in findings], seen)
    await _end(connection, known, change.gone)
    outcome.gone = len(change.gone)
    for one in change.opened:
        asset, at = about[one.key]
        break_id = await store.open_break(connection, one, asset, at.bank if at else None, at.house if at else None)
        outcome.opened.append((break_id, one))
    outcome.report = {
        "made_at": _time(datetime.now(UTC)),
        "accounts": shown,
        "without_statement": [
            {"account": name, "ledger_balance": format_amount(amount, name.rsplit(":", 1)[1])}
            for name, amount in sorted(house.items())
            if name.startswith("@bank:") and name not in {one.house for one in accounts}
        ],
        "tokens": [await _token(connection, name, house, chain) for name in TOKENS],
        "currencies": [await _currency(connection, name, backing[name], house) for name in backing],
        "waiting": await store.waiting(connection),
        "sources": outcome.sources,
        "problems": [one[:300] for one in outcome.problems],
        **await store.open_breaks(connection),
    }
    await store.add_report(connection, outcome.report)


async def _end(connection: Connection, known: Mapping[str, pure.Known], gone: Sequence[int]) -> None:
    """Ends breaks whose reason is gone. Of those in suspense it says so where it is gone because it was written off."""
    ended = set(gone)
    about = {
        one.break_id: key.split(":")[1]
        for key, one in known.items()
        if one.break_id in ended and key.startswith(pure.SUSPENSE)
    }
    why = await store.written_off(connection, list(about.values())) if about else {}
    for break_id, transaction_id in about.items():
        if note := why.get(transaction_id):
            await store.end_written_off(connection, break_id, note)
    await store.end_gone(connection, [one for one in gone if about.get(one) not in why])


async def _account(
    connection: Connection, account: Account, house: Mapping[str, int], outcome: Outcome
) -> tuple[list[Finding], dict[str, Any]]:
    """Matches an account; what is wrong with it, and its part of the report."""
    entries = await store.open_entries(connection, account)
    lines = await store.open_lines(connection, account)
    ours = await store.known_references(connection, account, lines)
    matched = pure.match(lines, entries, ours)
    await store.add_matches(connection, matched.matches)
    outcome.matched += len(matched.matches)
    statements = await store.statements(connection, account)
    through = statements[-1].day
    differing = await store.differences(connection, account)
    repeated = await store.repeated(connection, matched.lines)
    of_statements = pure.statement_findings(statements)
    found = pure.line_findings(account.house, matched, through, repeated, differing)
    found += of_statements
    found += pure.late_statement(account.house, through, matched.entries)
    found += await _returns(connection, account, through)
    late = [entry for entry in matched.entries if pure.is_overdue(entry.day, through)]
    on_its_way = [entry for entry in matched.entries if not pure.is_overdue(entry.day, through)]
    explained = {
        "not_on_a_statement_yet": -sum(entry.amount for entry in on_its_way),
        "missing_at_bank": -sum(entry.amount for entry in late),
        "missing_in_ledger": sum(line.amount for line in matched.lines),
        "amount_differs": sum(one.difference for one, _, _ in differing),
        "statements": sum(one.amount for one in of_statements),
    }
    booked = house.get(account.house, 0)
    difference = statements[-1].closing - booked
    rest = difference - sum(explained.values())

    def text(amount: int) -> str:
        return format_amount(amount, account.currency)

    return found, {
        "account": account.house,
        "bank": account.bank,
        "currency": account.currency,
        "statement_id": statements[-1].statement_id,
        "day": through.isoformat(),
        "closing_balance": text(statements[-1].closing),
        "ledger_balance": text(booked),
        "difference": text(difference),
        "explained": {name: text(amount) for name, amount in explained.items()},
        "unexplained": text(rest),
    }


async def _returns(connection: Connection, account: Account, through: date) -> list[Finding]:
    if account.currency != "USD":
        return []
    return [
        Finding(
            *(pure.RETURN_NOT_BOOKED, f"return:{row['file_key']}:{row['number']}", int(row["amount"])),
            f"{row['reference']} came back with {row['code']} on {row['day']}",
            reference=row["reference"],
        )
        for row in await store.returns_without_line(connection, account)
        if pure.is_overdue(row["day"], through)
    ]


async def _still_unreadable(
    connection: Connection, known: Mapping[str, pure.Known], found: set[str]
) -> list[tuple[Finding, str, Account | None]]:
    """What could not be read before and is not here yet: not having tried again does not make it good."""
    kept = await store.unreadable_and_missing(connection)
    return [
        (Finding(pure.STATEMENT_UNREADABLE, key, one.amount, ""), "", None)
        for key, one in known.items()
        if one.is_open and key in kept and key not in found
    ]


async def _token(connection: Connection, name: str, house: Mapping[str, int], chain: OnChain) -> dict[str, Any]:
    flying = await store.in_flight(connection, name)
    one, ours = chain.tokens.get(name), chain.custody.get(name)
    books = one or token_of(house, name, flying, 0)

    def text(amount: int) -> str:
        return format_amount(amount, name)

    return {
        "token": name,
        "currency": TOKENS[name],
        "owed": text(books.owed),
        "supply": text(one.supply) if one else None,
        "block": chain.blocks[name] if one else None,
        "minting": text(books.minting),
        "burning": text(books.burning),
        "in_flight": flying.transactions,
        "waiting_outside": text(await store.waiting_outside(connection, name)),
        "unconfirmed": text(books.unconfirmed),
        "never_landed": text(books.never_landed),
        "difference": text(one.difference) if one else None,
        "unexplained": text(one.unexplained) if one else None,
        "custody": {
            "booked": text(ours.booked),
            "balance": text(ours.balance),
            "difference": text(ours.difference),
            "unexplained": text(ours.unexplained),
        }
        if ours
        else None,
    }


async def _currency(connection: Connection, name: str, one: pure.Backing, house: Mapping[str, int]) -> dict[str, Any]:
    oldest = await store.oldest_return(connection, name)
    in_transit = sum(
        amount for account, amount in house.items() if ":in_transit:" in account and account.endswith(f":{name}")
    )
    parts = {
        "trust": one.trust,
        "open_returns": one.open_returns,
        "reserve": one.reserve,
        "customers": one.customers,
        "outgoing": one.outgoing,
        "suspense": one.suspense,
        "in_transit": in_transit,
        "surplus": one.surplus,
    }
    shown: dict[str, Any] = {part: format_amount(amount, name) for part, amount in parts.items()}
    return {
        "currency": name,
        **shown,
        "oldest_open_return_at": None if oldest is None else _time(oldest),
        "is_backed": one.surplus >= 0,
    }


def _time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
