"""Deposits by bank: fiat comes in by ACH (we collect) or SEPA (the payer sends), and becomes tokens or stays fiat.

    submit ─screening─▶ requires_approval ──approve──▶ (start)      a name to review, an amount above the limit
       │                 │ │ └─reject──▶ denied          (failed)
       │                 │ └───cancel──▶ canceled
       │                 └─7 days──────▶ expired         (canceled)
       ├────▶ (start)
       └─refused, or a denied name──▶ refused            (failed)

    (start) pull ─▶ submitting ──accepted──▶ submitted ──settled──▶ funds_settled
                       │ │ │                  │  └─rejected, returned─▶ rejected       (failed)
                       │ │ └─settled: D1 is booked in the same unit ─▶ funds_settled
                       │ └───rejected, returned ─▶ rejected                            (failed)
                       └──unknown─▶ submitting: the lane inquires with the same reference, nothing is sent again
    (start) push ─▶ awaiting_funds ──settled, found──▶ funds_settled
                       │ │ └─accepted (announced) ─▶ submitted
                       │ └───cancel─▶ canceled
                       └─7 days─────▶ expired            (canceled; money that still comes goes to suspense)
    (start) re-mint ─▶ mint_queued                       (no bank: the money is there, it is set aside)

    funds_settled ──no mint asked──▶ completed
       │  └──hold over──▶ mint_queued ─broadcast─▶ mint_broadcast ─mined─▶ mint_confirming ─confirmed─▶ completed
       └returned─▶ returned  │  └returned─▶ withdrawing ─withdrawn─▶ returned              (failed)
          (failed)           │                   └─broadcast─▶ mint_broadcast, then as below
                             └─ failed for good ─▶ same state (requires_attention: mint_again | refund)
    submitting, mint_queued ──cancel, while parked──▶ canceled
    awaiting_funds, submitting, submitted, and what waits with a dead mint ──refund──▶ refunded           (failed)
    mint_broadcast, mint_confirming ──mint_again, when it is dead──▶ mint_queued
    mint_broadcast, mint_confirming ──returned──▶ same state; once confirmed: held, then ─▶ returning
    completed ──returned──▶ returning ──burnt──▶ returned     (nothing to burn: returned at once)
    completed ──reorged──▶ completed ──confirmed──▶ completed (journals only; no customer, no status)
    completed ──lost──▶ mint_lost                             (returned: the tokens can never land)
    mint_lost ──mint_again──▶ mint_lost ──confirmed──▶ mint_lost   (what was spent is minted after all: journals only)

    tokens_received ──swept──▶ completed                      (tokens that come back from outside: `redemptions.py`)

    Any wait without an answer ends in the same state with status requires_attention; a later fact still ends it.
    Ways out for an operator: inquire; settled, rejected (the statement says so); match, refund; mint_again, burn_again;
    write_off of what is in suspense, with a second person (`settlement.py`).
    A return whose code needs a person is booked as any other, with reason unknown_code or books_disagree: a break.

    D1 accepted        in_transit / pending_in
    D2 settled         trust / in_transit; pending_in / held              (push without D1: trust / held)
    D4 confirmed       held / reserve, held / fees; custody / token available; gas
       no mint         held / available, held / fees
       rejected        D1 back
       returned before the mint is signed     held / trust
       returned later  receivable / trust; fees / receivable; the claw-back: token available / held, and once burnt
                       held / custody, reserve / receivable; the shortfall: trust / operating, the receivable stays
       unmatched       trust / suspense, and by an operator suspense / held or available
       found           available / held: of money without a reference, see `unannounced.py`
       a return that fits nothing (a second one, another amount)   suspense / trust
       written off     losses / suspense, trust / operating; if it came: suspense / unexplained
       reorged         unconfirmed / custody, and back
       lost            token available / unconfirmed, reserve / fiat available; the rest: receivable:chain / unconfirmed
       minted again    unconfirmed / receivable:chain, then as after `reorged`; it fails: receivable:chain / unconfirmed

Invariants
    BD1  tokens are asked for only against fiat that has settled, once per round, under a reference of their own
    BD2  a debit is instructed at most once; whatever is asked later bears the same reference
    BD3  what a bank says that moved is booked in the same unit, whatever the state: if it does not fit, in suspense
    BD4  claw-back takes what is available and never more; the reserve is made whole in the same unit
    BD5  while it is under way both accounts have an open item, so that what comes always lands
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from aura_stream.domain import redemptions
from aura_stream.domain.bank_codes import ATTENTION, INQUIRE, RETRIES_MAX, RETRY, code_of
from aura_stream.domain.banking_days import banking_days_after
from aura_stream.domain.commands import Resolve
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.domain.lane_requests import Burn, Expect, Inquire, Instruct, Mint, Withdraw
from aura_stream.domain.ledger import enough, expect, usable, with_open_items
from aura_stream.domain.pauses import in_force
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.settlement import (
    DAY,
    HOUR,
    RAILS,
    Booking,
    Case,
    Settled,
    admitted,
    ask_write_off,
    attention,
    available,
    because,
    cents,
    check_approval,
    custody,
    enable_account,
    enter,
    fees,
    fits_nothing,
    gas_paid,
    in_transit,
    is_there,
    journal,
    kept_open,
    moved,
    needs_approval,
    never_landed,
    operating,
    owners,
    postponed,
    receivable,
    refuse_write_off,
    reserve,
    same_state,
    scope,
    settled_late,
    step,
    suspense,
    tokens,
    trust,
    unconfirmed,
    write_off,
)
from aura_stream.domain.signals import (
    ACCEPTED,
    BROADCAST,
    CONFIRMED,
    FAILED_FOR_GOOD,
    LOST,
    MINED,
    NOTICE,
    REJECTED,
    REORGED,
    RETURNED,
    SETTLED,
    STUCK,
    UNDECIDED,
    UNKNOWN,
    WITHDRAWN,
    BankFact,
    ChainFact,
    Credit,
)
from aura_stream.domain.state import (
    AVAILABLE,
    CANCELED,
    COMPLETED,
    FAILED,
    HELD,
    PENDING_IN,
    PROCESSING,
    REQUIRES_APPROVAL,
    REQUIRES_ATTENTION,
    TERMINAL,
    Account,
    Posting,
    Settlement,
)
from aura_stream.domain.state import RETURNED as STATUS_RETURNED

WAITS_MS: Final = {
    "requires_approval": 7 * DAY,
    "awaiting_funds": 7 * DAY,
    "submitting": DAY,
    "submitted": 10 * DAY,
    "mint_queued": DAY,
    "withdrawing": HOUR,
    "mint_broadcast": DAY,
    "mint_confirming": DAY,
    "returning": DAY,
    "tokens_received": redemptions.WAIT_MS,
}
"""How long each state waits before it expires (requires_approval, awaiting_funds) or a person must look at it."""

ON_CHAIN: Final = frozenset(
    {"mint_queued", "withdrawing", "mint_broadcast", "mint_confirming", "returning", "tokens_received"}
)
_AT_BANK: Final = ("awaiting_funds", "submitting", "submitted")
_SIGNED: Final = ("mint_broadcast", "mint_confirming")
_HOLDS_FIAT: Final = ("funds_settled", "mint_queued", "withdrawing", "mint_broadcast", "mint_confirming")


# --- beginning -------------------------------------------------------------------------------------------------------


def begin(asked: Submission, case: Case) -> Settled:
    """The first step of a deposit that is read and allowed to be asked for. Raises :class:`Refused`."""
    s = admitted(asked, case)
    case = case._replace(settlement=s)
    if not s.rail:
        enough(usable(case.accounts(s.account), s.account), asked)
    if needs_approval(case.rules.settlement, asked.tenant, s):
        deadline = case.at + WAITS_MS["requires_approval"]
        first = step(case, "deposit.requires_approval", REQUIRES_APPROVAL, "requires_approval", deadline=deadline)
    else:
        first = _start(case)
    return kept_open(case, first)


def retried(case: Case) -> Settlement:
    """What a new debit takes over from one that came back. Raises :class:`Refused` when the code does not allow it."""
    t, s = case.transaction, case.settlement
    if t.status not in (FAILED, STATUS_RETURNED) or not s.code:
        raise Refused("invalid_state_transition", f"the {t.type} is {t.state}")
    if s.child_id:
        raise Refused("already_processed", f"{s.child_id} tries again")
    if code_of(s.code).action != RETRY or s.tries >= RETRIES_MAX:
        raise Refused("retry_not_allowed", f"{s.code} after {s.tries} retries")
    return Settlement(
        *(s.rail, s.bank, s.chain, s.fiat, s.token, s.account, s.token_account, s.address, s.amount, 0),
        party_name=s.party_name,
        party_account=s.party_account,
        requested_by=s.requested_by,
        parent_id=case.id,
        tries=s.tries + 1,
    )


def _start(case: Case, **more: Any) -> Settled:
    s = case.settlement
    if not s.rail:
        aside = journal(s.fiat, moved(s.account, s.account, s.amount, to=HELD))
        return _queue(case, journals=aside, **more)
    t, id_ = case.transaction, case.id
    reference = bank_reference(id_, "deposit")
    if RAILS[s.rail].is_pull:
        instruct = Instruct(
            *(id_, t.tenant, t.customer, "debit", s.rail, reference, s.fiat, s.amount, s.party_name, s.party_account)
        )
        return enter(
            case, "deposit.submitting", "submitting", WAITS_MS["submitting"], bank_requests=(instruct,), **more
        )
    expected = Expect(id_, t.tenant, t.customer, s.rail, reference, s.fiat, s.amount)
    deadline = case.at + WAITS_MS["awaiting_funds"]
    return step(
        case,
        "deposit.awaiting_funds",
        PROCESSING,
        "awaiting_funds",
        deadline=deadline,
        bank_requests=(expected,),
        **more,
    )


def _queue(case: Case, **more: Any) -> Settled:
    """Asks for the mint."""
    t, s = case.transaction, case.settlement
    mint = Mint(case.id, t.tenant, t.customer, mint_reference(case), s.token, tokens(s, s.amount - s.fee), s.address)
    return enter(
        case,
        "deposit.mint_queued",
        "mint_queued",
        WAITS_MS["mint_queued"],
        chain=True,
        chain_requests=(mint,),
        **more,
    )


def mint_reference(case: Case, round_: int = 0) -> str:
    """The one-time reference of the present round's mint."""
    return chain_reference(case.id, f"mint/{round_ or case.settlement.round}")


def burn_reference(case: Case) -> str:
    """The one-time reference of the present round of the claw-back's burn."""
    return chain_reference(case.id, f"return/{case.settlement.round}")


# --- commands --------------------------------------------------------------------------------------------------------


def approve(case: Case, operator: str) -> Settled:
    """`transaction.approve`: a second person lets it begin, or a write-off be. Raises :class:`Refused`."""
    if case.settlement.write_off:
        return write_off(case, operator)
    check_approval(case, operator)
    s = case.settlement
    if not s.rail and available(case, s.account) < s.amount:  # a re-mint: until now nothing was set aside for it
        raise Refused("insufficient_funds", f"{s.account} no longer has what is to be minted")
    return _start(case, approved_by=operator)


def reject(case: Case, operator: str) -> Settled:
    """`transaction.reject`: it does not begin, or its suspense stays. Raises :class:`Refused`."""
    if case.settlement.write_off:
        return refuse_write_off(case, operator)
    expect(case.transaction, "requires_approval", done=("denied",))
    return step(case, "deposit.denied", FAILED, "denied", reason="denied", ends=True, approved_by=operator)


def cancel(case: Case) -> Settled:
    """`transaction.cancel`: allowed until a bank may have it. Raises :class:`Refused`."""
    t, s = case.transaction, case.settlement
    if t.state == "canceled":
        raise Refused("already_processed", "the deposit is canceled")
    is_parked = t.state in ("submitting", "mint_queued") and not s.is_asked and not s.settled_by
    if t.state not in ("requires_approval", "awaiting_funds") and not is_parked:
        raise Refused("invalid_state_transition", f"the deposit is {t.state}")
    return step(
        case, "deposit.canceled", CANCELED, "canceled", ends=True, journals=_given_back(case) if is_parked else ()
    )


def _given_back(case: Case) -> tuple[Booking, ...]:
    """What a re-mint has set aside."""
    s = case.settlement
    return () if s.rail else journal(s.fiat, moved(s.account, s.account, s.amount, of=HELD))


def resolve(case: Case, asked: Resolve) -> Settled:
    """`transaction.resolve`: an operator's way out. Raises :class:`Refused` where it does not lead anywhere."""
    t, s, outcome, operator = case.transaction, case.settlement, asked.outcome, asked.operator
    if outcome == "write_off":
        return ask_write_off(case, asked)
    if outcome == "enable_account":
        return enable_account(case)
    if outcome == "match" and t.state == "tokens_received":
        return redemptions.matched(case, asked)
    is_waiting = t.status == REQUIRES_ATTENTION
    at_bank = is_waiting and t.state in ("submitting", "submitted")
    if outcome == "inquire" and at_bank:
        inquire = Inquire(case.id, bank_reference(case.id, "deposit"))
        deadline = case.at + WAITS_MS[t.state]
        return step(case, "deposit.inquiring", PROCESSING, t.state, deadline=deadline, bank_requests=(inquire,))
    fact = BankFact(case.id, t.tenant, "debit", SETTLED, "", s.amount, s.fiat, fact_id=f"operator:{operator}")
    if outcome == "settled" and at_bank and not s.suspense:
        settled = _settled(case, fact)
        assert settled is not None
        return settled
    if outcome == "rejected" and is_waiting and t.state in _AT_BANK and s.suspense <= 0:
        return _rejected(case, s.code, "bank_rejected")
    if outcome == "match" and t.state in _AT_BANK and s.suspense == s.amount:
        # The money is in suspense already: only what it stands for changes.
        moves = (moved(suspense(s), s.account, s.amount, to=HELD),)
        return _held(case, journal(s.fiat, *_undone(case), *moves), case.at, f"operator:{operator}", suspense=0)
    if outcome == "refund" and s.suspense > 0 and is_there(case, s.account):
        return _suspense_refunded(case)
    if outcome == "refund" and is_waiting and s.is_dead and t.state in _HOLDS_FIAT and not s.returned_by:
        back = journal(s.fiat, moved(s.account, s.account, s.amount, of=HELD))
        return step(case, "deposit.refunded", FAILED, "refunded", reason=t.reason, ends=True, journals=back)
    if outcome == "mint_again" and is_waiting and s.is_dead and t.state in _HOLDS_FIAT and not s.returned_by:
        case = case._replace(settlement=msgspec.structs.replace(s, round=s.round + 1, is_dead=False, hash=""))
        return _queue(case)
    if outcome == "mint_again" and _is_lost(case):
        return _lost_again(case)
    if outcome == "burn_again" and t.state == "returning" and s.is_dead:
        case = case._replace(settlement=msgspec.structs.replace(s, round=s.round + 1, is_dead=False))
        status = t.status if t.status in TERMINAL else PROCESSING
        return step(
            *(case, "deposit.returning", status, "returning"),
            reason=because(s.code, "bank_returned"),
            deadline=case.at + WAITS_MS["returning"],
            chain_requests=(_return_burn(case, s.clawed),),
        )
    raise Refused("invalid_state_transition", f"{outcome} is no way out of {t.status}/{t.state}")


def _is_lost(case: Case) -> bool:
    """Whether tokens that a customer has had can never land: what was spent of them, or all that went outside."""
    t, s = case.transaction, case.settlement
    is_outside = t.state == "completed" and s.is_credited and bool(s.address)
    return s.is_dead and (is_outside or (t.state == "mint_lost" and s.back > 0))


def _lost_again(case: Case) -> Settled:
    """Tokens that were credited and lost are asked for once more; until they land they are unconfirmed."""
    t, s = case.transaction, case.settlement
    amount = _credited(s)
    asked = Mint(case.id, t.tenant, t.customer, mint_reference(case, s.round + 1), s.token, amount, s.address)
    return same_state(
        *(case, "deposit.minting_again"),
        journals=journal(s.token, moved(unconfirmed(s), never_landed(s), amount)) if s.token_account else (),
        chain_requests=(asked,),
        round=s.round + 1,
        is_dead=False,
        is_unconfirmed=True,
    )


def _credited(s: Settlement) -> int:
    """Tokens that are to be on the chain because they were credited."""
    return s.back or tokens(s, s.amount - s.fee)


def _suspense_refunded(case: Case) -> Settled:
    t, s = case.transaction, case.settlement
    credit = moved(suspense(s), s.account, s.suspense)
    if t.status not in TERMINAL and t.state in _AT_BANK:
        journals = journal(s.fiat, *_undone(case), credit)
        return step(
            *(case, "deposit.refunded", FAILED, "refunded"),
            reason="amount_mismatch" if s.suspense != s.amount else "refunded",
            ends=True,
            journals=journals,
            booked=False,
            suspense=0,
        )
    return same_state(case, "deposit.suspense_credited", journals=journal(s.fiat, credit), suspense=0)


def _undone(case: Case) -> tuple[tuple[Posting, ...], ...]:
    """D1 taken back, if it is booked."""
    s = case.settlement
    return (moved(s.account, in_transit(s), s.amount, of=PENDING_IN),) if s.booked else ()


# --- time ------------------------------------------------------------------------------------------------------------


def deadline(case: Case) -> Settled:
    """A deadline has come: it expires, goes on, or calls a person."""
    t = case.transaction
    if t.state == "funds_settled":
        return onward(case)
    moved_deadline = postponed(case, chain=t.state in ON_CHAIN)
    if moved_deadline is not None:
        return moved_deadline
    if t.state in ("requires_approval", "awaiting_funds") and not case.settlement.suspense:
        return step(case, "deposit.expired", CANCELED, "expired", reason="expired", ends=True)
    if t.status in TERMINAL:
        return same_state(case, "deposit.break_opened", deadline=0)
    return attention(case, "no_answer")


def resume(case: Case) -> Settled:
    """The pause that it was parked by is over: it goes on with the time that was left."""
    t, s = case.transaction, case.settlement
    if t.state == "submitting" and not s.is_asked:
        return _start(case)
    if t.state == "mint_queued" and not s.is_asked:
        return _queue(case)
    pause = in_force(case.pauses, scope(t.tenant, t.type, s, chain=t.state in ON_CHAIN))
    if pause is not None:
        return step(case, "deposit.parked", t.status, t.state, reason="paused", parked_by=pause.id, left_ms=s.left_ms)
    return step(case, "deposit.resumed", t.status, t.state, deadline=case.at + s.left_ms)


def onward(case: Case) -> Settled:
    """What follows `funds_settled`: the mint, or the credit when none was asked for."""
    s = case.settlement
    if s.token:
        return _queue(case)
    journals = journal(
        s.fiat,
        moved(s.account, s.account, s.amount - s.fee, of=HELD),
        moved(s.account, fees(s, "deposit"), s.fee, of=HELD),
    )
    return step(case, "deposit.completed", COMPLETED, "completed", ends=True, journals=journals, is_credited=True)


# --- what the bank says ----------------------------------------------------------------------------------------------


def bank_fact(case: Case, fact: BankFact) -> Settled | None:
    """What a bank did; None when it says nothing new."""
    t, s = case.transaction, case.settlement
    if fact.kind == SETTLED:
        return _settled(case, fact)
    if fact.kind == RETURNED:
        return _returned(case, fact)
    if fact.kind == NOTICE:
        return same_state(case, "deposit.notice", code=fact.code)
    if t.state not in _AT_BANK:
        if fact.kind == ACCEPTED and fact.bank_reference and not s.bank_reference:
            return same_state(case, "deposit.referenced", bank_reference=fact.bank_reference)
        return None
    if fact.kind == ACCEPTED:
        if s.booked:
            return None
        return step(
            *(case, "deposit.submitted", PROCESSING, "submitted"),
            deadline=case.at + WAITS_MS["submitted"],
            journals=journal(s.fiat, moved(in_transit(s), s.account, s.amount, to=PENDING_IN)),
            effective_at=fact.effective_at,
            booked=True,
            bank_reference=fact.bank_reference,
        )
    if fact.kind == REJECTED:
        action = code_of(fact.code).action
        if action == ATTENTION:
            return attention(case, "unknown_code", code=fact.code)
        if action != INQUIRE or t.reason == "unknown_outcome":  # it was asked again, and still says so
            return _rejected(case, fact.code)
    if fact.kind in (REJECTED, UNKNOWN):
        if t.reason == "unknown_outcome":
            return None
        return same_state(case, "deposit.unknown_outcome", reason="unknown_outcome", code=fact.code)
    return attention(case, "unknown_outcome", code=fact.code) if fact.kind == UNDECIDED else None


def _rejected(case: Case, code: str, reason: str = "", **more: Any) -> Settled:
    """It is definite that no money came, or none that stays: D1 goes back."""
    return step(
        *(case, "deposit.rejected", FAILED, "rejected"),
        reason=reason or because(code, "bank_rejected"),
        journals=journal(case.settlement.fiat, *_undone(case)),
        ends=True,
        because_of=code,
        booked=False,
        code=code,
        **more,
    )


def _settled(case: Case, fact: BankFact) -> Settled | None:
    t, s = case.transaction, case.settlement
    if fact.fact_id and fact.fact_id == s.settled_by:
        return None
    fits = fact.asset == s.fiat and fact.amount == s.amount
    if t.state in _AT_BANK and fits and not s.suspense:
        moves = [moved(trust(s), s.account, s.amount, to=HELD)]
        if RAILS[s.rail].is_pull or s.booked:
            moves = [
                moved(trust(s), in_transit(s), s.amount),
                moved(s.account, s.account, s.amount, of=PENDING_IN, to=HELD),
            ]
            if not s.booked:
                moves.insert(0, moved(in_transit(s), s.account, s.amount, to=PENDING_IN))
        return _held(case, journal(s.fiat, *moves), fact.effective_at or case.at, fact.fact_id or "-", fact)
    if t.state == "rejected" and s.returned_by and fits and not s.settled_by:
        # Its return has overtaken it: the money was with the bank, and is there no more.
        return settled_late(case, "deposit.settled_late", fact, moved(trust(s), suspense(s), s.amount))
    # Money came that is not what was expected: it is booked all the same, and nobody's yet.
    received = trust(s, fact.asset), suspense(s, fact.asset)
    more: dict[str, Any] = {
        "journals": journal(fact.asset, moved(*received, fact.amount)),
        "effective_at": fact.effective_at,
        "suspense": s.suspense + (fact.amount if fact.asset == s.fiat else 0),
        "settled_by": fact.fact_id or "-",
    }
    if t.state in _AT_BANK:
        return attention(case, "amount_mismatch" if fact.asset == s.fiat else "currency_mismatch_at_bank", **more)
    return same_state(case, "deposit.unmatched", **more)


def check_awaited(case: Case, credit: Credit) -> None:
    """Whether it waits for just this money, which an operator has found to be its. Raises :class:`Refused`."""
    t, s = case.transaction, case.settlement
    waits = t.type == "deposit" and t.state in ("awaiting_funds", "submitted") and not RAILS[s.rail].is_pull
    if not waits or s.suspense or credit.to_account != s.account:
        raise Refused("invalid_state_transition", f"it is {t.state}, and waits for nothing on {credit.to_account}")
    if credit.amount != s.amount:
        raise Refused("amount_mismatch", f"it waits for {s.amount} minor units, not {credit.amount}")


def found(case: Case, credit: Credit) -> Settled:
    """D2 for money that bore no reference: it has come to the account, and is set aside there."""
    s = case.settlement
    aside = moved(s.account, s.account, s.amount, to=HELD)
    return _held(case, journal(s.fiat, *_undone(case), aside), case.at, f"suspense:{credit.transaction_id}")


def _held(
    case: Case,
    journals: tuple[Booking, ...],
    effective_at: int,
    fact_id: str,
    fact: BankFact | None = None,
    **changes: Any,
) -> Settled:
    """D2 is booked: the money waits out its hold, or goes on at once."""
    t, s = case.transaction, case.settlement
    days = case.rules.settlement.mint_hold_days.get(t.tenant, 2 if case.rules.mode == "live" else 0)
    hold = banking_days_after(case.at, days) if RAILS[s.rail].is_pull and s.token else case.at
    return step(
        *(case, "deposit.funds_settled", PROCESSING, "funds_settled"),
        deadline=hold if hold > case.at else 0,
        goes_on=hold <= case.at,
        journals=journals,
        effective_at=effective_at,
        booked=False,
        settled_by=fact_id,
        bank_reference=(fact.bank_reference if fact is not None else "") or s.bank_reference,
        **changes,
    )


def _returned(case: Case, fact: BankFact) -> Settled | None:
    """The bank has taken the money back."""
    t, s = case.transaction, case.settlement
    if fact.fact_id and fact.fact_id == s.returned_by:
        return None
    if s.returned_by or not s.rail or (fact.asset, fact.amount) != (s.fiat, s.amount):
        return _not_ours(case, fact)
    if t.state in _AT_BANK:
        return _rejected(case, fact.code, returned_by=fact.fact_id or "-")
    noted: dict[str, Any] = {"code": fact.code, "returned_by": fact.fact_id or "-"}
    if t.state == "funds_settled" or (t.state == "mint_queued" and (not s.is_asked or s.is_dead)):
        return _taken_back(case, fact.code, fact.fact_id or "-", fact.effective_at)
    if t.state == "mint_queued":
        return step(
            *(case, "deposit.withdrawing", PROCESSING, "withdrawing"),
            reason=because(fact.code, "bank_returned"),
            deadline=case.at + WAITS_MS["withdrawing"],
            chain_requests=(Withdraw(case.id, mint_reference(case)),),
            **noted,
        )
    if t.state in _SIGNED:
        if s.is_dead:
            return _taken_back(case, fact.code, fact.fact_id or "-", fact.effective_at)
        return same_state(case, "deposit.return_noted", reason=because(fact.code, "bank_returned"), **noted)
    if t.state == "completed":
        noted_case = case._replace(settlement=msgspec.structs.replace(s, **noted))
        return _clawed_back(noted_case, (), effective_at=fact.effective_at)
    return _not_ours(case, fact)


def _not_ours(case: Case, fact: BankFact) -> Settled:
    """A second return, one of another amount, or of what never came: booked, and a break until it is explained."""
    s = case.settlement
    if not s.rail:
        return same_state(case, "deposit.break_opened", code=fact.code)
    took = moved(suspense(s, fact.asset), trust(s, fact.asset), fact.amount)
    return fits_nothing(case, "deposit.break_opened", fact, took)


def _taken_back(case: Case, code: str, fact_id: str, effective_at: int = 0) -> Settled:
    """Settled, not minted: the bank has it back, nothing is owed."""
    s = case.settlement
    return step(
        *(case, "deposit.returned", FAILED, "returned"),
        reason=because(code, "bank_returned"),
        ends=True,
        because_of=code,
        journals=journal(s.fiat, moved(s.account, trust(s), s.amount, of=HELD)),
        effective_at=effective_at,
        code=code,
        returned_by=fact_id,
    )


def _clawed_back(case: Case, before: tuple[Booking, ...], effective_at: int = 0, gas: int = 0) -> Settled:
    """Credited and taken back by the bank: what is available goes back, we make good the rest at once.

    `before` are D4's journals when the credit is booked in this very step: then the tokens lie in held.
    """
    t, s = case.transaction, case.settlement
    net = s.amount - s.fee
    just_credited = t.status not in TERMINAL
    fiat = (moved(receivable(s), trust(s), s.amount), moved(fees(s, "deposit"), receivable(s), s.fee))
    if not s.token:
        clawed = min(available(case, s.account), net)
        journals = journal(
            s.fiat,
            *fiat,
            moved(s.account, receivable(s), clawed),
            moved(trust(s), operating(s), net - clawed),
        )
        return step(
            *(case, "deposit.returned", STATUS_RETURNED, "returned"),
            reason=because(s.code, "bank_returned"),
            journals=journals,
            effective_at=effective_at,
            because_of=s.code,
        )
    one = cents(s.token, s.fiat)
    if just_credited:
        clawed = tokens(s, net) if s.token_account else 0
    else:
        clawed = min(available(case, s.token_account), tokens(s, net)) // one * one
    journals = before + journal(s.fiat, *fiat, moved(trust(s), operating(s), net - clawed // one))
    if not clawed:
        return step(
            *(case, "deposit.returned", STATUS_RETURNED, "returned"),
            reason=because(s.code, "bank_returned"),
            journals=journals,
            effective_at=effective_at,
            ends=just_credited,
            because_of=s.code,
            is_credited=True,
        )
    if not just_credited:
        journals += journal(s.token, moved(s.token_account, s.token_account, clawed, to=HELD))
    decided = step(
        *(case, "deposit.returning", t.status, "returning"),
        reason=because(s.code, "bank_returned"),
        deadline=case.at + WAITS_MS["returning"],
        journals=journals,
        effective_at=effective_at,
        chain_requests=(_return_burn(case, clawed),),
        because_of=s.code,
        clawed=clawed,
        is_credited=True,
    )
    if just_credited:
        return decided
    # The items were given back on completion; until the burn has landed the accounts are needed again.
    return msgspec.structs.replace(decided, accounts=decided.accounts | _needed_again(case, decided))


def _return_burn(case: Case, amount: int) -> Burn:
    t = case.transaction
    return Burn(case.id, t.tenant, t.customer, burn_reference(case), case.settlement.token, amount, is_return=True)


def _needed_again(case: Case, decided: Settled) -> dict[str, Account]:
    accounts = {}
    for name in owners(case.settlement):
        account = decided.accounts.get(name) or case.accounts(name)
        if account is not None and account.status != "closed":
            accounts[name] = with_open_items(account, 1)
    return accounts


# --- what the chain says ---------------------------------------------------------------------------------------------


def chain_fact(case: Case, fact: ChainFact) -> Settled | None:
    """What became of the mint, a claw-back's burn, or a sweep; None when it says nothing new."""
    t, s = case.transaction, case.settlement
    if t.asset == s.token:
        return redemptions.swept(case, fact)
    if fact.step == "burn":
        return _burn_fact(case, fact) if fact.reference == burn_reference(case) else None
    if fact.reference != mint_reference(case):
        return None
    if s.is_credited:
        return _after_credit(case, fact)
    if t.state not in ON_CHAIN or s.is_dead:
        return None
    if fact.kind == WITHDRAWN:
        return _taken_back(case, s.code, s.returned_by) if t.state == "withdrawing" else None
    if fact.kind == BROADCAST:
        if fact.hash == s.hash:
            return None
        if t.state in _SIGNED:
            return same_state(case, "deposit.mint_rebroadcast", hash=fact.hash)
        wait = case.at + WAITS_MS["mint_broadcast"]
        reason = because(s.code, "bank_returned") if s.returned_by else ""
        return step(
            *(case, "deposit.mint_broadcast", PROCESSING, "mint_broadcast"),
            reason=reason,
            deadline=wait,
            hash=fact.hash,
        )
    if fact.kind in (MINED, REORGED):
        if fact.kind == MINED and t.state == "mint_confirming" and fact.hash in ("", s.hash):
            return None
        event = "deposit.mint_confirming" if fact.kind == MINED else "deposit.mint_reorged"
        return step(
            *(case, event, PROCESSING, "mint_confirming"),
            reason=because(s.code, "bank_returned") if s.returned_by else "",
            deadline=case.at + WAITS_MS["mint_confirming"],
            hash=fact.hash or s.hash,
        )
    if fact.kind == CONFIRMED:
        return _minted(case, fact)
    if fact.kind == STUCK:
        return attention(case, "chain_stuck")
    if s.returned_by:
        return _taken_back(case, s.code, s.returned_by)
    return attention(case, "chain_failed", is_dead=True)


def _minted(case: Case, fact: ChainFact) -> Settled:
    """D4."""
    s = case.settlement
    net = s.amount - s.fee
    journals = journal(
        s.fiat,
        moved(s.account, reserve(s), net, of=HELD),
        moved(s.account, fees(s, "deposit"), s.fee, of=HELD),
    )
    if s.token_account:
        layer = HELD if s.returned_by else AVAILABLE
        journals += journal(s.token, moved(custody(s), s.token_account, tokens(s, net), to=layer))
    journals += gas_paid(s, fact.gas)
    changes: dict[str, Any] = {"hash": fact.hash or s.hash, "is_credited": True}
    if s.returned_by:
        return _clawed_back(case._replace(settlement=msgspec.structs.replace(s, **changes)), journals)
    return step(case, "deposit.completed", COMPLETED, "completed", ends=True, journals=journals, **changes)


def _after_credit(case: Case, fact: ChainFact) -> Settled | None:
    """A credited mint whose block is lost: our own accounts only, as long as it can still land."""
    t, s = case.transaction, case.settlement
    amount = _credited(s)
    if s.is_dead:
        return None
    if fact.kind == REORGED and not s.is_unconfirmed:
        journals = journal(s.token, moved(unconfirmed(s), custody(s), amount)) if s.token_account else ()
        return same_state(case, "deposit.mint_reorged", journals=journals, is_unconfirmed=True)
    if fact.kind == CONFIRMED and s.is_unconfirmed:
        journals = journal(s.token, moved(custody(s), unconfirmed(s), amount)) if s.token_account else ()
        journals += gas_paid(s, fact.gas)  # of a mint that was asked for again
        hash_ = fact.hash or s.hash
        return same_state(case, "deposit.mint_reconfirmed", journals=journals, is_unconfirmed=False, hash=hash_)
    if fact.kind not in (LOST, FAILED_FOR_GOOD):
        return None
    held_in = unconfirmed(s) if s.is_unconfirmed else custody(s)
    if t.state == "mint_lost":
        journals = journal(s.token, moved(never_landed(s), held_in, amount))
        return same_state(case, "deposit.mint_lost", journals=journals, is_dead=True, is_unconfirmed=False)
    if t.state != "completed" or not s.token_account:
        # A claw-back is under way, or the tokens were never with us: a person must look at both books.
        return same_state(case, "deposit.break_opened", is_dead=True)
    one = cents(s.token, s.fiat)
    clawed = min(available(case, s.token_account), amount) // one * one
    if not is_there(case, s.account):
        clawed = 0
    journals = journal(
        s.token, moved(s.token_account, held_in, clawed), moved(never_landed(s), held_in, amount - clawed)
    ) + journal(s.fiat, moved(reserve(s), s.account, clawed // one))
    return step(
        *(case, "deposit.mint_lost", STATUS_RETURNED, "mint_lost"),
        reason="mint_lost",
        journals=journals,
        back=amount - clawed,
        is_dead=True,
        is_unconfirmed=False,
    )


def _burn_fact(case: Case, fact: ChainFact) -> Settled | None:
    t, s = case.transaction, case.settlement
    if t.state != "returning":
        return None
    if fact.kind == CONFIRMED:
        journals = journal(s.token, moved(s.token_account, custody(s), s.clawed, of=HELD))
        journals += journal(s.fiat, moved(reserve(s), receivable(s), s.clawed // cents(s.token, s.fiat)))
        return step(
            *(case, "deposit.returned", STATUS_RETURNED, "returned"),
            reason=because(s.code, "bank_returned"),
            ends=True,
            journals=journals + gas_paid(s, fact.gas),
        )
    if fact.kind not in (STUCK, FAILED_FOR_GOOD) or s.is_dead:
        return None
    is_dead = fact.kind == FAILED_FOR_GOOD
    if t.status in TERMINAL:
        # It is completed, and a status that ends something does not change for our own troubles.
        return same_state(case, "deposit.break_opened", deadline=0, is_dead=is_dead)
    return attention(case, "chain_failed" if is_dead else "chain_stuck", is_dead=is_dead)
