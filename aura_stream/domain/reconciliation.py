"""Reconciliation: what a bank's statement says against what the ledger has booked at that bank. Pure.

    statement line ──same reference, same amount──────▶ matched
                   ──same reference, other amount─────▶ matched, with a difference: break `amount_differs`
                   ──no reference that we know:
                     same amount, same or a near day──▶ matched, if there is only one way to do it
                   ──else─────────────────────────────▶ break `missing_in_ledger` or `duplicate_line`
    ledger entry   ──no line, and its day is closed───▶ break `missing_at_bank`
                   ──no line, its day is open─────────▶ on its way, a line of the reserve report; and break
                                                        `statement_missing`, once it is open for too long

A difference is never corrected here: it becomes a break, which a person resolves with a note, or which ends by itself
when what was missing comes. Nothing is guessed: where two lines could be one entry's, both stay open.

Invariants
    R1  a line is matched with at most one entry, an entry with at most one line, and a match is for good
    R2  lines - entries = differences of matches + lines left - entries left: nothing gets lost between the books
    R3  the outcome depends on what is there, not on the order in which it came
    R4  closing balance = ledger + what the breaks and the open days explain, to the cent

Amounts are integer minor units; positive is money that came in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from aura_stream.domain.bank_codes import CODES, COMPLIANCE, code_of
from aura_stream.domain.ids import bank_reference

NEAR_DAYS: Final = 4
"""How far apart the days of a line and an entry without a common reference may lie: a weekend and a holiday."""
GRACE_DAYS: Final = 1
"""Days of statements after an entry's own before it is missing: what is booked late may be the next day's."""

LATE_DAYS: Final = 5
"""How far entries may be ahead of the newest statement: over Easter TARGET is closed for four days."""

# Kinds of breaks.
MISSING_IN_LEDGER: Final = "missing_in_ledger"
MISSING_AT_BANK: Final = "missing_at_bank"
AMOUNT_DIFFERS: Final = "amount_differs"
DUPLICATE_LINE: Final = "duplicate_line"
STATEMENT_UNREADABLE: Final = "statement_unreadable"
STATEMENT_CHANGED: Final = "statement_changed"
STATEMENT_GAP: Final = "statement_gap"
STATEMENT_MISSING: Final = "statement_missing"
STATEMENT_WRONG_SUM: Final = "statement_wrong_sum"
RETURN_NOT_BOOKED: Final = "return_not_booked"
SUPPLY_DIFFERS: Final = "supply_differs"
CUSTODY_DIFFERS: Final = "custody_differs"
NOT_BACKED: Final = "not_backed"
IN_SUSPENSE: Final = "in_suspense"
NEEDS_A_PERSON: Final = "needs_a_person"

MEANING: Final[dict[str, str]] = {
    MISSING_IN_LEDGER: "the bank has booked a line that no entry of the ledger explains",
    MISSING_AT_BANK: "the ledger has booked an entry, and the statement of its day is there without it",
    AMOUNT_DIFFERS: "line and entry have the same reference and not the same amount",
    DUPLICATE_LINE: "the bank has booked a reference and amount once more than the ledger",
    STATEMENT_UNREADABLE: "a statement or file of returns came and is cut or is no such file",
    STATEMENT_CHANGED: "a statement came again under the same id with other content; the first one stands",
    STATEMENT_GAP: "a statement does not open with what the one before it closed with",
    STATEMENT_MISSING: "the ledger has booked at an account long after the day of its newest statement",
    STATEMENT_WRONG_SUM: "opening balance and lines of a statement do not make its closing balance",
    RETURN_NOT_BOOKED: "a file of returns names a return, and the statement of its day is there without it",
    SUPPLY_DIFFERS: "the supply on chain is not what is owed to token holders, whatever is in flight has done",
    CUSTODY_DIFFERS: "our address does not hold what the ledger has in custody, whatever is in flight has done",
    NOT_BACKED: "the money at banks and open returns are less than what is owed",
    IN_SUSPENSE: "money has come or gone at a bank that fits nothing, as a second return: it is booked to suspense",
    NEEDS_A_PERSON: "bank and ledger agree on the money; the code that came with it, or what follows, needs a person",
}
"""Every kind of break, in words."""

RESOLUTIONS: Final = ("explained", "booked", "corrected_by_bank", "written_off")
"""What a person may resolve a break with; `gone` is the reconciliation's own: what was missing has come."""
GONE: Final = "gone"
TOLD: Final = "told:"
"""What keys of breaks begin with that are looked for among news only: not found again, they are as they were."""
COMPLIANCE_OWNER: Final = "compliance"
"""Who has breaks whose code asks for a compliance case."""

SUSPENSE: Final = "suspense:"
"""What keys of breaks of money in suspense begin with; the transaction follows."""

_Take = Callable[["Line", "Entry", str], None]


@dataclass(frozen=True, slots=True)
class Line:
    """One booked line of a statement."""

    id: int
    amount: int
    day: date
    reference: str
    """Ours, as the bank shows it; empty when it shows none."""
    bank_reference: str = ""
    is_return: bool = False
    code: str = ""

    @property
    def references(self) -> tuple[str, ...]:
        """What it can be found by."""
        return tuple(one for one in (self.reference, self.bank_reference) if one)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry on the ledger's account at the bank."""

    journal_id: int
    leg: int
    amount: int
    day: date
    references: tuple[str, ...]
    """All by which the bank may know it."""
    transaction_id: str = ""
    tenant: str = ""

    @property
    def id(self) -> tuple[int, int]:
        """Of the row."""
        return self.journal_id, self.leg


@dataclass(frozen=True, slots=True)
class Match:
    """A line and the entry that it is."""

    line: int
    entry: tuple[int, int]
    rule: str
    """reference | amount_and_day"""
    difference: int = 0
    """The line's amount less the entry's."""


@dataclass(frozen=True, slots=True)
class Matched:
    """The outcome of matching."""

    matches: tuple[Match, ...]
    lines: tuple[Line, ...]
    """Those that are left."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong now. `key` names it: found again, it is the same break."""

    kind: str
    key: str
    amount: int
    """What the bank (the chain) has more than the ledger."""
    detail: str
    line: int | None = None
    entry: tuple[int, int] | None = None
    transaction_id: str = ""
    tenant: str = ""
    reference: str = ""
    owner: str = ""
    """Who has it from the beginning; empty: nobody yet."""


@dataclass(frozen=True, slots=True)
class Balances:
    """What a statement says of its day beside its lines."""

    id: int
    statement_id: str
    day: date
    opening: int
    closing: int
    sum_of_lines: int


@dataclass(frozen=True, slots=True)
class Known:
    """The newest break of a key."""

    break_id: int
    key: str
    amount: int
    is_open: bool
    resolution: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of breaks: those to open, those that are gone."""

    opened: tuple[Finding, ...]
    gone: tuple[int, ...]


def references_of(transaction_id: str, *others: str) -> tuple[str, ...]:
    """All references by which a bank may know a transaction: those of its steps, and the bank's own."""
    own = (bank_reference(transaction_id, "deposit"), bank_reference(transaction_id, "payout"))
    return (*own, *(one for one in others if one))


# --- matching --------------------------------------------------------------------------------------------------------


def match(lines: Iterable[Line], entries: Iterable[Entry], known: Collection[str] = frozenset()) -> Matched:
    """Matches what has no match yet. `known`: references of entries that are matched already, so never guessed."""
    left = {line.id: line for line in sorted(lines, key=lambda line: (line.day, line.id))}
    open_ = {entry.id: entry for entry in sorted(entries, key=lambda entry: (entry.day, entry.id))}
    ours = set(known) | {reference for entry in open_.values() for reference in entry.references}
    found: list[Match] = []

    def take(line: Line, entry: Entry, rule: str) -> None:
        found.append(Match(line.id, entry.id, rule, line.amount - entry.amount))
        del left[line.id], open_[entry.id]

    _by_reference(left, open_, take)
    _by_reference_alone(left, open_, take)
    _by_amount(left, open_, ours, take)
    return Matched(tuple(found), tuple(left.values()), tuple(open_.values()))


def _by_reference(left: dict[int, Line], open_: dict[tuple[int, int], Entry], take: _Take) -> None:
    """Same reference, same amount; of several the nearest day."""
    places: dict[tuple[str, int], list[Entry]] = defaultdict(list)
    for entry in open_.values():
        for reference in entry.references:
            places[reference, entry.amount].append(entry)
    for line in list(left.values()):
        candidates = [
            entry
            for reference in line.references
            for entry in places.get((reference, line.amount), ())
            if entry.id in open_
        ]
        if candidates:
            take(line, min(candidates, key=lambda entry: (abs(entry.day - line.day), entry.day, entry.id)), "reference")


def _by_reference_alone(left: dict[int, Line], open_: dict[tuple[int, int], Entry], take: _Take) -> None:
    """Same reference, same direction, another amount: only where one line and one entry are left of it."""
    entries: dict[tuple[str, bool], set[tuple[int, int]]] = defaultdict(set)
    lines: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for entry in open_.values():
        for reference in entry.references:
            entries[reference, entry.amount > 0].add(entry.id)
    for line in left.values():
        for reference in line.references:
            lines[reference, line.amount > 0].add(line.id)
    for line in list(left.values()):
        for reference in line.references:
            place = reference, line.amount > 0
            if line.id in left and len(lines[place]) == 1 and len(entries[place]) == 1:
                (entry_id,) = entries[place]
                if entry_id in open_:
                    take(line, open_[entry_id], "reference")


def _by_amount(left: dict[int, Line], open_: dict[tuple[int, int], Entry], ours: Collection[str], take: _Take) -> None:
    """Same amount, same day, as many lines as entries; then same amount on near days, one line and one entry.

    A line whose reference we know is somebody's, and never anybody else's.
    """
    strange = [line for line in left.values() if not any(reference in ours for reference in line.references)]
    on_day: dict[tuple[int, date], list[Line]] = defaultdict(list)
    booked: dict[tuple[int, date], list[Entry]] = defaultdict(list)
    for line in strange:
        on_day[line.amount, line.day].append(line)
    for entry in open_.values():
        booked[entry.amount, entry.day].append(entry)
    for place, several in on_day.items():
        if len(several) == len(booked.get(place, ())):
            for line, entry in zip(several, booked[place], strict=True):
                take(line, entry, "amount_and_day")
    near = timedelta(days=NEAR_DAYS)
    of_amount: dict[int, list[Entry]] = defaultdict(list)
    for entry in open_.values():
        of_amount[entry.amount].append(entry)
    alike: dict[int, list[Line]] = defaultdict(list)
    for line in strange:
        if line.id in left:
            alike[line.amount].append(line)
    pairs = []
    for amount, several in alike.items():
        for line in several:
            candidates = [entry for entry in of_amount.get(amount, ()) if abs(entry.day - line.day) <= near]
            if len(candidates) == 1 and sum(abs(one.day - candidates[0].day) <= near for one in several) == 1:
                pairs.append((line, candidates[0]))
    for line, entry in pairs:
        take(line, entry, "amount_and_day")


# --- findings --------------------------------------------------------------------------------------------------------


def is_overdue(day: date, through: date | None) -> bool:
    """Whether what was booked for a day should be on a statement, with statements through another day."""
    return through is not None and day + timedelta(days=GRACE_DAYS) <= through


def line_findings(
    account: str,
    matched: Matched,
    through: date | None,
    repeated: Collection[tuple[str, int]],
    differences: Sequence[tuple[Match, Line, Entry]],
) -> list[Finding]:
    """Breaks of an account's lines and entries.

    `repeated`: reference and amount of lines that are matched already. `differences`: matches with other amounts.
    """
    found = []
    for line in matched.lines:
        seen = any((reference, line.amount) in repeated for reference in line.references)
        kind = DUPLICATE_LINE if seen else MISSING_IN_LEDGER
        what = f"{line.day} {line.reference or 'without a reference'}"
        if line.is_return:
            row = CODES.get(line.code)
            what += f", a return {line.code}" + (f" ({row.meaning})" if row else ", a code that is in no table")
        found.append(Finding(kind, f"line:{line.id}", line.amount, what, line=line.id, reference=line.reference))
    found += [
        Finding(
            *(MISSING_AT_BANK, f"entry:{entry.journal_id}:{entry.leg}", -entry.amount),
            f"booked for {entry.day} on {account}",
            entry=entry.id,
            transaction_id=entry.transaction_id,
            tenant=entry.tenant,
        )
        for entry in matched.entries
        if is_overdue(entry.day, through)
    ]
    for one, line, entry in differences:
        found.append(
            Finding(
                *(AMOUNT_DIFFERS, f"match:{line.id}", one.difference),
                f"{line.day} {line.reference}: the bank has {line.amount}, the ledger {entry.amount} minor units",
                line=line.id,
                entry=entry.id,
                transaction_id=entry.transaction_id,
                tenant=entry.tenant,
                reference=line.reference,
            )
        )
    return found


def statement_findings(statements: Sequence[Balances]) -> list[Finding]:
    """Breaks of an account's statements, oldest first: sums that are wrong, and gaps between them.

    What the first one opens with has no statement before it: unless it is zero, a person says what it is.
    """
    found = []
    before, closed = "there is no statement before it", 0
    for one in statements:
        if one.opening != closed:
            detail = f"{one.statement_id} opens with {one.opening}, and {before}: {closed} minor units"
            found.append(Finding(STATEMENT_GAP, f"gap:{one.id}", one.opening - closed, detail))
        wrong = one.closing - one.opening - one.sum_of_lines
        if wrong:
            detail = f"{one.statement_id}: {one.opening} and lines of {one.sum_of_lines} do not make {one.closing}"
            found.append(Finding(STATEMENT_WRONG_SUM, f"sum:{one.id}", wrong, detail))
        before, closed = f"{one.statement_id} closed with", one.closing
    return found


def late_statement(account: str, through: date, left: Iterable[Entry]) -> list[Finding]:
    """The break of an account whose statements have stopped coming while the ledger goes on booking there.

    Told by the days of the two books, by no clock: where nothing is booked, no statement is missed.
    """
    newest = max((entry.day for entry in left), default=through)
    if newest - through <= timedelta(days=LATE_DAYS):
        return []
    detail = f"the newest statement of {account} is of {through}, and the ledger has booked there for {newest}"
    return [Finding(STATEMENT_MISSING, f"late:{account}", 0, detail)]


def changes(findings: Iterable[Finding], known: Mapping[str, Known]) -> Change:
    """What to open and what is gone.

    A break that a person has resolved is not opened again as long as its amount stays what they resolved.
    """
    now = {finding.key: finding for finding in findings}
    opened = []
    for key, finding in now.items():
        last = known.get(key)
        if last is None or (not last.is_open and (last.resolution == GONE or last.amount != finding.amount)):
            opened.append(finding)
    gone = tuple(
        sorted(
            one.break_id
            for one in known.values()
            if one.is_open and (one.key not in now or now[one.key].amount != one.amount)
        )
    )
    # Open with another amount than now: that one is gone, and what it has become is opened.
    opened += [now[key] for key, one in known.items() if one.is_open and key in now and now[key].amount != one.amount]
    return Change(tuple(sorted(opened, key=lambda finding: finding.key)), gone)


# --- reserves --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """A token's two books, in its minor units; `minting` and `burning` are in flight: they may have happened."""

    owed: int
    """To its holders, by the ledger."""
    supply: int
    """On chain, at finality."""
    minting: int = 0
    burning: int = 0
    unconfirmed: int = 0
    """Credited, and their block was lost: not in the supply until it is mined again."""
    never_landed: int = 0
    """Credited and spent, and their mint can never land: owed, and in no supply."""

    @property
    def difference(self) -> int:
        """What the chain has more than is owed."""
        return self.supply - self.owed

    @property
    def unexplained(self) -> int:
        """What no mint or burn in flight explains, whichever of them have happened."""
        low = -self.never_landed - self.burning - self.unconfirmed
        high = -self.never_landed + self.minting
        return min(self.difference - low, 0) + max(self.difference - high, 0)


@dataclass(frozen=True, slots=True)
class Custody:
    """Tokens at our address, in the ledger and on chain, in minor units; what is in flight may have happened (B5)."""

    booked: int
    """By the ledger: in blocks that are deep enough."""
    balance: int
    """balanceOf our address, at finality."""
    minting: int = 0
    """To our address, or coming back to it; what goes to addresses outside is not in custody."""
    burning: int = 0
    unconfirmed: int = 0
    """Credited, taken out of custody because their block was lost, and perhaps mined again."""

    @property
    def difference(self) -> int:
        """What the chain has more than the ledger."""
        return self.balance - self.booked

    @property
    def unexplained(self) -> int:
        """What no mint or burn in flight explains, whichever of them have happened."""
        return min(self.difference + self.burning, 0) + max(self.difference - self.minting - self.unconfirmed, 0)


@dataclass(frozen=True, slots=True)
class Backing:
    """What is held against what is owed, of one currency over all tenants, in minor units."""

    trust: int
    open_returns: int
    reserve: int
    customers: int
    """Available and held, of all customers."""
    outgoing: int
    suspense: int

    @property
    def surplus(self) -> int:
        """Trust + open returns - (reserve + customers + outgoing + suspense); below zero: owed, and not there."""
        return self.trust + self.open_returns - self.reserve - self.customers - self.outgoing - self.suspense


def custody_findings(custody: Mapping[str, Custody]) -> list[Finding]:
    """Breaks of our address's balances."""
    found = []
    for name, one in custody.items():
        if one.unexplained:
            detail = (
                f"{one.balance} at our address, {one.booked} in custody, {one.minting} being minted or coming back, "
                f"{one.burning} being burnt, {one.unconfirmed} lost, in minor units"
            )
            found.append(Finding(CUSTODY_DIFFERS, f"custody:{name}", one.unexplained, detail))
    return found


@dataclass(frozen=True, slots=True)
class Unexplained:
    """What a transaction has in suspense, in minor units; positive: money has come."""

    transaction_id: str
    tenant: str
    asset: str
    amount: int
    about: str
    """Its type and state."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event that calls a person although nothing is wrong with the money."""

    transaction_id: str
    tenant: str
    event: str
    seq: int
    code: str
    """The bank's, if that is what calls; one code of a transaction is one break."""


def suspense_findings(rows: Iterable[Unexplained]) -> list[Finding]:
    """Breaks of money that nobody has explained: each ends by itself once the transaction has nothing in suspense."""
    return [
        Finding(
            *(IN_SUSPENSE, f"{SUSPENSE}{one.transaction_id}:{one.asset}", one.amount),
            f"{'came' if one.amount > 0 else 'gone'} at a bank, and fits nothing; {one.about}",
            transaction_id=one.transaction_id,
            tenant=one.tenant,
        )
        for one in rows
    ]


def told_findings(rows: Iterable[Told]) -> list[Finding]:
    """Breaks of what was told: only a person ends them."""
    found: dict[str, Finding] = {}
    for one in rows:
        row = code_of(one.code)
        what = f"{one.code}: {row.meaning} ({row.action})" if one.code else one.event
        key = f"{TOLD}{one.transaction_id}:{one.code or one.seq}"
        owner = COMPLIANCE_OWNER if one.code and row.action == COMPLIANCE else ""
        finding = Finding(
            *(NEEDS_A_PERSON, key, 0, what),
            transaction_id=one.transaction_id,
            tenant=one.tenant,
            owner=owner,
        )
        found.setdefault(key, finding)
    return list(found.values())


def supply_findings(tokens: Mapping[str, Token], backing: Mapping[str, Backing]) -> list[Finding]:
    """Breaks of tokens and currencies."""
    found = []
    for name, token in tokens.items():
        if token.unexplained:
            detail = (
                f"{token.supply} on chain, {token.owed} owed, {token.minting} being minted, {token.burning} being burnt"
                f", {token.unconfirmed + token.never_landed} lost, in minor units"
            )
            found.append(Finding(SUPPLY_DIFFERS, f"supply:{name}", token.unexplained, detail))
    for currency, one in backing.items():
        if one.surplus < 0:
            owed = one.reserve + one.customers + one.outgoing + one.suspense
            detail = f"{one.trust} at banks and {one.open_returns} of open returns against {owed}, in minor units"
            found.append(Finding(NOT_BACKED, f"backing:{currency}", one.surplus, detail))
    return found
