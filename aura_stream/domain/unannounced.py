"""Money that came to a bank and that no reference explains: a transaction of nobody, of type `suspense`.

    (the bank tells of it) ─▶ unmatched ──match──▶ matching ──taken───▶ matched      (completed)
                              (requires │           │ └─refused─▶ unmatched
                              attention)│           └─1 hour without an answer─▶ same state (requires_attention)
                                        ├─sent_back─────────────▶ sent_back    (completed; the statement says so)
                                        └─write_off, approved───▶ written_off  (completed; see `settlement.py`)

    received     trust / suspense
    match        suspense / clearing, and a credit to the partition of whom it belongs to
      taken      clearing / customer:available, and there a deposit that waits for it sets it aside at once
      refused    clearing / suspense
    sent_back    suspense / trust
    written_off  suspense / unexplained

Its customer is `~bank:<bank>`, which no customer can be called, and its partition that of the bank's lane.

Invariants
    UN1  the same money is booked once: its id is derived from the bank's own id of the news
    UN2  it leaves suspense by a person's word only
    UN3  money under way is never taken back by a deadline, only by the receiver's refusal (as of transfers, T2)
"""

from __future__ import annotations

import msgspec

from aura_stream.domain.commands import Resolve
from aura_stream.domain.ids import parse_account_id
from aura_stream.domain.ledger import UNDER_WAY_MS, clearing, expect
from aura_stream.domain.reasons import Refused
from aura_stream.domain.settlement import (
    Case,
    Settled,
    ask_write_off,
    attention,
    journal,
    moved,
    refuse_write_off,
    step,
    suspense,
    trust,
    write_off,
)
from aura_stream.domain.signals import Answer, Matched, Unmatched
from aura_stream.domain.state import COMPLETED, PROCESSING, REQUIRES_ATTENTION, Settlement, Transaction

_DONE = ("matched", "sent_back", "written_off")


def owner_of(news: Unmatched) -> str:
    """Whose it is: nobody's."""
    return f"~bank:{news.bank}"


def begin(news: Unmatched, at: int) -> Settled:
    """The first step, in the unit that hears of it."""
    s = Settlement("", news.bank, "", news.asset, "", "", "", "", news.amount, 0, suspense=news.amount)
    s = msgspec.structs.replace(s, settled_by=news.fact_id, entered_at=at)
    t = Transaction(
        *("suspense", news.tenant, owner_of(news), REQUIRES_ATTENTION, "unmatched", news.asset, news.amount, "", ""),
        *(news.fact_id, at),
        reason="unmatched",
    )
    received = journal(news.asset, moved(trust(s), suspense(s), news.amount))
    effective_at = min(news.effective_at, at) or at
    return Settled("suspense.unmatched", t, {}, (), effective_at, settlement=s, journals=received)


def resolve(case: Case, asked: Resolve) -> Settled:
    """`transaction.resolve`: an operator's way out. Raises :class:`Refused` where it does not lead anywhere."""
    t, s = case.transaction, case.settlement
    if asked.outcome == "write_off":
        return ask_write_off(case, asked)
    expect(t, "unmatched", done=_DONE)
    if asked.outcome == "match":
        return _match(case, asked)
    if asked.outcome != "sent_back":
        raise Refused("invalid_state_transition", f"{asked.outcome} is no way out of {t.status}/{t.state}")
    back = journal(s.fiat, moved(suspense(s), trust(s), s.suspense))
    return step(
        *(case, "suspense.sent_back", COMPLETED, "sent_back"),
        journals=back,
        suspense=0,
        approved_by=asked.operator,
        note=asked.note or "",
    )


def _match(case: Case, asked: Resolve) -> Settled:
    """It is found out whose it is: the money is on its way there."""
    t, s = case.transaction, case.settlement
    if asked.account_id is None:
        raise Refused("missing_fields", "account_id: whose money it is")
    account = parse_account_id(asked.account_id)
    if account.customer == asked.operator:
        raise Refused("four_eyes", "nobody matches money to themselves")
    if account.asset != s.fiat:
        raise Refused("currency_mismatch", f"{s.fiat} came, not what {asked.account_id} is in")
    decided = step(
        *(case, "suspense.matching", PROCESSING, "matching"),
        deadline=case.at + UNDER_WAY_MS,
        journals=journal(s.fiat, moved(suspense(s), clearing(s.fiat), s.suspense)),
        suspense=0,
        approved_by=asked.operator,
        note=asked.note or "",
    )
    told = (t.tenant, t.customer, asked.account_id, s.fiat, t.amount, case.at, "suspense", asked.deposit_id or "")
    return msgspec.structs.replace(decided, credit=Matched(case.id, *told))


def answered(case: Case, answer: Answer) -> Settled:
    """Whoever it was matched to has it, or cannot have it; also where a person waited for this."""
    t, s = case.transaction, case.settlement
    expect(t, "matching")
    if answer.accepted:
        return step(case, "suspense.matched", COMPLETED, "matched")
    return step(
        *(case, "suspense.not_matched", REQUIRES_ATTENTION, "unmatched"),
        reason=answer.reason,
        journals=journal(s.fiat, moved(clearing(s.fiat), suspense(s), t.amount)),
        suspense=t.amount,
    )


def deadline(case: Case) -> Settled:
    """The answer is late: a person looks at it; the money stays under way."""
    return attention(case, "no_answer")


def approve(case: Case, operator: str) -> Settled:
    """`transaction.approve` of a write-off. Raises :class:`Refused`."""
    _check_asked(case)
    decided = write_off(case, operator)
    after = msgspec.structs.replace(decided.transaction, status=COMPLETED, state="written_off", reason="")
    return msgspec.structs.replace(decided, transaction=after)


def reject(case: Case, operator: str) -> Settled:
    """`transaction.reject` of a write-off. Raises :class:`Refused`."""
    _check_asked(case)
    return refuse_write_off(case, operator)


def cancel(case: Case) -> Settled:
    """`transaction.cancel`: nobody can. Raises :class:`Refused`."""
    raise Refused("invalid_state_transition", f"it is {case.transaction.state}: transaction.resolve")


def _check_asked(case: Case) -> None:
    expect(case.transaction, "unmatched", done=_DONE)
    if not case.settlement.write_off:
        raise Refused("invalid_state_transition", "nobody has asked for a write-off")
