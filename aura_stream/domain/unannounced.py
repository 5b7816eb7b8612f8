"""Money that came to a bank and that no reference explains: a transaction of nobody, of type `suspense`.

    (the bank tells of it) ─▶ unmatched ──sent_back─────────────▶ sent_back     (completed; the statement says so)
                              (requires │
                              attention)└─write_off, approved───▶ written_off   (completed; see `settlement.py`)

    received     trust / suspense
    sent_back    suspense / trust
    written_off  suspense / unexplained

Its customer is `~bank:<bank>`, which no customer can be called, and its partition that of the bank's lane.

Invariants
    UN1  the same money is booked once: its id is derived from the bank's own id of the news
    UN2  it leaves suspense by a person's word only
"""

from __future__ import annotations

import msgspec

from aura_stream.domain.ledger import expect
from aura_stream.domain.reasons import Refused
from aura_stream.domain.settlement import (
    Case,
    Settled,
    ask_write_off,
    journal,
    moved,
    refuse_write_off,
    step,
    suspense,
    trust,
    write_off,
)
from aura_stream.domain.signals import Unmatched
from aura_stream.domain.state import COMPLETED, REQUIRES_ATTENTION, Settlement, Transaction


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


def resolve(case: Case, outcome: str, operator: str, note: str) -> Settled:
    """`transaction.resolve`: an operator's way out. Raises :class:`Refused` where it does not lead anywhere."""
    t, s = case.transaction, case.settlement
    if outcome == "write_off":
        return ask_write_off(case, operator, note)
    expect(t, "unmatched", done=("sent_back", "written_off"))
    if outcome != "sent_back":
        raise Refused("invalid_state_transition", f"{outcome} is no way out of {t.status}/{t.state}")
    back = journal(s.fiat, moved(suspense(s), trust(s), s.suspense))
    return step(
        *(case, "suspense.sent_back", COMPLETED, "sent_back"),
        journals=back,
        suspense=0,
        approved_by=operator,
        note=note,
    )


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
    expect(case.transaction, "unmatched", done=("sent_back", "written_off"))
    if not case.settlement.write_off:
        raise Refused("invalid_state_transition", "nobody has asked for a write-off")
