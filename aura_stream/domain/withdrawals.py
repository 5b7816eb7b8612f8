"""Withdrawals: tokens are burnt, then their fiat is paid out. From an account in fiat there is nothing to burn.

    submit ─screening─▶ requires_approval ──approve──▶ (start)       a name to review, an amount above the limit
       │                 │ │ └─reject──▶ denied           (failed)
       │                 │ └───cancel──▶ canceled
       │                 └─7 days──────▶ expired          (canceled)
       ├────▶ (start)
       └─refused, or a denied name──▶ refused             (failed)

    (start) token ─▶ tokens_held ─broadcast─▶ burn_broadcast ─mined─▶ burn_confirming ─confirmed─▶ payout_submitting
                       │ │                     │                        └─failed for good─▶ burn_failed  (failed)
                       │ │                     └─failed for good─▶ burn_failed                      (failed)
                       │ └─cancel, while parked─▶ canceled
                       └─failed for good─▶ burn_failed                                              (failed)
    (start) fiat ─▶ payout_submitting ─accepted──▶ payout_submitted ──settled──▶ completed ──returned──▶ payout_returned
                       │ │ │ └─settled ─▶ completed     └─rejected, returned─▶ payout_rejected      (returned)
                       │ │ │                            └─returned short─▶ payout_returned (from payout_submitting too)
                       │ │ └─rejected, returned─▶ payout_rejected                  (failed)
                       │ └───unknown─▶ same state: the lane inquires, nothing is sent again
                       └─cancel, while parked (fiat only)─▶ canceled

    What came back is in the customer's fiat account. `withdrawal.retry` pays it out to another beneficiary without a
    burn, `withdrawal.remint` makes tokens of it: new transactions with parent_id, one that moves it at most.
    Any wait without an answer ends in the same state with status requires_attention; a later fact still ends it.
    Ways out for an operator: inquire; settled, rejected (the statement says so); write_off of what is in suspense, with
    a second person (`settlement.py`).

    W1 submit     available / held                         (in the account's asset)
    W2 confirmed  held / custody; reserve / fiat held; gas
    W3 started    fiat held / outgoing
    W4 settled    outgoing / trust, outgoing / fees
       another amount     outgoing / suspense; expense:bank / outgoing, and trust / operating for what was paid too much
       ended before W2    held / available
       rejected           outgoing (without W3: held) / fiat available
       returned           trust / fiat available; on a closed account, or if it fits nothing: trust / suspense
       written off        losses / suspense, trust / operating; if it came: suspense / unexplained
       returned before W4, and less than was paid: the bank has paid, or there were nothing to keep. W4 and the return
                          are booked in one unit, two movements at the bank as its statement has them

Invariants
    WD1  fiat is owed to the payout only after its tokens are burnt for good
    WD2  a payout is instructed at most once per transaction; unknown is not failed, and money stays in outgoing
    WD3  what comes back is the customer's at once, and is paid out or minted again at most once: what came, no more
    WD4  while it is under way both accounts have an open item, so that what comes back always lands
"""

from __future__ import annotations

from typing import Any, Final

from aura_stream.domain.bank_codes import ATTENTION, INQUIRE, code_of
from aura_stream.domain.commands import Resolve
from aura_stream.domain.ids import bank_reference, chain_reference
from aura_stream.domain.lane_requests import Burn, Inquire, Instruct
from aura_stream.domain.ledger import enough, expect, usable
from aura_stream.domain.pauses import in_force
from aura_stream.domain.reasons import Refused
from aura_stream.domain.requests import Submission
from aura_stream.domain.settlement import (
    DAY,
    Booking,
    Case,
    Settled,
    admitted,
    ask_write_off,
    attention,
    bank_cost,
    because,
    check_approval,
    custody,
    enable_account,
    enter,
    fees,
    fits_nothing,
    gas_paid,
    is_there,
    journal,
    kept_open,
    moved,
    needs_approval,
    operating,
    outgoing,
    postponed,
    refuse_write_off,
    reserve,
    same_state,
    scope,
    settled_late,
    step,
    suspense,
    tokens,
    trust,
    write_off,
)
from aura_stream.domain.signals import (
    ACCEPTED,
    BROADCAST,
    CONFIRMED,
    FAILED_FOR_GOOD,
    MINED,
    NOTICE,
    REJECTED,
    REORGED,
    RETURNED,
    SETTLED,
    STARTED,
    STUCK,
    UNDECIDED,
    UNKNOWN,
    BankFact,
    ChainFact,
)
from aura_stream.domain.state import (
    CANCELED,
    COMPLETED,
    FAILED,
    HELD,
    PROCESSING,
    REQUIRES_APPROVAL,
    REQUIRES_ATTENTION,
    Posting,
)
from aura_stream.domain.state import RETURNED as STATUS_RETURNED

WAITS_MS: Final = {
    "requires_approval": 7 * DAY,
    "tokens_held": DAY,
    "burn_broadcast": DAY,
    "burn_confirming": DAY,
    "payout_submitting": DAY,
    "payout_submitted": 10 * DAY,
}
"""How long each state waits before it expires (requires_approval) or a person must look at it."""

ON_CHAIN: Final = frozenset({"tokens_held", "burn_broadcast", "burn_confirming"})
_PAYING: Final = ("payout_submitting", "payout_submitted")
_SHORT: Final = "by its return"
"""What has settled a payout of which less came back before its settlement was heard."""
CAME_BACK: Final = frozenset({"payout_rejected", "payout_returned"})


# --- beginning -------------------------------------------------------------------------------------------------------


def begin(asked: Submission, case: Case) -> Settled:
    """The first step of a withdrawal: its money is set aside. Raises :class:`Refused`."""
    s = admitted(asked, case)
    enough(usable(case.accounts(asked.from_account), asked.from_account), asked)
    case = case._replace(settlement=s)
    aside = journal(asked.asset, moved(asked.from_account, asked.from_account, asked.amount, to=HELD))
    if needs_approval(case.rules.settlement, asked.tenant, s):
        first = step(
            *(case, "withdrawal.requires_approval", REQUIRES_APPROVAL, "requires_approval"),
            deadline=case.at + WAITS_MS["requires_approval"],
            journals=aside,
        )
    else:
        first = _start(case, journals=aside)
    return kept_open(case, first)


def child_of(case: Case) -> int:
    """What came back of a payout and may be used once more. Raises :class:`Refused`."""
    t, s = case.transaction, case.settlement
    if t.type != "withdrawal" or t.state not in CAME_BACK or not s.back:
        raise Refused("invalid_state_transition", f"the {t.type} is {t.state}")
    if s.child_id:
        raise Refused("already_processed", f"{s.child_id} has what came back")
    return s.back


def _start(case: Case, **more: Any) -> Settled:
    t, s = case.transaction, case.settlement
    if not s.token:
        return _pay(case, **more)
    burn = Burn(case.id, t.tenant, t.customer, burn_reference(case), s.token, tokens(s, s.amount))
    return enter(
        case,
        "withdrawal.tokens_held",
        "tokens_held",
        WAITS_MS["tokens_held"],
        chain=True,
        chain_requests=(burn,),
        **more,
    )


def _pay(case: Case, **more: Any) -> Settled:
    """Asks for the payout."""
    t, s = case.transaction, case.settlement
    reference, net = bank_reference(case.id, "payout"), s.amount - s.fee
    instruct = Instruct(
        *(case.id, t.tenant, t.customer, "payout", s.rail, reference, s.fiat, net, s.party_name, s.party_account)
    )
    return enter(
        case,
        "withdrawal.payout_submitting",
        "payout_submitting",
        WAITS_MS["payout_submitting"],
        bank_requests=(instruct,),
        **more,
    )


def burn_reference(case: Case) -> str:
    """The one-time reference of the burn."""
    return chain_reference(case.id, "burn")


# --- commands --------------------------------------------------------------------------------------------------------


def approve(case: Case, operator: str) -> Settled:
    """`transaction.approve`: a second person lets it begin, or a write-off be. Raises :class:`Refused`."""
    if case.settlement.write_off:
        return write_off(case, operator)
    check_approval(case, operator)
    return _start(case, approved_by=operator)


def reject(case: Case, operator: str) -> Settled:
    """`transaction.reject`: it does not begin, or its suspense stays. Raises :class:`Refused`."""
    if case.settlement.write_off:
        return refuse_write_off(case, operator)
    expect(case.transaction, "requires_approval", done=("denied",))
    return _released(case, "withdrawal.denied", FAILED, "denied", reason="denied", approved_by=operator)


def cancel(case: Case) -> Settled:
    """`transaction.cancel`: allowed while nothing has been asked of chain or bank. Raises :class:`Refused`."""
    t, s = case.transaction, case.settlement
    if t.state == "canceled":
        raise Refused("already_processed", "the withdrawal is canceled")
    first = "tokens_held" if s.token else "payout_submitting"
    if t.state != "requires_approval" and not (t.state == first and not s.is_asked and not s.booked):
        raise Refused("invalid_state_transition", f"the withdrawal is {t.state}")
    return _released(case, "withdrawal.canceled", CANCELED, "canceled")


def resolve(case: Case, asked: Resolve) -> Settled:
    """`transaction.resolve`: an operator's way out. Raises :class:`Refused` where it does not lead anywhere."""
    t, s, outcome, operator = case.transaction, case.settlement, asked.outcome, asked.operator
    if outcome == "write_off":
        return ask_write_off(case, asked)
    if outcome == "enable_account":
        return enable_account(case)
    if t.status == REQUIRES_ATTENTION and t.state in _PAYING:
        if outcome == "inquire":
            inquire = Inquire(case.id, bank_reference(case.id, "payout"))
            deadline = case.at + WAITS_MS[t.state]
            return step(case, "withdrawal.inquiring", PROCESSING, t.state, deadline=deadline, bank_requests=(inquire,))
        if outcome == "settled":
            return _completed(case, f"operator:{operator}", case.at)
        if outcome == "rejected" and s.suspense <= 0:
            return _rejected(case, s.code, reason="bank_rejected")
    raise Refused("invalid_state_transition", f"{outcome} is no way out of {t.status}/{t.state}")


# --- time ------------------------------------------------------------------------------------------------------------


def deadline(case: Case) -> Settled:
    """A deadline has come: it expires, or calls a person."""
    t = case.transaction
    moved_deadline = postponed(case, chain=t.state in ON_CHAIN)
    if moved_deadline is not None:
        return moved_deadline
    if t.state == "requires_approval":
        return _released(case, "withdrawal.expired", CANCELED, "expired", reason="expired")
    return attention(case, "no_answer")


def resume(case: Case) -> Settled:
    """The pause that it was parked by is over: it goes on with the time that was left."""
    t, s = case.transaction, case.settlement
    if t.state == "tokens_held" and not s.is_asked:
        return _start(case)
    if t.state == "payout_submitting" and not s.is_asked:
        return _pay(case)
    pause = in_force(case.pauses, scope(t.tenant, t.type, s, chain=t.state in ON_CHAIN))
    if pause is not None:
        event = "withdrawal.parked"
        return step(case, event, t.status, t.state, reason="paused", parked_by=pause.id, left_ms=s.left_ms)
    return step(case, "withdrawal.resumed", t.status, t.state, deadline=case.at + s.left_ms)


def onward(case: Case) -> Settled:
    """What follows the burn: the payout."""
    return _pay(case)


# --- what the chain says ---------------------------------------------------------------------------------------------


def chain_fact(case: Case, fact: ChainFact) -> Settled | None:
    """What became of the burn; None when it says nothing new."""
    t, s = case.transaction, case.settlement
    if fact.reference != burn_reference(case):
        return None
    if t.state not in ON_CHAIN:
        # W2 waits for finality; a block that is lost after it is for reconciliation.
        return same_state(case, "withdrawal.break_opened") if fact.kind == REORGED else None
    if fact.kind == CONFIRMED:
        journals = journal(s.token, moved(t.from_account, custody(s), t.amount, of=HELD))
        journals += journal(s.fiat, moved(reserve(s), s.account, s.amount, to=HELD))
        journals += gas_paid(s, fact.gas)
        return step(
            *(case, "withdrawal.burnt", PROCESSING, "burnt"),
            journals=journals,
            goes_on=True,
            hash=fact.hash or s.hash,
        )
    if fact.kind == FAILED_FOR_GOOD:
        return _released(case, "withdrawal.burn_failed", FAILED, "burn_failed", reason="chain_failed")
    if fact.kind == STUCK:
        return attention(case, "chain_stuck")
    if fact.kind == BROADCAST:
        if fact.hash == s.hash:
            return None
        if t.state != "tokens_held":
            return same_state(case, "withdrawal.burn_rebroadcast", hash=fact.hash)
        return _on_chain(case, "withdrawal.burn_broadcast", "burn_broadcast", fact)
    if fact.kind == MINED and not (t.state == "burn_confirming" and fact.hash in ("", s.hash)):
        return _on_chain(case, "withdrawal.burn_confirming", "burn_confirming", fact)
    if fact.kind == REORGED:
        return _on_chain(case, "withdrawal.burn_reorged", "burn_confirming", fact)
    return None


def _on_chain(case: Case, event: str, state: str, fact: ChainFact) -> Settled:
    hash_ = fact.hash or case.settlement.hash
    return step(case, event, PROCESSING, state, deadline=case.at + WAITS_MS[state], hash=hash_)


def _released(case: Case, event: str, status: str, state: str, **more: Any) -> Settled:
    """It ends before anything was burnt or paid: what was set aside is available again."""
    t = case.transaction
    back = journal(t.asset, moved(t.from_account, t.from_account, t.amount, of=HELD))
    return step(case, event, status, state, ends=True, journals=back, **more)


# --- what the bank says ----------------------------------------------------------------------------------------------


def bank_fact(case: Case, fact: BankFact) -> Settled | None:
    """What a bank did with the payout; None when it says nothing new."""
    t, s = case.transaction, case.settlement
    if fact.kind == NOTICE:
        return same_state(case, "withdrawal.notice", code=fact.code)
    if fact.kind == SETTLED:
        return _settled(case, fact)
    if fact.kind == RETURNED:
        return _returned(case, fact)
    if t.state not in _PAYING:
        if fact.kind == ACCEPTED and fact.bank_reference and not s.bank_reference:
            return same_state(case, "withdrawal.referenced", bank_reference=fact.bank_reference)
        return None
    if fact.kind == STARTED:
        if s.booked:
            return None
        return same_state(case, "withdrawal.payout_started", journals=_sent(case), booked=True)
    if fact.kind == ACCEPTED:
        if t.state == "payout_submitted":
            return None
        return step(
            *(case, "withdrawal.payout_submitted", PROCESSING, "payout_submitted"),
            deadline=case.at + WAITS_MS["payout_submitted"],
            journals=_sent(case),
            booked=True,
            bank_reference=fact.bank_reference,
        )
    # Whatever is unclear may have been sent: from here on the money is on its way until it is known not to be.
    sent: dict[str, Any] = {"journals": _sent(case), "booked": True}
    if fact.kind == REJECTED:
        action = code_of(fact.code).action
        if action == ATTENTION:
            return attention(case, "unknown_code", code=fact.code, **sent)
        if action != INQUIRE or t.reason == "unknown_outcome":  # it was asked again, and still says so
            return _rejected(case, fact.code)
    if fact.kind in (REJECTED, UNKNOWN):
        if t.reason == "unknown_outcome":
            return None
        return same_state(case, "withdrawal.unknown_outcome", reason="unknown_outcome", code=fact.code, **sent)
    return attention(case, "unknown_outcome", code=fact.code, **sent) if fact.kind == UNDECIDED else None


def _sent(case: Case) -> tuple[Booking, ...]:
    """W3, unless it is booked."""
    s = case.settlement
    return () if s.booked else journal(s.fiat, moved(s.account, outgoing(s), s.amount, of=HELD))


def _settled(case: Case, fact: BankFact) -> Settled | None:
    t, s = case.transaction, case.settlement
    if fact.fact_id and fact.fact_id == s.settled_by:
        return None
    fits = (fact.asset, fact.amount) == (s.fiat, s.amount - s.fee)
    if t.state in _PAYING and fits and not s.suspense:
        return _completed(case, fact.fact_id or "-", fact.effective_at, fact.bank_reference)
    if t.state == "payout_returned" and s.settled_by == _SHORT and fits:
        # It was booked with its return.
        return same_state(case, "withdrawal.settled_late", settled_by=fact.fact_id or "-")
    if t.state == "payout_rejected" and s.returned_by and fits and not s.settled_by:
        # Its return has overtaken it: the money had gone out, and is back.
        return settled_late(case, "withdrawal.settled_late", fact, moved(suspense(s), trust(s), fact.amount))
    # The bank has paid what was not asked for: it is booked, and a person finds out why.
    took = moved(suspense(s, fact.asset), trust(s, fact.asset), fact.amount)
    more: dict[str, Any] = {
        "journals": journal(fact.asset, took),
        "effective_at": fact.effective_at,
        "suspense": s.suspense + (fact.amount if fact.asset == s.fiat else 0),
        "settled_by": fact.fact_id or "-",
    }
    if t.state in _PAYING:
        return attention(case, "amount_mismatch" if fact.asset == s.fiat else "currency_mismatch_at_bank", **more)
    return same_state(case, "withdrawal.unmatched", **more)


def _completed(case: Case, fact_id: str, effective_at: int, bank_reference_: str = "") -> Settled:
    """W4. What lies in suspense is part of it: what the bank paid more or less is our cost, and made good at once."""
    s = case.settlement
    net = s.amount - s.fee
    paid: tuple[tuple[Posting, ...], ...] = (moved(outgoing(s), trust(s), net),)
    if s.suspense:
        more = s.suspense - net
        paid = (
            moved(outgoing(s), suspense(s), s.suspense),
            moved(bank_cost(s), outgoing(s), more),
            moved(trust(s), operating(s), max(more, 0)),
        )
    journals = _sent(case) + journal(s.fiat, *paid, moved(outgoing(s), fees(s, "withdrawal"), s.fee))
    return step(
        *(case, "withdrawal.completed", COMPLETED, "completed"),
        ends=True,
        journals=journals,
        effective_at=effective_at,
        booked=True,
        settled_by=fact_id,
        suspense=0,
        bank_reference=bank_reference_ or s.bank_reference,
    )


def _rejected(case: Case, code: str, undone: tuple[Booking, ...] = (), reason: str = "", **more: Any) -> Settled:
    """It is definite that nothing is paid: the fiat is the customer's, who says what becomes of it."""
    s = case.settlement
    back = moved(outgoing(s), s.account, s.amount) if s.booked else moved(s.account, s.account, s.amount, of=HELD)
    return step(
        *(case, "withdrawal.payout_rejected", FAILED, "payout_rejected"),
        reason=reason or because(code, "bank_rejected"),
        ends=True,
        journals=undone + journal(s.fiat, back),
        because_of=code,
        code=code,
        back=s.amount,
        **more,
    )


def _came_back_short(case: Case, fact: BankFact, noted: str) -> Settled:
    """A return of less than was paid has overtaken its settlement: a bank on the way kept a part of the payout.

    So the payout was paid. Both are booked, and it ends as if its settlement had been heard first, which adds nothing
    when it comes.
    """
    s = case.settlement
    journals = _sent(case) + journal(
        s.fiat,
        moved(outgoing(s), trust(s), s.amount - s.fee),
        moved(outgoing(s), fees(s, "withdrawal"), s.fee),
    )
    return step(
        *(case, "withdrawal.payout_returned", STATUS_RETURNED, "payout_returned"),
        reason=because(fact.code, "bank_returned"),
        ends=True,
        journals=journals + journal(s.fiat, moved(trust(s), s.account, fact.amount)),
        effective_at=fact.effective_at,
        because_of=fact.code,
        code=fact.code,
        booked=True,
        settled_by=_SHORT,
        returned_by=noted,
        back=fact.amount,
    )


def _returned(case: Case, fact: BankFact) -> Settled | None:
    """The bank has the payout back."""
    t, s = case.transaction, case.settlement
    if fact.fact_id and fact.fact_id == s.returned_by:
        return None
    if t.state in _PAYING and fact.asset == s.fiat and s.suspense and fact.amount == s.suspense:
        # It had paid another amount than asked, and has all of it back: nothing was paid.
        undone = journal(s.fiat, moved(trust(s), suspense(s), s.suspense))
        return _rejected(case, fact.code, undone, returned_by=fact.fact_id or "-", suspense=0)
    if s.returned_by or fact.asset != s.fiat or not 0 < fact.amount <= s.amount - s.fee:
        return _not_ours(case, fact)
    if t.state in _PAYING and not s.suspense:
        noted = fact.fact_id or "-"
        if fact.amount == s.amount - s.fee:
            return _rejected(case, fact.code, returned_by=noted)
        return _came_back_short(case, fact, noted)
    if t.state != "completed":
        return _not_ours(case, fact)
    # Banks on the way may have taken a fee: what came is what counts.
    lands = is_there(case, s.account)
    credit = moved(trust(s), s.account if lands else suspense(s), fact.amount)
    return step(
        *(case, "withdrawal.payout_returned", STATUS_RETURNED, "payout_returned"),
        reason=because(fact.code, "bank_returned"),
        journals=journal(s.fiat, credit),
        effective_at=fact.effective_at,
        because_of=fact.code,
        code=fact.code,
        returned_by=fact.fact_id or "-",
        suspense=0 if lands else -fact.amount,
        back=fact.amount if lands else 0,
    )


def _not_ours(case: Case, fact: BankFact) -> Settled:
    """A second return, one of too much, or of what was not paid: booked all the same, and a break until explained."""
    s = case.settlement
    came = moved(trust(s, fact.asset), suspense(s, fact.asset), fact.amount)
    return fits_nothing(case, "withdrawal.break_opened", fact, came)
