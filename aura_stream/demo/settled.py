"""The demo's own book of settlements: what must have become of each, and whether ledger, banks and chain agree on it.

Pure. It knows what the customers asked for and what the payers paid, hears what the topics tell, and is shown at the
end what the banks' own books, the chain itself and the reconciliation say. The banks' word decides one thing only: an
order that a bank has never taken, although it was tried as often as allowed, must have ended as rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aura_stream.demo.stories import Goal
from aura_stream.domain.assets import format_amount
from aura_stream.domain.ids import chain_reference
from aura_stream.domain.settlement import TOKENS, cents
from aura_stream.domain.state import TERMINAL


class End(NamedTuple):
    """How a transaction ends: its row, what the bank has done, and by how much of the amount each book moves."""

    row: tuple[str, str, str]
    at_bank: str = ""
    """Status of our order in the bank's own books; "" = the bank knows of none."""
    fiat: int = 0
    tokens: int = 0
    cash: int = 0
    """At the bank."""
    minted: int = 0
    burned: int = 0


ENDS: Final[dict[str, End]] = {
    "completed": End(("completed", "completed", ""), "settled", tokens=1, cash=1, minted=1),
    "kept": End(("completed", "completed", ""), "settled", fiat=1, cash=1),
    "rejected": End(("failed", "rejected", "bank_rejected"), "rejected"),
    "returned": End(("returned", "returned", "bank_returned"), "returned", minted=1, burned=1),
    "refunded": End(("failed", "refunded", "amount_mismatch"), "settled", fiat=1, cash=1),
    "denied": End(("failed", "denied", "denied")),
    "blocked": End(("failed", "refused", "screening_blocked")),
    "canceled": End(("canceled", "canceled", "")),
    "paid": End(("completed", "completed", ""), "settled", tokens=-1, cash=-1, burned=1),
    "payout_rejected": End(("failed", "payout_rejected", "bank_rejected"), "rejected", fiat=1, tokens=-1, burned=1),
    "payout_returned": End(("returned", "payout_returned", "bank_returned"), "returned", fiat=1, tokens=-1, burned=1),
    "minted_again": End(("completed", "completed", ""), fiat=-1, tokens=1, minted=1),
    # Not what a story plans, but what may come of it: a return that was faster than the mint, an order never taken.
    "taken_back": End(("failed", "returned", "bank_returned"), "returned"),
    "never_taken": End(("failed", "rejected", "bank_rejected")),
    "payout_never_taken": End(("failed", "payout_rejected", "bank_rejected"), fiat=1, tokens=-1, burned=1),
}
"""Names of ends. Of a payout from fiat, what was not burnt is not moved either."""

LABELS: Final[dict[str, str]] = {
    "requires_approval": "waits for a second person",
    "awaiting_funds": "waits for the payer",
    "submitting": "order goes to the bank",
    "submitted": "at the bank",
    "funds_settled": "money is there",
    "mint_queued": "mint waits",
    "withdrawing": "mint is called off",
    "mint_broadcast": "mint is sent",
    "mint_confirming": "mint is in a block",
    "returning": "tokens are clawed back",
    "tokens_received": "tokens come back",
    "tokens_held": "burn waits",
    "burn_broadcast": "burn is sent",
    "burn_confirming": "burn is in a block",
    "payout_submitting": "payout goes to the bank",
    "payout_submitted": "payout is at the bank",
}
"""States in the order in which money passes them, in words."""
PAUSED: Final = "held by a pause"
ATTENTION: Final = "waits for an operator"
COMES_BACK: Final = "done, and will come back"


@dataclass(slots=True)
class Told:
    """A transaction as the journal tells it."""

    status: str
    state: str
    reason: str
    is_parked: bool = False


class Mint(NamedTuple):
    """A mint that was confirmed: what for, how much, and its hash on the chain."""

    amount: int
    token: str
    hash: str


@dataclass(slots=True)
class Evidence:
    """What others say at the end. Fiat in cents, tokens in their minor units."""

    orders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Transaction -> statuses of what the bank has under our reference."""
    acted_twice: list[str] = field(default_factory=list)
    """References under which a bank moved money more than once."""
    unbalanced: list[str] = field(default_factory=list)
    """Banks whose own books do not add up."""
    cash: dict[tuple[str, str], int] = field(default_factory=dict)
    """(bank, fiat) -> our customers' money there, by the bank's own books."""
    booked: dict[tuple[str, str], int] = field(default_factory=dict)
    """The same by the ledger's entries."""
    minted: dict[str, list[int]] = field(default_factory=dict)
    """Reference -> amounts that the chain has logged."""
    burned: dict[str, list[int]] = field(default_factory=dict)
    supply: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    """Token -> balance of our address."""
    elsewhere: dict[str, int] = field(default_factory=dict)
    """Token -> balance of the address outside."""
    report: dict[str, Any] = field(default_factory=dict)
    """Of reserves, by the reconciliation, after the operator has closed the cases."""
    cases: set[str] = field(default_factory=set)
    """Transactions whose open break `needs_a_person`; the operator has closed those that were expected."""
    problems: list[str] = field(default_factory=list)


class Settled:
    """See the module."""

    def __init__(self) -> None:
        self.goals: dict[str, Goal] = {}
        self.told: dict[str, Told] = {}
        self.paid: set[str] = set()
        """Transactions whose payer has paid, by the bank's answer."""
        self.under_way: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.last_mint: Mint | None = None
        self.mints = 0
        self.pauses: dict[str, str] = {}
        """Pause -> its state: set, applied, lifted, cleared."""
        self._open: dict[str, Goal] = {}

    # --- while it plays ---

    def expect(self, goal: Goal) -> None:
        """A transaction is about to be asked for."""
        self.goals[goal.transaction] = self._open[goal.transaction] = goal

    def pay(self, transaction: str) -> None:
        """The bank has taken the payer's money."""
        self.paid.add(transaction)

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of the journal about any transaction or pause."""
        if line["line"] == "pause":
            self.pauses[line["id"]] = line["status"]
            return
        goal = self.goals.get(line["id"])
        if goal is None:
            return
        if (before := self._label(goal)) is not None:
            self.under_way[before] -= 1
        by_bank = line.get("by_bank") or {}
        is_new_end = not self.is_ended(goal)
        self.told[line["id"]] = Told(
            line["status"], line["state"], line.get("reason", ""), bool(by_bank.get("parked_by"))
        )
        if (label := self._label(goal)) is not None:
            self.under_way[label] += 1
        elif is_new_end:
            self.ended[line["status"]] += 1
        if self.is_ended(goal):
            self._open.pop(line["id"], None)
        else:
            self._open[line["id"]] = goal
        if line["event"] == "deposit.completed" and goal.token:
            self.mints += 1
            self.last_mint = Mint(_tokens(goal, goal.amount), goal.token, by_bank.get("hash", ""))

    def is_in(self, transaction: str, wanted: frozenset[str]) -> bool:
        """Whether it has one of these states or statuses."""
        told = self.told.get(transaction)
        return told is not None and (told.state in wanted or told.status in wanted)

    def is_ended(self, goal: Goal) -> bool:
        """Whether nothing will happen to it any more."""
        told = self.told.get(goal.transaction)
        if told is None or told.status not in TERMINAL or told.state == "returning":
            return False
        return not (told.status == "completed" and ENDS[goal.end].row[0] == "returned")

    def was_instructed(self, goal: Goal) -> bool:
        """Whether a bank was told to move money for it."""
        return goal.is_order and goal.transaction in self.told and bool(ENDS[goal.end].at_bank)

    def waits_for_days(self, goal: Goal) -> bool:
        """Whether days must pass at the bank before anything happens to it."""
        told = self.told.get(goal.transaction)
        return told is not None and not told.is_parked and told.state in ("submitted", "payout_submitted", "completed")

    @property
    def open(self) -> list[Goal]:
        """What has not ended."""
        return list(self._open.values())

    def _label(self, goal: Goal) -> str | None:
        """What is shown of it while it is under way; None when it is not told of, or has ended."""
        told = self.told.get(goal.transaction)
        if told is None or self.is_ended(goal):
            return None
        if told.is_parked:
            return PAUSED
        if told.status == "requires_attention":
            return ATTENTION
        return COMES_BACK if told.state == "completed" else LABELS.get(told.state, told.state)

    # --- at the end ---

    def end_of(self, goal: Goal, evidence: Evidence) -> End:
        """How it must have ended, given what the bank has of it."""
        end = ENDS[goal.end]
        if goal.is_order and end.at_bank and not evidence.orders.get(goal.transaction):
            return ENDS["payout_never_taken" if goal.is_payout else "never_taken"]
        if goal.end == "returned" and _reference(goal, "mint") not in evidence.minted:
            return ENDS["taken_back"]
        return end

    def rows(self, evidence: Evidence) -> dict[str, tuple[str, str, str]]:
        """Transaction -> status, state and reason that its row must have."""
        return {id_: self.end_of(goal, evidence).row for id_, goal in self.goals.items()}

    def moves(self, evidence: Evidence) -> Counter[tuple[str, str]]:
        """(tenant, account) -> what all of it must have brought its customer."""
        moves: Counter[tuple[str, str]] = Counter()
        for goal in self.goals.values():
            end = self.end_of(goal, evidence)
            fiat = end.fiat * _moved(goal)
            if goal.is_payout and not goal.token:
                fiat = -goal.amount if end.cash else 0
            moves[goal.tenant, f"{goal.customer}:{goal.fiat}"] += fiat
            if goal.token and not goal.address:
                moves[goal.tenant, f"{goal.customer}:{goal.token}"] += end.tokens * _tokens(goal, goal.amount)
        return moves

    def bank_differences(self, evidence: Evidence) -> list[str]:
        """Where the banks' own books tell another story."""
        found = [f"{reference}: the bank acted on it more than once" for reference in evidence.acted_twice]
        found += [f"{bank}: its own books do not add up" for bank in evidence.unbalanced]
        cash: Counter[tuple[str, str]] = Counter()
        for goal in self.goals.values():
            end = self.end_of(goal, evidence)
            if goal.rail:
                cash[goal.bank, goal.fiat] += end.cash * _moved(goal)
            if goal.is_order:
                seen, wanted = evidence.orders.get(goal.transaction, ()), (end.at_bank,) if end.at_bank else ()
                if seen != wanted:
                    found.append(f"transaction {goal.transaction}: {_said(seen)} at {goal.bank}, not {_said(wanted)}")
            elif (end.cash or end.minted) and goal.rail and goal.transaction not in self.paid:
                found.append(f"transaction {goal.transaction}: {ENDS[goal.end].row[1]}, and nobody ever paid it")
        for place in sorted(cash.keys() | evidence.cash.keys() | evidence.booked.keys()):
            by_book, by_bank, by_ledger = cash[place], evidence.cash.get(place, 0), evidence.booked.get(place, 0)
            if not by_book == by_bank == by_ledger:
                bank, fiat = place
                amounts = [format_amount(amount, fiat) for amount in (by_bank, by_ledger, by_book)]
                found.append(f"{bank} has {amounts[0]} {fiat}, the ledger {amounts[1]}, this book {amounts[2]}")
        return found

    def chain_differences(self, evidence: Evidence, ours: Mapping[str, int]) -> list[str]:
        """Where the chain tells another story. `ours`: token -> what all customers have, by the ledger."""
        found = []
        mints: dict[str, Goal] = {}
        burns: dict[str, Goal] = {}
        elsewhere: Counter[str] = Counter()
        for goal in self.goals.values():
            end = self.end_of(goal, evidence)
            if end.minted and goal.token:
                mints[_reference(goal, "mint")] = goal
                if goal.address:
                    elsewhere[goal.token] += _tokens(goal, goal.amount)
            if end.burned and goal.token:
                burns[_reference(goal, "burn")] = goal
        for what, wanted, seen in (("mint", mints, evidence.minted), ("burn", burns, evidence.burned)):
            for reference, goal in wanted.items():
                amounts, amount = seen.get(reference, []), _tokens(goal, goal.amount)
                if amounts != [amount]:
                    told = ", ".join(format_amount(one, goal.token) for one in amounts) or "none"
                    found.append(
                        f"transaction {goal.transaction}: {what} of {told} on the chain, "
                        f"not of {format_amount(amount, goal.token)} {goal.token}"
                    )
            found += [f"a {what} that nobody asked for: {reference}" for reference in seen.keys() - wanted.keys()]
        for token in TOKENS:
            supply, held, out = (books.get(token, 0) for books in (evidence.supply, evidence.held, evidence.elsewhere))
            if not (held == ours.get(token, 0) and out == elsewhere[token] and supply == held + out):
                shown = [format_amount(amount, token) for amount in (supply, held, out, ours.get(token, 0))]
                found.append(
                    f"{token}: supply {shown[0]}, at our address {shown[1]}, outside {shown[2]}, "
                    f"customers have {shown[3]}"
                )
        return found

    def cases(self, evidence: Evidence) -> set[str]:
        """Transactions that an operator must have been called for: the bank has taken them back for such a code."""
        return {
            goal.transaction
            for goal in self.goals.values()
            if goal.is_case and self.end_of(goal, evidence).at_bank == "returned"
        }

    def reserve_differences(self, evidence: Evidence) -> list[str]:
        """What the reconciliation cannot explain, and where it has not called an operator."""
        report = evidence.report
        found = list(evidence.problems)
        for transaction in sorted(self.cases(evidence) ^ evidence.cases):
            missing = transaction not in evidence.cases
            found.append(f"transaction {transaction}: an operator was {'not ' if missing else ''}called")
        if report.get("open_breaks"):
            found.append(f"{report['open_breaks']} open breaks")
        apart = [(one["token"], "supply and what is owed", one["unexplained"]) for one in report.get("tokens", ())]
        apart += [(one["account"], "statement and ledger", one["unexplained"]) for one in report.get("accounts", ())]
        found += [
            f"{name}: {amount} between {books} is not explained"
            for name, books, amount in apart
            if amount is None or not _is_zero(amount)
        ]
        if not report:
            found.append("nothing was reconciled")
        return found


def _moved(goal: Goal) -> int:
    """Cents that the bank moves: of a payment that comes a cent short, one less."""
    return goal.amount - (goal.end == "refunded")


def _tokens(goal: Goal, amount: int) -> int:
    return amount * cents(goal.token, goal.fiat)


def _reference(goal: Goal, what: str) -> str:
    if what == "mint":
        return chain_reference(goal.transaction, "mint/1")
    return chain_reference(goal.transaction, "burn" if goal.is_payout else "return/1")


def _is_zero(amount: str) -> bool:
    return not amount.strip("-0.")


def _said(statuses: Iterable[str]) -> str:
    return ", ".join(statuses) or "nothing"
