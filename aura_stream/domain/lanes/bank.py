"""A bank's lane: what is sent to it, when, and what is believed of its answers. The key of its state is the bank.

    waiting ──start──▶ started ──accepted, settled──▶ done        facts: accepted, settled
       ▲                │ │ │
       │                │ │ └──rejected──▶ done                   fact: rejected
       │                │ └──not processed, 3rd time──▶ done      fact: rejected (NOTP)
       ├─not processed──┘
       │                └──no definite answer, or none in time───▶ unknown    fact: unknown
       │                   (a rejection by time-out is none: AB05 and its like, from done too)
       │                                                            │ │ └─accepted, settled, rejected─▶ done
       └──not found, after the longest delay, inside the window─────┘ │
                                     after the window, or k inquiries └─▶ undecided  fact: undecided (news still end it)

Every wish (`Instruct`) is one job under its reference. The attempt is stored as started, with its number, before the
call is made; one whose time is over without an answer, whatever cut it off, is `lost`: nobody knows what became of it.
The breaker, the pace and the number of calls at once belong to the lane, so that half-open really lets one call through
and a bank that hangs holds up nobody else. Random is derived (a hash of reference and attempt), so that a rebuild
decides the same.

Invariants
    BL1  a job that may have been processed is sent again only with the same bytes and reference, after the bank has
         said "not found" when its longest delay was over, inside the time in which it recognises references
    BL2  open lets no call through, half-open exactly one; what a call of before still brings changes nothing then
    BL3  a fact of the bank is told once, however often and in whatever order it is heard
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from aura_stream.domain.bank_codes import INQUIRE, code_of
from aura_stream.domain.lane_requests import Expect, Instruct
from aura_stream.domain.pauses import Pause, Scope, in_force
from aura_stream.domain.signals import (
    ACCEPTED,
    REJECTED,
    RETURNED,
    SETTLED,
    STARTED,
    UNDECIDED,
    UNKNOWN,
    BankFact,
)

NOT_PROCESSED: Final = "not_processed"
"""The answer of a call that certainly did nothing: no connection, 429, or the bank's word. Only this is tried again."""
LOST: Final = "lost"
"""No answer, an answer cut off or not to be understood, a 5xx without the bank's word: anything may have happened."""
NOT_FOUND: Final = "not_found"
PENDING: Final = "pending"
_UNCLEAR: Final = "unclear"
"""Among what was told: a rejection came whose code says that a time-out is behind it (AB05), and was inquired about."""
NEVER_TAKEN: Final = "NOTP"
"""Our own code: the bank was tried as often as allowed and has certainly not taken it."""


class Limits(msgspec.Struct, frozen=True):
    """What a bank allows and promises. Times are ms."""

    tries: int = 3
    backoff_ms: int = 1000
    calls_at_once: int = 4
    gap_ms: int = 0  # between two starts
    failures_to_open: int = 5
    open_ms: int = 30_000
    answer_ms: int = 10_000  # of SCT Inst the whole clock
    inquire_every_ms: int = 5_000
    inquiries: int = 10
    longest_delay_ms: int = 60_000  # after which the bank has processed what it ever will
    window_ms: int = 24 * 60 * 60 * 1000  # in which it recognises a reference


class Lane(msgspec.Struct, frozen=True, array_like=True):
    """What a lane keeps beside its jobs."""

    bank: str
    breaker: str = "closed"  # closed | open | half_open
    failures: int = 0  # in a row
    opened_at: int = 0
    probe: str = ""  # reference of the one call that half-open lets through
    calls: int = 0  # under way
    next_start_at: int = 0
    allotted: int = 0  # NACHA references given out


class Job(msgspec.Struct, frozen=True, array_like=True):
    """One instruction, or one expected payment; key: its reference."""

    transaction_id: str
    tenant: str
    customer: str
    step: str
    rail: str
    reference: str
    asset: str
    amount: int
    party_name: str = ""
    party_account: str = ""
    state: str = "waiting"  # waiting | started | unknown | undecided | done; expected (a payment to us)
    short: str = ""  # the reference for NACHA, 15 characters
    attempt: int = 0
    tries: int = 0  # definite "not processed" in a row
    first_at: int = 0  # start of the first attempt that may have been processed
    due: int = 0  # when it is to be looked at again; 0 = it waits for news
    inquiries: int = 0
    told: tuple[str, ...] = ()  # facts that were told, by kind or the bank's id
    last_at: int = 0  # start of the last attempt that may have been processed


class Decided(msgspec.Struct, frozen=True):
    """What follows: the new lane and job, and what the customer's partition is told."""

    lane: Lane
    job: Job
    facts: tuple[BankFact, ...] = ()


def job_of(lane: Lane, request: Instruct | Expect, known: Job | None, at: int) -> tuple[Lane, Job] | None:
    """The job of a request; None when there is one already. An expected payment only waits for news."""
    if known is not None:
        return None
    base = (request.transaction_id, request.tenant, request.customer)
    if isinstance(request, Expect):
        expected = Job(
            *(*base, "credit", request.rail, request.reference, request.asset), amount=request.amount, state="expected"
        )
        return lane, expected
    lane = _with(lane, allotted=lane.allotted + 1) if request.rail == "ach" else lane
    job = Job(
        *(*base, request.step, request.rail, request.reference, request.asset, request.amount),
        party_name=request.party_name,
        party_account=request.party_account,
        short=f"A{lane.allotted:014}" if request.rail == "ach" else "",
        due=at,
    )
    return lane, job


# --- when a call may be made -----------------------------------------------------------------------------------------


def held_back(lane: Lane, job: Job, limits: Limits, pauses: tuple[Pause, ...], at: int) -> tuple[str, int]:
    """Why no call is made for a job now, and when to ask again (ms; 0 = when something changes). ("", 0) = call.

    A pause holds back what was never sent; what may have been runs to its end.
    """
    if job.state == "waiting" and not job.first_at:
        type_ = "withdrawal" if job.step == "payout" else "deposit"
        work = Scope(job.tenant, type_, job.rail, lane.bank, "", (job.asset,))
        if in_force(pauses, work) is not None:
            return "paused", 0
    if job.due > at:
        return "not due", job.due
    if lane.breaker == "open":
        again = lane.opened_at + limits.open_ms
        if at < again:
            return "circuit_open", again
    if lane.breaker == "half_open" and lane.probe:
        return "circuit_open", 0
    if lane.calls >= limits.calls_at_once:
        return "busy", 0
    if at < lane.next_start_at:
        return "pace", lane.next_start_at
    return "", 0


def started(lane: Lane, job: Job, limits: Limits, at: int) -> Decided:
    """A call is about to be made, to submit (`waiting`) or to inquire (`unknown`): stored before it is made."""
    lane = _with(lane, calls=lane.calls + 1, next_start_at=at + limits.gap_ms)
    if lane.breaker != "closed":
        lane = _with(lane, breaker="half_open", probe=job.reference)
    if job.state == "unknown":
        return Decided(lane, _with_job(job, inquiries=job.inquiries + 1, due=at + limits.answer_ms))
    job = _with_job(
        job,
        state="started",
        attempt=job.attempt + 1,
        first_at=job.first_at or at,
        last_at=at,
        due=at + limits.answer_ms,
    )
    return _told(lane, job, STARTED)


# --- what came of a call ---------------------------------------------------------------------------------------------


def answered(
    lane: Lane,
    job: Job,
    answer: str,
    limits: Limits,
    at: int,
    *,
    code: str = "",
    bank_reference: str = "",
    amount: int = 0,
    fact_id: str = "",
    wait_ms: int = 0,
) -> Decided:
    """The answer to the call: a kind of fact, or `not_processed`, `lost`, `not_found`, `pending`.

    `wait_ms`: how long the bank wishes not to be called (Retry-After); believed up to what the breaker would wait.
    """
    lane = _after_call(lane, job.reference, answer, limits, at)
    lane = _with(lane, next_start_at=max(lane.next_start_at, at + min(wait_ms, limits.open_ms))) if wait_ms else lane
    if job.state not in ("started", "unknown"):
        # A webhook was faster: the call's answer has nothing to add.
        return Decided(lane, job)
    if answer == ACCEPTED and job.state == "unknown" and _UNCLEAR in job.told:
        answer = PENDING  # it was accepted before it was rejected: that is what it was
    is_definite = job.state == "unknown" or not _is_unclear(answer, code)
    if answer in (ACCEPTED, SETTLED, REJECTED) and is_definite:
        done = _with_job(job, state="done", due=0)
        return _told(lane, done, answer, fact_id, code=code, bank_reference=bank_reference, amount=amount)
    if job.state == "unknown":
        return _after_inquiry(lane, job, answer, limits, at)
    if answer != NOT_PROCESSED:
        wait = backoff(job.reference, job.attempt, 0, limits)
        told = job.told if answer != REJECTED else (*job.told, _UNCLEAR)
        return _told(lane, _with_job(job, state="unknown", due=at + wait, told=told), UNKNOWN, code=code)
    if UNKNOWN in job.told:
        # This attempt did nothing, but an earlier one still may: only the bank's word about the reference decides.
        return Decided(lane, _with_job(job, state="unknown", due=at + _until_inquiry(job, limits)))
    if job.tries + 1 >= limits.tries:
        return _told(lane, _with_job(job, state="done", due=0), REJECTED, code=NEVER_TAKEN)
    wait = backoff(job.reference, job.attempt, job.tries, limits)
    # Certainly nothing has happened: the window of the reference begins anew with the next attempt.
    return Decided(lane, _with_job(job, state="waiting", tries=job.tries + 1, first_at=0, due=at + wait))


def _after_inquiry(lane: Lane, job: Job, answer: str, limits: Limits, at: int) -> Decided:
    again = at + _until_inquiry(job, limits)
    if answer == NOT_FOUND:
        if at >= job.first_at + limits.window_ms or _was_known(job):
            # The bank may have forgotten it, or contradicts itself: only a statement, or a person, can tell.
            return _told(lane, _with_job(job, state="undecided", due=0), UNDECIDED)
        settled_by = max(job.first_at, job.last_at) + limits.longest_delay_ms  # what was sent again may be late too
        if at >= settled_by:
            return Decided(lane, _with_job(job, state="waiting", due=at, inquiries=0))
        again = max(again, settled_by)
    elif job.inquiries >= limits.inquiries:
        return _told(lane, _with_job(job, state="undecided", due=0), UNDECIDED)
    return Decided(lane, _with_job(job, due=again))


def asked_to_inquire(job: Job, at: int) -> Job:
    """An operator wants to know: what is not decided, or has brought no news since, is asked from the beginning."""
    return _with_job(job, state="unknown", inquiries=0, due=at) if job.state in ("undecided", "done") else job


def heard(
    lane: Lane,
    job: Job,
    kind: str,
    fact_id: str,
    *,
    at: int,
    code: str = "",
    amount: int = 0,
    bank_reference: str = "",
) -> Decided:
    """News by a webhook, a statement or a poll: told once. It ends what was open, in whatever order it comes."""
    if _is_unclear(kind, code) and job.step != "credit":
        if (fact_id or kind) in job.told or _UNCLEAR in job.told:
            return Decided(lane, job)
        asks = _with_job(job, state="unknown", inquiries=0, due=at, told=(*job.told, _UNCLEAR))
        return _told(lane, asks, UNKNOWN, code=code)
    if job.state != "done" and kind in (ACCEPTED, SETTLED, REJECTED, RETURNED) and job.step != "credit":
        job = _with_job(job, state="done", due=0)
    return _told(lane, job, kind, fact_id, code=code, amount=amount, bank_reference=bank_reference)


def _is_unclear(kind: str, code: str) -> bool:
    """Whether it is a rejection by time-out: somebody has waited in vain, may have acted, and must be asked."""
    return kind == REJECTED and code_of(code).action == INQUIRE


def _was_known(job: Job) -> bool:
    """Whether the bank has ever said that it has it."""
    return any(name.rpartition(":")[2] in (ACCEPTED, SETTLED, RETURNED) for name in job.told) or _UNCLEAR in job.told


def _told(
    lane: Lane,
    job: Job,
    kind: str,
    fact_id: str = "",
    *,
    code: str = "",
    amount: int = 0,
    bank_reference: str = "",
) -> Decided:
    name = fact_id or kind
    if name in job.told and kind not in (UNKNOWN, UNDECIDED):
        return Decided(lane, job)
    moves = kind in (SETTLED, RETURNED)
    fact = BankFact(
        *(job.transaction_id, job.tenant, job.step, kind, job.reference),
        amount=(amount or job.amount) if moves else 0,
        asset=job.asset if moves else "",
        code=code,
        bank_reference=bank_reference,
        fact_id=fact_id,
    )
    told = job.told if name in job.told else (*job.told, name)
    return Decided(lane, _with_job(job, told=told), (fact,))


# --- breaker and backoff ---------------------------------------------------------------------------------------------


def _after_call(lane: Lane, reference: str, answer: str, limits: Limits, at: int) -> Lane:
    calls = max(lane.calls - 1, 0)
    if lane.breaker == "half_open" and lane.probe != reference:
        # A call from before it opened: the probe decides, and until it has nobody else is let through.
        return _with(lane, calls=calls)
    if answer not in (LOST, NOT_PROCESSED):
        return _with(lane, calls=calls, breaker="closed", failures=0, probe="")
    failures = lane.failures + 1
    if lane.breaker != "closed" or failures >= limits.failures_to_open:
        return _with(lane, calls=calls, breaker="open", failures=failures, opened_at=at, probe="")
    return _with(lane, calls=calls, failures=failures)


def backoff(reference: str, attempt: int, tries: int, limits: Limits) -> int:
    """How long to wait: doubled per try, of that half to all, derived from reference and attempt."""
    whole = limits.backoff_ms << min(tries, 16)
    return whole // 2 + _drawn(f"{reference}/{attempt}", whole // 2)


def _until_inquiry(job: Job, limits: Limits) -> int:
    """How long until a bank is asked again: up to half longer, so that what fell silent as one does not ask as one."""
    return limits.inquire_every_ms + _drawn(f"{job.reference}/?{job.inquiries}", limits.inquire_every_ms // 2)


def _drawn(name: str, most: int) -> int:
    part = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
    return part % (most + 1)


def _with(lane: Lane, **changes: object) -> Lane:
    return msgspec.structs.replace(lane, **changes)


def _with_job(job: Job, **changes: object) -> Job:
    return msgspec.structs.replace(job, **changes)
