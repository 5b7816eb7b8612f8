"""What deposits by bank and withdrawals have in common: their state, their accounts, and one step of theirs.

The chart of accounts (D grows by debits, C by credits), per tenant and sliced by partition like all house accounts:

    D @bank:<bank>:trust:<fiat>          customers' fiat and the reserve for tokens, at the bank
    D @bank:<bank>:operating:<fiat>      our own
    D @rail:<rail>:in_transit:<fiat>     collected, not settled
    C @rail:<rail>:outgoing:<fiat>       paid out, not settled
    D @receivable:returns:<fiat>         taken back by a bank, not made good by the customer
    C @reserve:<token>:<fiat>            fiat owed to token holders
    C @suspense:unmatched:<fiat>         money that nobody has explained
    C @income:fees:<type>:<fiat>
    D @custody:chain:<chain>:<token>     tokens at our address, in blocks that are deep enough
    D @custody:chain:<chain>:unconfirmed:<token>   credited, and their block is lost
    D @receivable:chain:<token>          credited and spent, and can never land
    D @custody:chain:<chain>:<native>    what the minters' keys have to pay gas with
    C @equity:opening:<native>           what has come to them for it
    D @expense:gas:<native>, @expense:bank:<fiat>
    D @expense:losses:<fiat>             suspense that was written off: gone at a bank for good
    C @income:unexplained:<fiat>         suspense that was written off: come, and nobody's

A write-off takes two persons: one asks for it with a reason (`transaction.resolve`, write_off), another approves it.
What is lost is made good from operating at once, so that trust covers what is owed.

    in suspense ──write_off──▶ asked ──approve, by another person──▶ written off
                                 └───reject, or another amount by then──▶ in suspense
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from aura_stream.domain.assets import SCALES
from aura_stream.domain.bank_codes import ATTENTION, BARS, BREAK, FREEZE, code_of
from aura_stream.domain.commands import Resolve
from aura_stream.domain.ids import bank_lane_key, chain_lane_key
from aura_stream.domain.lane_requests import BankRequest, ChainRequest
from aura_stream.domain.ledger import (
    Accounts,
    Broken,
    Decision,
    book,
    expect,
    moved_on,
    needed,
    usable,
    with_open_items,
)
from aura_stream.domain.pauses import Pause, Scope, in_force, stood_ms
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.signals import BankFact
from aura_stream.domain.state import (
    AVAILABLE,
    PROCESSING,
    REQUIRES_ATTENTION,
    TERMINAL,
    Posting,
    Rules,
    Settlement,
    SettlementRules,
    Transaction,
)

HOUR: Final = 60 * 60 * 1000
DAY: Final = 24 * HOUR
NATIVE: Final = "ETH"
"""What gas is paid in."""


class Rail(NamedTuple):
    """A way of money between banks. By a pull we collect from the payer's account; a push the payer sends himself."""

    fiat: str
    token: str
    is_pull: bool


RAILS: Final[dict[str, Rail]] = {
    "ach": Rail("USD", "AUSD", True),
    "sepa": Rail("EUR", "AEUR", False),
    "sepa_instant": Rail("EUR", "AEUR", False),
}
TOKENS: Final = {rail.token: rail.fiat for rail in RAILS.values()}


class Booking(NamedTuple):
    """One journal of a step."""

    asset: str
    postings: tuple[Posting, ...]


class Settled(Decision, frozen=True):
    """A decision of a settlement machine: several journals, requests to lanes, accounts that are frozen.

    `bars` is the bank's code after which the other side's bank account may not be used again, `enables` takes it back.
    `goes_on` asks for `onward` of its machine right after this step, in the same unit.
    """

    journals: tuple[Booking, ...] = ()
    bank_requests: tuple[BankRequest, ...] = ()
    chain_requests: tuple[ChainRequest, ...] = ()
    frozen: tuple[str, ...] = ()
    bars: str = ""
    enables: bool = False
    goes_on: bool = False
    parent: Settlement | None = None  # of the transaction that this one tries again


class Case(NamedTuple):
    """All that a step is decided from."""

    id: str
    transaction: Transaction
    settlement: Settlement
    accounts: Accounts
    rules: Rules
    pauses: tuple[Pause, ...]
    at: int
    barred: Callable[[str], str] = lambda account: ""
    """Of the other side's bank account: the code after which the customer may not use it again, if there was one."""


# --- the chart of accounts -------------------------------------------------------------------------------------------


def trust(s: Settlement, asset: str | None = None) -> str:
    """The bank's account for our customers' money, in its own currency or in the one that came."""
    return f"@bank:{s.bank}:trust:{s.fiat if asset is None else asset}"


def operating(s: Settlement) -> str:
    """The bank's account for our own money."""
    return f"@bank:{s.bank}:operating:{s.fiat}"


def in_transit(s: Settlement) -> str:
    """Sent for collection, not settled."""
    return f"@rail:{s.rail}:in_transit:{s.fiat}"


def outgoing(s: Settlement) -> str:
    """Payouts that the bank may have, not settled."""
    return f"@rail:{s.rail}:outgoing:{s.fiat}"


def receivable(s: Settlement) -> str:
    """What banks took back and nobody has made good."""
    return f"@receivable:returns:{s.fiat}"


def reserve(s: Settlement) -> str:
    """Fiat owed to the holders of the token."""
    return f"@reserve:{s.token}:{s.fiat}"


def suspense(s: Settlement, asset: str | None = None) -> str:
    """Money that nobody has explained, in its own currency or in the one that came."""
    return f"@suspense:unmatched:{s.fiat if asset is None else asset}"


def bank_cost(s: Settlement) -> str:
    """What banks have cost us: fees, and what they paid too much."""
    return f"@expense:bank:{s.fiat}"


def losses(s: Settlement) -> str:
    """What is gone at a bank, and was written off."""
    return f"@expense:losses:{s.fiat}"


def unexplained(s: Settlement) -> str:
    """What has come to a bank, and was written off: ours, as nobody has claimed it."""
    return f"@income:unexplained:{s.fiat}"


def fees(s: Settlement, type_: str) -> str:
    """Our fees."""
    return f"@income:fees:{type_}:{s.fiat}"


def custody(s: Settlement) -> str:
    """Tokens at our address, by blocks that are deep enough."""
    return f"@custody:chain:{s.chain}:{s.token}"


def unconfirmed(s: Settlement) -> str:
    """Tokens that are credited although the block of their mint was lost."""
    return f"@custody:chain:{s.chain}:unconfirmed:{s.token}"


def never_landed(s: Settlement) -> str:
    """Tokens that were credited and spent, and whose mint can never land."""
    return f"@receivable:chain:{s.token}"


def tokens(s: Settlement, fiat: int) -> int:
    """Minor units of the token for minor units of its fiat."""
    return fiat * cents(s.token, s.fiat)


def cents(token: str, fiat: str) -> int:
    """How many minor units of a token are one of its fiat."""
    return int(10 ** (SCALES[token] - SCALES[fiat]))


def moved(debit: str, credit: str, amount: int, *, of: str = AVAILABLE, to: str = AVAILABLE) -> tuple[Posting, ...]:
    """One amount from the layer `of` of `debit` to the layer `to` of `credit`; nothing when it is zero."""
    return (Posting(debit, of, amount), Posting(credit, to, -amount)) if amount else ()


def journal(asset: str, *moves: tuple[Posting, ...]) -> tuple[Booking, ...]:
    """One journal of several moves; none when nothing moves."""
    postings = tuple(posting for move in moves for posting in move)
    return (Booking(asset, postings),) if postings else ()


# --- a step ----------------------------------------------------------------------------------------------------------


def owners(s: Settlement) -> tuple[str, ...]:
    """The customer's accounts that a transaction under way needs: while it is, they cannot be closed."""
    return (s.account, s.token_account) if s.token_account else (s.account,)


def step(
    case: Case,
    event: str,
    status: str,
    state: str,
    *,
    reason: str = "",
    deadline: int = 0,
    journals: tuple[Booking, ...] = (),
    bank_requests: tuple[BankRequest, ...] = (),
    chain_requests: tuple[ChainRequest, ...] = (),
    effective_at: int = 0,
    ends: bool = False,
    because_of: str = "",
    goes_on: bool = False,
    **changes: Any,
) -> Settled:
    """The next state with all that belongs to it. `ends` gives the accounts free.

    `because_of` is the bank's code by which a payment has failed or come back: what its row asks for follows.
    """
    t, s = case.transaction, case.settlement
    if changes.get("suspense", s.suspense) != s.suspense:
        changes = {"write_off": 0} | changes  # what was asked for was another amount
    after = msgspec.structs.replace(s, **({"parked_by": "", "left_ms": 0, "entered_at": case.at} | changes))
    accounts = _accounts(case, journals)
    action = code_of(because_of).action if because_of else ""
    frozen: tuple[str, ...] = ()
    for name in owners(s):
        account = accounts.get(name) or case.accounts(name)
        if account is None or account.status == "closed":
            if ends:
                raise Broken(f"{name} is gone although a transaction is open on it")
            continue
        if ends:
            account = accounts[name] = with_open_items(account, -1)
        if action == FREEZE and account.status == "open":
            accounts[name] = msgspec.structs.replace(account, status="frozen", seq=account.seq + 1)
            frozen += (name,)
    return Settled(
        event,
        moved_on(t, status, state, deadline=deadline, reason=reason),
        accounts,
        (),
        min(effective_at, case.at) or case.at,
        settlement=after,
        journals=journals,
        bank_requests=bank_requests,
        chain_requests=chain_requests,
        frozen=frozen,
        bars=because_of if action in BARS and s.party_account else "",
        goes_on=goes_on,
    )


def same_state(case: Case, event: str, **more: Any) -> Settled:
    """News that changes no state: the deadline, and the pause it may be parked by, stay."""
    t, s = case.transaction, case.settlement
    kept = {"parked_by": s.parked_by, "left_ms": s.left_ms, "entered_at": s.entered_at, "deadline": t.deadline}
    news: dict[str, Any] = {"reason": t.reason} | kept | more
    return step(case, event, t.status, t.state, **news)


def because(code: str, otherwise: str) -> str:
    """Why a payment has ended that a bank rejected or took back; some codes call a person, whatever is booked."""
    action = code_of(code).action
    return "unknown_code" if action == ATTENTION else "books_disagree" if action == BREAK else otherwise


def settled_late(case: Case, event: str, fact: BankFact, there: tuple[Posting, ...]) -> Settled:
    """A settlement whose return was heard first: both are booked now, and nothing is left of either."""
    s = case.settlement
    back = tuple(msgspec.structs.replace(posting, amount=-posting.amount) for posting in there)
    journals = journal(s.fiat, there) + journal(s.fiat, back)
    return same_state(case, event, journals=journals, effective_at=fact.effective_at, settled_by=fact.fact_id or "-")


def fits_nothing(case: Case, event: str, fact: BankFact, there: tuple[Posting, ...]) -> Settled:
    """A return that is a second one, of another amount, or of what never was: booked against suspense all the same,
    and a break until it is explained."""
    s = case.settlement
    return same_state(
        *(case, event),
        journals=journal(fact.asset, there),
        effective_at=fact.effective_at,
        code=fact.code,
        suspense=s.suspense - (fact.amount if fact.asset == s.fiat else 0),
        returned_by=(fact.fact_id or "-") if s.returned_by else "",
    )


def ask_write_off(case: Case, asked: Resolve) -> Settled:
    """`write_off`, the first person: nothing is booked yet. Raises :class:`Refused`."""
    t, s = case.transaction, case.settlement
    if not s.suspense or (t.status not in TERMINAL and t.status != REQUIRES_ATTENTION):
        raise Refused("invalid_state_transition", f"write_off is no way out of {t.status}/{t.state}")
    if s.write_off:
        raise Refused("already_processed", f"{s.write_off_by} has asked for it: transaction.approve by somebody else")
    event = f"{t.type}.write_off_asked"
    return same_state(case, event, write_off=s.suspense, write_off_by=asked.operator, note=asked.note or "")


def refuse_write_off(case: Case, operator: str) -> Settled:
    """`transaction.reject` of a write-off that was asked for: it stays in suspense."""
    return same_state(case, f"{case.transaction.type}.write_off_denied", write_off=0, approved_by=operator)


def write_off(case: Case, operator: str) -> Settled:
    """`transaction.approve` of a write-off that was asked for. Raises :class:`Refused`.

    A loss is made good from operating in the same unit; what came and is nobody's stays where it is, and is ours.
    """
    t, s = case.transaction, case.settlement
    if operator in (s.write_off_by, t.customer):
        raise Refused("four_eyes", f"{operator} asked for it")
    came = -s.suspense if t.type == "withdrawal" else s.suspense
    moves = [moved(suspense(s), unexplained(s), came)]
    if came < 0:
        moves = [moved(losses(s), suspense(s), -came), moved(trust(s), operating(s), -came)]
    event = f"{t.type}.written_off"
    return same_state(case, event, journals=journal(s.fiat, *moves), suspense=0, approved_by=operator)


def enable_account(case: Case) -> Settled:
    """`enable_account`: an operator knows better than the bank's code. Raises :class:`Refused`."""
    t, s = case.transaction, case.settlement
    if not s.party_account or not case.barred(s.party_account):
        raise Refused("invalid_state_transition", "its bank account is not disabled")
    return msgspec.structs.replace(same_state(case, f"{t.type}.account_enabled"), enables=True)


def gas_paid(s: Settlement, gas: int) -> tuple[Booking, ...]:
    """What the chain took for it."""
    return journal(NATIVE, moved(f"@expense:gas:{NATIVE}", f"@custody:chain:{s.chain}:{NATIVE}", gas))


def _accounts(case: Case, journals: tuple[Booking, ...]) -> dict[str, Any]:
    names = {p.account for booking in journals for p in booking.postings if p.account[0] != "@"}
    accounts = {name: needed(case.accounts(name), name) for name in sorted(names)}
    for booking in journals:
        book(booking.postings, accounts)
    return accounts


def available(case: Case, account_id: str) -> int:
    """What can be taken from an account that may be frozen, closed or missing."""
    account = case.accounts(account_id) if account_id else None
    return account.available if account is not None and account.status != "closed" else 0


def is_there(case: Case, account_id: str) -> bool:
    """Whether an account can be booked on."""
    account = case.accounts(account_id)
    return account is not None and account.status != "closed"


# --- pauses and deadlines --------------------------------------------------------------------------------------------


def scope(tenant: str, type_: str, s: Settlement, *, chain: bool) -> Scope:
    """What a piece of work is about; `chain` when it is a mint or burn."""
    assets = (s.fiat, s.token) if s.token else (s.fiat,)
    return Scope(tenant, type_, s.rail, s.bank, s.chain if chain else "", assets, owners(s))


def enter(
    case: Case,
    event: str,
    state: str,
    wait_ms: int,
    *,
    chain: bool = False,
    bank_requests: tuple[BankRequest, ...] = (),
    chain_requests: tuple[ChainRequest, ...] = (),
    **more: Any,
) -> Settled:
    """A state that starts something outside, for `wait_ms` at most; parked while a pause covers it."""
    t = case.transaction
    pause = in_force(case.pauses, scope(t.tenant, t.type, case.settlement, chain=chain))
    if pause is not None:
        parked: dict[str, Any] = {"parked_by": pause.id, "left_ms": wait_ms, "is_asked": False}
        return step(case, event, PROCESSING, state, reason="paused", **parked, **more)
    return step(
        *(case, event, PROCESSING, state),
        deadline=case.at + wait_ms,
        bank_requests=bank_requests,
        chain_requests=chain_requests,
        is_asked=True,
        **more,
    )


def postponed(case: Case, *, chain: bool) -> Settled | None:
    """The deadline has come; if pauses stood meanwhile, what they left of it still runs (or waits with the pause)."""
    t, s = case.transaction, case.settlement
    work = scope(t.tenant, t.type, s, chain=chain)
    left = stood_ms(case.pauses, work, s.entered_at, case.at) - (case.at - t.deadline)
    if left <= 0:
        return None
    pause = in_force(case.pauses, work)
    event = f"{t.type}.{'parked' if pause else 'postponed'}"
    if pause is not None:
        return step(case, event, t.status, t.state, reason="paused", parked_by=pause.id, left_ms=left)
    return step(case, event, t.status, t.state, deadline=case.at + left)


def attention(case: Case, reason: str, **more: Any) -> Settled:
    """A person must act; the state says where it stands, money stays where it is, and a later fact still ends it."""
    t = case.transaction
    return step(case, f"{t.type}.requires_attention", REQUIRES_ATTENTION, t.state, reason=reason, **more)


# --- what a submission begins with -----------------------------------------------------------------------------------


def fee_of(rules: SettlementRules, tenant: str, kind: str, amount: int) -> int:
    """The fee of `<type>:<rail>` in minor units of fiat, rounded down; zero unless the tenant's schedule says more."""
    row = rules.fees.get(tenant, {}).get(kind)
    return 0 if row is None else row.fixed + amount * row.basis_points // 10_000


def screened(rules: SettlementRules, name: str) -> str:
    """What the list of names says: "" (nothing), `review` or `denied`. A name hits when one of its words is listed."""
    words = set(name.casefold().split())
    if words & {word.casefold() for word in rules.denied}:
        return "denied"
    return "review" if words & {word.casefold() for word in rules.review} else ""


def admitted(asked: Submission, case: Case) -> Settlement:
    """What may begin, with its fee: accounts in use, name, fee and pauses allow it. Raises :class:`Refused`."""
    s = case.settlement
    for name in owners(s):
        usable(case.accounts(name), name)
    if screened(case.rules.settlement, s.party_name) == "denied":
        raise Refused("screening_blocked")
    if s.party_account and (code := case.barred(s.party_account)):
        raise Refused("bank_account_disabled", f"a bank has said {code}: {code_of(code).meaning}")
    s = msgspec.structs.replace(s, fee=fee_of(case.rules.settlement, asked.tenant, f"{asked.type}:{s.rail}", s.amount))
    if s.fee >= s.amount:
        raise Refused("amount_below_fee", "nothing would be left")
    check_not_paused(case.pauses, scope(asked.tenant, asked.type, s, chain=bool(s.token)))
    return s


def kept_open(case: Case, first: Settled) -> Settled:
    """The first step, after which its accounts cannot be closed until it ends."""
    accounts = {
        name: with_open_items(first.accounts.get(name) or usable(case.accounts(name), name), 1)
        for name in owners(case.settlement)
    }
    return msgspec.structs.replace(first, accounts=first.accounts | accounts)


def check_approval(case: Case, operator: str) -> None:
    """Whether `operator` may approve it now; nobody approves what they asked for. Raises :class:`Refused`."""
    if case.settlement.approved_by:
        raise Refused("already_processed", f"approved by {case.settlement.approved_by}")
    expect(case.transaction, "requires_approval")
    if operator in (case.settlement.requested_by, case.transaction.customer):
        raise Refused("four_eyes", f"{operator} asked for it")


def needs_approval(rules: SettlementRules, tenant: str, s: Settlement) -> bool:
    """Whether a second person must approve it: a name to review, or an amount above the tenant's limit."""
    limit = rules.approval_above.get(tenant, {}).get(s.fiat)
    return screened(rules, s.party_name) == "review" or (limit is not None and s.amount > limit)


def check_not_paused(pauses: tuple[Pause, ...], work: Scope) -> None:
    """Raises :class:`Refused` ``paused`` when new work of this scope is not taken."""
    pause = in_force(pauses, work)
    if pause is not None:
        raise Refused("paused", f"pause {pause.id}" + (f": {pause.note}" if pause.note else ""))


def bank_lane(s: Settlement) -> bytes:
    """The key of the lane that speaks with its bank."""
    return bank_lane_key(s.bank)


def chain_lane(s: Settlement) -> bytes:
    """The key of the lane that mints and burns its token."""
    return chain_lane_key(s.chain, s.token)
